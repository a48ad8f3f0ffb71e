//! The data directory: whose it is, who it is, and how often it was started.
//!
//! ```text
//! LOCK                   held by the one process that uses the directory
//! identity               a random id and two secrets, made once
//! epoch                  counts the starts; it and `epochs` each have a `.spare` beside them
//! pool/                  spare segments
//! queues/<name>/         one queue: *.seg, *.keys, epochs, and of its main sink: cursor, dead-letters.ndjson, paused
//! queues/<name>/sinks/<sink>/   each of its other sinks: begin, cursor, dead-letters.ndjson, paused
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::Hasher;
use std::io;
use std::path::{Path, PathBuf};

use siphasher::sip::SipHasher24;

use super::platform::{Mode, Platform, RandomAccessFile, System};
use crate::limits::BLOCK_BYTES;
use crate::record::Sequence;
use crate::ticket::EpochStart;

/// Holds the directories of a queue's sinks, but for its main one.
const SINKS: &str = "sinks";
/// The secrets are in these files; nobody else need read any of them.
const PRIVATE: Mode = Mode::Replace { permissions: 0o600 };

/// An open data directory; dropping it lets another process have it.
pub struct DataDirectory {
    path: PathBuf,
    _lock: File,
    /// Who it is.
    pub identity: Identity,
    /// Counts the starts, from 1.
    pub epoch: u64,
}

/// Who a data directory is: made once, and never changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Says whose positions in a sink are ours.
    pub id: [u8; 16],
    /// Key of the tickets' checks.
    pub ticket_secret: [u8; 16],
    /// Key of the idempotency keys' hashes.
    pub idempotency_secret: [u8; 16],
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process has it.
    #[error("{} is in use by another forebay; stop that one, or give this one a data_dir of its own", .0.display())]
    Locked(PathBuf),
    /// The file system said no.
    #[error("{}: {error}; the directory must be writable by the user that runs forebay", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// There is nothing of forebay's.
    #[error("{} is not a data directory of forebay: it has no file `identity`. Name the `data_dir` of the configuration", .0.display())]
    NotOurs(PathBuf),
    /// A small file of ours is not what we wrote.
    #[error("{} is damaged; restore it from a copy, or move the data directory away to start empty", .0.display())]
    Damaged(PathBuf),
}

impl DataDirectory {
    /// Opens the directory, or makes it. The start counts once [`count_start`](Self::count_start) is called.
    ///
    /// # Errors
    ///
    /// Another process has it, it is not writable, or a file in it is damaged.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let made = fs::create_dir_all(path.join("queues"));
        made.map_err(|error| DirectoryError::Io { path: path.to_owned(), error })?;
        let lock = lock(path)?;
        let identity = match Identity::read(path) {
            Err(DirectoryError::NotOurs(_)) => Identity::make(path)?,
            found => found?,
        };
        let epoch = 1 + read_epoch(path)?;
        Ok(Self { path: path.to_owned(), _lock: lock, identity, epoch })
    }

    /// Opens a directory that exists, to repair it: as [`open`](Self::open), but makes nothing.
    ///
    /// # Errors
    ///
    /// It is not a data directory, another process has it, or it is damaged.
    pub fn open_existing(path: &Path) -> Result<Self, DirectoryError> {
        let identity = Identity::read(path)?;
        let lock = lock(path)?;
        let epoch = 1 + read_epoch(path)?;
        Ok(Self { path: path.to_owned(), _lock: lock, identity, epoch })
    }

    /// Stores that this start has happened. Recovery comes before, so that what it refuses leaves no trace.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn count_start(&self) -> Result<(), DirectoryError> {
        replace(&System, &self.path.join("epoch"), &format!("{}\n", self.epoch))
    }

    /// The directory of spare segments.
    #[must_use]
    pub fn pool(&self) -> PathBuf {
        self.path.join("pool")
    }

    /// The directory of a queue; made if it is missing.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn queue(&self, name: &str) -> Result<PathBuf, DirectoryError> {
        let queues = self.path.join("queues");
        let path = queues.join(name);
        let made = fs::create_dir_all(&path).and_then(|()| System.sync_directory(&queues));
        made.map_err(|error| DirectoryError::Io { path: path.clone(), error })?;
        Ok(path)
    }
}

