//! The journal's decisions about one queue: which sequence a frame gets, in which
//! batch it goes, and when another segment is needed. No I/O here.
//!
//! The steps of a commit are [`place`](Appender::place) and
//! [`append`](Appender::append) for every frame, [`seal_batch`](Appender::seal_batch),
//! the write and its sync, and [`committed`](Appender::committed). Only one batch is
//! open or in flight at a time. A sequence is given out only when its bytes have a
//! place in the current segment, so nothing ever has to be taken back.

use memmap2::MmapMut;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::format::{BATCH_HEADER_BYTES, BatchHeader, BatchStart, Footer, SegmentIdentity, round_up_to_block};
use super::idempotency::{IdempotencyIndex, KeyEntry};
use crate::limits::BLOCK_BYTES;
use crate::record::NO_KEY;
use crate::record::Sequence;
use crate::ring::FrameHeader;

/// Appends to one queue.
pub struct Appender {
    epoch: u64,
    next_sequence: Sequence,
    /// Bytes of all the queue's records before `next_sequence`.
    end_byte: u64,
    segment: Option<OpenSegment>,
    keys: IdempotencyIndex,
    /// Header, records and padding of the open batch.
    buffer: MmapMut,
    /// Bytes of the open batch's records.
    batch_bytes: usize,
    batch_count: u32,
}

struct OpenSegment {
    identity: SegmentIdentity,
    /// Where the next batch goes.
    offset: u64,
    key_count: u64,
}

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Its key is known: answer with what was stored for it, store nothing.
    Replay(KeyEntry),
    /// There is room: append it.
    Append,
    /// The open batch is full: commit it first.
    AfterCommit,
    /// The segment is full and the open batch empty: open another segment first.
    AfterNewSegment,
    /// No commit will ever hold it.
    TooLarge,
}

/// What a sealed batch is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedBatch {
    /// Where in the segment.
    pub offset: u64,
    /// Bytes from the buffer's start, padding included.
    pub padded_bytes: usize,
    /// Bytes of header and records, without the padding.
    pub bytes: usize,
    /// The sequence behind its last record.
    pub next_sequence: Sequence,
    /// Bytes of all the queue's records up to its end.
    pub end_byte: u64,
}

impl Appender {
    /// Goes on behind what recovery found. `buffer` bounds what one commit may write.
    #[must_use]
    pub fn new(epoch: u64, next_sequence: Sequence, end_byte: u64, keys: IdempotencyIndex, buffer: MmapMut) -> Self {
        Self { epoch, next_sequence, end_byte, segment: None, keys, buffer, batch_bytes: 0, batch_count: 0 }
    }

    /// Takes a segment into use; `offset` is where its next batch goes.
    pub fn open_segment(&mut self, identity: SegmentIdentity, offset: u64, key_count: u64) {
        debug_assert!(self.batch_count == 0, "a batch lies in one segment");
        self.segment = Some(OpenSegment { identity, offset, key_count });
    }

    /// The segment is sealed. Until another one is opened nothing can be appended.
    pub fn close_segment(&mut self) {
        debug_assert!(self.batch_count == 0, "a batch lies in one segment");
        self.segment = None;
    }

    /// The identity for the next segment of this queue.
    #[must_use]
    pub fn next_segment(&self, queue_id: u64, generation: u64, capacity: u64) -> SegmentIdentity {
        SegmentIdentity {
            queue_id,
            generation,
            first_sequence: self.next_sequence,
            first_byte: self.end_byte,
            capacity,
        }
    }

    /// What seals the current segment, if there is one.
    #[must_use]
    pub fn footer(&self) -> Option<(SegmentIdentity, Footer)> {
        let segment = self.segment.as_ref()?;
        let footer = Footer {
            next_sequence: self.next_sequence,
            end_offset: segment.offset,
            end_byte: self.end_byte,
            key_count: segment.key_count,
        };
        Some((segment.identity, footer))
    }

