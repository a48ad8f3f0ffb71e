//! What the journal and the drain ask of the machine: files, clocks, random numbers.
//!
//! Whatever touches the disk is generic over [`Platform`]. [`System`] is the machine itself and
//! is compiled to the same calls as before there was a trait; the simulation in `tests/simulation/`
//! is another machine, whose disk fails, whose clocks jump and whose power is cut, so that the code
//! that decides runs there as it is and not as a copy.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{Advice, CWD, FallocateFlags, OFlags, RenameFlags};
use rustix::io::Errno;

use super::uring::{CommitError, Disk, Write};
use crate::clock;

/// A machine with a disk, two clocks and a source of random numbers.
pub trait Platform: Clone + Send + Sync + 'static {
    /// An open file or directory.
    type File: RandomAccessFile;
    /// What commits batches.
    type Disk: Commit<Self::File>;

    /// Nanoseconds on a clock that never goes back.
    fn monotonic_ns(&self) -> u64;
    /// Microseconds since the Unix epoch on a clock that may be set.
    fn unix_us(&self) -> u64;
    /// A random number.
    ///
    /// # Errors
    ///
    /// The system has none.
    fn random(&self) -> io::Result<u64>;
    /// Lets other work pass for a moment.
    fn rest(&self, pause: Duration);
    /// What commits up to `commits_max` batches at once. Call it on the thread that will use it.
    ///
    /// # Errors
    ///
    /// The system refuses it.
    fn disk(&self, commits_max: usize) -> io::Result<Self::Disk>;
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Self::File>;
    /// Opens a directory, to sync it.
    ///
    /// # Errors
    ///
    /// It cannot be opened.
    fn open_directory(&self, path: &Path) -> io::Result<Self::File>;
    /// Makes a directory and those above it, unless they are there.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// The files of a directory.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;
    /// What the file system says of a file.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be asked.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// Gives a file another name, in the place of what had that name.
    ///
    /// # Errors
    ///
    /// It keeps its name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Lets two files change their names, at once.
    ///
    /// # Errors
    ///
    /// Both keep their names.
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()>;
    /// Gives a file a second name, which must be free.
    ///
    /// # Errors
    ///
    /// It has none.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    ///
    /// It is still there.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    ///
    /// The directory cannot be opened or synced.
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.open_directory(path)?.sync_all()
    }

    /// Reads a whole file.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, Mode::Read)?;
        let length = usize::try_from(file.bytes()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A segment that exists, with `O_DIRECT` where the file system has it.
    Segment {
        /// For writing too.
        write: bool,
    },
    /// A segment that is made, or made empty, in the same way.
    NewSegment,
    /// A small file, for reading.
    Read,
    /// A small file that is made, or made empty.
    Replace {
        /// Its permissions, before the umask.
        permissions: u32,
    },
    /// A small file that exists, written in its place.
    Overwrite,
    /// A file that grows, made if it is missing: everything that is written goes behind its end.
    Append,
}

/// Says which file it is, whatever its name: device and inode.
pub type FileId = (u64, u64);

/// What the file system says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Its length.
    pub bytes: u64,
    /// When it was last written: microseconds since the Unix epoch.
    pub modified_us: u64,
    /// Which file it is.
    pub id: FileId,
}

