//! Recovery's decision about one segment: where its log ends.
//!
//! A segment without a footer is read batch by batch. The first invalid batch ends the
//! log, as a write that was cut off by a crash does, but only if no valid batch of the
//! same life follows: the journal has one commit in flight, so a hole with something
//! valid behind it is not a torn write but damage, and is refused. Recovery never skips
//! anything. The tools that look at damage do: [`Pieces`] goes on behind it.
//! Nothing here does I/O.

use super::format::{BatchHeader, FormatError, SegmentIdentity};
use crate::limits::BLOCK_BYTES;
use crate::record::{RECORD_HEADER_BYTES, Sequence};

/// Where a segment's log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Offset behind the last whole batch.
    pub end_offset: usize,
    /// The sequence behind the last whole batch.
    pub next_sequence: Sequence,
    /// Bytes of all the queue's records up to there.
    pub end_byte: u64,
    /// A batch of this life begins there and is not whole: a crash cut its write off. Nobody was told
    /// that it is kept. What it left behind need not be cleared: the next batch is written over its
    /// beginning, and nothing in the rest can pass for a batch of this generation.
    pub torn: bool,
}

/// A segment whose damage is not a torn write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged at byte {offset} ({cause}), but a valid batch follows at byte {valid_offset}")]
pub struct Corruption {
    /// Where the first invalid batch begins.
    pub offset: usize,
    /// Why it is invalid.
    pub cause: FormatError,
    /// Where something valid follows.
    pub valid_offset: usize,
}

/// Scans `bytes`, the whole file of a segment. `on_batch` sees each valid batch and its records.
///
/// # Errors
///
/// [`Corruption`] if something valid follows something invalid.
pub fn scan(
    identity: &SegmentIdentity,
    bytes: &[u8],
    mut on_batch: impl FnMut(&BatchHeader, &[u8]),
) -> Result<Scan, Corruption> {
    let mut pieces = Pieces::new(identity, bytes, None);
    for piece in pieces.by_ref() {
        match piece {
            Piece::Batch { header, records, .. } => on_batch(&header, records),
            Piece::Damaged(DamagedRange { offset, cause, end_offset, .. }) => {
                return Err(Corruption { offset, cause, valid_offset: end_offset });
            }
        }
    }
    Ok(pieces.end())
}

/// A part of a segment's log.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// A whole batch that follows the piece before it.
    Batch {
        /// Where it begins.
        offset: usize,
        /// Its header.
        header: BatchHeader,
        /// Its records.
        records: &'a [u8],
    },
    /// Bytes that are no such batch, although the log goes on behind them.
    Damaged(DamagedRange),
}

/// Bytes of a log that are damaged, and what they held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedRange {
    /// Where the first invalid batch begins.
    pub offset: usize,
    /// Where the next valid one begins, or the log ends.
    pub end_offset: usize,
    /// Why the first is invalid.
    pub cause: FormatError,
    /// First sequence that lay there.
    pub first_sequence: Sequence,
    /// The sequence behind the last that lay there.
    pub next_sequence: Sequence,
    /// Bytes of all the queue's records before it.
    pub first_byte: u64,
    /// Bytes of all the queue's records up to its end.
    pub end_byte: u64,
}

/// Where a log must end, known from elsewhere: its footer, or the segment behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Offset behind the last batch, or a later one.
    pub end_offset: usize,
    /// The sequence behind the last.
    pub next_sequence: Sequence,
    /// Bytes of all the queue's records up to there, if that is known.
    pub end_byte: Option<u64>,
}

/// Walks over a segment's log, from its first batch to its end, over damage too.
pub struct Pieces<'a> {
    identity: SegmentIdentity,
    bytes: &'a [u8],
    end: Scan,
    known_end: Option<LogEnd>,
}

