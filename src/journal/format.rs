//! The bytes of a segment file. `docs/segment-format.md` describes them for people.
//!
//! ```text
//! block 0            segment header
//! block 1 …          batches, each padded to whole blocks
//! last block         footer, once the segment is sealed
//! ```
//!
//! A segment file is used many times. Every life has a random generation of its own,
//! which the header, every batch and the footer repeat, so that what a former life
//! left behind can never be taken for something new; and since clients cannot know
//! it, no record's body can forge a batch.
//!
//! All integers are little-endian. Nothing here does I/O.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::limits::BLOCK_BYTES;
use crate::planted::{Bug, is_planted};
use crate::record::Sequence;

const BLOCK_BYTES_U32: u32 = 4096;
const _: () = assert!(BLOCK_BYTES_U32 as usize == BLOCK_BYTES);
/// The format that this code writes.
pub const FORMAT_VERSION: u32 = 1;
const SEGMENT_MAGIC: [u8; 8] = *b"forebay\n";
const BATCH_MAGIC: [u8; 4] = *b"FBba";
const FOOTER_MAGIC: [u8; 8] = *b"FBseal\r\n";

/// What identifies the life of a segment file, fixed when a queue takes the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentIdentity {
    /// Identifies the queue of this data directory; a batch of another queue does not match.
    pub queue_id: u64,
    /// Random, never zero.
    pub generation: u64,
    /// First sequence that the segment may hold.
    pub first_sequence: Sequence,
    /// Bytes of all the queue's records before that sequence.
    pub first_byte: u64,
    /// Bytes of the file.
    pub capacity: u64,
}

/// Block 0 of a segment, without its padding.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SegmentHeader {
    magic: [u8; 8],
    version: U32,
    block_bytes: U32,
    queue_id: U64,
    generation: U64,
    first_sequence: U64,
    first_byte: U64,
    capacity: U64,
    epoch: U64,
    created_at_us: U64,
    crc32c: U32,
}

/// What precedes the records of a batch.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BatchHeader {
    magic: [u8; 4],
    /// CRC32C of the rest of this header and of the records.
    crc32c: U32,
    /// Bytes of the records.
    pub length: U32,
    /// How many records they are; at least 1.
    pub count: U32,
    /// Sequence of the first.
    pub first_sequence: U64,
    /// The segment's generation.
    pub generation: U64,
    /// The queue's identity.
    pub queue_id: U64,
    /// The start of the process that wrote it.
    pub epoch: U64,
    /// Bytes of all the queue's records before this batch.
    pub first_byte: U64,
    /// When it was written: microseconds since the Unix epoch.
    pub written_at_us: U64,
}

/// The last block of a sealed segment, without its padding.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FooterBlock {
    magic: [u8; 8],
    queue_id: U64,
    generation: U64,
    first_sequence: U64,
    next_sequence: U64,
    end_offset: U64,
    end_byte: U64,
    key_count: U64,
    crc32c: U32,
}

/// Bytes of a segment's header; zeros fill the rest of its block.
pub const SEGMENT_HEADER_BYTES: usize = size_of::<SegmentHeader>();
/// Bytes of a footer; zeros fill the rest of its block.
pub const FOOTER_BYTES: usize = size_of::<FooterBlock>();
/// Bytes of a [`BatchHeader`].
pub const BATCH_HEADER_BYTES: usize = size_of::<BatchHeader>();
const _: () = assert!(BATCH_HEADER_BYTES == 64);
const BATCH_CRC_FROM: usize = 8;

/// What a sealed segment's footer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The sequence behind the segment's last.
    pub next_sequence: Sequence,
    /// Offset behind the last batch.
    pub end_offset: u64,
    /// Bytes of all the queue's records up to the segment's end.
    pub end_byte: u64,
    /// Requests with an idempotency key in the segment.
    pub key_count: u64,
}

