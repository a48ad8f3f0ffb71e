//! The real files, on a machine that fails where a test wants it to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay::journal::platform::{FileId, Metadata, Mode, Platform, RandomAccessFile, System};

const BLOCK_BYTES: u64 = 4096;
const EIO: i32 = 5;

/// What the operation with a certain number, from 0, comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails; those behind it do not.
    Fails(usize),
    /// The process is killed in it: nothing that comes behind it happens.
    Kills(usize),
}

#[derive(Default)]
struct State {
    operations: AtomicUsize,
    fault: Option<Fault>,
    /// Blocks that the disk does not give out: the file's name, and where they begin.
    unreadable: Mutex<Vec<(String, u64)>>,
}

#[derive(Clone, Default)]
pub struct Faulty(Arc<State>);

pub struct FaultyFile {
    file: std::fs::File,
    path: PathBuf,
    machine: Faulty,
}

impl Faulty {
    pub fn with_fault(fault: Fault) -> Self {
        Self(Arc::new(State { fault: Some(fault), ..State::default() }))
    }

    pub fn with_unreadable(blocks: &[(&Path, usize)]) -> Self {
        let machine = Self::default();
        *machine.0.unreadable.lock().unwrap() =
            blocks.iter().map(|(path, offset)| (name_of(path), *offset as u64)).collect();
        machine
    }

    /// Operations so far.
    pub fn operations(&self) -> usize {
        self.0.operations.load(Ordering::Relaxed)
    }

    fn begin(&self) -> io::Result<()> {
        let number = self.0.operations.fetch_add(1, Ordering::Relaxed);
        match self.0.fault {
            Some(Fault::Fails(at)) if at == number => Err(io::Error::from_raw_os_error(EIO)),
            // Nobody is left to hear of it; the repair must take it for no damage of the disk.
            Some(Fault::Kills(at)) if at <= number => Err(io::ErrorKind::BrokenPipe.into()),
            _ => Ok(()),
        }
    }

    fn opened(&self, path: &Path, file: std::fs::File) -> FaultyFile {
        FaultyFile { file, path: path.to_owned(), machine: self.clone() }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

impl Platform for Faulty {
    type File = FaultyFile;
    type Disk = NoCommits;

    fn monotonic_ns(&self) -> u64 {
        System.monotonic_ns()
    }

    fn unix_us(&self) -> u64 {
        System.unix_us()
    }

    fn random(&self) -> io::Result<u64> {
        self.begin()?;
        System.random()
    }

    fn rest(&self, pause: Duration) {
        System.rest(pause);
    }

    fn disk(&self, _commits_max: usize) -> io::Result<NoCommits> {
        Ok(NoCommits)
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<FaultyFile> {
        self.begin()?;
        Ok(self.opened(path, System.open(path, mode)?))
    }

    fn open_directory(&self, path: &Path) -> io::Result<FaultyFile> {
        self.begin()?;
        Ok(self.opened(path, System.open_directory(path)?))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.begin()?;
        System.create_directory(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        self.begin()?;
        System.list(directory)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.begin()?;
        System.metadata(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.begin()?;
        System.rename(from, to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.begin()?;
        System.exchange(one, other)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.begin()?;
        System.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.begin()?;
        System.remove(path)
    }
}

impl RandomAccessFile for FaultyFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.machine.begin()?;
        let wanted = offset..offset + out.len() as u64;
        let name = name_of(&self.path);
        let unreadable = self.machine.0.unreadable.lock().unwrap();
        let touches = |start: u64| start < wanted.end && wanted.start < start + BLOCK_BYTES;
        if unreadable.iter().any(|(file, start)| *file == name && touches(*start)) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        RandomAccessFile::read_at(&self.file, out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        if let Err(error) = self.machine.begin() {
            // Some of it may have got there.
            let _ = RandomAccessFile::write_at(&self.file, &bytes[..bytes.len() / 2], offset);
            return Err(error);
        }
        RandomAccessFile::write_at(&self.file, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.machine.begin()?;
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.machine.begin()?;
        self.file.sync_all()
    }

    fn drop_cached(&self) -> io::Result<()> {
        self.machine.begin()?;
        self.file.drop_cached()
    }

    fn bytes(&self) -> io::Result<u64> {
        self.machine.begin()?;
        RandomAccessFile::bytes(&self.file)
    }

    fn id(&self) -> io::Result<FileId> {
        self.machine.begin()?;
        RandomAccessFile::id(&self.file)
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.machine.begin()?;
        RandomAccessFile::set_bytes(&self.file, bytes)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.machine.begin()?;
        RandomAccessFile::reserve(&self.file, bytes)
    }

    fn duplicate(&self) -> io::Result<Self> {
        Ok(self.machine.opened(&self.path, self.file.try_clone()?))
    }
}

/// The tools commit nothing.
pub struct NoCommits;

impl forebay::journal::platform::Commit<FaultyFile> for NoCommits {
    fn commit<'a>(
        &mut self,
        _writes: impl Iterator<Item = forebay::journal::uring::Write<'a, FaultyFile>> + Clone,
    ) -> Result<(), forebay::journal::uring::CommitError> {
        unreachable!("the tools commit nothing")
    }
}