impl<'a> Pieces<'a> {
    /// Walks over `bytes`, the whole file of a segment. If the log's end is known, what is
    /// missing before it is damage; if not, it ends behind the last valid batch.
    #[must_use]
    pub fn new(identity: &SegmentIdentity, bytes: &'a [u8], known_end: Option<LogEnd>) -> Self {
        let limit = bytes.len().min(usize::try_from(identity.footer_offset()).unwrap_or(usize::MAX));
        let end = Scan {
            end_offset: BLOCK_BYTES.min(limit),
            next_sequence: identity.first_sequence,
            end_byte: identity.first_byte,
            torn: false,
        };
        Self { identity: *identity, bytes: &bytes[..limit], end, known_end }
    }

    /// Where the log ends, as far as it was walked over.
    #[must_use]
    pub fn end(&self) -> Scan {
        let ahead = self.bytes.get(self.end.end_offset..).unwrap_or_default();
        Scan { torn: BatchHeader::peek(&self.identity, ahead).is_ok(), ..self.end }
    }

    fn decode(&self, offset: usize) -> Result<(BatchHeader, &'a [u8]), FormatError> {
        BatchHeader::decode(&self.identity, self.bytes.get(offset..).unwrap_or_default())
    }

    /// Where the log goes on behind something invalid, if it does.
    fn find_next(&self) -> Option<LogEnd> {
        let valid = (self.end.end_offset..self.bytes.len()).step_by(BLOCK_BYTES).find_map(|offset| {
            let (header, _) = self.decode(offset).ok()?;
            let (next_sequence, end_byte) = (header.first_sequence.get(), Some(header.first_byte.get()));
            (next_sequence >= self.end.next_sequence).then_some(LogEnd { end_offset: offset, next_sequence, end_byte })
        });
        valid.or_else(|| self.known_end.filter(|known| known.next_sequence > self.end.next_sequence))
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let offset = self.end.end_offset;
        let cause = match self.decode(offset) {
            Ok((header, records)) if follows(&self.end, &header) => {
                self.end.end_offset = (offset + header.padded_bytes()).min(self.bytes.len());
                self.end.next_sequence = header.next_sequence();
                self.end.end_byte = self.end.end_byte.saturating_add(records.len() as u64);
                return Some(Piece::Batch { offset, header, records });
            }
            Ok(_) => FormatError::Foreign,
            Err(cause) => cause,
        };
        let LogEnd { end_offset, next_sequence, end_byte } = self.find_next()?;
        let count = next_sequence.saturating_sub(self.end.next_sequence);
        // A record is at least its header.
        let bytes_min = count.saturating_mul(RECORD_HEADER_BYTES as u64);
        let end_byte = end_byte.unwrap_or(self.end.end_byte.saturating_add(bytes_min));
        let damaged = DamagedRange {
            offset,
            end_offset,
            cause,
            first_sequence: self.end.next_sequence,
            next_sequence,
            first_byte: self.end.end_byte,
            end_byte,
        };
        self.end.end_offset = end_offset.min(self.bytes.len());
        self.end.next_sequence = next_sequence;
        self.end.end_byte = end_byte;
        Some(Piece::Damaged(damaged))
    }
}

fn follows(end: &Scan, header: &BatchHeader) -> bool {
    header.first_sequence.get() == end.next_sequence && header.first_byte.get() == end.end_byte
}

#[cfg(test)]
mod tests {
    use super::super::format::BatchStart;
    use super::*;
    use std::ops::Range;

    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    const CAPACITY: usize = 64 * BLOCK_BYTES;
    const IDENTITY: SegmentIdentity =
        SegmentIdentity { queue_id: 7, generation: 99, first_sequence: 10, first_byte: 500, capacity: CAPACITY as u64 };

