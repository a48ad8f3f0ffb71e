//! Any bytes as a segment file: every walk over them ends, and nothing comes out that is not whole.
#![no_main]

use std::path::Path;

use arbitrary::Arbitrary;
use forebay::journal::format::SegmentIdentity;
use forebay::journal::segment_image::{Behind, Neighbours, SegmentImage};
use forebay_fuzz::folded::{reseal, unfold};
use forebay_fuzz::image::{check, check_rewrite};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Whether checksums are made right, so that what they protect is looked at.
    resealed: bool,
    /// The sequence in the file's name; else that of its header.
    named_sequence: Option<u64>,
    end_byte_before: Option<u64>,
    behind: Option<(u64, Option<u64>)>,
    folded: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    let mut file = unfold(input.folded);
    if input.resealed {
        reseal(&mut file);
    }
    let header = SegmentIdentity::read_header(&file).ok();
    let queue_id = header.map_or(7, |header| header.queue_id);
    let named_sequence = input.named_sequence.or(header.map(|header| header.first_sequence)).unwrap_or(1);
    // Segments are listed by their names, so the one behind has a later one.
    let behind = input.behind.filter(|(first_sequence, _)| *first_sequence > named_sequence);
    let behind = behind.map(|(first_sequence, first_byte)| Behind { first_sequence, first_byte, epoch: None });
    let neighbours = Neighbours { end_byte_before: input.end_byte_before, behind };
    let image = SegmentImage::from_bytes(queue_id, named_sequence, Path::new("x.seg"), neighbours, &file);
    let image = image.expect("memory");
    let whole = check(&image);
    check_rewrite(&image, &whole);
});
