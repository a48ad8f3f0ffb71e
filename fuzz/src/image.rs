//! What must hold for whatever is read from a segment, damaged or not.

use forebay::journal::records::stretches;
use forebay::journal::rewrite::{Circumstances, rewrite};
use forebay::journal::scan::{Piece, scan};
use forebay::journal::segment_image::{Neighbours, SegmentImage};
use forebay::journal::verify::{Report, verify_segment};
use forebay::limits::{BLOCK_BYTES, SEGMENT_BYTES_MAX};
use forebay::record::{Record, Sequence};

use crate::folded::number;

/// Bytes of the segments that are written anew.
const CAPACITY_MAX: u64 = 1 << 20;

/// A record that was read: its sequence and its bytes.
pub type Found = (Sequence, Vec<u8>);

/// Reads everything in an image as the tools do; returns the records that are whole.
///
/// # Panics
///
/// Something was read that is not whole, out of order, or not where it says.
#[must_use]
pub fn check(image: &SegmentImage) -> Vec<Found> {
    check_pieces(image);
    check_scan(image);
    let mut found: Vec<Found> = Vec::new();
    for stretch in stretches(image) {
        for record in stretch.whole {
            assert!(record.sequence < stretch.next_sequence, "a record beyond its stretch");
            assert!(found.last().is_none_or(|(last, _)| *last < record.sequence), "sequences ascend");
            assert_eq!(
                Record::decode(record.bytes),
                Ok((record.record, record.bytes.len())),
                "a record that is not whole"
            );
            assert_eq!(number(record.bytes, 4), crc32c::crc32c(&record.bytes[8..]) as usize);
            found.push((record.sequence, record.bytes.to_vec()));
        }
    }
    check_report(image);
    found
}

/// One piece begins where the one before ended, and every batch is one.
fn check_pieces(image: &SegmentImage) {
    let bytes = image.bytes();
    let limit = usize::try_from(image.identity.footer_offset()).unwrap_or(usize::MAX).min(bytes.len());
    let (mut offset, mut next_sequence) = (BLOCK_BYTES.min(limit), image.identity.first_sequence);
    let mut pieces = image.pieces();
    // At most one damaged stretch before each batch, and one behind the last.
    let mut left = 2 * bytes.len() / BLOCK_BYTES + 2;
    while let Some(piece) = pieces.next() {
        left = left.checked_sub(1).expect("the walk ends");
        match piece {
            Piece::Batch { offset: at, header, records } => {
                let end = at + 64 + records.len();
                assert_eq!((at, header.first_sequence.get()), (offset, next_sequence));
                assert!(end <= limit, "a batch in the footer's block");
                assert_eq!(records, &bytes[at + 64..end]);
                assert_eq!(
                    number(bytes, at + 4),
                    crc32c::crc32c(&bytes[at + 8..end]) as usize,
                    "a batch that is not whole"
                );
            }
            Piece::Damaged(range) => {
                assert_eq!((range.offset, range.first_sequence), (offset, next_sequence));
                assert!(range.end_offset <= bytes.len() && range.next_sequence >= next_sequence);
            }
        }
        offset = pieces.end().end_offset;
        next_sequence = pieces.end().next_sequence;
    }
    if let Ok(Some(footer)) = image.footer {
        assert!(next_sequence >= footer.next_sequence, "what the footer has is read or reported");
    }
}

/// Recovery takes what the tools take, up to the first damage.
fn check_scan(image: &SegmentImage) {
    let mut taken = Vec::new();
    let scanned = scan(&image.identity, image.bytes(), |header, records| {
        taken.push((header.first_sequence.get(), header.count.get(), records.to_vec()));
    });
    let batches: Vec<_> = image
        .pieces()
        .map_while(|piece| match piece {
            Piece::Batch { header, records, .. } => {
                Some((header.first_sequence.get(), header.count.get(), records.to_vec()))
            }
            Piece::Damaged(_) => None,
        })
        .collect();
    assert_eq!(taken, batches);
    let next_sequence = batches
        .last()
        .map_or(image.identity.first_sequence, |(first, count, _)| first.saturating_add(u64::from(*count)));
    match scanned {
        Ok(end) => assert_eq!(end.next_sequence, next_sequence),
        Err(corruption) => assert!(corruption.offset <= corruption.valid_offset),
    }
}

/// `verify` finds all damage, and a segment in which it finds none is one for recovery.
fn check_report(image: &SegmentImage) {
    let mut report = Report::default();
    let end = verify_segment(image, None, &mut report);
    let damaged = image.damaged_ranges();
    assert!(damaged.is_empty() || !report.findings.is_empty(), "damage that verify does not find");
    if report.findings.is_empty() {
        let scanned = scan(&image.identity, image.bytes(), |_, _| {}).expect("verify finds what recovery refuses");
        assert_eq!((scanned.next_sequence, scanned.end_byte), (end.next_sequence, end.end_byte));
    }
}

/// Writes a segment anew as `repair` does: nothing that is whole is lost, and `verify` finds nothing in the new one.
///
/// # Panics
///
/// It is not so.
pub fn check_rewrite(image: &SegmentImage, whole: &[Found]) {
    // A repair refuses a file that has a name of another. One of real size takes more time than a run has.
    let is_large = (CAPACITY_MAX..=SEGMENT_BYTES_MAX).contains(&image.identity.capacity);
    if image.identity.first_sequence != image.named_sequence || is_large {
        return;
    }
    let generation = image.identity.generation.wrapping_add(1).max(1);
    let circumstances = Circumstances { generation, epoch: 9, now_us: 1_700_000_000_000_042, epochs: &[] };
    let Ok(made) = rewrite(image, &circumstances) else { return };
    let mut pieces = image.pieces();
    pieces.by_ref().for_each(drop);
    if pieces.end().next_sequence == Sequence::MAX {
        // Beyond the last sequence there is nothing to count.
        return;
    }
    assert_eq!(made.end.next_sequence, pieces.end().next_sequence, "what follows keeps its sequences");
    let neighbours = Neighbours { end_byte_before: None, behind: image.neighbours.behind };
    let again =
        SegmentImage::from_bytes(image.identity.queue_id, image.named_sequence, &image.path, neighbours, &made.bytes);
    let again = again.expect("memory");
    let mut report = Report::default();
    let end = verify_segment(&again, None, &mut report);
    assert_eq!(report.findings, [], "a repaired segment is intact");
    assert_eq!(end, made.end);
    let lost: u64 = made.lost.iter().map(|run| run.end() - run.start() + 1).sum();
    assert_eq!(made.kept, whole.len() as u64, "nothing that is whole is lost");
    assert_eq!(made.kept + lost, made.end.next_sequence - image.named_sequence);
    let kept = stretches(&again).flat_map(|stretch| {
        stretch.whole.into_iter().map(|record| (record.sequence, record.bytes.to_vec())).collect::<Vec<_>>()
    });
    let kept: Vec<Found> = kept.filter(|(sequence, _)| !made.lost.iter().any(|run| run.contains(sequence))).collect();
    assert_eq!(kept, whole);
}
