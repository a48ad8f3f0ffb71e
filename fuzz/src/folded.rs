//! Segment files as a fuzzer sees them: without the zeros that fill their blocks, which are most of their bytes and
//! say nothing. Each block is a length (two bytes, little-endian) and so many bytes.

use forebay::limits::BLOCK_BYTES;

/// Blocks of a file at most, so that one run stays short.
pub const BLOCKS_MAX: usize = 32;

/// The file that `folded` stands for. Any bytes stand for one.
#[must_use]
pub fn unfold(mut folded: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    while let Some((length, rest)) = folded.split_first_chunk::<2>()
        && file.len() < BLOCKS_MAX * BLOCK_BYTES
    {
        let length = usize::from(u16::from_le_bytes(*length)).min(BLOCK_BYTES).min(rest.len());
        let (block, behind) = rest.split_at(length);
        file.extend_from_slice(block);
        file.resize(file.len() - length + BLOCK_BYTES, 0);
        folded = behind;
    }
    file
}

/// The opposite of [`unfold`], for a file of whole blocks.
#[must_use]
pub fn fold(file: &[u8]) -> Vec<u8> {
    let mut folded = Vec::new();
    for block in file.chunks(BLOCK_BYTES) {
        let length = block.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        folded.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes());
        folded.extend_from_slice(&block[..length]);
    }
    folded
}

/// Makes the checksums of whatever looks like a header, a batch, a record or a footer right. A fuzzer that changes a
/// byte would otherwise never get behind the first comparison.
pub fn reseal(file: &mut [u8]) {
    let last = (file.len() / BLOCK_BYTES).saturating_sub(1);
    for (index, offset) in (0..file.len()).step_by(BLOCK_BYTES).enumerate() {
        let block = &mut file[offset..];
        if index == 0 {
            seal(block, 0..72, 72);
        } else if block.starts_with(b"FBba") {
            reseal_batch(block);
        } else if index == last {
            seal(block, 0..64, 64);
        }
    }
}

fn reseal_batch(batch: &mut [u8]) {
    let end = 64 + number(batch, 8);
    let Some(records) = batch.get_mut(64..end) else { return };
    let mut at = 0;
    while let length = number(&records[at..], 0)
        && length >= 48
        && at + length <= records.len()
    {
        seal(&mut records[at..at + length], 8..length, 4);
        at += length;
    }
    seal(batch, 8..end, 4);
}

/// Puts the checksum of `bytes[covered]` to `at`.
fn seal(bytes: &mut [u8], covered: std::ops::Range<usize>, at: usize) {
    let crc = crc32c::crc32c(&bytes[covered]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// The four bytes at `at` as a number, or 0 if there are no four.
#[must_use]
pub fn number(bytes: &[u8], at: usize) -> usize {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    four.map_or(0, |four| u32::from_le_bytes(*four) as usize)
}
