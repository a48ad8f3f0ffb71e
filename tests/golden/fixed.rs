//! The real files, on a machine whose clocks stand still and whose random numbers are always the same.

use std::fs::File;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forebay::drain::scheduler::Scheduler;
use forebay::journal::platform::{Metadata, Mode, Platform, System};
use forebay::journal::uring::Disk;

/// The beginning of the year 2100, so that the window of the idempotency keys has not ended when a test asks for them.
pub const NOW_US: u64 = 4_102_444_800_000_000;

#[derive(Clone, Default)]
pub struct Fixed {
    drawn: Arc<AtomicU64>,
}

impl Platform for Fixed {
    type File = File;
    type Disk = Disk;

    fn monotonic_ns(&self) -> u64 {
        0
    }

    fn unix_us(&self) -> u64 {
        NOW_US
    }

    fn random(&self) -> io::Result<u64> {
        Ok(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(1 + self.drawn.fetch_add(1, Ordering::Relaxed)))
    }

    fn rest(&self, _pause: Duration) {}

    fn disk(&self, commits_max: usize) -> io::Result<Disk> {
        Disk::new(commits_max)
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<File> {
        System.open(path, mode)
    }

    fn open_directory(&self, path: &Path) -> io::Result<File> {
        System.open_directory(path)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        System.create_directory(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = System.list(directory)?;
        paths.sort();
        Ok(paths)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        Ok(Metadata { modified_us: NOW_US, ..System.metadata(path)? })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        System.rename(from, to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        System.exchange(one, other)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        System.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        System.remove(path)
    }
}

impl Scheduler for Fixed {
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send {
        System.sleep(time)
    }

    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send {
        System.blocking(work)
    }
}
