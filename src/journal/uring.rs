//! Writes, and the fdatasync behind each; the only user of `io_uring`'s own interface.
//!
//! A single file is written and synced with two plain calls. Several files are in flight together: `io_uring`
//! completes in any order, so a sync that merely follows its write may run before it, and
//! therefore each write is linked to its sync, which starts when the write has completed in full
//! and is cancelled otherwise. A call returns when the kernel has finished with everything, so it
//! never leaves a buffer in the kernel's hands.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, squeue, types};

use super::platform::RandomAccessFile;

/// Bytes to put into a file before the next sync.
pub struct Write<'a, F = File> {
    /// Opened for writing.
    pub file: &'a F,
    /// Where; a multiple of the block size.
    pub offset: u64,
    /// What; aligned to the block size in address and length.
    pub bytes: &'a [u8],
}

impl<F> Clone for Write<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Write<'_, F> {}

/// What the kernel said of a write and of the sync behind it; `None` if it said nothing.
pub type Completions = (Option<i32>, Option<i32>);

/// Why a commit failed. Nothing about the file may be believed afterwards.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A write failed or was cut short.
    #[error("writing {bytes} bytes at offset {offset}: {error}")]
    Write {
        /// Where the write began.
        offset: u64,
        /// How long it was to be.
        bytes: usize,
        /// What the kernel said.
        error: io::Error,
    },
    /// A sync failed. It must not be tried again: the kernel may have dropped the dirty state.
    #[error("fdatasync: {0}")]
    Sync(io::Error),
    /// The ring itself failed.
    #[error("io_uring: {0}")]
    Ring(io::Error),
}

/// An `io_uring` of the journal thread's own.
pub struct Disk {
    ring: IoUring,
    results: Vec<Completions>,
}

impl Disk {
    /// Sets up a ring for up to `commits_max` files at once. Call it on the thread that will use it.
    ///
    /// # Errors
    ///
    /// The kernel has no `io_uring`, or forbids it.
    pub fn new(commits_max: usize) -> io::Result<Self> {
        let entries = u32::try_from(commits_max.max(1) * 2).unwrap_or(u32::MAX).next_power_of_two();
        // With a single issuer that asks for its completions, the kernel need not interrupt us; kernels
        // before 6.1 do not know these flags and get a plain ring.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(entries)
            .or_else(|_| IoUring::new(entries))?;
        Ok(Self { ring, results: Vec::with_capacity(commits_max) })
    }

    /// Writes everything and syncs every file. When it returns `Ok`, all of it is on disk.
    ///
    /// # Errors
    ///
    /// Any write or sync failed; what is on disk is then unknown.
    pub fn commit<'a>(&mut self, writes: impl Iterator<Item = Write<'a>> + Clone) -> Result<(), CommitError> {
        let mut first_two = writes.clone();
        match (first_two.next(), first_two.next()) {
            (None, _) => Ok(()),
            (Some(write), None) => commit_one(&write),
            _ => self.commit_all(writes),
        }
    }

    fn commit_all<'a>(&mut self, writes: impl Iterator<Item = Write<'a>> + Clone) -> Result<(), CommitError> {
        let mut entries = Vec::new();
        for (write, data) in writes.clone().zip((0..).step_by(2)) {
            let sync = opcode::Fsync::new(write.fd()).flags(types::FsyncFlags::DATASYNC).build();
            entries.push(write.entry()?.user_data(data).flags(squeue::Flags::IO_LINK));
            entries.push(sync.user_data(data + 1));
        }
        self.results.clear();
        self.results.resize(entries.len() / 2, (None, None));
        self.push(&entries)?;
        self.wait(entries.len());
        check(writes, &self.results)
    }

    fn push(&mut self, entries: &[squeue::Entry]) -> Result<(), CommitError> {
        // SAFETY: the buffers and files of the entries outlive the call to `commit`, from which all of them come
        // and which does not return before the kernel has completed them (`wait` counts them).
        unsafe { self.ring.submission().push_multiple(entries) }
            .map_err(|error| CommitError::Ring(io::Error::other(error)))
    }

    /// Waits for `left` completions, whatever happens: the kernel holds our buffers until then.
    fn wait(&mut self, mut left: usize) {
        while left > 0 {
            match self.ring.submit_and_wait(left) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The submission is gone; the process must not go on with buffers in unknown hands.
                Err(error) => {
                    tracing::error!(%error, "io_uring_enter failed with writes in flight; aborting");
                    std::process::abort();
                }
            }
            for completion in self.ring.completion() {
                left -= 1;
                let Ok(data) = usize::try_from(completion.user_data()) else { continue };
                if let Some(result) = self.results.get_mut(data / 2) {
                    if data.is_multiple_of(2) {
                        result.0 = Some(completion.result());
                    } else {
                        result.1 = Some(completion.result());
                    }
                }
            }
        }
    }
}

