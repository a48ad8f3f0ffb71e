//! What is still whole in a damaged stretch of a segment.
//!
//! A batch has one checksum for all of it, and each record has one of its own. So of a
//! batch in which the disk has changed a byte, all records but one are still known to be
//! whole. They are found by walking from record to record, beginning where a batch must
//! begin. Nothing is ever searched for: a client could have put something that looks like
//! a record into a body, and it must not come to life here. Nor is a record taken from a batch
//! that stands in another one's place, since a record does not hold its own sequence. Nothing here
//! does I/O.

use zerocopy::FromBytes;

use super::format::{BATCH_HEADER_BYTES, BatchHeader, SegmentIdentity, round_up_to_block};
use super::scan::DamagedRange;
use crate::limits::BLOCK_BYTES;
use crate::record::{RECORD_HEADER_BYTES, Record, RecordError, RecordHeader, Sequence};

/// A record that is whole, with its bytes as they lie in the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WholeRecord<'a> {
    /// Its number in the queue.
    pub sequence: Sequence,
    /// Its encoded bytes.
    pub bytes: &'a [u8],
    /// Its parts.
    pub record: Record<'a>,
}

/// The records of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRecords<'a> {
    /// Those that are whole.
    pub whole: Vec<WholeRecord<'a>>,
    /// The first that is not, and why.
    pub broken: Option<(Sequence, RecordError)>,
}

/// Takes a batch's records apart: `count` of them, the first with the sequence `first_sequence`.
#[must_use]
pub fn records_of(records: &[u8], first_sequence: Sequence, count: u64) -> BatchRecords<'_> {
    let mut found = BatchRecords { whole: Vec::new(), broken: None };
    // How many were whole before the first that is not.
    let mut before_broken = None;
    let mut rest = records;
    let next_sequence = first_sequence.saturating_add(count);
    let mut sequence = first_sequence;
    while sequence < next_sequence {
        let taken = match Record::decode(rest) {
            Ok((record, taken)) => {
                found.whole.push(WholeRecord { sequence, bytes: &rest[..taken], record });
                taken
            }
            Err(error) => {
                before_broken.get_or_insert(found.whole.len());
                found.broken.get_or_insert((sequence, error));
                let Some(length) = length_of_broken(rest) else { break };
                length
            }
        };
        rest = &rest[taken..];
        sequence += 1;
    }
    if sequence < next_sequence || !rest.is_empty() {
        // The lengths do not lead to the batch's end, so what came behind the first broken record
        // need not have been where a record begins.
        found.broken.get_or_insert((sequence, RecordError::Lengths));
        found.whole.truncate(before_broken.unwrap_or(found.whole.len()));
    }
    found
}

/// How long a record is whose checksum is wrong: by its length, or, if that is what is
/// damaged, by the lengths of its parts. The next record tells which.
fn length_of_broken(rest: &[u8]) -> Option<usize> {
    let (header, _) = RecordHeader::read_from_prefix(rest).ok()?;
    let parts = [header.key_length, header.idempotency_key_length, header.content_type_length];
    let parts = parts.iter().map(|length| usize::from(length.get())).sum::<usize>();
    let by_parts = RECORD_HEADER_BYTES + parts + header.body_length.get() as usize;
    let candidates = [header.length.get() as usize, by_parts];
    let possible = |length: &usize| (RECORD_HEADER_BYTES..=rest.len()).contains(length);
    let leads_on = |length: &usize| *length == rest.len() || Record::decode(&rest[*length..]).is_ok();
    let mut possible = candidates.into_iter().filter(possible);
    let first = possible.clone().next();
    possible.find(leads_on).or(first)
}

/// The records in a damaged stretch that are still whole, in order. `bytes` is the whole file.
#[must_use]
pub fn salvage<'a>(identity: &SegmentIdentity, bytes: &'a [u8], range: &DamagedRange) -> Vec<WholeRecord<'a>> {
    let mut found = Vec::new();
    let astray = batches_astray(identity, bytes, range);
    let mut left = *range;
    while left.offset < left.end_offset && left.first_sequence < left.next_sequence {
        let Some(stretch) = bytes.get(left.offset..left.end_offset) else { break };
        let Some(records) = stretch.get(BATCH_HEADER_BYTES..) else { break };
        // From where another batch stands on, nothing is left of this one.
        let astray = astray.iter().find(|offset| **offset >= left.offset);
        let intact_max = astray.map_or(usize::MAX, |offset| (offset - left.offset).saturating_sub(BATCH_HEADER_BYTES));
        let intact = |records: &'a [u8]| &records[..records.len().min(intact_max)];
        let Some((count, length)) = extent_by_header(identity, stretch, &left).or_else(|| extent_of_all(&left)) else {
            // How long the batch is, nobody knows: only what stands at its beginning is certain.
            let count = left.next_sequence - left.first_sequence;
            found.extend(records_of(intact(records), left.first_sequence, count).whole);
            break;
        };
        let Some(records) = records.get(..length) else { break };
        found.extend(records_of(intact(records), left.first_sequence, count).whole);
        left.offset += round_up_to_block(BATCH_HEADER_BYTES + length);
        left.first_sequence = left.first_sequence.saturating_add(count);
        left.first_byte = left.first_byte.saturating_add(length as u64);
    }
    found
}

