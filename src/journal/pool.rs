//! The pool: zeroed segment files that wait for any queue to take one.
//!
//! A delivered segment comes back here and is used again, with a new generation. A file
//! that a queue has taken is renamed into the queue's directory, and the rename is made
//! durable before a record in it is acknowledged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::platform::{Platform, System};
use super::segment_file;
use crate::limits::ZEROING_PAUSE_MS;

/// Spare segment files, all of one size.
pub struct Pool<P = System> {
    platform: P,
    directory: PathBuf,
    segment_bytes: u64,
    spares_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ready: Vec<PathBuf>,
    next_number: u64,
}

impl<P: Platform> Pool<P> {
    /// Opens the pool in `directory` and takes over the spares that a former process left there.
    ///
    /// # Errors
    ///
    /// The directory cannot be made or read.
    pub fn open(platform: P, directory: &Path, segment_bytes: u64, spares_max: usize) -> io::Result<Self> {
        platform.create_directory(directory)?;
        let mut state = State::default();
        for path in platform.list(directory)? {
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
            let whole = path.extension().is_some_and(|extension| extension == "seg");
            if let Some(number) = number {
                state.next_number = state.next_number.max(number + 1);
            }
            let fits = whole && number.is_some() && platform.metadata(&path)?.bytes == segment_bytes;
            if fits && state.ready.len() < spares_max {
                state.ready.push(path);
            } else {
                // Half-made, of another size, or too many.
                platform.remove(&path)?;
            }
        }
        Ok(Self { platform, directory: directory.to_owned(), segment_bytes, spares_max, state: Mutex::new(state) })
    }

    /// The directory, to sync it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Bytes of a segment.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Takes a spare, or makes one whose space is only reserved if none is ready.
    ///
    /// # Errors
    ///
    /// There is no spare and none can be made: the disk is full, most likely.
    pub fn take(&self) -> io::Result<PathBuf> {
        if let Some(path) = self.lock().ready.pop() {
            return Ok(path);
        }
        let path = self.fresh_path("seg");
        segment_file::create_reserved(&self.platform, &path, self.segment_bytes)?;
        Ok(path)
    }

    /// Gives a taken or delivered file back; deletes it if there are spares enough.
    ///
    /// # Errors
    ///
    /// The file can be neither renamed nor deleted.
    pub fn give_back(&self, path: &Path) -> io::Result<()> {
        let same_size = self.platform.metadata(path)?.bytes == self.segment_bytes;
        if !same_size || self.lock().ready.len() >= self.spares_max {
            return self.platform.remove(path);
        }
        let spare = self.fresh_path("seg");
        if self.platform.rename(path, &spare).is_err() {
            // A full disk may have no room for another name.
            return self.platform.remove(path);
        }
        // Before anybody writes to the file under its new name, the old name must be gone for good. If that cannot be had,
        // the file is left for the next start to find.
        let former = path.parent().unwrap_or(Path::new("."));
        let gone = self.platform.sync_directory(&self.directory).and_then(|()| self.platform.sync_directory(former));
        match gone {
            Ok(()) => self.lock().ready.push(spare),
            Err(error) => {
                tracing::warn!(path = %spare.display(), %error, "a spare segment is of no use until a restart");
            }
        }
        Ok(())
    }

    /// Makes one zeroed spare if there is none, as fast as the disk can: before the doors open.
    ///
    /// # Errors
    ///
    /// None can be made: the disk is full, most likely.
    pub fn prepare(&self) -> io::Result<()> {
        if self.spares_max > 0 && self.lock().ready.is_empty() { self.add_spare(Duration::ZERO) } else { Ok(()) }
    }

    /// Makes one zeroed spare if there are too few, giving way to commits; returns whether it did.
    ///
    /// # Errors
    ///
    /// None can be made: the disk is full, most likely.
    pub fn replenish(&self) -> io::Result<bool> {
        if self.lock().ready.len() >= self.spares_max {
            return Ok(false);
        }
        self.add_spare(Duration::from_millis(ZEROING_PAUSE_MS))?;
        Ok(true)
    }

    fn add_spare(&self, pause: Duration) -> io::Result<()> {
        // A half-zeroed file has another ending, so that a restart does not take it for a spare.
        let growing = self.fresh_path("new");
        segment_file::create_zeroed(&self.platform, &growing, self.segment_bytes, pause)?;
        let spare = growing.with_extension("seg");
        self.platform.rename(&growing, &spare)?;
        self.lock().ready.push(spare);
        Ok(())
    }

    fn fresh_path(&self, extension: &str) -> PathBuf {
        let mut state = self.lock();
        let number = state.next_number;
        state.next_number += 1;
        self.directory.join(format!("{number:08}.{extension}"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
