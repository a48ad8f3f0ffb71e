//! Every byte of a segment, changed one at a time: verify notices, or nothing reads the byte; and
//! what is intact can be exported, and is kept by a repair.

use std::ops::Range;

use forebay::journal::findings::Damage;
use forebay::journal::format::{
    BATCH_HEADER_BYTES, BatchHeader, BatchStart, FOOTER_BYTES, Footer, SEGMENT_HEADER_BYTES, SegmentIdentity,
};
use forebay::journal::records::stretches;
use forebay::journal::rewrite::{Circumstances, rewrite};
use forebay::journal::salvage::WholeRecord;
use forebay::journal::segment_image::{Behind, Neighbours, SegmentImage};
use forebay::journal::verify::{End, Report, verify_segment};
use forebay::limits::BLOCK_BYTES;
use forebay::record::{Attributes, NO_KEY, Record, Sequence};
use forebay::ticket::EpochStart;
use zerocopy::IntoBytes;

use super::*;

const CAPACITY: usize = 8 * BLOCK_BYTES;
const EPOCH: u64 = 3;
const IDENTITY: SegmentIdentity =
    SegmentIdentity { queue_id: 7, generation: 99, first_sequence: 10, first_byte: 500, capacity: CAPACITY as u64 };
/// Bytes of the bodies in each batch; the second takes two blocks, and the last block before the footer is free.
const BODIES: [&[usize]; 3] = [&[10, 200, 30], &[3000, 1500], &[0, 2000]];

/// A segment, and where each part of it is.
struct Made {
    bytes: Vec<u8>,
    batches: Vec<Range<usize>>,
    /// Sequence and place of each record.
    records: Vec<(Sequence, Range<usize>)>,
    end: End,
    end_offset: usize,
}

fn make(sealed: bool) -> Made {
    let mut bytes = vec![0; CAPACITY];
    let mut block = [0; BLOCK_BYTES];
    IDENTITY.write_header(EPOCH, 1, &mut block);
    bytes[..BLOCK_BYTES].copy_from_slice(&block);
    let mut made = Made {
        bytes,
        batches: Vec::new(),
        records: Vec::new(),
        end: End { next_sequence: 10, end_byte: 500 },
        end_offset: BLOCK_BYTES,
    };
    for bodies in BODIES {
        made.add_batch(bodies);
    }
    if sealed {
        let End { next_sequence, end_byte } = made.end;
        let footer = Footer { next_sequence, end_offset: made.end_offset as u64, end_byte, key_count: 0 };
        IDENTITY.write_footer(&footer, &mut block);
        made.bytes[CAPACITY - BLOCK_BYTES..].copy_from_slice(&block);
    }
    made
}

impl Made {
    fn add_batch(&mut self, bodies: &[usize]) {
        let End { next_sequence: first_sequence, end_byte: first_byte } = self.end;
        let mut records = Vec::new();
        for length in bodies {
            let body = vec![b'a' + (self.end.next_sequence % 26) as u8; *length];
            let is_odd = self.end.next_sequence % 2 == 1;
            let attributes: &[u8] = if is_odd { b"\x03\x01\0\x07\x04\x01\0a" } else { b"" };
            let record = Record {
                received_at_us: 1_700_000_000_000_000,
                idempotency_hash: NO_KEY,
                group_count: 1,
                key: b"key",
                idempotency_key: b"",
                content_type: b"text/plain",
                attributes: Attributes::read(attributes).unwrap(),
                body: &body,
            };
            let start = self.end_offset + BATCH_HEADER_BYTES + records.len();
            record.encode(&mut records).unwrap();
            let end = self.end_offset + BATCH_HEADER_BYTES + records.len();
            self.records.push((self.end.next_sequence, start..end));
            self.end.next_sequence += 1;
        }
        self.end.end_byte += records.len() as u64;
        let start = BatchStart { first_sequence, first_byte, epoch: EPOCH, written_at_us: 2 };
        let header = BatchHeader::seal(&IDENTITY, start, bodies.len() as u32, &records).unwrap();
        let end = self.end_offset + header.padded_bytes();
        let batch = [header.as_bytes(), &records].concat();
        self.bytes[self.end_offset..self.end_offset + batch.len()].copy_from_slice(&batch);
        self.batches.push(self.end_offset..end);
        self.end_offset = end;
    }

