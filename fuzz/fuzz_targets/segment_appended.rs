//! What the appender has written is read back as far as it is intact, whatever became of the rest, and never as
//! something else.
#![no_main]

use std::collections::BTreeMap;
use std::path::Path;

use arbitrary::Arbitrary;
use forebay::journal::scan::{Piece, Pieces, scan};
use forebay::journal::segment_image::{Neighbours, SegmentImage};
use forebay::journal::verify::{Report, verify_segment};
use forebay_fuzz::built::{FIRST_SEQUENCE, Fault, Plan, QUEUE_ID, Segment};
use forebay_fuzz::image::{check, check_rewrite};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    plan: Plan,
    /// Sectors of the last write that reached the disk.
    kept: Option<u64>,
    fault: Fault,
}

fuzz_target!(|input: Input| {
    let segment = Segment::build(&input.plan);
    check_intact(&segment);
    if let Some(kept) = input.kept.filter(|_| !input.plan.is_sealed) {
        check_torn(&segment, &segment.torn(kept));
    }
    check_damaged(&segment, &segment.damaged(&input.fault));
});

fn image(file: &[u8]) -> SegmentImage {
    let neighbours = Neighbours::default();
    SegmentImage::from_bytes(QUEUE_ID, FIRST_SEQUENCE, Path::new("x.seg"), neighbours, file).expect("memory")
}

/// All of it is there, and nothing is wrong with it.
fn check_intact(segment: &Segment) {
    let image = image(&segment.bytes);
    let mut report = Report::default();
    let end = verify_segment(&image, None, &mut report);
    assert_eq!(report.findings, []);
    assert_eq!((end.next_sequence, end.end_byte), (segment.footer.next_sequence, segment.footer.end_byte));
    let scanned = scan(&segment.identity, &segment.bytes, |_, _| {}).expect("an intact segment");
    assert_eq!(scanned.end_offset as u64, segment.footer.end_offset);
    assert_eq!(check(&image), segment.records());
}

/// Recovery takes all batches but the last, and that only if all of it is there.
fn check_torn(segment: &Segment, torn: &[u8]) {
    let end = scan(&segment.identity, torn, |_, _| {}).expect("a torn write is no damage");
    let batches = segment.batches.len();
    let is_whole = segment.batches.last().is_none_or(|last| {
        let written = last.offset..last.offset + last.bytes;
        torn[written.clone()] == segment.bytes[written]
    });
    let wanted = if is_whole { batches } else { batches - 1 };
    let next_sequence = segment.batches.get(wanted).map_or(segment.footer.next_sequence, |torn| torn.first_sequence);
    assert_eq!(end.next_sequence, next_sequence);
}

/// What stands before the first damage is read as it was, and so is every record that is read behind it.
fn check_damaged(segment: &Segment, file: &[u8]) {
    let is_intact = |from: usize, to: usize| file.get(from..to).is_some_and(|found| *found == segment.bytes[from..to]);
    let intact = segment.batches.iter().take_while(|batch| is_intact(batch.offset, batch.offset + batch.bytes));
    // Recovery knows the life from the header, which it refuses if that is damaged.
    let mut pieces = Pieces::new(&segment.identity, file, None);
    for batch in intact {
        let Some(Piece::Batch { offset, records, .. }) = pieces.next() else { panic!("an intact batch is not read") };
        assert_eq!((offset, records), (batch.offset, &batch.records.concat()[..]));
    }
    let image = image(file);
    let whole = check(&image);
    let appended: BTreeMap<_, _> = segment.records().into_iter().collect();
    for (sequence, record) in &whole {
        assert_eq!(Some(record), appended.get(sequence), "another record under the sequence {sequence}");
    }
    check_rewrite(&image, &whole);
}
