//! Makes a queue with damaged segments one that a start accepts and a drain gets through.
//!
//! A damaged segment is written anew ([`rewrite`](super::rewrite)) under another name, and takes the old
//! one's place by a rename, so that a crash leaves the one or the other. The old file is kept, as it was,
//! in a directory beside. Whoever calls this holds the directory's lock.

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::directory::{DirectoryError, read_epochs};
use super::findings::{Damage, Finding};
use super::format::{FormatError, SegmentIdentity};
use super::keys_file;
use super::listing::{QueueFiles, UNFINISHED_REPAIR};
use super::platform::{Mode, Platform, RandomAccessFile, is_unreadable};
use super::rewrite::{Circumstances, RewriteError, Rewritten, fill_gap, rewrite};
use super::segment_image::SegmentImage;
use super::survey::QueuePlace;
use super::verify::{End, Report, verify_segment};
use crate::record::Sequence;
use crate::ticket::EpochStart;

/// What to do.
pub struct Options<'a> {
    /// Write; without it, only say what would be written.
    pub apply: bool,
    /// The one segment to repair, by its file's name; without it, all of the queue.
    pub segment: Option<&'a str>,
    /// Where the files go that are replaced; made if need be.
    pub cut_directory: &'a Path,
    /// The start that comes next.
    pub epoch: u64,
    /// Microseconds since the Unix epoch.
    pub now_us: u64,
}

/// A file that is repaired, or would be.
pub struct Repair {
    /// Which.
    pub path: PathBuf,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
    /// What is done.
    pub action: Action,
}

/// What is done with a file.
pub enum Action {
    /// The segment is written anew.
    Rewrite {
        /// Records that are kept.
        kept: u64,
        /// Sequences whose records are lost.
        lost: Vec<RangeInclusive<Sequence>>,
        /// From here on nobody knows what the journal held: this is its last segment, and nothing in it, or not what
        /// follows, can be read.
        unknown_from: Option<Sequence>,
    },
    /// A segment is made for sequences of which there is no file.
    FillGap {
        /// The sequences, whose records are lost.
        lost: RangeInclusive<Sequence>,
    },
    /// The file of keys is moved away.
    CutKeys {
        /// Whether its segment is there to make it anew.
        has_segment: bool,
    },
}

/// Why a queue cannot be repaired. What was repaired before stays repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The file system said no.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// The epochs are needed to tell in which start a lost record was accepted.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A file is there that does not belong there.
    #[error("{}: {damage}. {}", path.display(), damage.meaning())]
    Misplaced {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        damage: Damage,
    },
    /// The file is whole, and of another format.
    #[error("{}: {cause}; nothing was changed: use the forebay that wrote it", path.display())]
    OtherFormat {
        /// Which.
        path: PathBuf,
        /// What its header says.
        cause: FormatError,
    },
    /// The file may be intact, and of another queue.
    #[error("{}: {cause}, and it has no batch of this queue; move it away if it does not belong here", path.display())]
    Stranger {
        /// Which.
        path: PathBuf,
        /// What its header says.
        cause: FormatError,
    },
    /// It cannot be written anew.
    #[error("{}: {error}", path.display())]
    Rewrite {
        /// Which.
        path: PathBuf,
        /// Why.
        error: RewriteError,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RepairError {
    move |error| RepairError::Io { path: path.to_owned(), error }
}

/// Repairs a queue, or says what would be done; `on_repair` hears of each file before it is touched.
///
/// # Errors
///
/// See [`RepairError`].
pub fn repair_queue<P: Platform>(
    queue: &QueuePlace<P>,
    options: &Options<'_>,
    mut on_repair: impl FnMut(&Repair) -> io::Result<()>,
) -> Result<(), RepairError> {
    let files = queue.files().map_err(io_error(&queue.directory))?;
    let epochs = read_epochs(&queue.platform, &queue.directory)?;
    let job = Job { queue, options, epochs: &epochs };
    job.remove_unfinished(&files)?;
    let mut before = None;
    for (index, (named_sequence, path)) in files.segments.iter().enumerate() {
        if let Some(end) = before {
            before = job.close_gap(&files, index, end, &mut on_repair)?;
        }
        let end_byte = before.map(|end: End| end.end_byte);
        let image = queue.segment(&files, index, end_byte).map_err(io_error(path))?;
        let image = image.ok_or_else(|| io_error(path)(io::ErrorKind::NotFound.into()))?;
        let end = job.segment(&image, before, &mut on_repair)?;
        debug_assert!(end.next_sequence >= *named_sequence);
        before = Some(end);
    }
    job.keys(&files, &mut on_repair)
}

struct Job<'a, P> {
    queue: &'a QueuePlace<P>,
    options: &'a Options<'a>,
    epochs: &'a [EpochStart],
}

