//! A segment written anew from what is whole in a damaged one.
//!
//! Sequences have no gaps: a segment's batches follow one another, and the drain counts. So in
//! the place of each record that is lost stands one that says so ([`Record::is_lost`]), and all
//! that follows keeps its sequence and its count of bytes. Nothing here does I/O.

use std::ops::RangeInclusive;

use zerocopy::IntoBytes;

use super::format::{BatchHeader, BatchStart, Footer, SegmentIdentity, round_up_to_block};
use super::salvage::{WholeRecord, records_of, salvage};
use super::scan::Piece;
use super::segment_image::SegmentImage;
use super::verify::End;
use crate::limits::{BLOCK_BYTES, SEGMENT_BYTES, SEGMENT_BYTES_MAX};
use crate::record::{NO_KEY, RECORD_HEADER_BYTES, Record, RecordError, Sequence};
use crate::ticket::EpochStart;

/// Records that one gap between segments may have held. More is not damage but a file that does not belong here.
pub const GAP_RECORDS_MAX: u64 = 16_000_000;
/// Bytes of the batches that stand for a segment of which there is no file.
const GAP_BATCH_BYTES: u64 = 1 << 20;

/// What the new file needs besides the old one.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// Random, not zero.
    pub generation: u64,
    /// The start that comes next.
    pub epoch: u64,
    /// Microseconds since the Unix epoch.
    pub now_us: u64,
    /// The starts that gave the queue's sequences out.
    pub epochs: &'a [EpochStart],
}

/// A segment's new bytes, and what became of the old one's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// Where its log ends.
    pub end: End,
    /// Records that were kept.
    pub kept: u64,
    /// Sequences whose records are lost.
    pub lost: Vec<RangeInclusive<Sequence>>,
}

/// Why a segment cannot be written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// The numbers of sequences and bytes contradict each other.
    #[error(
        "{count} sequences from {first} on, with {bytes} bytes, would be lost, which is more than these bytes can have held; \
         move away the .seg file that does not belong here, most likely the one behind it"
    )]
    Implausible {
        /// The first of them.
        first: Sequence,
        /// How many.
        count: u64,
        /// Bytes of their records.
        bytes: u64,
    },
    /// No segment is as large as the header says.
    #[error("its header says that it has {0} bytes, and no segment has more than {SEGMENT_BYTES_MAX}; move it away")]
    Capacity(u64),
    /// A length does not fit the format.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Writes a segment anew from its image.
///
/// # Errors
///
/// What would be lost cannot have been in it.
pub fn rewrite(image: &SegmentImage, circumstances: &Circumstances<'_>) -> Result<Rewritten, RewriteError> {
    if image.identity.capacity > SEGMENT_BYTES_MAX {
        return Err(RewriteError::Capacity(image.identity.capacity));
    }
    let mut writer = SegmentWriter::new(image.identity, image.named_sequence, *circumstances);
    let bounds = Bounds::new(image);
    for piece in image.pieces() {
        match piece {
            Piece::Batch { header, records, .. } => {
                let found = records_of(records, header.first_sequence.get(), u64::from(header.count.get()));
                if found.broken.is_none() {
                    writer.batch(header.epoch.get(), header.written_at_us.get(), header.count.get(), records)?;
                    writer.kept += u64::from(header.count.get());
                } else {
                    let (first, bytes) = (header.first_sequence.get(), records.len() as u64);
                    bounds.check(first, header.next_sequence() - first, bytes)?;
                    let end_byte = header.first_byte.get().saturating_add(bytes);
                    writer.refill(header.next_sequence(), end_byte, &found.whole)?;
                }
            }
            Piece::Damaged(range) => {
                let count = range.next_sequence - range.first_sequence;
                let bytes = range.end_byte.saturating_sub(range.first_byte);
                bounds.check(range.first_sequence, count, bytes)?;
                let whole = salvage(&image.identity, image.bytes(), &range);
                writer.refill(range.next_sequence, range.end_byte, &whole)?;
            }
        }
    }
    let is_sealed = image.neighbours.behind.is_some() || image.footer.is_ok_and(|footer| footer.is_some());
    Ok(writer.finish(is_sealed))
}

/// What one damaged stretch can have held at most. More is not damage but a number that does not belong here.
struct Bounds {
    records_max: u64,
    bytes_max: u64,
}

impl Bounds {
    fn new(image: &SegmentImage) -> Self {
        let capacity = image.identity.capacity;
        // Without its header a file that was cut short no longer says how much it held.
        let bytes_max = if image.header.is_ok() { capacity } else { capacity.max(SEGMENT_BYTES) };
        Self { records_max: capacity / RECORD_HEADER_BYTES as u64, bytes_max }
    }

    fn check(&self, first: Sequence, count: u64, bytes: u64) -> Result<(), RewriteError> {
        if count > self.records_max || bytes > self.bytes_max {
            return Err(RewriteError::Implausible { first, count, bytes });
        }
        Ok(())
    }
}

