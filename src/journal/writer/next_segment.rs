//! What the journal thread does when a segment is full: it prepares a spare, seals the segment, and goes on in the spare.
//!
//! Invariant: nothing in use is touched before the spare is ready, and the name that the spare gets is durable before
//! anything in it is acknowledged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use super::{QueueLog, Writer};
use crate::journal::catalogue::Segment;
use crate::journal::format::SegmentIdentity;
use crate::journal::maintenance::{Chore, Unsaved};
use crate::journal::platform::{Mode, Platform, RandomAccessFile};
use crate::journal::segment_file;
use crate::limits::BLOCK_BYTES;

/// How long a full disk is believed to be full before another segment is tried, in nanoseconds.
const DISK_FULL_RETRY_NS: u64 = 100_000_000;

/// Why there is no next segment.
pub(super) enum NextSegmentError {
    /// None can be had now; nothing that is in use is in doubt.
    Unavailable(io::Error),
    /// A write or a sync of what is in use has failed.
    Broken(io::Error),
}

/// A spare segment that is ready to be taken into use.
struct Prepared<P: Platform> {
    spare: PathBuf,
    identity: SegmentIdentity,
    file: P::File,
    /// The queue's and the pool's, opened beforehand: once a segment is sealed, nothing may be missing.
    directories: [P::File; 2],
}

impl<P: Platform> Writer<P> {
    /// Seals the queue's segment and goes on in another one.
    pub(super) fn next_segment(&mut self, index: usize) -> Result<(), NextSegmentError> {
        let prepared = self.prepare_segment(index).map_err(NextSegmentError::Unavailable)?;
        self.open_segment(index, prepared)
    }

    /// No other segment can be had: for a while none is looked for.
    pub(super) fn note_disk_full(&mut self, error: &io::Error) {
        if !self.health.is_disk_full() {
            tracing::error!(%error, "no other segment can be had; refusing records until one can");
        }
        let now_ns = self.platform.monotonic_ns();
        // A refusal without another look must not put the next look off, or under load there would be none.
        if !self.health.is_disk_full() || now_ns >= self.disk_full_until_ns {
            self.disk_full_until_ns = now_ns + DISK_FULL_RETRY_NS;
        }
        self.health.set_disk_full(true);
    }

    /// Takes a spare and writes its header. Nothing in use is touched, so a failure (no disk, no
    /// descriptors) is one that may pass.
    fn prepare_segment(&mut self, index: usize) -> io::Result<Prepared<P>> {
        if self.health.is_disk_full() && self.platform.monotonic_ns() < self.disk_full_until_ns {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let spare = self.pool.take()?;
        let prepared = self.write_header(index, &spare);
        if prepared.is_err() {
            self.drop_spare(&spare);
        } else {
            self.health.set_disk_full(false);
        }
        prepared
    }

    /// After a failed write or sync nothing about the file may be believed, so it is not used again.
    fn drop_spare(&self, spare: &Path) {
        if let Err(error) = self.platform.remove(spare) {
            tracing::warn!(path = %spare.display(), %error, "a spare segment of no use could not be removed");
        }
        let _ = self.chores.send(Chore::Replenish);
    }

    fn write_header(&self, index: usize, spare: &Path) -> io::Result<Prepared<P>> {
        let log = &self.logs[index];
        let generation = self.platform.random()?.max(1);
        let identity = log.appender.next_segment(log.queue.id, generation, self.pool.segment_bytes());
        let file = self.platform.open(spare, Mode::Segment { write: true })?;
        segment_file::write_header(&file, &identity, self.epoch, self.platform.unix_us())?;
        let directories =
            [self.platform.open_directory(&log.directory)?, self.platform.open_directory(self.pool.directory())?];
        Ok(Prepared { spare: spare.to_owned(), identity, file, directories })
    }

    /// Seals the queue's segment and opens the one that is prepared. Its name is durable before
    /// anything in it is acknowledged.
    fn open_segment(&mut self, index: usize, prepared: Prepared<P>) -> Result<(), NextSegmentError> {
        let Prepared { spare, identity, file, directories } = prepared;
        let log = &mut self.logs[index];
        log.seal_segment(&self.chores).map_err(NextSegmentError::Broken)?;
        let path = log.directory.join(format!("{:020}.seg", identity.first_sequence));
        if let Err(error) = self.platform.rename(&spare, &path) {
            // A full disk may have no room for a name. What was written is sealed, and there is nothing to append to.
            self.drop_spare(&spare);
            return Err(NextSegmentError::Unavailable(error));
        }
        for directory in directories {
            directory.sync_all().map_err(NextSegmentError::Broken)?;
        }
        log.catalogue.push(Segment { path, identity, sealed_next: None, keys_saved: false });
        log.appender.open_segment(identity, BLOCK_BYTES as u64, 0);
        log.file = Some(file);
        // The pool has one spare less.
        let _ = self.chores.send(Chore::Replenish);
        Ok(())
    }
}

impl<P: Platform> QueueLog<P> {
    fn seal_segment(&mut self, chores: &Sender<Chore>) -> io::Result<()> {
        let (Some((identity, footer)), Some(file)) = (self.appender.footer(), self.file.as_ref()) else {
            return Ok(());
        };
        if footer.next_sequence == identity.first_sequence {
            // Nothing was ever written to it, and the next one begins with the same sequence: the rename
            // puts the new file in its place.
            self.catalogue.pop_last();
            self.file = None;
            self.appender.close_segment();
            return Ok(());
        }
        segment_file::write_footer(file, &identity, &footer)?;
        self.catalogue.seal_last(footer.next_sequence);
        let keys = self.appender.segment_keys();
        // The maintenance thread ends after this one, so it hears of every segment.
        let _ = chores.send(Chore::SaveKeys(Unsaved {
            queue: self.queue.index,
            first_sequence: identity.first_sequence,
            keys,
        }));
        self.file = None;
        self.appender.close_segment();
        Ok(())
    }
}