/// Why a block is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The magic bytes are missing.
    #[error("this is not a forebay segment")]
    Magic,
    /// Written by another version of forebay, and whole.
    #[error("segment format version {0} is not readable by this forebay, which reads version {FORMAT_VERSION}")]
    Version(u32),
    /// Written by a forebay with another block size, and whole.
    #[error("blocks of {0} bytes are not readable by this forebay, whose blocks have {BLOCK_BYTES}")]
    BlockBytes(u32),
    /// The checksum does not fit the bytes.
    #[error("the checksum does not match")]
    Checksum,
    /// The block belongs to another queue or another life of the file.
    #[error("the block belongs to another queue or to a former life of the file")]
    Foreign,
    /// Too few bytes.
    #[error("the bytes are cut short")]
    Short,
}

/// Rounds up to whole blocks.
#[must_use]
pub fn round_up_to_block(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK_BYTES)
}

fn crc_of_block<T: IntoBytes + Immutable>(block: &T) -> u32 {
    // Both blocks end with their checksum, which is not part of itself.
    let bytes = block.as_bytes();
    crc32c::crc32c(&bytes[..bytes.len() - size_of::<U32>()])
}

impl SegmentIdentity {
    /// Block 0 for this segment; `block` is zeroed first.
    pub fn write_header(&self, epoch: u64, created_at_us: u64, block: &mut [u8; BLOCK_BYTES]) {
        let mut header = SegmentHeader {
            magic: SEGMENT_MAGIC,
            version: U32::new(FORMAT_VERSION),
            block_bytes: U32::new(BLOCK_BYTES_U32),
            queue_id: U64::new(self.queue_id),
            generation: U64::new(self.generation),
            first_sequence: U64::new(self.first_sequence),
            first_byte: U64::new(self.first_byte),
            capacity: U64::new(self.capacity),
            epoch: U64::new(epoch),
            created_at_us: U64::new(created_at_us),
            crc32c: U32::ZERO,
        };
        header.crc32c = U32::new(crc_of_block(&header));
        block.fill(0);
        block[..size_of::<SegmentHeader>()].copy_from_slice(header.as_bytes());
    }

    /// Reads block 0.
    ///
    /// # Errors
    ///
    /// Anything that is not a segment header of this format.
    pub fn read_header(block: &[u8]) -> Result<Self, FormatError> {
        let (header, _) = SegmentHeader::read_from_prefix(block).map_err(|_| FormatError::Short)?;
        if header.magic != SEGMENT_MAGIC {
            return Err(FormatError::Magic);
        }
        // First, so that a damaged version is not taken for another one: every version has its checksum here.
        if header.crc32c.get() != crc_of_block(&header) {
            return Err(FormatError::Checksum);
        }
        if header.version.get() != FORMAT_VERSION {
            return Err(FormatError::Version(header.version.get()));
        }
        if header.block_bytes.get() as usize != BLOCK_BYTES {
            return Err(FormatError::BlockBytes(header.block_bytes.get()));
        }
        Ok(Self {
            queue_id: header.queue_id.get(),
            generation: header.generation.get(),
            first_sequence: header.first_sequence.get(),
            first_byte: header.first_byte.get(),
            capacity: header.capacity.get(),
        })
    }

    /// The start of the process that wrote block 0, if that is a header of this format.
    #[must_use]
    pub fn epoch_of_header(block: &[u8]) -> Option<u64> {
        Self::read_header(block).ok()?;
        let (header, _) = SegmentHeader::read_from_prefix(block).ok()?;
        Some(header.epoch.get())
    }