    /// Decides about a frame.
    #[must_use]
    pub fn place(&self, frame: &FrameHeader, now_s: u64) -> Place {
        if frame.idempotency_hash != NO_KEY
            && let Some(known) = self.keys.find(&frame.idempotency_hash, now_s)
        {
            return Place::Replay(known);
        }
        let length = frame.length.get() as usize;
        let alone = round_up_to_block(BATCH_HEADER_BYTES + length);
        let with_batch = round_up_to_block(BATCH_HEADER_BYTES + self.batch_bytes + length);
        if alone > self.buffer.len() {
            return Place::TooLarge;
        }
        let room = self.segment.as_ref().map_or(0, |s| s.identity.footer_offset().saturating_sub(s.offset));
        if with_batch <= self.buffer.len() && with_batch as u64 <= room {
            Place::Append
        } else if self.batch_count > 0 {
            Place::AfterCommit
        } else {
            Place::AfterNewSegment
        }
    }

    /// Gives a frame for which [`place`](Self::place) said [`Place::Append`] its sequences.
    /// Returns the first of them and the bytes into which its records go.
    pub fn append(&mut self, frame: &FrameHeader, now_s: u64) -> (Sequence, &mut [u8]) {
        let first_sequence = self.next_sequence;
        let count = frame.count.get();
        if frame.idempotency_hash != NO_KEY && self.keys.is_enabled() {
            let seen_at_s = U32::new(u32::try_from(now_s).unwrap_or(u32::MAX));
            let first_sequence = U64::new(first_sequence);
            let entry = KeyEntry { hash: frame.idempotency_hash, first_sequence, count: U32::new(count), seen_at_s };
            self.keys.insert(entry, now_s);
            if let Some(segment) = &mut self.segment {
                segment.key_count += 1;
            }
        }
        let length = frame.length.get() as usize;
        let start = BATCH_HEADER_BYTES + self.batch_bytes;
        self.batch_bytes += length;
        self.batch_count += count;
        self.next_sequence += u64::from(count);
        self.end_byte += length as u64;
        (first_sequence, &mut self.buffer[start..start + length])
    }

    /// Closes the open batch, if it holds anything, and says what is to be written where.
    pub fn seal_batch(&mut self, now_us: u64) -> Option<SealedBatch> {
        let segment = self.segment.as_ref().filter(|_| self.batch_count > 0)?;
        let start = BatchStart {
            first_sequence: self.next_sequence - u64::from(self.batch_count),
            first_byte: self.end_byte - self.batch_bytes as u64,
            epoch: self.epoch,
            written_at_us: now_us,
        };
        let bytes = BATCH_HEADER_BYTES + self.batch_bytes;
        let padded_bytes = round_up_to_block(bytes);
        let records = &self.buffer[BATCH_HEADER_BYTES..bytes];
        let header = BatchHeader::seal(&segment.identity, start, self.batch_count, records)?;
        self.buffer[..BATCH_HEADER_BYTES].copy_from_slice(header.as_bytes());
        // What the padding held before belongs to other clients' records; it must not reach the disk twice.
        self.buffer[bytes..padded_bytes].fill(0);
        let (next_sequence, end_byte) = (self.next_sequence, self.end_byte);
        Some(SealedBatch { offset: segment.offset, padded_bytes, bytes, next_sequence, end_byte })
    }

    /// The bytes of the sealed batch, padding included.
    #[must_use]
    pub fn batch(&self, sealed: &SealedBatch) -> &[u8] {
        &self.buffer[..sealed.padded_bytes]
    }

    /// The sealed batch is on disk; the next one goes behind it.
    pub fn committed(&mut self, sealed: &SealedBatch) {
        if let Some(segment) = &mut self.segment {
            segment.offset = sealed.offset + sealed.padded_bytes as u64;
        }
        self.batch_bytes = 0;
        self.batch_count = 0;
    }

    /// The last sequence that was given out.
    #[must_use]
    pub fn last_sequence(&self) -> Sequence {
        self.next_sequence - 1
    }

    /// The keys of the requests that are in the current segment.
    #[must_use]
    pub fn segment_keys(&self) -> Vec<KeyEntry> {
        let first = self.segment.as_ref().map_or(self.next_sequence, |segment| segment.identity.first_sequence);
        self.keys.since(first).copied().collect()
    }

    /// Keys forgotten before their window ended.
    #[must_use]
    pub fn keys_evicted(&self) -> u64 {
        self.keys.evicted()
    }
}

