//! Recovery of one queue's directory at the start.
//!
//! Sealed segments are believed by their footer and not scanned; others are synced, since a
//! crash may have come before the sync of what was written, and then scanned ([`scan`]).
//! Segments must follow one another without a gap. Recovery writes nothing to a segment,
//! so what it refuses is left as it was found.

use std::io;
use std::path::{Path, PathBuf};

use super::catalogue::{Catalogue, Segment};
use super::format::{FormatError, SegmentIdentity};
use super::idempotency::{IdempotencyIndex, KeyEntry};
use super::keys_file;
use super::listing::QueueFiles;
use super::platform::{Mode, Platform, RandomAccessFile, System};
use super::scan::{Corruption, scan};
use super::segment_file::{self, aligned_buffer};
use crate::record::NO_KEY;
use crate::record::{Record, Sequence};
use zerocopy::little_endian::{U32, U64};

/// Why a queue's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The file system said no.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// A segment's header is damaged or of another format.
    #[error("{}: segment header: {cause}; `forebay verify` says what is damaged and what to do", path.display())]
    Header {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        cause: FormatError,
    },
    /// A segment is damaged in the middle.
    #[error(
        "{}: {cause}. The segment was left as it is. This is disk damage, not a crash: restore the file from a copy; if there is \
         none, `forebay repair` gives up what is damaged and keeps the rest", path.display()
    )]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        cause: Corruption,
    },
    /// A sealed segment holds less than its footer says.
    #[error(
        "{}: damaged at byte {offset}; its footer says that batches go on up to byte {expected}; `forebay verify` says what is \
         damaged and what to do", path.display()
    )]
    Shorter {
        /// Which file.
        path: PathBuf,
        /// Where the last whole batch ends.
        offset: u64,
        /// Where it should.
        expected: u64,
    },
    /// A segment is missing between two others, or is not where it says it belongs.
    #[error(
        "{}: begins with sequence {found}, but the one before it ends with {}; restore the missing file from a copy; if there is none, \
         `forebay repair` marks its records as lost", path.display(), expected.saturating_sub(1)
    )]
    Gap {
        /// Which file.
        path: PathBuf,
        /// Where it begins.
        found: Sequence,
        /// Where it should.
        expected: Sequence,
    },
}

/// What recovery found.
pub struct Recovered<P: Platform = System> {
    /// The segments.
    pub catalogue: Catalogue,
    /// The segment to append to, its file, and where.
    pub open: Option<OpenEnd<P::File>>,
    /// The next sequence to give out.
    pub next_sequence: Sequence,
    /// Bytes of all the queue's records before it.
    pub end_byte: u64,
    /// The idempotency keys within the window.
    pub keys: IdempotencyIndex,
    /// Whether the last write was cut off by a crash; nobody was told that it is kept.
    pub torn: bool,
}

/// Where appending goes on.
pub struct OpenEnd<F> {
    /// The segment's file, opened for writing.
    pub file: F,
    /// Which life of the file it is.
    pub identity: SegmentIdentity,
    /// Where the next batch goes.
    pub offset: u64,
    /// Requests with an idempotency key in it.
    pub key_count: u64,
}

/// Recovers the queue with the identity `queue_id` in `directory`, which must exist.
/// `keys` is empty and says what to remember; `now_s` is seconds since the Unix epoch.
///
/// # Errors
///
/// Anything that a crash cannot have left behind: see [`RecoveryError`].
pub fn recover<P: Platform>(
    platform: &P,
    directory: &Path,
    queue_id: u64,
    keys: IdempotencyIndex,
    now_s: u64,
) -> Result<Recovered<P>, RecoveryError> {
    let failed = |error| RecoveryError::Io { path: directory.to_owned(), error };
    let files = QueueFiles::list(platform, directory).map_err(failed)?;
    for unfinished in &files.unfinished {
        platform.remove(unfinished).map_err(failed)?;
    }
    let mut recovered =
        Recovered { catalogue: Catalogue::default(), open: None, next_sequence: 1, end_byte: 0, keys, torn: false };
    // Keys of segments that are gone come first: an index is filled in the order of sequences.
    let first_segment = files.segments.first().map_or(Sequence::MAX, |(first, _)| *first);
    for (_, path) in files.keys.iter().filter(|(first, _)| *first < first_segment) {
        recovered.load_keys(platform, path, now_s)?;
    }
    let last = files.segments.len().checked_sub(1);
    for (index, (first_sequence, path)) in files.segments.iter().enumerate() {
        if index > 0 && *first_sequence != recovered.next_sequence {
            let path = path.clone();
            return Err(RecoveryError::Gap { path, found: *first_sequence, expected: recovered.next_sequence });
        }
        recovered.add_segment(platform, path, *first_sequence, queue_id, Some(index) == last, now_s)?;
    }
    Ok(recovered)
}