    /// The footer block that seals this segment; `block` is zeroed first.
    pub fn write_footer(&self, footer: &Footer, block: &mut [u8; BLOCK_BYTES]) {
        let mut bytes = FooterBlock {
            magic: FOOTER_MAGIC,
            queue_id: U64::new(self.queue_id),
            generation: U64::new(self.generation),
            first_sequence: U64::new(self.first_sequence),
            next_sequence: U64::new(footer.next_sequence),
            end_offset: U64::new(footer.end_offset),
            end_byte: U64::new(footer.end_byte),
            key_count: U64::new(footer.key_count),
            crc32c: U32::ZERO,
        };
        bytes.crc32c = U32::new(crc_of_block(&bytes));
        block.fill(0);
        block[..size_of::<FooterBlock>()].copy_from_slice(bytes.as_bytes());
    }

    /// Reads the footer block of this segment.
    ///
    /// # Errors
    ///
    /// Anything that is not this life's footer: the segment was not sealed, or is damaged.
    pub fn read_footer(&self, block: &[u8]) -> Result<Footer, FormatError> {
        let (bytes, _) = FooterBlock::read_from_prefix(block).map_err(|_| FormatError::Short)?;
        if bytes.magic != FOOTER_MAGIC {
            return Err(FormatError::Magic);
        }
        if bytes.crc32c.get() != crc_of_block(&bytes) {
            return Err(FormatError::Checksum);
        }
        let same_life = bytes.generation.get() == self.generation && bytes.queue_id.get() == self.queue_id;
        if !same_life || bytes.first_sequence.get() != self.first_sequence {
            return Err(FormatError::Foreign);
        }
        Ok(Footer {
            next_sequence: bytes.next_sequence.get(),
            end_offset: bytes.end_offset.get(),
            end_byte: bytes.end_byte.get(),
            key_count: bytes.key_count.get(),
        })
    }

    /// Offset of the footer block; no batch may reach into it.
    #[must_use]
    pub fn footer_offset(&self) -> u64 {
        self.capacity.saturating_sub(BLOCK_BYTES as u64)
    }
}

impl BatchHeader {
    /// The header of a batch whose records are `records`.
    #[must_use]
    pub fn seal(identity: &SegmentIdentity, start: BatchStart, count: u32, records: &[u8]) -> Option<Self> {
        let mut header = BatchHeader::new_zeroed();
        header.magic = BATCH_MAGIC;
        header.length = U32::new(u32::try_from(records.len()).ok()?);
        header.count = U32::new(count);
        header.first_sequence = U64::new(start.first_sequence);
        header.generation = U64::new(identity.generation);
        header.queue_id = U64::new(identity.queue_id);
        header.epoch = U64::new(start.epoch);
        header.first_byte = U64::new(start.first_byte);
        header.written_at_us = U64::new(start.written_at_us);
        header.crc32c = U32::new(header.crc(records));
        Some(header)
    }

    /// Reads the batch at the start of `bytes` and checks that it is whole, undamaged and
    /// of this life of the file. Returns its header and its records.
    ///
    /// # Errors
    ///
    /// Anything else.
    pub fn decode<'a>(identity: &SegmentIdentity, bytes: &'a [u8]) -> Result<(Self, &'a [u8]), FormatError> {
        let header = Self::peek(identity, bytes)?;
        let records = &bytes[BATCH_HEADER_BYTES..];
        let records = records.get(..header.length.get() as usize).ok_or(FormatError::Short)?;
        if header.count.get() == 0 || header.crc(records) != header.crc32c.get() {
            return Err(FormatError::Checksum);
        }
        Ok((header, records))
    }

    /// Reads a batch header without checking the records, to learn how long the batch says it is.
    ///
    /// # Errors
    ///
    /// [`FormatError::Short`], [`FormatError::Magic`] or [`FormatError::Foreign`].
    pub fn peek(identity: &SegmentIdentity, bytes: &[u8]) -> Result<Self, FormatError> {
        let (header, _) = BatchHeader::read_from_prefix(bytes).map_err(|_| FormatError::Short)?;
        if header.magic != BATCH_MAGIC {
            return Err(FormatError::Magic);
        }
        let is_ours = header.generation.get() == identity.generation && header.queue_id.get() == identity.queue_id;
        if !is_ours && !is_planted(Bug::AcceptStaleBatch) {
            return Err(FormatError::Foreign);
        }
        Ok(header)
    }

    /// Whether a whole batch begins here, of whatever queue and life of the file.
    #[must_use]
    pub fn is_whole(bytes: &[u8]) -> bool {
        let Ok((header, _)) = BatchHeader::read_from_prefix(bytes) else { return false };
        let records = bytes[BATCH_HEADER_BYTES..].get(..header.length.get() as usize);
        header.magic == BATCH_MAGIC && records.is_some_and(|records| header.crc(records) == header.crc32c.get())
    }

    /// Bytes of the batch in the file, padding included.
    #[must_use]
    pub fn padded_bytes(&self) -> usize {
        round_up_to_block(BATCH_HEADER_BYTES + self.length.get() as usize)
    }

    /// The sequence behind the batch's last.
    #[must_use]
    pub fn next_sequence(&self) -> Sequence {
        self.first_sequence.get().saturating_add(u64::from(self.count.get()))
    }

    fn crc(&self, records: &[u8]) -> u32 {
        let crc = crc32c::crc32c(&self.as_bytes()[BATCH_CRC_FROM..]);
        crc32c::crc32c_append(crc, records)
    }
}

