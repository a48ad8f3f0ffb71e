//! One queue's appender, and segments for it.

use forebay::journal::append::{Appender, Place, SealedBatch};
use forebay::journal::format::{BATCH_HEADER_BYTES, SegmentIdentity, round_up_to_block};
use forebay::journal::idempotency::IdempotencyIndex;
use forebay::journal::segment_file::aligned_buffer;
use forebay::limits::{BLOCK_BYTES, COMMIT_BYTES_MAX};
use forebay::record::Sequence;
use forebay::ring::FrameHeader;

use super::{NOW_US, ORDER_BYTES, encoded, frame_header};

const NOW_S: u64 = NOW_US / 1_000_000;
const QUEUE_ID: u64 = 7;
const IDEMPOTENCY_WINDOW_MS: u64 = 600_000;

/// An appender that always has a segment.
pub struct Log {
    appender: Appender,
    /// The current segment.
    pub identity: SegmentIdentity,
    /// Where in it the next batch goes.
    offset: u64,
}

impl Log {
    /// A log of segments of `capacity` bytes that remembers up to `keys_max` idempotency keys.
    #[must_use]
    pub fn new(capacity: u64, keys_max: usize) -> Self {
        let keys = IdempotencyIndex::new(IDEMPOTENCY_WINDOW_MS, keys_max);
        let buffer = aligned_buffer(usize::try_from(COMMIT_BYTES_MAX).unwrap()).unwrap();
        let appender = Appender::new(1, 1, 0, keys, buffer);
        let identity = appender.next_segment(QUEUE_ID, 1, capacity);
        let mut log = Self { appender, identity, offset: 0 };
        log.open_segment(identity);
        log
    }

    fn open_segment(&mut self, identity: SegmentIdentity) {
        self.identity = identity;
        self.offset = BLOCK_BYTES as u64;
        self.appender.open_segment(identity, self.offset, 0);
    }

    /// Whether the segment has room for another batch with so many bytes of records.
    #[must_use]
    pub fn has_room(&self, record_bytes: usize) -> bool {
        self.offset + round_up_to_block(BATCH_HEADER_BYTES + record_bytes) as u64 <= self.identity.footer_offset()
    }

    /// Goes on in another segment unless this one has room for the batch; no batch may be open.
    pub fn make_room(&mut self, record_bytes: usize) {
        if !self.has_room(record_bytes) {
            self.next_segment();
        }
    }

    /// Goes on in another segment; no batch may be open.
    pub fn next_segment(&mut self) {
        let (capacity, generation) = (self.identity.capacity, self.identity.generation + 1);
        self.open_segment(self.appender.next_segment(QUEUE_ID, generation, capacity));
    }

    /// What the journal does with a frame: decides about it and gives its records their sequences and their place.
    pub fn take(&mut self, frame: &FrameHeader) -> (Sequence, &mut [u8]) {
        match self.appender.place(frame, NOW_S) {
            Place::Append => self.appender.append(frame, NOW_S),
            other => panic!("the stand makes room before it appends: {other:?}"),
        }
    }

    /// Appends one record.
    pub fn append(&mut self, frame: &FrameHeader, record: &[u8]) {
        let (_, room) = self.take(frame);
        room.copy_from_slice(record);
    }

    /// Closes the batch.
    pub fn seal(&mut self) -> SealedBatch {
        self.appender.seal_batch(NOW_US).unwrap()
    }

    /// The bytes of the sealed batch.
    #[must_use]
    pub fn batch(&self, sealed: &SealedBatch) -> &[u8] {
        self.appender.batch(sealed)
    }

    /// The batch counts as written.
    pub fn committed(&mut self, sealed: &SealedBatch) {
        self.appender.committed(sealed);
        self.offset = sealed.offset + sealed.padded_bytes as u64;
    }
}

/// A segment of `capacity` bytes that is full of batches of `records` orders each.
#[must_use]
pub fn full_segment(capacity: usize, records: usize) -> (SegmentIdentity, Vec<u8>) {
    let mut log = Log::new(capacity as u64, 0);
    let record = encoded(ORDER_BYTES);
    let frame = frame_header(record.len());
    let mut bytes = vec![0; capacity];
    while log.has_room(records * record.len()) {
        for _ in 0..records {
            log.append(&frame, &record);
        }
        let sealed = log.seal();
        let start = usize::try_from(sealed.offset).unwrap();
        bytes[start..start + sealed.padded_bytes].copy_from_slice(log.batch(&sealed));
        log.committed(&sealed);
    }
    (log.identity, bytes)
}