/// Where batches stand in the stretch that were not written there: a write went to the wrong place, or one
/// never arrived and shows what a former life of the file has left. None of the stretch's own batches is whole
/// and in its place, or the stretch would end before it.
fn batches_astray(identity: &SegmentIdentity, bytes: &[u8], range: &DamagedRange) -> Vec<usize> {
    let sequences = range.first_sequence..range.next_sequence;
    let places = range.first_byte..range.end_byte;
    let is_astray = |offset: &usize| {
        let Some(batch) = bytes.get(*offset..range.end_offset) else { return false };
        // Damage to a header of the stretch's own leaves one of the two as it was.
        let is_of_elsewhere = BatchHeader::peek(identity, batch).is_ok_and(|header| {
            !sequences.contains(&header.first_sequence.get()) && !places.contains(&header.first_byte.get())
        });
        is_of_elsewhere || BatchHeader::is_whole(batch)
    };
    (range.offset..range.end_offset).step_by(BLOCK_BYTES).filter(is_astray).collect()
}

/// Count and length as the batch's own header says, if that agrees with all that is known.
fn extent_by_header(identity: &SegmentIdentity, stretch: &[u8], left: &DamagedRange) -> Option<(u64, usize)> {
    let header = BatchHeader::peek(identity, stretch).ok()?;
    let (count, length) = (u64::from(header.count.get()), u64::from(header.length.get()));
    let end_byte = left.first_byte.saturating_add(length);
    let follows = header.first_sequence.get() == left.first_sequence && header.first_byte.get() == left.first_byte;
    let fits = header.padded_bytes() <= stretch.len()
        && count > 0
        && header.next_sequence() <= left.next_sequence
        && end_byte <= left.end_byte;
    // If all sequences or all bytes are in this batch, it must be the last one of the stretch.
    let ends = (header.next_sequence() == left.next_sequence) == (end_byte == left.end_byte);
    (follows && fits && ends).then_some((count, usize::try_from(length).ok()?))
}

/// Count and length if all of the stretch was one batch.
fn extent_of_all(left: &DamagedRange) -> Option<(u64, usize)> {
    let length = usize::try_from(left.end_byte.checked_sub(left.first_byte)?).ok()?;
    let padded_bytes = BATCH_HEADER_BYTES.checked_add(length)?.checked_next_multiple_of(BLOCK_BYTES)?;
    let whole = padded_bytes == left.end_offset - left.offset;
    whole.then_some((left.next_sequence - left.first_sequence, length))
}

/// Finds out which life a segment's file is in when its header is damaged: from the first batch
/// of this queue that can belong there. `first_sequence` is that of the file's name, `end_byte`
/// where the segment before ended, if that is known. A former life of the file held older
/// sequences, so its batches are not taken.
#[must_use]
pub fn identity_without_header(
    queue_id: u64,
    first_sequence: Sequence,
    end_byte: Option<u64>,
    bytes: &[u8],
) -> Option<SegmentIdentity> {
    let capacity = bytes.len() as u64;
    (BLOCK_BYTES..bytes.len().saturating_sub(BLOCK_BYTES)).step_by(BLOCK_BYTES).find_map(|offset| {
        let batch = &bytes[offset..];
        let (raw, _) = BatchHeader::read_from_prefix(batch).ok()?;
        let (first, first_byte) = (raw.first_sequence.get(), raw.first_byte.get());
        if raw.generation.get() == 0 || first < first_sequence {
            return None;
        }
        // What lay before a first batch that is damaged is not known from here; a record is at least its header.
        let missing = (first - first_sequence).saturating_mul(RECORD_HEADER_BYTES as u64);
        let first_byte = if missing == 0 { first_byte } else { end_byte.unwrap_or(first_byte.saturating_sub(missing)) };
        let identity =
            SegmentIdentity { queue_id, generation: raw.generation.get(), first_sequence, first_byte, capacity };
        BatchHeader::decode(&identity, batch).ok().map(|_| identity)
    })
}
