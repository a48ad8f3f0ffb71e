//! Segments that the journal's own appender has written, and what a disk may make of them.

use std::ops::Range;

use arbitrary::Arbitrary;
use forebay::journal::append::{Appender, Place};
use forebay::journal::format::{Footer, SegmentIdentity};
use forebay::journal::idempotency::IdempotencyIndex;
use forebay::journal::segment_file::aligned_buffer;
use forebay::limits::BLOCK_BYTES;
use forebay::record::{NO_KEY, Record, Sequence};
use forebay::ring::FrameHeader;
use zerocopy::FromZeros;
use zerocopy::little_endian::U32;

use crate::folded::number;

/// The queue that the segments belong to.
pub const QUEUE_ID: u64 = 7;
/// First sequence of a segment. What a former life of its file held is before it.
pub const FIRST_SEQUENCE: Sequence = 1_000_000;
const FIRST_BYTE: u64 = 1 << 30;
/// Blocks of a segment: its header, eight for batches, its footer.
const SEGMENT_BLOCKS: usize = 10;
const COMMIT_BYTES_MAX: usize = 4 * BLOCK_BYTES;
const FRAMES_MAX: usize = 64;
const MUTATIONS_MAX: usize = 8;
const SECTOR_BYTES: usize = 512;

/// What clients sent, and how the journal took it.
#[derive(Arbitrary, Debug)]
pub struct Plan {
    /// Whether the file was another segment before.
    pub is_recycled: bool,
    /// Whether the segment is sealed.
    pub is_sealed: bool,
    frames: Vec<Frame>,
}

/// One request.
#[derive(Arbitrary, Debug)]
struct Frame {
    first: Body,
    others: Vec<Body>,
    /// Whether a commit follows.
    committed: bool,
    has_key: bool,
}

#[derive(Arbitrary, Debug)]
enum Body {
    Filled {
        length: u16,
        byte: u8,
    },
    Text(Vec<u8>),
    /// What looks like a record of somebody else, sent as a body.
    Imitation {
        sender: u8,
        length: u8,
    },
}

/// What a disk may do to a file. A batch that is damaged and in the wrong place too is not among it: records do not hold
/// their sequences, so nobody could tell.
#[derive(Arbitrary, Debug)]
pub enum Fault {
    /// It changes bytes.
    Changed { misleading: Option<Misleading>, mutations: Vec<Mutation> },
    /// A batch's write goes to another block.
    Astray { batch: u8, to: u8 },
    /// A batch's write never arrives.
    Lost { batch: u8 },
}

/// How bytes change.
#[derive(Arbitrary, Debug)]
pub enum Mutation {
    /// Bits of one byte change.
    Flip { at: u32, mask: u8 },
    /// Bits of one byte of a batch change, counted from the batch's beginning.
    FlipInBatch { batch: u8, at: u8, mask: u8 },
    /// A sector reads as one byte again and again.
    Fill { sector: u16, byte: u8 },
    /// The file ends early.
    Truncate { blocks: u8 },
}

/// A record whose length changes so that it seems to end where another one begins, or one that is imitated in its body.
/// One a file: two of them, in a batch with an imitation, could lead past one record and into a body, and agree with
/// the batch's count again.
#[derive(Arbitrary, Debug)]
pub struct Misleading {
    batch: u8,
    record: u8,
    /// Records behind it that it seems to hold; if 0, it seems to end before its body.
    swallowed: u8,
    /// Whether the lengths of its parts agree with that.
    agreed: bool,
}

/// One batch of a segment.
#[derive(Debug)]
pub struct Batch {
    /// Where it begins.
    pub offset: usize,
    /// Bytes of its header and its records.
    pub bytes: usize,
    /// Its records, encoded.
    pub records: Vec<Vec<u8>>,
    /// Sequence of the first.
    pub first_sequence: Sequence,
}

/// A segment's file.
#[derive(Debug)]
pub struct Segment {
    /// Which life of the file.
    pub identity: SegmentIdentity,
    /// The whole file.
    pub bytes: Vec<u8>,
    /// What it holds.
    pub batches: Vec<Batch>,
    /// What seals it, or would.
    pub footer: Footer,
    /// The file before its last batch was written.
    before_last: Vec<u8>,
    /// The file before this life.
    former: Vec<u8>,
}

impl Segment {
    /// What the plan makes of a file.
    ///
    /// # Panics
    ///
    /// The appender contradicts itself.
    #[must_use]
    pub fn build(plan: &Plan) -> Self {
        let file = if plan.is_recycled {
            Self::write(plan, vec![0; SEGMENT_BLOCKS * BLOCK_BYTES], 1, 1, true).bytes
        } else {
            vec![0; SEGMENT_BLOCKS * BLOCK_BYTES]
        };
        Self::write(plan, file, 2, FIRST_SEQUENCE, plan.is_sealed)
    }