/// The smallest segment that can hold a commit of `commit_bytes_max`.
#[must_use]
pub const fn segment_bytes_min(commit_bytes_max: u64) -> u64 {
    commit_bytes_max + 2 * BLOCK_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::super::scan::scan;
    use super::super::segment_file::aligned_buffer;
    use super::*;
    use proptest::prelude::*;
    use zerocopy::FromZeros;

    fn frame(length: usize, count: u32, key: u8) -> FrameHeader {
        let mut frame = FrameHeader::new_zeroed();
        frame.length = U32::new(u32::try_from(length).unwrap());
        frame.count = U32::new(count);
        frame.idempotency_hash = [key; 16];
        frame
    }

    fn appender(commit_bytes_max: usize) -> Appender {
        let keys = IdempotencyIndex::new(1_000_000, 1000);
        Appender::new(1, 1, 0, keys, aligned_buffer(commit_bytes_max).unwrap())
    }

    #[test]
    fn a_frame_that_no_commit_holds_is_refused() {
        let appender = appender(8192);
        assert_eq!(appender.place(&frame(8192, 1, 0), 0), Place::TooLarge);
        assert_eq!(appender.place(&frame(8192 - 64, 1, 0), 0), Place::AfterNewSegment);
    }

    #[test]
    fn a_known_key_is_replayed_even_before_it_is_durable() {
        let mut appender = appender(8192);
        appender.open_segment(appender.next_segment(1, 2, 1 << 20), 4096, 0);
        assert_eq!(appender.append(&frame(10, 3, 9), 5).0, 1);
        let Place::Replay(known) = appender.place(&frame(10, 3, 9), 5) else { panic!("stored twice") };
        assert_eq!((known.first_sequence.get(), known.count.get()), (1, 3));
        assert_eq!(appender.segment_keys(), [known]);
    }

    proptest! {
        /// Frames of any size go through commits and segments, and every segment, written out
        /// as the appender says, is scanned back to exactly the records that went in.
        #[test]
        fn segments_scan_back_to_what_was_appended(lengths in prop::collection::vec(1_usize..9000, 1..80)) {
            const CAPACITY: usize = 12 * BLOCK_BYTES;
            let mut appender = appender(10 * BLOCK_BYTES);
            let mut files: Vec<(SegmentIdentity, Vec<u8>)> = Vec::new();
            let mut expected: Vec<u8> = Vec::new();
            let commit = |appender: &mut Appender, files: &mut Vec<(SegmentIdentity, Vec<u8>)>| {
                if let Some(sealed) = appender.seal_batch(0) {
                    let (identity, file) = files.last_mut().unwrap();
                    let start = usize::try_from(sealed.offset).unwrap();
                    let end = start + sealed.padded_bytes;
                    assert!(end as u64 <= identity.footer_offset());
                    file[start..end].copy_from_slice(appender.batch(&sealed));
                    appender.committed(&sealed);
                }
            };
            for (index, length) in lengths.iter().enumerate() {
                let frame = frame(*length, 1, 0);
                loop {
                    match appender.place(&frame, 0) {
                        Place::Append => {
                            let byte = u8::try_from(index % 251 + 1).unwrap();
                            let (sequence, room) = appender.append(&frame, 0);
                            prop_assert_eq!(sequence, index as u64 + 1);
                            room.fill(byte);
                            expected.extend(std::iter::repeat_n(byte, *length));
                            break;
                        }
                        Place::AfterCommit => commit(&mut appender, &mut files),
                        Place::AfterNewSegment => {
                            let identity = appender.next_segment(1, files.len() as u64 + 1, CAPACITY as u64);
                            appender.open_segment(identity, BLOCK_BYTES as u64, 0);
                            files.push((identity, vec![0; CAPACITY]));
                        }
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
                if index % 7 == 0 {
                    commit(&mut appender, &mut files);
                }
            }
            commit(&mut appender, &mut files);
            let mut found = Vec::new();
            let mut next = 1;
            for (identity, bytes) in &files {
                prop_assert_eq!(identity.first_sequence, next);
                next = scan(identity, bytes, |_, records| found.extend_from_slice(records)).unwrap().next_sequence;
            }
            prop_assert_eq!(next, lengths.len() as u64 + 1);
            prop_assert!(found == expected);
        }
    }
}
