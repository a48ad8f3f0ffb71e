//! Records as a sink sends them, encoded before they are a batch: while the sink works on the batch before theirs.
//!
//! This saves time and decides nothing. A sink takes only what its own encoder has made, encodes the rest of the batch itself,
//! and whatever is wrong with a record comes to light when it does so.

use std::fmt::Debug;
use std::ptr;
use std::sync::Arc;

use bytes::Bytes;

use super::{Delivery, SinkError};
use crate::limits::{ENCODED_AHEAD_BYTES_MAX, ENCODED_AHEAD_RECORD_BYTES_MAX};

/// Records that are encoded before other tasks get a turn.
const RECORDS_A_TURN: usize = 64;
/// Bytes of rows that are.
const BYTES_A_TURN: usize = 16 * 1024;

/// How a sink encodes records, each by itself.
pub trait Encode: Debug + Send + Sync {
    /// Appends what is sent of a record, and returns how many rows that is. Stops soon once `out` has more than `bytes_max`: the rows
    /// of a record may be far more than its body.
    ///
    /// # Errors
    ///
    /// [`SinkError::Permanent`] if it cannot be encoded, or is too much; `out` then ends anywhere.
    fn append(&self, delivery: &Delivery<'_>, bytes_max: usize, out: &mut Vec<u8>) -> Result<u64, SinkError>;
}

/// An encoder, known by its address: what encodes otherwise, because a new session has found the table changed, is another one.
pub type Encoder = Arc<dyn Encode>;

/// The first records of a lot, encoded: at most [`ENCODED_AHEAD_BYTES_MAX`] bytes, and of one record at most
/// [`ENCODED_AHEAD_RECORD_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct Encoded {
    by: Option<Encoder>,
    bytes: Bytes,
    ends: Vec<End>,
}

/// Where a record ends.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    bytes: usize,
    /// Rows up to there.
    rows: u64,
}

/// The beginning of what will be [`Encoded`].
#[derive(Debug)]
pub struct Encoding {
    by: Encoder,
    bytes: Vec<u8>,
    ends: Vec<End>,
    /// Bytes and records behind which others get their turn.
    turn: (usize, usize),
}

/// What there is of the first records of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Ahead<'a> {
    encoded: &'a Encoded,
    /// Its first record's place in the lot.
    first: usize,
    records: usize,
}

impl Encoding {
    /// Nothing yet, of records with so many bytes.
    #[must_use]
    pub fn new(by: Encoder, records_bytes: usize) -> Self {
        // Rows have about as many bytes as their records.
        let bytes = (records_bytes + records_bytes / 4).min(ENCODED_AHEAD_BYTES_MAX);
        Self { by, bytes: Vec::with_capacity(bytes), ends: Vec::new(), turn: (0, 0) }
    }

    /// Whether others should get their turn before the next record, as they should before the first one.
    pub fn is_turn_over(&mut self) -> bool {
        let (bytes, records) = (self.bytes.len(), self.ends.len());
        let is_over = bytes >= self.turn.0 || records >= self.turn.1;
        if is_over {
            self.turn = (bytes + BYTES_A_TURN, records + RECORDS_A_TURN);
        }
        is_over
    }

    /// Encodes the next record of the lot; `false` if it cannot be, or would make it too much, and so none behind it either.
    pub fn add(&mut self, delivery: &Delivery<'_>) -> bool {
        let before = self.ends.last().copied().unwrap_or_default();
        let bytes_max = ENCODED_AHEAD_BYTES_MAX.min(before.bytes + ENCODED_AHEAD_RECORD_BYTES_MAX);
        match self.by.append(delivery, bytes_max, &mut self.bytes) {
            Ok(rows) if self.bytes.len() <= bytes_max => {
                self.ends.push(End { bytes: self.bytes.len(), rows: before.rows + rows });
                true
            }
            Ok(_) | Err(_) => {
                self.bytes.truncate(before.bytes);
                self.bytes.shrink_to_fit();
                false
            }
        }
    }

    /// Ends it.
    #[must_use]
    pub fn finish(self) -> Encoded {
        Encoded { by: Some(self.by), bytes: self.bytes.into(), ends: self.ends }
    }
}

impl Encoded {
    /// What there is of `records` that follow each other in the lot from the place `first` on; `None` for nothing.
    #[must_use]
    pub fn part(&self, first: usize, records: usize) -> Option<Ahead<'_>> {
        let records = records.min(self.ends.len().saturating_sub(first));
        (records > 0).then_some(Ahead { encoded: self, first, records })
    }

    /// The end of the record before a place.
    fn end_before(&self, place: usize) -> End {
        place.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or_default()
    }
}