impl Write<'_> {
    fn fd(&self) -> types::Fd {
        types::Fd(self.file.as_raw_fd())
    }

    fn entry(&self) -> Result<squeue::Entry, CommitError> {
        let length =
            u32::try_from(self.bytes.len()).map_err(|_| CommitError::Ring(io::ErrorKind::InvalidInput.into()))?;
        Ok(opcode::Write::new(self.fd(), self.bytes.as_ptr(), length).offset(self.offset).build())
    }
}

/// One file is written and synced by the calling thread itself: the kernel would complete a direct write of `io_uring`
/// on a thread of its own, and start a linked sync on another, and each of them is a switch more for each commit
/// (`docs/decisions/0007-the-journal-preempts.md`).
///
/// # Errors
///
/// The write or the sync failed, or the write was cut short.
pub fn commit_one<F: RandomAccessFile>(write: &Write<'_, F>) -> Result<(), CommitError> {
    let written = loop {
        match write.file.write_at(write.bytes, write.offset) {
            // Nothing is synced yet, so the same bytes may go to the same place once more.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            written => break written,
        }
    };
    check_write(write, written)?;
    write.file.sync_data().map_err(CommitError::Sync)
}

/// Whether every write was complete and every sync succeeded, by what the kernel said of each.
///
/// # Errors
///
/// The first of them that was not.
pub fn check<'a, F: 'a>(
    writes: impl Iterator<Item = Write<'a, F>>,
    completions: &[Completions],
) -> Result<(), CommitError> {
    for (write, (written, synced)) in writes.zip(completions) {
        check_write(&write, bytes_written(*written))?;
        check_sync(*synced)?;
    }
    Ok(())
}

fn check_write<F>(write: &Write<'_, F>, written: io::Result<usize>) -> Result<(), CommitError> {
    let failed = |error| CommitError::Write { offset: write.offset, bytes: write.bytes.len(), error };
    let written = written.map_err(failed)?;
    if written != write.bytes.len() {
        return Err(failed(io::Error::new(io::ErrorKind::WriteZero, format!("only {written} bytes were written"))));
    }
    Ok(())
}

/// What a completion says of a write.
fn bytes_written(result: Option<i32>) -> io::Result<usize> {
    let result = result.ok_or_else(|| io::Error::other("no completion"))?;
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

fn check_sync(synced: Option<i32>) -> Result<(), CommitError> {
    match synced {
        Some(0) => Ok(()),
        Some(error) => Err(CommitError::Sync(io::Error::from_raw_os_error(-error))),
        None => Err(CommitError::Sync(io::Error::other("no completion"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::platform::{Mode, Platform, System};
    use crate::journal::segment_file;

    #[test]
    fn what_is_committed_is_in_the_files() {
        let directory = tempfile::tempdir().unwrap();
        let files: Vec<_> = (0..3)
            .map(|n| {
                segment_file::create_zeroed(
                    &System,
                    &directory.path().join(n.to_string()),
                    64 * 1024,
                    std::time::Duration::ZERO,
                )
                .unwrap()
            })
            .collect();
        let mut disk = Disk::new(files.len()).unwrap();
        let mut buffer = segment_file::aligned_buffer(8192).unwrap();
        buffer.fill(7);
        let writes = files.iter().map(|file| Write { file, offset: 4096, bytes: &buffer });
        disk.commit(writes).unwrap();
        for n in 0..3 {
            let bytes = std::fs::read(directory.path().join(n.to_string())).unwrap();
            assert!(bytes[4096..4096 + 8192].iter().all(|byte| *byte == 7));
            assert!(bytes[..4096].iter().chain(&bytes[4096 + 8192..]).all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_failed_write_is_an_error_and_its_sync_does_not_hide_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("read-only");
        segment_file::create_zeroed(&System, &path, 8192, std::time::Duration::ZERO).unwrap();
        let file = System.open(&path, Mode::Segment { write: false }).unwrap();
        let buffer = segment_file::aligned_buffer(4096).unwrap();
        let write = Write { file: &file, offset: 0, bytes: &buffer };
        let error = Disk::new(1).unwrap().commit([write].into_iter()).unwrap_err();
        assert!(matches!(error, CommitError::Write { offset: 0, bytes: 4096, .. }), "{error}");
    }
}
