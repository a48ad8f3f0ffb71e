//! A file or the standard output: NDJSON, one line for each record, for archives and for looking on.
//!
//! The lines are those of `forebay export`. A file that was moved away is made anew before the next batch, so that it can be
//! rotated; one whose last line was cut short by a crash gets the end of that line first, and the record comes once more.
//!
//! A pipe that nobody reads, or a disk that hangs, holds up whoever writes, for ever if need be. So a write has a thread of its
//! own, which is not waited for at a stop. What was not written in time is still on its way: the next delivery waits for it
//! and does not send those records again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;

use super::kept::{Carrier, Kept, Outcome};
use super::{Delivery, Driver, SinkError, SinkFuture};
use crate::config::{self, OptionRule, OptionValues, SinkKind, Takes, UrlRule};
use crate::record::Sequence;
use crate::record_text::{RecordText, rfc3339};

pub(super) static DRIVER: Driver = Driver {
    kind: &KIND,
    open: |sink, part, data_dir| {
        let carrier = Lines::new(sink, &part.queue);
        Box::new(Kept::new(carrier, sink, part, data_dir))
    },
};

static KIND: SinkKind = SinkKind {
    name: "file",
    title: "a file",
    url: UrlRule { prefixes: &["file:", "stdout:"], example: "file:orders.ndjson", is_required: true },
    takes: Takes::Own,
    options: &[OptionRule { key: "sync", values: OptionValues::Choice { words: &["batch", "never"] } }],
};

/// A sink that writes lines.
struct Lines {
    /// `None` for the standard output.
    path: Option<PathBuf>,
    is_synced: bool,
    timeout: Duration,
    queue: String,
    open: Option<File>,
    writing: Option<Writing>,
}

/// A write that may not have ended.
struct Writing {
    /// The records whose lines these are.
    sequences: Vec<Sequence>,
    /// The file, for the next one; `None` for the standard output.
    written: oneshot::Receiver<io::Result<Option<File>>>,
}

#[derive(Serialize)]
struct Line<'a> {
    queue: &'a str,
    sequence: Sequence,
    ticket: &'a str,
    received_at: String,
    #[serde(flatten)]
    parts: RecordText,
}

impl Lines {
    fn new(sink: &config::Sink, queue: &str) -> Self {
        let path = sink.url.strip_prefix("file:").map(|path| PathBuf::from(path.strip_prefix("//").unwrap_or(path)));
        let is_synced = sink.options.text("sync") == "batch";
        let timeout = Duration::from_millis(sink.commit_timeout_ms);
        Self { path, is_synced, timeout, queue: queue.to_owned(), open: None, writing: None }
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> SinkError {
        let place = self.path.as_ref().map_or_else(|| "the standard output".into(), |path| path.display().to_string());
        SinkError::Transient(format!("{place}: {error}"))
    }

    fn line(&self, Delivery { sequence, record, ticket }: &Delivery<'_>) -> serde_json::Result<Vec<u8>> {
        let (received_at, parts) = (rfc3339(record.received_at_us), RecordText::of(record));
        serde_json::to_vec(&Line { queue: &self.queue, sequence: *sequence, ticket, received_at, parts })
    }

    /// Begins to write; nothing may be on its way.
    fn begin(&mut self, lines: Vec<u8>, sequences: Vec<Sequence>) -> Result<(), SinkError> {
        let (path, file, is_synced) = (self.path.clone(), self.open.take(), self.is_synced);
        let (done, written) = oneshot::channel();
        let write = move || {
            // Whoever began it may have gone.
            let _ = done.send(write(path.as_deref(), file, &lines, is_synced));
        };
        thread::Builder::new().name("file sink".to_owned()).spawn(write).map_err(|error| self.failed(&error))?;
        self.writing = Some(Writing { sequences, written });
        Ok(())
    }

    /// Waits for the write that is on its way, if there is one; returns the records that were written. Whoever gives up waiting
    /// may wait again.
    async fn finish(&mut self) -> Result<Vec<Sequence>, SinkError> {
        let Some(writing) = &mut self.writing else { return Ok(Vec::new()) };
        let Ok(written) = tokio::time::timeout(self.timeout, &mut writing.written).await else {
            return Err(self.failed(&format!("not written within {} ms", self.timeout.as_millis())));
        };
        let sequences = self.writing.take().map(|writing| writing.sequences).unwrap_or_default();
        let written = written.unwrap_or_else(|_| Err(io::Error::other("the thread that wrote has ended")));
        self.open = written.map_err(|error| self.failed(&error))?;
        Ok(sequences)
    }
}

impl Carrier for Lines {
    fn connect(&mut self) -> SinkFuture<'_, ()> {
        Box::pin(async {
            // The next delivery waits for what is on its way, and hears what became of it.
            if self.writing.is_none() {
                self.begin(Vec::new(), Vec::new())?;
                self.finish().await?;
            }
            Ok(())
        })
    }