    /// What verify finds in these bytes, and which sequences can be exported with the bytes that were written.
    fn look(&self, bytes: &[u8], neighbours: Neighbours) -> (Report, Vec<Sequence>) {
        let image = SegmentImage::from_bytes(7, 10, Path::new("x.seg"), neighbours, bytes).unwrap();
        let mut report = Report::default();
        verify_segment(&image, Some(End { next_sequence: 10, end_byte: 500 }), &mut report);
        let mut exported = Vec::new();
        self.assert_repairable(&image, neighbours);
        for found in stretches(&image).flat_map(|stretch| stretch.whole) {
            let (sequence, place) = &self.records[exported_index(found.sequence)];
            assert_eq!((found.sequence, found.bytes), (*sequence, &self.bytes[place.clone()]));
            exported.push(found.sequence);
        }
        (report, exported)
    }

    /// Written anew, the segment is intact, and every record that it had has its place.
    fn assert_repairable(&self, image: &SegmentImage, neighbours: Neighbours) {
        let epochs = [EpochStart { epoch: EPOCH, first_sequence: 1 }];
        let circumstances = Circumstances { generation: 1234, epoch: EPOCH, now_us: 5, epochs: &epochs };
        let made = rewrite(image, &circumstances).unwrap();
        let before = Some(End { next_sequence: 10, end_byte: 500 });
        let again = SegmentImage::from_bytes(7, 10, Path::new("x.seg"), neighbours, &made.bytes).unwrap();
        let mut report = Report::default();
        assert_eq!(verify_segment(&again, before, &mut report), made.end);
        assert_eq!((&report.findings[..], &report.notes[..]), (&[][..], &[][..]));
        assert_eq!(made.bytes.len(), CAPACITY);
        let (lost, kept): (Vec<_>, Vec<_>) =
            stretches(&again).flat_map(|stretch| stretch.whole).partition(|found| found.record.is_lost());
        let readable: Vec<_> = stretches(image).flat_map(|stretch| stretch.whole).collect();
        let facts = |found: &WholeRecord<'_>| (found.sequence, found.bytes.to_vec());
        assert_eq!(kept.iter().map(facts).collect::<Vec<_>>(), readable.iter().map(facts).collect::<Vec<_>>());
        assert_eq!(made.kept, kept.len() as u64);
        let said: Vec<_> = made.lost.iter().cloned().flatten().collect();
        assert_eq!(said, lost.iter().map(|found| found.sequence).collect::<Vec<_>>());
        if neighbours.behind.is_some() {
            assert_eq!(made.end, self.end);
        }
    }

    fn record_at(&self, offset: usize) -> Option<Sequence> {
        self.records.iter().find(|(_, place)| place.contains(&offset)).map(|(sequence, _)| *sequence)
    }

    fn sequences(&self) -> Vec<Sequence> {
        self.records.iter().map(|(sequence, _)| *sequence).collect()
    }
}

fn exported_index(sequence: Sequence) -> usize {
    usize::try_from(sequence - 10).unwrap()
}

/// Calls `check` for every byte and three ways to change it, on all cores.
fn for_each_flip(made: &Made, check: impl Fn(usize, &[u8]) + Sync) {
    const THREADS: usize = 4;
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let check = &check;
            scope.spawn(move || {
                let mut bytes = made.bytes.clone();
                for offset in (thread..CAPACITY).step_by(THREADS) {
                    let flip = [0x01, 0x80, 0xff][offset / THREADS % 3];
                    bytes[offset] ^= flip;
                    check(offset, &bytes);
                    bytes[offset] ^= flip;
                }
            });
        }
    });
}

#[test]
fn every_flipped_byte_of_a_sealed_segment_is_found_and_costs_one_record_at_most() {
    let made = make(true);
    let behind =
        Behind { first_sequence: made.end.next_sequence, first_byte: Some(made.end.end_byte), epoch: Some(EPOCH) };
    let neighbours = Neighbours { end_byte_before: Some(500), behind: Some(behind) };
    let (report, exported) = made.look(&made.bytes, neighbours);
    assert_eq!((report.findings.len(), exported), (0, made.sequences()));
    for_each_flip(&made, |offset, bytes| {
        let (report, exported) = made.look(bytes, neighbours);
        // Between the log and the footer lies what nothing reads: what a former life of the file has left.
        let is_free = (made.end_offset..CAPACITY - BLOCK_BYTES).contains(&offset);
        assert_eq!(report.findings.len(), usize::from(!is_free), "byte {offset}: {:?}", report.findings);
        let footer = CAPACITY - BLOCK_BYTES;
        if let Some(finding) = report.findings.first() {
            let fits = match finding.damage {
                Damage::Header(_) => offset < SEGMENT_HEADER_BYTES,
                Damage::Footer(_) => (footer..footer + FOOTER_BYTES).contains(&offset),
                Damage::Padding(_) => finding.offset == Some(offset as u64),
                Damage::Batch { range, .. } => (range.offset..range.end_offset).contains(&offset),
                _ => false,
            };
            assert!(fits, "byte {offset}: {finding:?}");
        }
        let mut expected = made.sequences();
        expected.retain(|sequence| made.record_at(offset) != Some(*sequence));
        assert_eq!(exported, expected, "byte {offset}");
    });
}

