//! The checksummed blocks of a segment: what was written reads back, and nothing that was altered does.
#![no_main]

use arbitrary::Arbitrary;
use forebay::journal::format::{
    BATCH_HEADER_BYTES, BatchHeader, BatchStart, FOOTER_BYTES, Footer, FormatError, SEGMENT_HEADER_BYTES,
    SegmentIdentity,
};
use forebay::limits::BLOCK_BYTES;
use libfuzzer_sys::fuzz_target;
use zerocopy::IntoBytes;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    queue_id: u64,
    generation: u64,
    first_sequence: u64,
    first_byte: u64,
    capacity: u64,
    epoch: u64,
    written_at_us: u64,
    count: u32,
    /// Bits that change, by place and mask.
    flips: [(u16, u8); 3],
    behind: u8,
    records: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    let Input { queue_id, generation, first_sequence, first_byte, capacity, .. } = input;
    let identity = SegmentIdentity { queue_id, generation, first_sequence, first_byte, capacity };
    batch(&identity, &input);
    any_bytes(&identity, input.records);
    header(&identity, &input);
    footer(&identity, &input);
});

/// The bytes with the input's bits changed; `None` if nothing has changed.
fn altered(bytes: &[u8], flips: &[(u16, u8)]) -> Option<Vec<u8>> {
    let mut altered = bytes.to_vec();
    for (at, mask) in flips {
        altered[usize::from(*at) % bytes.len()] ^= mask;
    }
    (altered != bytes).then_some(altered)
}

fn batch(identity: &SegmentIdentity, input: &Input<'_>) {
    let Input { first_sequence, first_byte, epoch, written_at_us, count, .. } = *input;
    let start = BatchStart { first_sequence, first_byte, epoch, written_at_us };
    let header = BatchHeader::seal(identity, start, count, input.records).expect("short records");
    let bytes = [header.as_bytes(), input.records].concat();
    let mut file = bytes.clone();
    file.resize(bytes.len() + usize::from(input.behind), 0xff);
    match BatchHeader::decode(identity, &file) {
        Ok((found, records)) => {
            assert!(count > 0, "no batch is empty");
            assert_eq!((found.as_bytes(), records), (header.as_bytes(), input.records));
            assert!(found.padded_bytes() >= bytes.len() && found.padded_bytes() < bytes.len() + BLOCK_BYTES);
            assert_eq!(found.next_sequence(), first_sequence.saturating_add(u64::from(count)));
        }
        Err(error) => assert_eq!((error, count), (FormatError::Checksum, 0)),
    }
    assert_eq!(BatchHeader::decode(identity, &bytes[..bytes.len() - 1]).err(), Some(FormatError::Short));
    if let Some(altered) = altered(&bytes, &input.flips) {
        assert!(BatchHeader::decode(identity, &altered).is_err(), "an altered batch is taken");
    }
    let other = SegmentIdentity { generation: identity.generation ^ 1, ..*identity };
    assert_eq!(BatchHeader::decode(&other, &file).err(), Some(FormatError::Foreign));
}

/// Whatever is taken is what would be written.
fn any_bytes(identity: &SegmentIdentity, bytes: &[u8]) {
    let Ok((header, records)) = BatchHeader::decode(identity, bytes) else { return };
    let start = BatchStart {
        first_sequence: header.first_sequence.get(),
        first_byte: header.first_byte.get(),
        epoch: header.epoch.get(),
        written_at_us: header.written_at_us.get(),
    };
    let again = BatchHeader::seal(identity, start, header.count.get(), records).expect("it was one");
    assert_eq!(again.as_bytes(), &bytes[..BATCH_HEADER_BYTES]);
}

fn header(identity: &SegmentIdentity, input: &Input<'_>) {
    let mut block = [1; BLOCK_BYTES];
    identity.write_header(input.epoch, input.written_at_us, &mut block);
    assert_eq!(SegmentIdentity::read_header(&block), Ok(*identity));
    assert_eq!(SegmentIdentity::epoch_of_header(&block), Some(input.epoch));
    assert!(block[SEGMENT_HEADER_BYTES..].iter().all(|byte| *byte == 0));
    if let Some(altered) = altered(&block[..SEGMENT_HEADER_BYTES], &input.flips) {
        assert!(SegmentIdentity::read_header(&altered).is_err(), "an altered header is taken");
        assert_eq!(SegmentIdentity::epoch_of_header(&altered), None);
    }
    if let Ok(found) = SegmentIdentity::read_header(input.records) {
        found.write_header(SegmentIdentity::epoch_of_header(input.records).expect("a header"), 0, &mut block);
        // All but the time, which nobody reads, and the checksum over it.
        assert_eq!(block[..64], input.records[..64]);
    }
}

fn footer(identity: &SegmentIdentity, input: &Input<'_>) {
    let footer = Footer {
        next_sequence: input.first_sequence.wrapping_add(u64::from(input.count)),
        end_offset: input.written_at_us,
        end_byte: input.first_byte,
        key_count: u64::from(input.count),
    };
    let mut block = [1; BLOCK_BYTES];
    identity.write_footer(&footer, &mut block);
    assert_eq!(identity.read_footer(&block), Ok(footer));
    assert!(block[FOOTER_BYTES..].iter().all(|byte| *byte == 0));
    if let Some(altered) = altered(&block[..FOOTER_BYTES], &input.flips) {
        assert!(identity.read_footer(&altered).is_err(), "an altered footer is taken");
    }
    let other = SegmentIdentity { first_sequence: identity.first_sequence ^ 1, ..*identity };
    assert_eq!(other.read_footer(&block), Err(FormatError::Foreign));
    if let Ok(found) = identity.read_footer(input.records) {
        identity.write_footer(&found, &mut block);
        assert_eq!(block[..FOOTER_BYTES], input.records[..FOOTER_BYTES]);
    }
}