    fn write(plan: &Plan, bytes: Vec<u8>, generation: u64, first_sequence: Sequence, is_sealed: bool) -> Self {
        let keys = IdempotencyIndex::new(1_000_000, 1000);
        let buffer = aligned_buffer(COMMIT_BYTES_MAX).expect("memory");
        let mut appender = Appender::new(3, first_sequence, FIRST_BYTE, keys, buffer);
        let identity = appender.next_segment(QUEUE_ID, generation, bytes.len() as u64);
        appender.open_segment(identity, BLOCK_BYTES as u64, 0);
        let footer = Footer { next_sequence: 0, end_offset: 0, end_byte: 0, key_count: 0 };
        let mut segment =
            Self { identity, before_last: bytes.clone(), former: bytes.clone(), bytes, batches: Vec::new(), footer };
        let mut block = [0; BLOCK_BYTES];
        identity.write_header(3, 5, &mut block);
        segment.bytes[..BLOCK_BYTES].copy_from_slice(&block);
        let mut open = Vec::new();
        for (index, frame) in plan.frames.iter().take(FRAMES_MAX).enumerate() {
            let records = frame.encode(index);
            let header = frame.header(index, &records);
            if appender.place(&header, 0) == Place::AfterCommit {
                segment.commit(&mut appender, &mut open);
            }
            if appender.place(&header, 0) == Place::Append {
                let (_, room) = appender.append(&header, 0);
                room.copy_from_slice(&records.concat());
                open.extend(records);
            }
            if frame.committed {
                segment.commit(&mut appender, &mut open);
            }
        }
        segment.commit(&mut appender, &mut open);
        segment.footer = appender.footer().expect("a segment is open").1;
        if is_sealed {
            identity.write_footer(&segment.footer, &mut block);
            let start = segment.bytes.len() - BLOCK_BYTES;
            segment.bytes[start..].copy_from_slice(&block);
        }
        segment
    }

    fn commit(&mut self, appender: &mut Appender, open: &mut Vec<Vec<u8>>) {
        let Some(sealed) = appender.seal_batch(11) else { return };
        self.before_last.clone_from(&self.bytes);
        let offset = usize::try_from(sealed.offset).expect("a small file");
        self.bytes[offset..offset + sealed.padded_bytes].copy_from_slice(appender.batch(&sealed));
        appender.committed(&sealed);
        let records = std::mem::take(open);
        let first_sequence = sealed.next_sequence - records.len() as u64;
        self.batches.push(Batch { offset, bytes: sealed.bytes, records, first_sequence });
    }

    /// All records with their sequences.
    #[must_use]
    pub fn records(&self) -> Vec<(Sequence, Vec<u8>)> {
        self.batches.iter().flat_map(|batch| (batch.first_sequence..).zip(batch.records.iter().cloned())).collect()
    }

    /// What a crash during the last batch's write may leave: some of its sectors, by the bits of `kept`.
    #[must_use]
    pub fn torn(&self, kept: u64) -> Vec<u8> {
        let mut torn = self.bytes.clone();
        let Some(last) = self.batches.last() else { return torn };
        let end = last.offset + last.bytes.next_multiple_of(BLOCK_BYTES);
        for (index, start) in (last.offset..end).step_by(SECTOR_BYTES).enumerate() {
            if kept >> (index % 64) & 1 == 0 {
                let sector = start..start + SECTOR_BYTES;
                torn[sector.clone()].copy_from_slice(&self.before_last[sector]);
            }
        }
        torn
    }

    /// The file as the disk gives it back.
    #[must_use]
    pub fn damaged(&self, fault: &Fault) -> Vec<u8> {
        let mut file = self.bytes.clone();
        match fault {
            Fault::Changed { misleading, mutations } => {
                if let Some(misleading) = misleading {
                    self.mislead(&mut file, misleading);
                }
                mutations.iter().take(MUTATIONS_MAX).for_each(|mutation| self.change(&mut file, mutation));
            }
            Fault::Astray { batch, to } => {
                let Some(written) = self.written(*batch) else { return file };
                let to = usize::from(*to) % SEGMENT_BLOCKS * BLOCK_BYTES;
                let length = written.len().min(file.len() - to);
                file[written.clone()].copy_from_slice(&self.former[written.clone()]);
                file[to..to + length].copy_from_slice(&self.bytes[written.start..written.start + length]);
            }
            Fault::Lost { batch } => {
                let Some(written) = self.written(*batch) else { return file };
                file[written.clone()].copy_from_slice(&self.former[written]);
            }
        }
        file
    }