/// The names of a queue's sinks that have a directory within the queue's, whether or not a configuration still has them, in
/// order.
///
/// # Errors
///
/// The directory cannot be read.
pub fn known_sinks<P: Platform>(platform: &P, queue: &Path) -> io::Result<Vec<String>> {
    let paths = match platform.list(&queue.join(SINKS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let name = |path: PathBuf| Some(path.file_name()?.to_str()?.to_owned());
    let mut names: Vec<_> = paths.into_iter().filter_map(name).collect();
    names.sort_unstable();
    Ok(names)
}

/// The directory of a queue's sink with this name, within the queue's. The main sink has none: its files are the queue's.
#[must_use]
pub fn sink_directory(queue: &Path, name: &str) -> PathBuf {
    queue.join(SINKS).join(name)
}

/// Identifies a sink with a name, beside the main one, whose part is `part`.
pub(super) fn sink_part(part: &str, sink: &str) -> String {
    format!("{part}/sink-{sink}")
}

impl Identity {
    /// Reads the identity of a data directory, without touching it.
    ///
    /// # Errors
    ///
    /// There is none, or it is damaged.
    pub fn read(path: &Path) -> Result<Self, DirectoryError> {
        let file = path.join("identity");
        let text = read(&System, &file)?.ok_or_else(|| DirectoryError::NotOurs(path.to_owned()))?;
        let mut parts = text.lines().map(unhex);
        let mut next = || parts.next().flatten().ok_or_else(|| DirectoryError::Damaged(file.clone()));
        Ok(Self { id: next()?, ticket_secret: next()?, idempotency_secret: next()? })
    }

    fn make(path: &Path) -> Result<Self, DirectoryError> {
        let file = path.join("identity");
        let mut parts = [[0; 16]; 3];
        for part in &mut parts {
            let filled = getrandom::fill(part).map_err(io::Error::other);
            filled.map_err(|error| DirectoryError::Io { path: file.clone(), error })?;
        }
        make(&System, &file, &parts.map(|part| hex(&part) + "\n").concat())?;
        let [id, ticket_secret, idempotency_secret] = parts;
        Ok(Self { id, ticket_secret, idempotency_secret })
    }

    /// Identifies a queue of this directory in its segments.
    #[must_use]
    pub fn queue_id(&self, name: &str) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.id);
        hasher.write(name.as_bytes());
        hasher.finish()
    }

    /// Identifies a queue of this directory in its main sink, or, with that one's name, in another of its sinks.
    #[must_use]
    pub fn part(&self, queue: &str, sink: Option<&str>) -> String {
        let part = format!("{queue}/{}", hex(&self.id));
        sink.map_or_else(|| part.clone(), |sink| sink_part(&part, sink))
    }
}

/// Notes that this epoch gives out sequences of a queue from `first_sequence` on, and returns all
/// epochs of the queue. An epoch that gave out none is forgotten.
///
/// # Errors
///
/// The file cannot be written, or is damaged.
pub fn begin_epoch<P: Platform>(
    platform: &P,
    directory: &Path,
    epoch: u64,
    first_sequence: Sequence,
) -> Result<Vec<EpochStart>, DirectoryError> {
    let mut epochs = read_epochs(platform, directory)?;
    epochs.retain(|start| start.first_sequence < first_sequence);
    epochs.push(EpochStart { epoch, first_sequence });
    let text: String = epochs.iter().map(|start| format!("{} {}\n", start.epoch, start.first_sequence)).collect();
    replace(platform, &directory.join("epochs"), &text)?;
    Ok(epochs)
}

/// The epochs of a queue, as [`begin_epoch`] has noted them.
///
/// # Errors
///
/// The file cannot be read, or is damaged.
pub fn read_epochs<P: Platform>(platform: &P, directory: &Path) -> Result<Vec<EpochStart>, DirectoryError> {
    let path = directory.join("epochs");
    let damaged = || DirectoryError::Damaged(path.clone());
    let text = read(platform, &path)?.unwrap_or_default();
    let start = |line: &str| {
        let (epoch, first) = line.split_once(' ')?;
        Some(EpochStart { epoch: epoch.parse().ok()?, first_sequence: first.parse().ok()? })
    };
    text.lines().map(|line| start(line).ok_or_else(damaged)).collect()
}

/// How often the directory was started so far.
///
/// # Errors
///
/// The file cannot be read, or is damaged.
pub fn read_epoch(path: &Path) -> Result<u64, DirectoryError> {
    let path = path.join("epoch");
    let Some(text) = read(&System, &path)? else { return Ok(0) };
    text.trim_end().parse().map_err(|_| DirectoryError::Damaged(path))
}

fn lock(path: &Path) -> Result<File, DirectoryError> {
    let lock_path = path.join("LOCK");
    let failed = |error| DirectoryError::Io { path: lock_path.clone(), error };
    let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&lock_path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(DirectoryError::Locked(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn read<P: Platform>(platform: &P, path: &Path) -> Result<Option<String>, DirectoryError> {
    let text = platform
        .read(path)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)));
    match text {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DirectoryError::Io { path: path.to_owned(), error }),
    }
}

/// Makes a small file that is never changed, so that a crash leaves none or all of it.
fn make<P: Platform>(platform: &P, path: &Path, text: &str) -> Result<(), DirectoryError> {
    let write = || -> io::Result<()> {
        let growing = path.with_extension("new");
        let file = platform.open(&growing, PRIVATE)?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.sync_all()?;
        platform.rename(&growing, path)?;
        platform.sync_directory(parent_of(path))
    };
    write().map_err(|error| DirectoryError::Io { path: path.to_owned(), error })
}