/// Where a batch begins, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchStart {
    /// Sequence of its first record.
    pub first_sequence: Sequence,
    /// Bytes of all the queue's records before it.
    pub first_byte: u64,
    /// The start of the process that writes it.
    pub epoch: u64,
    /// Microseconds since the Unix epoch.
    pub written_at_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: SegmentIdentity =
        SegmentIdentity { queue_id: 7, generation: 99, first_sequence: 1000, first_byte: 5, capacity: 1 << 20 };
    const START: BatchStart = BatchStart { first_sequence: 1000, first_byte: 5, epoch: 3, written_at_us: 17 };

    fn batch(records: &[u8]) -> Vec<u8> {
        let header = BatchHeader::seal(&IDENTITY, START, 2, records).unwrap();
        let mut bytes = [header.as_bytes(), records].concat();
        bytes.resize(header.padded_bytes(), 0);
        bytes
    }

    #[test]
    fn headers_and_footers_read_back() {
        let mut block = [1; BLOCK_BYTES];
        IDENTITY.write_header(1, 2, &mut block);
        assert_eq!(SegmentIdentity::read_header(&block), Ok(IDENTITY));
        let footer = Footer { next_sequence: 1002, end_offset: 8192, end_byte: 9, key_count: 1 };
        IDENTITY.write_footer(&footer, &mut block);
        assert_eq!(IDENTITY.read_footer(&block), Ok(footer));
        let later = SegmentIdentity { generation: 100, ..IDENTITY };
        assert_eq!(later.read_footer(&block), Err(FormatError::Foreign));
    }

    #[test]
    fn a_batch_of_a_former_life_or_another_queue_is_foreign() {
        let bytes = batch(b"records");
        assert!(BatchHeader::decode(&IDENTITY, &bytes).is_ok());
        for other in [SegmentIdentity { generation: 98, ..IDENTITY }, SegmentIdentity { queue_id: 8, ..IDENTITY }] {
            assert_eq!(BatchHeader::decode(&other, &bytes).unwrap_err(), FormatError::Foreign);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = batch(b"some records");
        let meaningful = BATCH_HEADER_BYTES + b"some records".len();
        let mut block = [0; BLOCK_BYTES];
        IDENTITY.write_header(1, 2, &mut block);
        for bit in 0..meaningful * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchHeader::decode(&IDENTITY, &damaged).is_err(), "batch bit {bit}");
        }
        for bit in 0..size_of::<SegmentHeader>() * 8 {
            let mut damaged = block;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentIdentity::read_header(&damaged).is_err(), "header bit {bit}");
        }
    }
}
