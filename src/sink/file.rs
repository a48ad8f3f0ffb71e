//! A file or the standard output: NDJSON, one line for each record, for archives and for looking on.
//!
//! The lines are those of `forebay export`. A file that was moved away is made anew before the next batch, so that it can be
//! rotated; one whose last line was cut short by a crash gets the end of that line first, and the record comes once more.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

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
        Self { path, is_synced, timeout, queue: queue.to_owned(), open: None }
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> SinkError {
        let place = self.path.as_ref().map_or_else(|| "the standard output".into(), |path| path.display().to_string());
        SinkError::Transient(format!("{place}: {error}"))
    }

    fn lines(&self, deliveries: &[Delivery<'_>]) -> serde_json::Result<Vec<u8>> {
        let mut lines = Vec::new();
        for Delivery { sequence, record, ticket } in deliveries {
            let (received_at, parts) = (rfc3339(record.received_at_us), RecordText::of(record));
            let line = Line { queue: &self.queue, sequence: *sequence, ticket, received_at, parts };
            serde_json::to_writer(&mut lines, &line)?;
            lines.push(b'\n');
        }
        Ok(lines)
    }

    async fn write(&mut self, lines: Vec<u8>) -> Result<(), SinkError> {
        let (path, file, is_synced) = (self.path.clone(), self.open.take(), self.is_synced);
        let work = tokio::task::spawn_blocking(move || {
            let Some(path) = path else {
                let mut out = io::stdout().lock();
                out.write_all(&lines)?;
                out.flush()?;
                return Ok(None);
            };
            let mut file = match file.filter(|file| is_still_at(file, &path)) {
                Some(file) => file,
                None => open_at_end_of_line(&path)?,
            };
            file.write_all(&lines)?;
            if is_synced {
                file.sync_data()?;
            }
            Ok::<_, io::Error>(Some(file))
        });
        let written = tokio::time::timeout(self.timeout, work).await;
        let written =
            written.map_err(|_| self.failed(&format!("not written within {} ms", self.timeout.as_millis())))?;
        self.open = written.map_err(|error| self.failed(&error))?.map_err(|error| self.failed(&error))?;
        Ok(())
    }
}

impl Carrier for Lines {
    fn connect(&mut self) -> SinkFuture<'_, ()> {
        Box::pin(self.write(Vec::new()))
    }

    fn deliver<'a>(&'a mut self, deliveries: &'a [Delivery<'a>], outcome: &'a mut Outcome) -> SinkFuture<'a, ()> {
        Box::pin(async move {
            let lines = self.lines(deliveries).map_err(|error| self.failed(&error))?;
            self.write(lines).await?;
            for delivery in deliveries {
                outcome.take(delivery.sequence);
            }
            Ok(())
        })
    }

    fn check(&mut self) -> SinkFuture<'_, Vec<String>> {
        let problem = self.path.as_deref().and_then(problem);
        Box::pin(async { Ok(problem.into_iter().collect()) })
    }
}

fn is_still_at(file: &File, path: &Path) -> bool {
    let same =
        |(ours, there): (std::fs::Metadata, std::fs::Metadata)| (ours.dev(), ours.ino()) == (there.dev(), there.ino());
    file.metadata().ok().zip(std::fs::metadata(path).ok()).is_some_and(same)
}

fn open_at_end_of_line(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let mut last = [b'\n'];
    // A pipe has no end to look at.
    if file.metadata()?.is_file() && file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// Why the file could not be written; nothing is made to find out.
fn problem(path: &Path) -> Option<String> {
    let access = rustix::fs::Access::WRITE_OK;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (tried, is_there) = if path.exists() { (path, true) } else { (parent, false) };
    let error = rustix::fs::access(tried, access).err()?;
    Some(if is_there {
        format!("{} cannot be written ({error}); give it to the user that runs forebay.", path.display())
    } else {
        format!("{} cannot be made, because {} cannot be written ({error}).", path.display(), parent.display())
    })
}