/// Writes a small file anew so that a crash leaves the former one or the new one, whole; and, but for the first time,
/// without asking for space, so that a start succeeds on a full disk.
///
/// The file has a spare beside it, which has its space. The spare is written in its place and synced, and the two change
/// their names: the former file is the next spare. Nobody reads the spare, so a crash may leave anything in it.
fn replace<P: Platform>(platform: &P, path: &Path, text: &str) -> Result<(), DirectoryError> {
    let spare = path.with_extension("spare");
    let write = || -> io::Result<()> {
        let file = open_spare(platform, path, &spare)?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_bytes(text.len() as u64)?;
        file.sync_all()?;
        if platform.exchange(&spare, path).is_err() {
            // There is no former file, or the file system cannot do it.
            platform.rename(&spare, path)?;
        }
        platform.sync_directory(parent_of(path))
    };
    write().map_err(|error| DirectoryError::Io { path: path.to_owned(), error })?;
    if let Err(error) = reserve_spare(platform, path, &spare, text.len()) {
        tracing::debug!(path = %spare.display(), %error, "the next start will need space for this file");
    }
    Ok(())
}

fn open_spare<P: Platform>(platform: &P, path: &Path, spare: &Path) -> io::Result<P::File> {
    match platform.open(spare, Mode::Overwrite) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => platform.open(spare, PRIVATE),
        Err(error) => Err(error),
        Ok(file) => {
            // If the last exchange was not made durable, a power cut would bring the former names back, and what is
            // overwritten now would be the file itself.
            platform.sync_directory(parent_of(path))?;
            Ok(file)
        }
    }
}

/// Takes space for a file of `bytes` and one more line, while there is some.
fn reserve_spare<P: Platform>(platform: &P, path: &Path, spare: &Path, bytes: usize) -> io::Result<()> {
    let file = open_spare(platform, path, spare)?;
    file.reserve((bytes + BLOCK_BYTES) as u64)?;
    file.sync_all()?;
    platform.sync_directory(parent_of(path))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

fn hex(bytes: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*bytes))
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok())?.map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_and_the_same_identity_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let first = DataDirectory::open(directory.path()).unwrap();
        assert!(matches!(DataDirectory::open(directory.path()), Err(DirectoryError::Locked(_))));
        let identity = first.identity;
        assert_eq!(first.epoch, 1);
        assert_ne!(identity.ticket_secret, identity.idempotency_secret);
        first.count_start().unwrap();
        drop(first);
        let second = DataDirectory::open(directory.path()).unwrap();
        assert!(second.identity == identity);
        assert_eq!(second.epoch, 2);
    }

    #[test]
    fn a_damaged_identity_is_refused_and_not_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        drop(DataDirectory::open(directory.path()).unwrap());
        for damage in ["", "00\n", "zz\nzz\nzz\n"] {
            fs::write(directory.path().join("identity"), damage).unwrap();
            assert!(matches!(DataDirectory::open(directory.path()), Err(DirectoryError::Damaged(_))), "{damage:?}");
        }
    }

    #[test]
    fn what_every_start_writes_takes_no_space_but_the_first_time() {
        let directory = tempfile::tempdir().unwrap();
        let begin = |epoch| begin_epoch(&System, directory.path(), epoch, epoch * 10).unwrap();
        let id = |name| System.metadata(&directory.path().join(name)).unwrap().id;
        begin(1);
        let (file, spare) = (id("epochs"), id("epochs.spare"));
        for epoch in 2..6 {
            begin(epoch);
            let (former, latter) = if epoch % 2 == 0 { (spare, file) } else { (file, spare) };
            assert_eq!((id("epochs"), id("epochs.spare")), (former, latter));
            let text = fs::read_to_string(directory.path().join("epochs")).unwrap();
            assert_eq!((text.lines().count() as u64, text.ends_with('\n')), (epoch, true), "{text}");
            let reserved = System.metadata(&directory.path().join("epochs.spare")).unwrap().bytes;
            assert!(reserved > text.len() as u64 + 100, "{reserved}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn epochs_without_sequences_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let begin = |epoch, first| {
            let starts = begin_epoch(&System, directory.path(), epoch, first).unwrap();
            starts.into_iter().map(|start| (start.epoch, start.first_sequence)).collect::<Vec<_>>()
        };
        assert_eq!(begin(1, 1), [(1, 1)]);
        assert_eq!(begin(2, 1), [(2, 1)]);
        assert_eq!(begin(3, 50), [(2, 1), (3, 50)]);
        assert_eq!(begin(4, 40), [(2, 1), (4, 40)]);
    }
}