    /// The bytes that the write of a batch covers.
    fn written(&self, batch: u8) -> Option<Range<usize>> {
        let batch = self.batches.get(usize::from(batch) % self.batches.len().max(1))?;
        Some(batch.offset..batch.offset + batch.bytes.next_multiple_of(BLOCK_BYTES))
    }

    /// Lets a record of `file`, which was this segment's, have another length.
    fn mislead(&self, file: &mut [u8], misleading: &Misleading) {
        let Misleading { batch, record, swallowed, agreed } = misleading;
        if self.batches.is_empty() {
            return;
        }
        let batch = &self.batches[usize::from(*batch) % self.batches.len()];
        let index = usize::from(*record) % batch.records.len();
        let behind = &batch.records[index + 1..];
        let at = batch.offset + 64 + batch.records[..index].iter().map(Vec::len).sum::<usize>();
        let body = number(&batch.records[index], 36);
        let whole = batch.records[index].len();
        let swallowed = behind.iter().take(usize::from(*swallowed)).map(Vec::len).sum::<usize>();
        let length = if swallowed == 0 { whole - body } else { whole + swallowed };
        let mut write = |at: usize, length: usize| {
            if let (Some(field), Ok(length)) = (file.get_mut(at..at + 4), u32::try_from(length)) {
                field.copy_from_slice(&length.to_le_bytes());
            }
        };
        write(at, length);
        if *agreed {
            write(at + 36, length + body - whole);
        }
    }

    /// Changes bytes of `file`, which was this segment's.
    fn change(&self, file: &mut Vec<u8>, mutation: &Mutation) {
        match mutation {
            Mutation::Flip { at, mask } if !file.is_empty() => {
                let at = *at as usize % file.len();
                file[at] ^= mask;
            }
            Mutation::FlipInBatch { batch, at, mask } if !self.batches.is_empty() => {
                let batch = &self.batches[usize::from(*batch) % self.batches.len()];
                let at = batch.offset + usize::from(*at) % batch.bytes;
                if let Some(byte) = file.get_mut(at) {
                    *byte ^= mask;
                }
            }
            Mutation::Fill { sector, byte } if !file.is_empty() => {
                let start = usize::from(*sector) * SECTOR_BYTES % file.len();
                file[start..start + SECTOR_BYTES].fill(*byte);
            }
            Mutation::Truncate { blocks } => file.truncate(usize::from(*blocks) * BLOCK_BYTES),
            _ => {}
        }
    }
}

impl Frame {
    fn encode(&self, index: usize) -> Vec<Vec<u8>> {
        let bodies: Vec<_> = std::iter::once(&self.first).chain(self.others.iter().take(16)).collect();
        let count = u32::try_from(bodies.len()).unwrap_or(u32::MAX);
        let idempotency_key = if self.has_key { index.to_string() } else { String::new() };
        let encode = |(place, body): (usize, &&Body)| {
            let body = body.bytes();
            record(&body, idempotency_key.as_bytes(), self.hash(index), if place == 0 { count } else { 0 })
        };
        bodies.iter().enumerate().map(encode).collect()
    }

    fn hash(&self, index: usize) -> [u8; 16] {
        if self.has_key { [u8::try_from(index + 1).unwrap_or(u8::MAX); 16] } else { NO_KEY }
    }

    fn header(&self, index: usize, records: &[Vec<u8>]) -> FrameHeader {
        let number = |length: usize| U32::new(u32::try_from(length).unwrap_or(u32::MAX));
        let mut header = FrameHeader::new_zeroed();
        header.length = number(records.iter().map(Vec::len).sum());
        header.count = number(records.len());
        header.idempotency_hash = self.hash(index);
        header
    }
}

impl Body {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Body::Filled { length, byte } => vec![*byte; usize::from(*length) % COMMIT_BYTES_MAX],
            Body::Text(bytes) => bytes.clone(),
            Body::Imitation { sender, length } => {
                record(&vec![*sender; usize::from(*length)], b"forged", [*sender; 16], 1)
            }
        }
    }
}

fn record(body: &[u8], idempotency_key: &[u8], idempotency_hash: [u8; 16], group_count: u32) -> Vec<u8> {
    let record = Record {
        received_at_us: 1_700_000_000_000_042,
        idempotency_hash,
        group_count,
        key: b"k",
        idempotency_key,
        content_type: b"application/json",
        body,
    };
    let mut bytes = Vec::new();
    record.encode(&mut bytes).expect("short parts");
    bytes
}