impl<P: Platform> Recovered<P> {
    fn add_segment(
        &mut self,
        platform: &P,
        path: &Path,
        first_sequence: Sequence,
        queue_id: u64,
        is_last: bool,
        now_s: u64,
    ) -> Result<(), RecoveryError> {
        let failed = |error| RecoveryError::Io { path: path.to_owned(), error };
        let file = platform.open(path, Mode::Segment { write: true }).map_err(failed)?;
        let capacity = file.bytes().map_err(failed)?;
        let (first, last) = segment_file::read_ends(&file, capacity).map_err(failed)?;
        let identity = SegmentIdentity::read_header(&first)
            .and_then(|identity| {
                let ours = identity.queue_id == queue_id && identity.capacity == capacity;
                if ours { Ok(identity) } else { Err(FormatError::Foreign) }
            })
            .map_err(|cause| RecoveryError::Header { path: path.to_owned(), cause })?;
        if identity.first_sequence != first_sequence {
            let path = path.to_owned();
            return Err(RecoveryError::Gap { path, found: identity.first_sequence, expected: first_sequence });
        }
        let keys_path = keys_file::path(path.parent().unwrap_or(Path::new(".")), first_sequence);
        let footer = identity.read_footer(&last).ok();
        let mut keys_saved = platform.metadata(&keys_path).is_ok();
        let sealed_next = match footer {
            Some(footer) if footer.key_count == 0 || keys_saved || !self.keys.is_enabled() => {
                if keys_saved {
                    self.load_keys(platform, &keys_path, now_s)?;
                }
                keys_saved = true;
                self.next_sequence = footer.next_sequence;
                self.end_byte = footer.end_byte;
                Some(footer.next_sequence)
            }
            _ => {
                let (offset, key_count) = self.scan_segment(&file, path, &identity, now_s)?;
                if let Some(footer) = footer
                    && (footer.next_sequence, footer.end_offset) != (self.next_sequence, offset)
                {
                    let path = path.to_owned();
                    return Err(RecoveryError::Shorter { path, offset, expected: footer.end_offset });
                }
                if is_last && footer.is_none() {
                    self.open = Some(OpenEnd { file, identity, offset, key_count });
                    None
                } else {
                    keys_saved = self.save_keys(platform, path, first_sequence);
                    Some(self.next_sequence)
                }
            }
        };
        self.catalogue.push(Segment { path: path.to_owned(), identity, sealed_next, keys_saved });
        Ok(())
    }

    fn load_keys(&mut self, platform: &P, path: &Path, now_s: u64) -> Result<(), RecoveryError> {
        let entries =
            keys_file::load(platform, path).map_err(|error| RecoveryError::Io { path: path.to_owned(), error })?;
        for entry in entries {
            self.keys.insert(entry, now_s);
        }
        Ok(())
    }

    /// Saves a segment's keys; if that fails, the segment stays until a later start succeeds.
    fn save_keys(&self, platform: &P, segment: &Path, first_sequence: Sequence) -> bool {
        let entries: Vec<_> = self.keys.since(first_sequence).copied().collect();
        let directory = segment.parent().unwrap_or(Path::new("."));
        match keys_file::save(platform, directory, first_sequence, &entries) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(segment = %segment.display(), %error, "idempotency keys could not be saved");
                false
            }
        }
    }

    /// Scans a segment and takes its keys. Returns where its log
    /// ends and how many keys it holds.
    fn scan_segment(
        &mut self,
        file: &P::File,
        path: &Path,
        identity: &SegmentIdentity,
        now_s: u64,
    ) -> Result<(u64, u64), RecoveryError> {
        let failed = |error| RecoveryError::Io { path: path.to_owned(), error };
        let length = usize::try_from(identity.capacity).map_err(|error| failed(io::Error::other(error)))?;
        let mut bytes = aligned_buffer(length).map_err(failed)?;
        // A crash may have come between a write and its sync, so what is read is on disk for certain only behind a sync. Without
        // O_DIRECT there is a page cache as well, which goes on showing what an earlier sync failed to write.
        file.sync_data().and_then(|()| file.drop_cached()).map_err(failed)?;
        file.read_exact_at(&mut bytes[..length], 0).map_err(failed)?;
        let mut key_count = 0;
        let keys = &mut self.keys;
        let found = scan(identity, &bytes[..length], |header, records| {
            let mut sequence = header.first_sequence.get();
            let mut rest = records;
            while let Ok((record, taken)) = Record::decode(rest) {
                if let Some(entry) = key_of(&record, sequence) {
                    key_count += 1;
                    keys.insert(entry, now_s);
                }
                sequence += 1;
                rest = &rest[taken..];
            }
        })
        .map_err(|cause| RecoveryError::Corrupt { path: path.to_owned(), cause })?;
        self.torn |= found.torn;
        self.next_sequence = found.next_sequence;
        self.end_byte = found.end_byte;
        Ok((found.end_offset as u64, key_count))
    }
}

fn key_of(record: &Record<'_>, sequence: Sequence) -> Option<KeyEntry> {
    let first = record.group_count > 0 && record.idempotency_hash != NO_KEY;
    first.then(|| KeyEntry {
        hash: record.idempotency_hash,
        first_sequence: U64::new(sequence),
        count: U32::new(record.group_count),
        seen_at_s: U32::new(u32::try_from(record.received_at_us / 1_000_000).unwrap_or(u32::MAX)),
    })
}