impl Ahead<'_> {
    /// Whether this encoder has made it.
    #[must_use]
    pub fn is_by<E: Encode + ?Sized>(&self, encoder: &Arc<E>) -> bool {
        self.encoded.by.as_ref().is_some_and(|by| ptr::addr_eq(Arc::as_ptr(by), Arc::as_ptr(encoder)))
    }

    /// Of how many records it is; at least one.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records
    }

    /// How many rows they are.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.encoded.end_before(self.first + self.records).rows - self.encoded.end_before(self.first).rows
    }

    /// What is sent of them.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        let (start, end) = (self.encoded.end_before(self.first), self.encoded.end_before(self.first + self.records));
        self.encoded.bytes.slice(start.bytes..end.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    /// As many rows as the body has letters; none of an empty one.
    #[derive(Debug)]
    struct Bodies;

    impl Encode for Bodies {
        fn append(&self, delivery: &Delivery<'_>, _: usize, out: &mut Vec<u8>) -> Result<u64, SinkError> {
            out.extend_from_slice(delivery.record.body);
            match delivery.record.body.len() {
                0 => Err(SinkError::Permanent { message: "empty".to_owned() }),
                rows => Ok(rows as u64),
            }
        }
    }

    fn encoded(by: &Encoder, bodies: &[&[u8]]) -> Encoded {
        let mut encoding = Encoding::new(Arc::clone(by), 0);
        let delivery = |body| Delivery { sequence: 1, record: Record { body, ..Record::default() }, ticket: "" };
        let _ = bodies.iter().all(|body| encoding.add(&delivery(body)));
        encoding.finish()
    }

    #[test]
    fn any_records_that_follow_each_other_are_a_part() {
        let by: Encoder = Arc::new(Bodies);
        let encoded = encoded(&by, &[b"a", b"bc", b"def", b"", b"g"]);
        let part = |first, records| {
            let ahead = encoded.part(first, records)?;
            assert!(ahead.is_by(&by));
            Some((ahead.bytes().to_vec(), ahead.records(), ahead.rows()))
        };
        assert_eq!(part(0, 2), Some((b"abc".to_vec(), 2, 3)));
        assert_eq!(part(1, 2), Some((b"bcdef".to_vec(), 2, 5)));
        // The fourth cannot be encoded, and so none behind it is.
        assert_eq!(part(1, 4), Some((b"bcdef".to_vec(), 2, 5)));
        assert_eq!((part(3, 2), part(0, 0), part(9, 1)), (None, None, None));
    }

    #[test]
    fn what_another_encoder_has_made_is_not_ones_own() {
        let by: Encoder = Arc::new(Bodies);
        let other: Encoder = Arc::new(Bodies);
        let encoded = encoded(&by, &[b"a"]);
        assert!(encoded.part(0, 1).is_some_and(|ahead| ahead.is_by(&by) && !ahead.is_by(&other)));
    }

    #[test]
    fn it_has_bounds() {
        let by: Encoder = Arc::new(Bodies);
        let largest = vec![b'a'; ENCODED_AHEAD_RECORD_BYTES_MAX];
        let whole = ENCODED_AHEAD_BYTES_MAX / largest.len();
        let several = encoded(&by, &vec![&largest[..]; whole + 1]);
        let known = several.part(0, whole + 1).map(|ahead| (ahead.records(), ahead.bytes().len()));
        assert_eq!(known, Some((whole, whole * largest.len())));
        let too_large = [&largest[..], b"a"].concat();
        let one = encoded(&by, &[b"a", &too_large, b"a"]);
        assert_eq!(one.part(0, 3).map(|ahead| ahead.records()), Some(1));
    }

    #[test]
    fn turns_end_by_records_and_by_bytes() {
        let turns = |body: &[u8], records| {
            let mut encoding = Encoding::new(Arc::new(Bodies), 0);
            let delivery = Delivery { sequence: 1, record: Record { body, ..Record::default() }, ticket: "" };
            let turns = (0..records).filter(|_| {
                let is_over = encoding.is_turn_over();
                encoding.add(&delivery);
                is_over
            });
            turns.count()
        };
        assert_eq!(turns(b"a", 2 * RECORDS_A_TURN + 1), 3);
        assert_eq!(turns(&vec![b'a'; BYTES_A_TURN], 5), 5);
    }
}