/// Makes a segment for sequences of which there is no file at all, between where one segment ends
/// and where the next begins: each of them is lost.
///
/// # Errors
///
/// They are too many.
pub fn fill_gap(
    queue_id: u64,
    before: End,
    next: End,
    capacity: u64,
    circumstances: &Circumstances<'_>,
) -> Result<Rewritten, RewriteError> {
    let count = next.next_sequence.saturating_sub(before.next_sequence);
    if count > GAP_RECORDS_MAX {
        let bytes = next.end_byte.saturating_sub(before.end_byte);
        return Err(RewriteError::Implausible { first: before.next_sequence, count, bytes });
    }
    let identity = SegmentIdentity {
        queue_id,
        generation: circumstances.generation,
        first_sequence: before.next_sequence,
        first_byte: before.end_byte,
        capacity,
    };
    let mut writer = SegmentWriter::new(identity, before.next_sequence, *circumstances);
    let bytes_each = next.end_byte.saturating_sub(before.end_byte) / count.max(1);
    let records_each = (GAP_BATCH_BYTES / bytes_each.max(RECORD_HEADER_BYTES as u64)).max(1);
    while writer.end.next_sequence < next.next_sequence {
        let next_sequence = next.next_sequence.min(writer.end.next_sequence.saturating_add(records_each));
        let is_last = next_sequence == next.next_sequence;
        let share = writer.end.end_byte + bytes_each * (next_sequence - writer.end.next_sequence);
        writer.refill(next_sequence, if is_last { next.end_byte } else { share }, &[])?;
    }
    Ok(writer.finish(true))
}

struct SegmentWriter<'a> {
    identity: SegmentIdentity,
    circumstances: Circumstances<'a>,
    /// The header's block and the log, so far.
    bytes: Vec<u8>,
    end: End,
    key_count: u64,
    kept: u64,
    lost: Vec<RangeInclusive<Sequence>>,
}

impl<'a> SegmentWriter<'a> {
    fn new(former: SegmentIdentity, first_sequence: Sequence, circumstances: Circumstances<'a>) -> Self {
        // Another life: nothing that the old file still holds can be taken for a batch of the new one.
        let identity = SegmentIdentity { generation: circumstances.generation, first_sequence, ..former };
        let end = End { next_sequence: first_sequence, end_byte: identity.first_byte };
        let bytes = vec![0; BLOCK_BYTES];
        Self { identity, circumstances, bytes, end, key_count: 0, kept: 0, lost: Vec::new() }
    }

    /// Appends `count` encoded records as one batch.
    fn batch(&mut self, epoch: u64, written_at_us: u64, count: u32, records: &[u8]) -> Result<(), RewriteError> {
        let End { next_sequence: first_sequence, end_byte: first_byte } = self.end;
        let start = BatchStart { first_sequence, first_byte, epoch, written_at_us };
        let header = BatchHeader::seal(&self.identity, start, count, records).ok_or(RecordError::TooLong)?;
        let found = records_of(records, first_sequence, u64::from(count));
        let has_key =
            |found: &&WholeRecord<'_>| found.record.group_count > 0 && found.record.idempotency_hash != NO_KEY;
        self.key_count += found.whole.iter().filter(has_key).count() as u64;
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(records);
        self.bytes.resize(round_up_to_block(self.bytes.len()), 0);
        let end_byte = first_byte.saturating_add(records.len() as u64);
        self.end = End { next_sequence: header.next_sequence(), end_byte };
        Ok(())
    }