impl<P: Platform> Job<'_, P> {
    fn circumstances(&self) -> Result<Circumstances<'_>, RepairError> {
        let random = self.queue.platform.random().map_err(io_error(&self.queue.directory))?;
        Ok(Circumstances {
            generation: random.max(1),
            epoch: self.options.epoch,
            now_us: self.options.now_us,
            epochs: self.epochs,
        })
    }

    fn is_chosen(&self, path: &Path) -> bool {
        self.options.segment.is_none_or(|name| path.file_name().is_some_and(|file| file == name))
    }

    /// Makes a segment for what is missing before the `index`th; returns where the journal then ends before that.
    fn close_gap(
        &self,
        files: &QueueFiles,
        index: usize,
        before: End,
        on_repair: &mut impl FnMut(&Repair) -> io::Result<()>,
    ) -> Result<Option<End>, RepairError> {
        let Some((found, path)) = files.segments.get(index) else { return Ok(Some(before)) };
        let damage = Damage::Gap { expected: before.next_sequence, found: *found };
        if *found < before.next_sequence {
            return Err(RepairError::Misplaced { path: path.clone(), damage });
        }
        if *found == before.next_sequence || self.options.segment.is_some() {
            return Ok((*found == before.next_sequence).then_some(before));
        }
        let image = self.queue.segment(files, index, None).map_err(io_error(path))?;
        let image = image.ok_or_else(|| io_error(path)(io::ErrorKind::NotFound.into()))?;
        let next = End { next_sequence: *found, end_byte: image.identity.first_byte };
        let made = fill_gap(self.queue.id, before, next, image.identity.capacity, &self.circumstances()?);
        let made = made.map_err(|error| RepairError::Rewrite { path: path.clone(), error })?;
        let target = self.queue.directory.join(format!("{:020}.seg", before.next_sequence));
        let repair = Repair {
            path: target,
            findings: vec![Finding { path: path.clone(), offset: Some(0), damage }],
            action: Action::FillGap { lost: before.next_sequence..=*found - 1 },
        };
        on_repair(&repair).map_err(io_error(path))?;
        self.replace(&repair.path, &made)?;
        Ok(Some(made.end))
    }

    fn segment(
        &self,
        image: &SegmentImage,
        before: Option<End>,
        on_repair: &mut impl FnMut(&Repair) -> io::Result<()>,
    ) -> Result<End, RepairError> {
        let mut report = Report::default();
        let end = verify_segment(image, before, &mut report);
        // What is not in this file cannot be mended in it.
        report.findings.retain(|finding| !matches!(finding.damage, Damage::Gap { .. } | Damage::ByteCount { .. }));
        let path = &image.path;
        if let Some(name) = report.findings.iter().find(|finding| matches!(finding.damage, Damage::Name(_))) {
            return Err(RepairError::Misplaced { path: path.clone(), damage: name.damage.clone() });
        }
        if report.findings.is_empty() || !self.is_chosen(path) {
            return Ok(end);
        }
        let nothing_read = image.identity.generation == 0;
        self.refuse_strangers(image, nothing_read)?;
        let made = rewrite(image, &self.circumstances()?);
        let made = made.map_err(|error| RepairError::Rewrite { path: path.clone(), error })?;
        let is_last = image.neighbours.behind.is_none();
        let unreadable_from = image.unreadable_end().map(|(next_sequence, _)| next_sequence);
        let unknown_from = if nothing_read && is_last { Some(image.named_sequence) } else { unreadable_from };
        let action = Action::Rewrite { kept: made.kept, lost: made.lost.clone(), unknown_from };
        let repair = Repair { path: path.clone(), findings: report.findings, action };
        on_repair(&repair).map_err(io_error(path))?;
        self.replace(path, &made)?;
        Ok(made.end)
    }

    /// A file whose header is whole, but of another queue or format, may be somebody's: nobody should lose it by a repair.
    fn refuse_strangers(&self, image: &SegmentImage, nothing_read: bool) -> Result<(), RepairError> {
        let of_another_queue =
            SegmentIdentity::read_header(image.bytes()).is_ok_and(|found| found.queue_id != self.queue.id);
        match image.header {
            Err(cause @ (FormatError::Version(_) | FormatError::BlockBytes(_))) => {
                Err(RepairError::OtherFormat { path: image.path.clone(), cause })
            }
            Err(cause @ FormatError::Foreign) if nothing_read || of_another_queue => {
                Err(RepairError::Stranger { path: image.path.clone(), cause })
            }
            _ => Ok(()),
        }
    }

    fn keys(
        &self,
        files: &QueueFiles,
        on_repair: &mut impl FnMut(&Repair) -> io::Result<()>,
    ) -> Result<(), RepairError> {
        if self.options.segment.is_some() {
            return Ok(());
        }
        for (first, path) in &files.keys {
            match keys_file::load(&self.queue.platform, path) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData || is_unreadable(&error) => {}
                Err(error) => return Err(io_error(path)(error)),
                Ok(_) => continue,
            }
            let has_segment = files.segments.iter().any(|(segment, _)| segment == first);
            let finding = Finding { path: path.clone(), offset: None, damage: Damage::Keys { has_segment } };
            let repair =
                Repair { path: path.clone(), findings: vec![finding], action: Action::CutKeys { has_segment } };
            on_repair(&repair).map_err(io_error(path))?;
            if self.options.apply {
                self.keep(path)?;
                let platform = &self.queue.platform;
                let removed = platform.remove(path).and_then(|()| platform.sync_directory(&self.queue.directory));
                removed.map_err(io_error(path))?;
            }
        }
        Ok(())
    }

    /// Puts a segment in the place of the one at `path`, which is kept.
    fn replace(&self, path: &Path, made: &Rewritten) -> Result<(), RepairError> {
        if !self.options.apply {
            return Ok(());
        }
        let platform = &self.queue.platform;
        let growing = path.with_extension(UNFINISHED_REPAIR);
        let write = || -> io::Result<()> {
            let file = platform.open(&growing, Mode::Replace { permissions: 0o666 })?;
            file.write_all_at(&made.bytes, 0)?;
            file.sync_all()
        };
        if let Err(error) = write() {
            // Most likely the disk is full, and half a segment must not keep it so. What is left all the same, the next
            // start or repair removes.
            let _ = platform.remove(&growing);
            return Err(io_error(&growing)(error));
        }
        self.keep(path)?;
        let put = platform.rename(&growing, path).and_then(|()| platform.sync_directory(&self.queue.directory));
        put.map_err(io_error(path))
    }

    /// Gives a file, if there is one, a second name in the directory of what is cut, and makes that durable.
    fn keep(&self, path: &Path) -> Result<(), RepairError> {
        let platform = &self.queue.platform;
        let directory = self.options.cut_directory;
        match platform.metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.map_err(io_error(path))?,
        };
        let Some(name) = path.file_name() else { return Ok(()) };
        let keep = || -> io::Result<()> {
            platform.create_directory(directory)?;
            platform.link(path, &directory.join(name))?;
            // It may be a copy that somebody has just put there.
            platform.open(path, Mode::Read)?.sync_all()?;
            platform.sync_directory(directory)?;
            platform.sync_directory(&self.queue.directory)
        };
        keep().map_err(io_error(directory))
    }

    /// Removes what a repair that did not end has left.
    fn remove_unfinished(&self, files: &QueueFiles) -> Result<(), RepairError> {
        for path in files.unfinished.iter().filter(|_| self.options.apply) {
            self.queue.platform.remove(path).map_err(io_error(path))?;
        }
        Ok(())
    }
}