/// Whether the disk, rather than the file system or somebody's permissions, keeps bytes back: they are damaged, for all
/// that anybody can do. Which of these errors it is depends on the device.
#[must_use]
pub fn is_unreadable(error: &io::Error) -> bool {
    const ERRORS: [Errno; 4] = [Errno::IO, Errno::NODATA, Errno::ILSEQ, Errno::BADMSG];
    ERRORS.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// An open file that is read and written by offset.
pub trait RandomAccessFile: Send + Sync + Sized + 'static {
    /// Reads some bytes; 0 at the end of the file.
    ///
    /// # Errors
    ///
    /// The disk says no.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes some bytes.
    ///
    /// # Errors
    ///
    /// The disk says no.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes the contents durable (fdatasync).
    ///
    /// # Errors
    ///
    /// What is durable is unknown. Not to be tried again: the kernel may have dropped the dirty state.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes contents and metadata durable (fsync).
    ///
    /// # Errors
    ///
    /// As [`sync_data`](Self::sync_data).
    fn sync_all(&self) -> io::Result<()>;
    /// Drops what a page cache holds of it, so that the next read comes from the disk. Only what is synced can be
    /// dropped.
    ///
    /// # Errors
    ///
    /// The file system cannot.
    fn drop_cached(&self) -> io::Result<()>;
    /// Its length.
    ///
    /// # Errors
    ///
    /// The file system cannot say.
    fn bytes(&self) -> io::Result<u64>;
    /// Which file it is.
    ///
    /// # Errors
    ///
    /// The file system cannot say.
    fn id(&self) -> io::Result<FileId>;
    /// Cuts or extends it.
    ///
    /// # Errors
    ///
    /// It keeps its length.
    fn set_bytes(&self, bytes: u64) -> io::Result<()>;
    /// Takes space for `bytes` without writing them; they read as zeros.
    ///
    /// # Errors
    ///
    /// There is none.
    fn reserve(&self, bytes: u64) -> io::Result<()>;
    /// Another descriptor of the same file.
    ///
    /// # Errors
    ///
    /// There is none left.
    fn duplicate(&self) -> io::Result<Self>;

    /// Fills `out`.
    ///
    /// # Errors
    ///
    /// The disk says no, or [`io::ErrorKind::UnexpectedEof`].
    fn read_exact_at(&self, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !out.is_empty() {
            match self.read_at(out, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    out = &mut out[read..];
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    ///
    /// The disk says no, or [`io::ErrorKind::WriteZero`].
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Writes batches and syncs them.
pub trait Commit<F> {
    /// Writes everything and syncs every file. When it returns `Ok`, all of it is on disk.
    ///
    /// # Errors
    ///
    /// Any write or sync failed; what is on disk is then unknown.
    fn commit<'a>(&mut self, writes: impl Iterator<Item = Write<'a, F>> + Clone) -> Result<(), CommitError>
    where
        F: 'a;
}

/// The machine that the process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

/// Who may read what clients have sent: whoever runs forebay.
const PRIVATE: u32 = 0o600;

impl Platform for System {
    type File = File;
    type Disk = Disk;

    fn monotonic_ns(&self) -> u64 {
        clock::monotonic_ns()
    }

    fn unix_us(&self) -> u64 {
        clock::unix_us()
    }

    fn random(&self) -> io::Result<u64> {
        getrandom::u64().map_err(io::Error::other)
    }

    fn rest(&self, pause: Duration) {
        if !pause.is_zero() {
            std::thread::park_timeout(pause);
        }
    }

    fn disk(&self, commits_max: usize) -> io::Result<Disk> {
        Disk::new(commits_max)
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<File> {
        let mut options = OpenOptions::new();
        match mode {
            Mode::Segment { write } => open_direct(options.read(true).write(write), path),
            Mode::NewSegment => {
                open_direct(options.read(true).write(true).create(true).truncate(true).mode(PRIVATE), path)
            }
            Mode::Read => options.read(true).open(path),
            Mode::Replace { permissions } => {
                options.write(true).create(true).truncate(true).mode(permissions).open(path)
            }
            Mode::Overwrite => options.write(true).open(path),
            Mode::Append => options.read(true).append(true).create(true).mode(PRIVATE).open(path),
        }
    }

    fn open_directory(&self, path: &Path) -> io::Result<File> {
        File::open(path)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect()
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let metadata = fs::metadata(path)?;
        let since = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let modified_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        Ok(Metadata { bytes: metadata.len(), modified_us, id: (metadata.dev(), metadata.ino()) })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).map_err(io::Error::from)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

fn open_direct(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
    match options.custom_flags(direct).open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            static WARNING: Once = Once::new();
            WARNING.call_once(|| {
                tracing::warn!(path = %path.display(), "no O_DIRECT on this file system; using the page cache");
            });
            options.custom_flags(0).open(path)
        }
        other => other,
    }
}

impl RandomAccessFile for File {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        // The system call and nothing else: the standard library would try again after a signal.
        rustix::fs::fdatasync(self).map_err(io::Error::from)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }

    fn drop_cached(&self) -> io::Result<()> {
        rustix::fs::fadvise(self, 0, None, Advice::DontNeed).map_err(io::Error::from)
    }

    fn bytes(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn id(&self) -> io::Result<FileId> {
        self.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        rustix::fs::fallocate(self, FallocateFlags::empty(), 0, bytes).map_err(io::Error::from)
    }

    fn duplicate(&self) -> io::Result<File> {
        self.try_clone()
    }
}

impl Commit<File> for Disk {
    fn commit<'a>(&mut self, writes: impl Iterator<Item = Write<'a>> + Clone) -> Result<(), CommitError> {
        Disk::commit(self, writes)
    }
}