    /// Appends a batch up to `next_sequence` and `end_byte` with what is whole, and a lost record for each other.
    fn refill(
        &mut self,
        next_sequence: Sequence,
        end_byte: u64,
        whole: &[WholeRecord<'_>],
    ) -> Result<(), RewriteError> {
        let first_sequence = self.end.next_sequence;
        let count = next_sequence - first_sequence;
        let lost_count = count - whole.len() as u64;
        let whole_bytes: u64 = whole.iter().map(|found| found.bytes.len() as u64).sum();
        let filled = whole_bytes + lost_count * RECORD_HEADER_BYTES as u64;
        // What follows begins at the byte at which it always began.
        let mut padding = end_byte.saturating_sub(self.end.end_byte).saturating_sub(filled);
        let mut whole = whole.iter().peekable();
        let mut records = Vec::new();
        for sequence in first_sequence..next_sequence {
            if let Some(found) = whole.next_if(|found| found.sequence == sequence) {
                records.extend_from_slice(found.bytes);
                self.kept += 1;
            } else {
                let body = vec![0; usize::try_from(std::mem::take(&mut padding)).map_err(|_| RecordError::TooLong)?];
                Record::lost(self.circumstances.now_us, &body).encode(&mut records)?;
                self.note_lost(sequence);
            }
        }
        if count == 0 {
            return Ok(());
        }
        let epochs = self.circumstances.epochs;
        let index = epochs.partition_point(|start| start.first_sequence <= first_sequence);
        let epoch = index.checked_sub(1).map_or(0, |index| epochs[index].epoch);
        let count = u32::try_from(count).map_err(|_| RecordError::TooLong)?;
        self.batch(epoch, self.circumstances.now_us, count, &records)
    }

    fn note_lost(&mut self, sequence: Sequence) {
        match self.lost.last_mut() {
            Some(run) if *run.end() + 1 == sequence => *run = *run.start()..=sequence,
            _ => self.lost.push(sequence..=sequence),
        }
    }

    fn finish(mut self, is_sealed: bool) -> Rewritten {
        let end_offset = self.bytes.len();
        let former = usize::try_from(self.identity.capacity).unwrap_or(usize::MAX);
        let capacity = round_up_to_block(former.max(end_offset + BLOCK_BYTES));
        self.bytes.resize(capacity, 0);
        self.identity.capacity = capacity as u64;
        let mut block = [0; BLOCK_BYTES];
        self.identity.write_header(self.circumstances.epoch, self.circumstances.now_us, &mut block);
        self.bytes[..BLOCK_BYTES].copy_from_slice(&block);
        if is_sealed {
            let footer = Footer {
                next_sequence: self.end.next_sequence,
                end_offset: end_offset as u64,
                end_byte: self.end.end_byte,
                key_count: self.key_count,
            };
            self.identity.write_footer(&footer, &mut block);
            self.bytes[capacity - BLOCK_BYTES..].copy_from_slice(&block);
        }
        Rewritten { bytes: self.bytes, end: self.end, kept: self.kept, lost: self.lost }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::segment_image::{Behind, Neighbours};
    use super::*;

    const CAPACITY: usize = 4 * BLOCK_BYTES;
    const IDENTITY: SegmentIdentity =
        SegmentIdentity { queue_id: 7, generation: 99, first_sequence: 10, first_byte: 500, capacity: CAPACITY as u64 };

    /// A file with this header and, unless there are no records, one batch.
    fn file(identity: &SegmentIdentity, count: u32, records: &[u8]) -> Vec<u8> {
        let mut block = [0; BLOCK_BYTES];
        identity.write_header(1, 0, &mut block);
        let mut file = block.to_vec();
        let (first_sequence, first_byte) = (identity.first_sequence, identity.first_byte);
        let start = BatchStart { first_sequence, first_byte, epoch: 1, written_at_us: 0 };
        let header = BatchHeader::seal(identity, start, count, records).unwrap();
        if !records.is_empty() {
            file.extend_from_slice(header.as_bytes());
            file.extend_from_slice(records);
        }
        file.resize(CAPACITY, 0);
        file
    }

    fn rewritten(file: &[u8], behind: Option<(Sequence, u64)>) -> Result<Rewritten, RewriteError> {
        let behind =
            behind.map(|(first_sequence, byte)| Behind { first_sequence, first_byte: Some(byte), epoch: None });
        let neighbours = Neighbours { end_byte_before: None, behind };
        let image = SegmentImage::from_bytes(7, 10, Path::new("x.seg"), neighbours, file).unwrap();
        rewrite(&image, &Circumstances { generation: 5, epoch: 2, now_us: 0, epochs: &[] })
    }

    #[test]
    fn numbers_that_no_segment_has_are_refused() {
        let empty = file(&IDENTITY, 0, b"");
        assert_eq!(rewritten(&empty, Some((11, 600))).unwrap().lost, [10..=10]);
        let error = rewritten(&empty, Some((11, 1 << 50))).unwrap_err();
        assert_eq!(error, RewriteError::Implausible { first: 10, count: 1, bytes: (1 << 50) - 500 });
        let error = rewritten(&empty, Some((11 << 50, 600))).unwrap_err();
        assert!(matches!(error, RewriteError::Implausible { first: 10, .. }), "{error}");
        let huge = SegmentIdentity { capacity: u64::MAX - 1, ..IDENTITY };
        assert_eq!(rewritten(&file(&huge, 0, b""), None), Err(RewriteError::Capacity(u64::MAX - 1)));
        // Its checksum is right, but its records are none.
        let error = rewritten(&file(&IDENTITY, u32::MAX, b"none"), None).unwrap_err();
        assert_eq!(error, RewriteError::Implausible { first: 10, count: u64::from(u32::MAX), bytes: 4 });
    }

    #[test]
    fn the_last_byte_that_can_be_counted_ends_the_count() {
        let late = SegmentIdentity { first_byte: u64::MAX - 2, ..IDENTITY };
        let made = rewritten(&file(&late, 1, b"none"), None).unwrap();
        assert_eq!((made.lost, made.end.end_byte), (vec![10..=10], u64::MAX));
    }
}
