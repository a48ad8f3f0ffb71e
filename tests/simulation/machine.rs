//! The simulated machine: a disk, two clocks and a source of random numbers behind the interfaces of the real one.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use forebay::drain::scheduler::Scheduler;
use forebay::journal::platform::{Commit, FileId, Metadata, Mode, Platform, RandomAccessFile};
use forebay::journal::uring::{CommitError, Completions, Write, check, commit_one};

use crate::disk::Disk;
use crate::random::Random;

/// What one machine is made of.
pub struct State {
    pub random: Random,
    pub disk: Disk,
    pub monotonic_ns: u64,
    pub unix_us: u64,
    /// Counts the starts of the process: what an earlier one has opened is closed.
    pub life: u64,
}

/// A handle of the machine, good for one life of the process.
#[derive(Clone)]
pub struct Machine {
    state: Arc<Mutex<State>>,
    life: u64,
}

/// An open file.
pub struct File {
    machine: Machine,
    /// Nothing for a directory.
    inode: Option<usize>,
    appends: bool,
}

impl Machine {
    pub fn new(random: Random) -> Self {
        let state = State { random, disk: Disk::default(), monotonic_ns: 0, unix_us: 1_700_000_000_000_000, life: 0 };
        Self { state: Arc::new(Mutex::new(state)), life: 0 }
    }

    /// Another machine with a copy of a disk, whose clocks stand where these do.
    pub fn with_disk(&self, random: Random, disk: Disk) -> Self {
        let (monotonic_ns, unix_us) = {
            let state = self.state();
            (state.monotonic_ns, state.unix_us)
        };
        let state = State { random, disk, monotonic_ns, unix_us, life: 0 };
        Self { state: Arc::new(Mutex::new(state)), life: 0 }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The machine for another life of the process; handles of the lives before are of no use any more.
    pub fn next_life(&self) -> Self {
        let life = {
            let mut state = self.state();
            state.life += 1;
            state.life
        };
        Self { state: Arc::clone(&self.state), life }
    }

    pub fn draw<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.state().random)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Disk, &mut Random, u64) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state();
        if state.life != self.life {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let State { disk, random, unix_us, .. } = &mut *state;
        act(disk, random, *unix_us)
    }

    fn file(&self, inode: Option<usize>, appends: bool) -> File {
        File { machine: self.clone(), inode, appends }
    }
}

impl Platform for Machine {
    type File = File;
    type Disk = Committer;

    fn monotonic_ns(&self) -> u64 {
        self.state().monotonic_ns
    }

    fn unix_us(&self) -> u64 {
        self.state().unix_us
    }

    fn random(&self) -> io::Result<u64> {
        Ok(self.state().random.next())
    }

    fn rest(&self, _pause: Duration) {}