#[test]
fn every_flipped_byte_of_an_open_segment_is_found_but_in_what_a_crash_may_leave() {
    let made = make(false);
    let neighbours = Neighbours { end_byte_before: Some(500), behind: None };
    let last = made.batches.last().unwrap().clone();
    let records_end = made.records.last().unwrap().1.end;
    for_each_flip(&made, |offset, bytes| {
        let (report, exported) = made.look(bytes, neighbours);
        let mut expected = made.sequences();
        if offset < last.start {
            expected.retain(|sequence| made.record_at(offset) != Some(*sequence));
        } else if (last.start..records_end).contains(&offset) {
            // It looks like a torn write then, of which nobody was told.
            expected.truncate(expected.len() - BODIES[2].len());
        }
        // Behind the last record, a crash may leave whole sectors as they were, but no part of one.
        let certain_end = records_end.next_multiple_of(512);
        let is_found = offset < last.start || (records_end..certain_end).contains(&offset);
        assert_eq!(report.findings.len(), usize::from(is_found), "byte {offset}: {:?}", report.findings);
        assert_eq!(exported, expected, "byte {offset}");
    });
}

#[test]
fn two_damaged_batches_in_a_row_give_back_what_is_whole() {
    let made = make(true);
    let neighbours = Neighbours { end_byte_before: Some(500), behind: None };
    let mut bytes = made.bytes.clone();
    let records: Vec<_> = [11, 13].map(|sequence| made.records[exported_index(sequence)].1.clone()).into();
    for record in &records {
        bytes[record.end - 1] ^= 1;
    }
    let (report, exported) = made.look(&bytes, neighbours);
    assert_eq!((report.findings.len(), exported), (1, vec![10, 12, 14, 15, 16]));
    // Without a header nobody knows where the first batch ends: what it begins with is certain, no more.
    bytes[made.batches[0].start] ^= 1;
    let (report, exported) = made.look(&bytes, neighbours);
    assert_eq!((report.findings.len(), exported), (1, vec![10, 15, 16]));
}

#[test]
fn a_batch_in_the_place_of_another_is_not_read_as_that_one() {
    let made = make(true);
    let behind =
        Behind { first_sequence: made.end.next_sequence, first_byte: Some(made.end.end_byte), epoch: Some(EPOCH) };
    let neighbours = Neighbours { end_byte_before: Some(500), behind: Some(behind) };
    let [first, second, third] = &made.batches[..] else { panic!("three batches") };
    let of_this_life = made.bytes[first.clone()].to_vec();
    // What the file would still hold of its life before, had the write of the third batch not arrived.
    let mut former = of_this_life.clone();
    let records = former[BATCH_HEADER_BYTES..][..made.records[2].1.end - made.records[0].1.start].to_vec();
    let life = SegmentIdentity { generation: 98, ..IDENTITY };
    let start = BatchStart { first_sequence: 1, first_byte: 0, epoch: 1, written_at_us: 1 };
    let header = BatchHeader::seal(&life, start, 3, &records).unwrap();
    former[..BATCH_HEADER_BYTES].copy_from_slice(header.as_bytes());
    // A record of it that the disk has damaged besides.
    let mut damaged = of_this_life.clone();
    damaged[made.records[1].1.start - first.start + 50] ^= 1;
    for (batch, at, lost) in [
        (&of_this_life, third.start, 15..=16),
        (&former, third.start, 15..=16),
        (&damaged, third.start, 15..=16),
        // In the middle of a batch, what stands before it is left.
        (&of_this_life, second.start + BLOCK_BYTES, 14..=14),
        (&of_this_life, second.start, 13..=14),
    ] {
        let mut bytes = made.bytes.clone();
        bytes[at..at + BLOCK_BYTES].copy_from_slice(batch);
        let (report, exported) = made.look(&bytes, neighbours);
        assert!(!report.findings.is_empty());
        let wanted: Vec<_> = made.sequences().into_iter().filter(|sequence| !lost.contains(sequence)).collect();
        assert_eq!(exported, wanted, "at {at}");
    }
}