    /// A segment with batches of the given record bytes; returns it and each batch's range.
    fn segment(lengths: &[usize]) -> (Vec<u8>, Vec<Range<usize>>) {
        let mut bytes = vec![0; CAPACITY];
        let mut header = [0; BLOCK_BYTES];
        IDENTITY.write_header(1, 0, &mut header);
        bytes[..BLOCK_BYTES].copy_from_slice(&header);
        let mut offset = BLOCK_BYTES;
        let mut start = BatchStart { first_sequence: 10, first_byte: 500, epoch: 1, written_at_us: 0 };
        let mut ranges = Vec::new();
        for (index, &length) in lengths.iter().enumerate() {
            let records = vec![u8::try_from(index % 250 + 1).unwrap(); length];
            let header = BatchHeader::seal(&IDENTITY, start, 2, &records).unwrap();
            bytes[offset..offset + 64].copy_from_slice(header.as_bytes());
            bytes[offset + 64..offset + 64 + length].copy_from_slice(&records);
            ranges.push(offset..offset + header.padded_bytes());
            offset += header.padded_bytes();
            start.first_sequence += 2;
            start.first_byte += length as u64;
        }
        (bytes, ranges)
    }

    #[test]
    fn an_intact_segment_is_read_to_its_end() {
        let (bytes, ranges) = segment(&[10, 5000, 4032, 4033]);
        let mut seen = Vec::new();
        let end = scan(&IDENTITY, &bytes, |header, records| seen.push((header.count.get(), records.len()))).unwrap();
        assert_eq!(seen, [(2, 10), (2, 5000), (2, 4032), (2, 4033)]);
        assert_eq!(end.end_offset, ranges[3].end);
        assert_eq!((end.next_sequence, end.end_byte), (18, 500 + 10 + 5000 + 4032 + 4033));
        assert!(!end.torn);
    }

    #[test]
    fn damage_before_a_valid_batch_is_refused_with_its_offset() {
        let (mut bytes, ranges) = segment(&[10, 5000, 10]);
        bytes[ranges[1].start + 100] ^= 1;
        let error = scan(&IDENTITY, &bytes, |_, _| {}).unwrap_err();
        assert_eq!((error.offset, error.valid_offset), (ranges[1].start, ranges[2].start));
    }

    #[test]
    fn a_batch_that_a_former_attempt_left_behind_is_not_taken() {
        // A whole batch behind a hole has a sequence that is not the next one.
        let (mut bytes, ranges) = segment(&[10, 10]);
        bytes[ranges[0].clone()].fill(0);
        assert!(scan(&IDENTITY, &bytes, |_, _| {}).is_err());
    }

    proptest! {
        /// Whatever subset of the last write's 512-byte sectors reached the disk, recovery
        /// finds all batches before it and none of it unless all of it, and goes on behind them.
        #[test]
        fn a_torn_last_write_is_cut(
            lengths in prop::collection::vec(1_usize..20_000, 1..6),
            kept in prop::collection::vec(any::<bool>(), 64),
        ) {
            let (whole, ranges) = segment(&lengths);
            let last = ranges.last().unwrap().clone();
            let mut torn = whole.clone();
            for (index, sector) in torn[last.clone()].chunks_mut(512).enumerate() {
                if !kept[index % kept.len()] {
                    sector.fill(0);
                }
            }
            let mut batches = 0;
            let end = scan(&IDENTITY, &torn, |_, _| batches += 1).unwrap();
            let intact = torn == whole;
            prop_assert_eq!(batches, ranges.len() - usize::from(!intact));
            prop_assert_eq!(end.end_offset, if intact { last.end } else { last.start });
            // Another batch goes over the beginning of the torn one; what is left of that is never taken.
            let start = BatchStart { first_sequence: end.next_sequence, first_byte: end.end_byte, epoch: 2, written_at_us: 0 };
            let next = BatchHeader::seal(&IDENTITY, start, 1, b"next").unwrap();
            torn[end.end_offset..end.end_offset + 64].copy_from_slice(next.as_bytes());
            torn[end.end_offset + 64..end.end_offset + 68].copy_from_slice(b"next");
            let again = scan(&IDENTITY, &torn, |_, _| {}).unwrap();
            prop_assert_eq!(again.next_sequence, end.next_sequence + 1);
        }

        #[test]
        fn garbage_is_scanned_without_a_panic(garbage in prop::collection::vec(any::<u8>(), 0..3 * BLOCK_BYTES)) {
            let _ = scan(&IDENTITY, &garbage, |_, _| {});
        }
    }
}
