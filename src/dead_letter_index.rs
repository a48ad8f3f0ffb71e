//! Which records of a queue are dead letters, and where their reasons stand.

use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;

use crate::record::Sequence;
use crate::sync::{AtomicU64, Ordering, RwLock};

/// Where the reason of a dead letter stands in the queue's dead-letter file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReasonSpot {
    /// Offset of the JSON string in the file.
    pub offset: u64,
    /// Its length in bytes, quotes included.
    pub length: u32,
}

/// Fills the bytes from an offset of the dead-letter file.
pub type ReasonReader = Box<dyn Fn(&mut [u8], u64) -> io::Result<()> + Send + Sync>;

/// The dead letters of a queue by sequence. The drain writes it, the ticket status
/// reads it; it is not on the way of a record, so a lock is fine.
#[derive(Default)]
pub struct DeadLetterIndex {
    spots: RwLock<BTreeMap<Sequence, ReasonSpot>>,
    count: AtomicU64,
    reader: OnceLock<ReasonReader>,
}

impl DeadLetterIndex {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Says how the reasons are read. Only the first call counts.
    pub fn attach(&self, reader: ReasonReader) {
        let _ = self.reader.set(reader);
    }

    /// Why the sink refused this record, or `None` if it is no dead letter.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or holds something else at that place.
    pub fn reason(&self, sequence: Sequence) -> io::Result<Option<String>> {
        let (Some(spot), Some(read)) = (self.spot(sequence), self.reader.get()) else { return Ok(None) };
        let mut text = vec![0; spot.length as usize];
        read(&mut text, spot.offset)?;
        Ok(Some(serde_json::from_slice(&text)?))
    }

    /// Whether this record is a dead letter.
    #[must_use]
    pub fn contains(&self, sequence: Sequence) -> bool {
        self.spot(sequence).is_some()
    }

    fn spot(&self, sequence: Sequence) -> Option<ReasonSpot> {
        if self.count() == 0 {
            return None;
        }
        let spots = self.spots.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        spots.get(&sequence).copied()
    }

    /// Adds a dead letter; the first reason of a sequence stays.
    pub fn insert(&self, sequence: Sequence, spot: ReasonSpot) {
        let mut spots = self.spots.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        spots.entry(sequence).or_insert(spot);
        self.count.store(spots.len() as u64, Ordering::Release);
    }
}
