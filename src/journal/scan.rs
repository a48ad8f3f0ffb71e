//! Recovery's decision about one segment: where its log ends.
//!
//! A segment without a footer is read batch by batch. The first invalid batch ends the
//! log, as a write that was cut off by a crash does, but only if no valid batch of the
//! same life follows: the journal has one commit in flight, so a hole with something
//! valid behind it is not a torn write but damage, and is refused. Nothing is ever
//! skipped. Nothing here does I/O.

use super::format::{BatchHeader, FormatError, SegmentIdentity};
use crate::limits::BLOCK_BYTES;
use crate::record::Sequence;

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
    let limit = bytes.len().min(usize::try_from(identity.footer_offset()).unwrap_or(usize::MAX));
    let bytes = &bytes[..limit];
    let mut end = Scan {
        end_offset: BLOCK_BYTES.min(limit),
        next_sequence: identity.first_sequence,
        end_byte: identity.first_byte,
        torn: false,
    };
    let cause = loop {
        match BatchHeader::decode(identity, &bytes[end.end_offset..]) {
            Ok((header, records)) if follows(&end, &header) => {
                on_batch(&header, records);
                end.end_offset = (end.end_offset + header.padded_bytes()).min(limit);
                end.next_sequence = header.next_sequence();
                end.end_byte += records.len() as u64;
            }
            Ok(_) => break FormatError::Foreign,
            Err(cause) => break cause,
        }
    };
    end.torn = BatchHeader::peek(identity, &bytes[end.end_offset..]).is_ok();
    for offset in (end.end_offset..limit).step_by(BLOCK_BYTES) {
        let valid = BatchHeader::decode(identity, &bytes[offset..]);
        if valid.is_ok_and(|(header, _)| header.first_sequence.get() >= end.next_sequence) {
            return Err(Corruption { offset: end.end_offset, cause, valid_offset: offset });
        }
    }
    Ok(end)
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