    fn deliver<'a>(&'a mut self, deliveries: &'a [Delivery<'a>], outcome: &'a mut Outcome) -> SinkFuture<'a, ()> {
        Box::pin(async move {
            self.finish().await?.into_iter().for_each(|sequence| outcome.take(sequence));
            let (mut lines, mut sequences) = (Vec::new(), Vec::new());
            for delivery in deliveries {
                if outcome.is_settled(delivery.sequence) {
                    continue;
                }
                match self.line(delivery) {
                    Ok(line) => {
                        lines.extend(line);
                        lines.push(b'\n');
                        sequences.push(delivery.sequence);
                    }
                    Err(error) => outcome.refuse(delivery.sequence, format!("there is no line for it: {error}")),
                }
            }
            self.begin(lines, sequences)?;
            self.finish().await?.into_iter().for_each(|sequence| outcome.take(sequence));
            Ok(())
        })
    }

    fn check(&mut self) -> SinkFuture<'_, Vec<String>> {
        let problem = self.path.as_deref().and_then(problem);
        Box::pin(async { Ok(problem.into_iter().collect()) })
    }
}

/// Writes lines to the end of the file, or to the standard output; returns the file.
fn write(path: Option<&Path>, file: Option<File>, lines: &[u8], is_synced: bool) -> io::Result<Option<File>> {
    let Some(path) = path else {
        let mut out = io::stdout().lock();
        out.write_all(lines)?;
        out.flush()?;
        return Ok(None);
    };
    let mut file = match file.filter(|file| is_still_at(file, path)) {
        Some(file) => file,
        None => open(path, is_synced)?,
    };
    let is_file = file.metadata()?.is_file();
    if is_file {
        append_alone(&mut file, lines)?;
    } else {
        file.write_all(lines)?;
    }
    if is_synced && is_file {
        file.sync_data()?;
    }
    Ok(Some(file))
}

/// Writes while no other lane or queue does. Whoever looks at the end of a file that is being written sees a line that is not finished
/// yet, and one whose write fails half-way leaves one to whoever comes next.
fn append_alone(file: &mut File, lines: &[u8]) -> io::Result<()> {
    // Some file systems have no locks, and say so in various ways; they have lines all the same.
    let _ = file.lock();
    let written = end_line(file).and_then(|()| file.write_all(lines));
    // What was never locked cannot be unlocked, and what is closed is.
    let _ = file.unlock();
    written
}

fn is_still_at(file: &File, path: &Path) -> bool {
    let same =
        |(ours, there): (std::fs::Metadata, std::fs::Metadata)| (ours.dev(), ours.ino()) == (there.dev(), there.ino());
    file.metadata().ok().zip(std::fs::metadata(path).ok()).is_some_and(same)
}

fn open(path: &Path, is_synced: bool) -> io::Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    // Nothing of a pipe outlives a power cut.
    if is_synced && file.metadata()?.is_file() {
        // What is in a file without a name is lost with the power.
        File::open(directory_of(path))?.sync_all()?;
    }
    Ok(file)
}

/// Ends a line that was cut short, by us before a crash or by another writer whose disk was full: what follows would be part of it.
fn end_line(file: &mut File) -> io::Result<()> {
    let bytes = file.metadata()?.len();
    let mut last = [b'\n'];
    if bytes > 0 {
        file.read_exact_at(&mut last, bytes - 1)?;
    }
    if last == [b'\n'] { Ok(()) } else { file.write_all(b"\n") }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Why the file could not be written; nothing is made to find out.
fn problem(path: &Path) -> Option<String> {
    if path.as_os_str().is_empty() {
        return Some(format!("The URL names no file; write `{}`.", KIND.url.example));
    }
    if path.is_dir() {
        return Some(format!("{} is a directory; name a file in it.", path.display()));
    }
    let parent = directory_of(path);
    let (tried, is_there) = if path.exists() { (path, true) } else { (parent, false) };
    let error = rustix::fs::access(tried, rustix::fs::Access::WRITE_OK).err()?;
    Some(if is_there {
        format!("{} cannot be written ({error}); give it to the user that runs forebay.", path.display())
    } else {
        format!("{} cannot be made, because {} cannot be written ({error}).", path.display(), parent.display())
    })
}