    fn disk(&self, _commits_max: usize) -> io::Result<Committer> {
        Ok(Committer { machine: self.clone() })
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<File> {
        let (create, truncate) = match mode {
            Mode::Segment { .. } | Mode::Read | Mode::Overwrite => (false, false),
            Mode::NewSegment | Mode::Replace { .. } => (true, true),
            Mode::Append => (true, false),
        };
        let inode = self.with(|disk, random, _| disk.open(random, path, create, truncate))?;
        Ok(self.file(Some(inode), mode == Mode::Append))
    }

    fn open_directory(&self, _path: &Path) -> io::Result<File> {
        self.with(|_, _, _| Ok(()))?;
        Ok(self.file(None, false))
    }

    fn create_directory(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        self.with(|disk, random, _| disk.list(random, directory))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let (inode, bytes, modified_us) = self.with(|disk, random, _| disk.metadata(random, path))?;
        Ok(Metadata { bytes, modified_us, id: (0, inode as u64) })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.with(|disk, random, _| disk.rename(random, from, to))
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.with(|disk, random, _| disk.exchange(random, one, other))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.with(|disk, random, _| disk.link(random, from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.with(|disk, random, _| disk.remove(random, path))
    }
}

impl File {
    fn with<T>(&self, act: impl FnOnce(&mut Disk, &mut Random, usize, u64) -> io::Result<T>) -> io::Result<T> {
        let inode = self.inode.ok_or(io::ErrorKind::IsADirectory)?;
        self.machine.with(|disk, random, now_us| act(disk, random, inode, now_us))
    }
}

impl RandomAccessFile for File {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|disk, random, inode, _| disk.read_at(random, inode, out, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.with(|disk, random, inode, now_us| {
            let offset = if self.appends { disk.bytes(random, inode)? } else { offset };
            disk.write_at(random, inode, bytes, offset, now_us)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|disk, random, inode, _| disk.sync(random, inode))
    }

    fn sync_all(&self) -> io::Result<()> {
        match self.inode {
            Some(_) => self.sync_data(),
            None => self.machine.with(|disk, random, _| disk.sync_names(random)),
        }
    }

    fn drop_cached(&self) -> io::Result<()> {
        // It has no page cache: it is a disk with O_DIRECT.
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        self.with(|disk, random, inode, _| disk.bytes(random, inode))
    }

    fn id(&self) -> io::Result<FileId> {
        Ok((0, self.inode.ok_or(io::ErrorKind::IsADirectory)? as u64))
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.with(|disk, random, inode, _| disk.set_bytes(random, inode, bytes))
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.set_bytes(bytes)
    }

    fn duplicate(&self) -> io::Result<Self> {
        Ok(self.machine.file(self.inode, self.appends))
    }
}

/// Writes and syncs in the order that chance gives them.
pub struct Committer {
    machine: Machine,
}

impl Commit<File> for Committer {
    fn commit<'a>(&mut self, writes: impl Iterator<Item = Write<'a, File>> + Clone) -> Result<(), CommitError> {
        let all: Vec<_> = writes.clone().collect();
        match all.as_slice() {
            [] => Ok(()),
            [write] => commit_one(write),
            _ => check(writes, &self.complete(&all)),
        }
    }
}

impl Committer {
    fn complete(&self, writes: &[Write<'_, File>]) -> Vec<Completions> {
        const CANCELLED: i32 = -125;
        let mut completions: Vec<Completions> = vec![(None, None); writes.len()];
        let mut open: Vec<usize> = (0..writes.len()).collect();
        while !open.is_empty() {
            let place = self.machine.draw(|random| random.index(open.len()));
            let index = open[place];
            let write = &writes[index];
            let code = |error: &io::Error| -error.raw_os_error().unwrap_or(5);
            if completions[index].0.is_none() {
                let written = write.file.write_at(write.bytes, write.offset);
                completions[index].0 = Some(match &written {
                    Ok(bytes) => i32::try_from(*bytes).unwrap(),
                    Err(error) => code(error),
                });
                if !written.is_ok_and(|bytes| bytes == write.bytes.len()) {
                    completions[index].1 = Some(CANCELLED);
                    open.swap_remove(place);
                }
            } else {
                completions[index].1 = Some(write.file.sync_data().map_or_else(|error| code(&error), |()| 0));
                open.swap_remove(place);
            }
        }
        completions
    }
}

/// Ends when the simulated clock has come so far.
pub struct Sleep {
    machine: Machine,
    until_ns: u64,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<()> {
        // The world polls everything that runs, so nobody needs to be woken.
        if self.machine.state().monotonic_ns >= self.until_ns { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Scheduler for Machine {
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send {
        let until_ns = self.state().monotonic_ns + u64::try_from(time.as_nanos()).unwrap();
        Sleep { machine: self.clone(), until_ns }
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        // Whoever reads a segment lets others have a turn, before and behind.
        futures_lite::future::yield_now().await;
        let done = work();
        futures_lite::future::yield_now().await;
        Some(done)
    }
}
