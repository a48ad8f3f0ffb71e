//! Where a drain gets its records: fresh ones from the journal's hot ring, and what did
//! not fit there from the segments.
//!
//! The journal pushes a batch into the hot ring if it has room and otherwise leaves it
//! to the disk. So the ring may hold batches that are further on than the drain; they
//! wait there until it has read up to them. Batches that are behind it are thrown away.

use std::sync::Arc;

use zerocopy::{FromZeros, IntoBytes};

use super::scheduler::Scheduler;
use crate::journal::catalogue::Catalogue;
use crate::journal::format::{BATCH_HEADER_BYTES, BatchHeader};
use crate::journal::platform::{Mode, System};
use crate::journal::segment_file::{BatchReader, ReadError};
use crate::record::{Record, RecordError, Sequence};
use crate::sync::Consumer;

/// Bytes of records that are copied from a segment at a time, in whole batches: to have a thread do it costs as much as several batches.
const COLD_BYTES: usize = 1024 * 1024;
/// Records that are taken before other tasks of the drain get a turn.
const RECORDS_A_TURN: usize = 128;

/// Reads one queue's durable records in order.
pub struct Feed<S: Scheduler = System> {
    platform: S,
    hot: Consumer<u8>,
    hot_header: Option<BatchHeader>,
    cold: Cold<S>,
    /// The records of the batches that are being handed out.
    batch: Vec<u8>,
    /// How much of them was handed out.
    taken: usize,
    /// The sequence of the next record.
    next: Sequence,
    /// Bytes of all the queue's records before it.
    next_byte: u64,
}

/// The part that reads files; it goes to a blocking thread and comes back.
struct Cold<S: Scheduler> {
    platform: S,
    catalogue: Arc<Catalogue>,
    /// With the generation of the segment that it reads: a segment may be sealed, and another
    /// opened, while a reader stands at its end.
    reader: Option<(u64, BatchReader<S::File>)>,
    /// The sequence that the reader will read next.
    at: Sequence,
}

/// Records on their way to the sink, with the memory that holds them.
#[derive(Default)]
pub struct Taken {
    bytes: Vec<u8>,
    spans: Vec<(Sequence, std::ops::Range<usize>)>,
    /// Bytes of all the queue's records up to the end of each.
    end_bytes: Vec<u64>,
}

/// Why durable records could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// No segment holds them.
    #[error("no segment holds sequence {0}")]
    Missing(Sequence),
    /// A segment could not be read.
    #[error("{path}: {error}")]
    Segment {
        /// Which.
        path: String,
        /// Why.
        error: ReadError,
    },
    /// A record is damaged although its batch is not.
    #[error("record {sequence}: {error}")]
    Record {
        /// Which.
        sequence: Sequence,
        /// Why.
        error: RecordError,
    },
    /// The thread that reads was cancelled.
    #[error("reading was cancelled")]
    Cancelled,
}

impl FeedError {
    /// Whether it may pass: the disk is intact, but the process had no descriptor or memory for it.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Segment { error: ReadError::Io(_), .. })
    }
}

impl<S: Scheduler> Feed<S> {
    /// A feed that stands before the first record; [`seek`](Self::seek) moves it.
    #[must_use]
    pub fn new(platform: S, hot: Consumer<u8>, catalogue: Arc<Catalogue>) -> Self {
        let cold = Cold { platform: platform.clone(), catalogue, reader: None, at: 0 };
        Self { platform, hot, hot_header: None, cold, batch: Vec::new(), taken: 0, next: 1, next_byte: 0 }
    }

    /// Moves to `next`, which must be durable. Returns the bytes of all the queue's records before it.
    ///
    /// # Errors
    ///
    /// The records cannot be read.
    pub async fn seek(&mut self, next: Sequence) -> Result<u64, FeedError> {
        self.batch.clear();
        self.taken = 0;
        self.next = next;
        self.load(next).await?;
        Ok(self.next_byte)
    }

    /// Moves behind the last durable record, of which nothing needs to be read; `next_byte` is how many bytes all
    /// records have.
    pub fn skip_to(&mut self, next: Sequence, next_byte: u64) {
        self.batch.clear();
        self.taken = 0;
        self.next = next;
        self.next_byte = next_byte;
    }

    /// The last sequence that was handed out.
    #[must_use]
    pub fn position(&self) -> Sequence {
        self.next - 1
    }

    /// Bytes of all the queue's records up to [`position`](Self::position).
    #[must_use]
    pub fn position_bytes(&self) -> u64 {
        self.next_byte
    }

    /// Takes up to `records_max` records up to `through` and up to `bytes_max` (but at least one)
    /// into `taken`. All of them must be durable.
    ///
    /// # Errors
    ///
    /// The next record cannot be read, and `taken` is empty.
    pub async fn take(
        &mut self,
        records_max: u64,
        bytes_max: usize,
        through: Sequence,
        taken: &mut Taken,
    ) -> Result<(), FeedError> {
        taken.clear();
        while self.next <= through && (taken.spans.len() as u64) < records_max {
            let ready = if self.taken == self.batch.len() { self.load(through).await } else { Ok(()) };
            let length = match ready.and_then(|()| self.decode().map(|(_, length)| length)) {
                Ok(length) => length,
                // What is readable goes on its way first; the error is found again at the next call.
                Err(_) if !taken.spans.is_empty() => return Ok(()),
                Err(error) => return Err(error),
            };
            if !taken.spans.is_empty() && taken.bytes.len() + length > bytes_max {
                break;
            }
            let end_byte = self.next_byte + length as u64;
            taken.push(self.next, &self.batch[self.taken..self.taken + length], end_byte);
            self.advance(length);
            if taken.spans.len().is_multiple_of(RECORDS_A_TURN) {
                // Whoever sends the batch before this one should not have to wait for all of it. This yield lets the runtime
                // look at its sockets; one that only queued the task again would not.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    fn decode(&self) -> Result<(Record<'_>, usize), FeedError> {
        Record::decode(&self.batch[self.taken..]).map_err(|error| FeedError::Record { sequence: self.next, error })
    }

    fn advance(&mut self, length: usize) {
        self.taken += length;
        self.next += 1;
        self.next_byte += length as u64;
    }

    /// Loads the batch that holds `next`, maybe with others behind it up to `through`, and moves within it to that record.
    async fn load(&mut self, through: Sequence) -> Result<(), FeedError> {
        let first = match self.load_hot() {
            Some(header) => header,
            None => self.load_cold(through).await?,
        };
        let wanted = self.next;
        self.taken = 0;
        self.next = first.first_sequence.get();
        self.next_byte = first.first_byte.get();
        while self.next < wanted {
            let (_, length) = self.decode()?;
            self.advance(length);
        }
        Ok(())
    }

    /// Takes the batch from the hot ring if the next record is in the first one there.
    fn load_hot(&mut self) -> Option<BatchHeader> {
        loop {
            let header = self.peek_hot()?;
            let length = header.length.get() as usize;
            if header.first_sequence.get() > self.next || self.hot.slots() < length {
                return None;
            }
            self.hot_header = None;
            if header.next_sequence() > self.next {
                self.batch.resize(length, 0);
                self.hot.pop_entire_slice(&mut self.batch).ok()?;
                return Some(header);
            }
            self.hot.read_chunk(length).ok()?.commit_all();
        }
    }

    fn peek_hot(&mut self) -> Option<BatchHeader> {
        if self.hot_header.is_none() && self.hot.slots() >= BATCH_HEADER_BYTES {
            let mut header = BatchHeader::new_zeroed();
            self.hot.pop_entire_slice(header.as_mut_bytes()).ok()?;
            self.hot_header = Some(header);
        }
        self.hot_header
    }

    async fn load_cold(&mut self, through: Sequence) -> Result<BatchHeader, FeedError> {
        let mut batch = std::mem::take(&mut self.batch);
        let catalogue = Arc::clone(&self.cold.catalogue);
        let empty = Cold { platform: self.platform.clone(), catalogue, reader: None, at: 0 };
        let mut cold = std::mem::replace(&mut self.cold, empty);
        let wanted = self.next;
        // What waits in the hot ring comes from there.
        let before_hot = self.hot_header.map_or(through, |header| header.first_sequence.get().saturating_sub(1));
        let through = through.min(before_hot).max(wanted);
        // Reading a segment takes milliseconds, in which other queues have departures to keep.
        let read = self.platform.blocking(move || {
            let result = cold.read(wanted, through, &mut batch);
            (cold, batch, result)
        });
        let (cold, batch, result) = read.await.ok_or(FeedError::Cancelled)?;
        self.cold = cold;
        self.batch = batch;
        result
    }
}

impl<S: Scheduler> Cold<S> {
    /// Reads the batch that holds `wanted` into `batch`, and others behind it: as long as the last one does not reach `through`,
    /// up to which everything is durable, the segment goes on, and it is not enough yet. Returns the first one's header.
    fn read(&mut self, wanted: Sequence, through: Sequence, batch: &mut Vec<u8>) -> Result<BatchHeader, FeedError> {
        loop {
            let segment = self.catalogue.find(wanted).ok_or(FeedError::Missing(wanted))?;
            let failed = |error: ReadError| FeedError::Segment { path: segment.path.display().to_string(), error };
            // A reader that has gone past the record, or reads another segment, is of no use.
            let generation = segment.identity.generation;
            let usable = |(of, _): &(u64, BatchReader<S::File>)| *of == generation && self.at <= wanted;
            let mut reader = if let Some((_, reader)) = self.reader.take().filter(usable) {
                reader
            } else {
                self.at = segment.identity.first_sequence;
                let file = self.platform.open(&segment.path, Mode::Segment { write: false });
                let file = file.map_err(|error| failed(error.into()))?;
                BatchReader::new(file, segment.identity).map_err(|error| failed(error.into()))?
            };
            let (header, records) = reader.next_batch().map_err(failed)?;
            self.at = header.next_sequence();
            let found = self.at > wanted;
            if found {
                batch.clear();
                batch.extend_from_slice(records);
                while self.at <= through && segment.sealed_next != Some(self.at) && batch.len() < COLD_BYTES {
                    // If it cannot be read, that is found again when it is wanted.
                    let Ok((next, records)) = reader.next_batch() else { break };
                    batch.extend_from_slice(records);
                    self.at = next.next_sequence();
                }
            }
            // At the end of a sealed segment the next record is in another file.
            let at_end = segment.sealed_next == Some(self.at);
            self.reader = (!at_end).then_some((generation, reader));
            if found {
                return Ok(header);
            }
        }
    }
}

impl Taken {
    /// The sequences in order.
    #[must_use]
    pub fn sequences(&self) -> impl ExactSizeIterator<Item = Sequence> {
        self.spans.iter().map(|(sequence, _)| *sequence)
    }

    /// The records in order, as bytes, each with the bytes of all the queue's records up to its end.
    pub fn encoded(&self) -> impl Iterator<Item = (Sequence, &[u8], u64)> {
        let spans = self.spans.iter().zip(&self.end_bytes);
        spans.map(|((sequence, span), end_byte)| (*sequence, &self.bytes[span.clone()], *end_byte))
    }

    /// The records in order.
    pub fn records(&self) -> impl Iterator<Item = (Sequence, Result<Record<'_>, RecordError>)> {
        self.spans
            .iter()
            .map(|(sequence, span)| (*sequence, Record::decode(&self.bytes[span.clone()]).map(|(record, _)| record)))
    }

    /// How many bytes they have.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Bytes of all the queue's records up to the end of the `count`th one here.
    #[must_use]
    pub fn end_byte(&self, count: u64) -> Option<u64> {
        self.end_bytes.get(usize::try_from(count.checked_sub(1)?).ok()?).copied()
    }

    /// Lets go of all of them.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
        self.end_bytes.clear();
    }

    /// Adds a record.
    pub fn push(&mut self, sequence: Sequence, record: &[u8], end_byte: u64) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(record);
        self.spans.push((sequence, start..self.bytes.len()));
        self.end_bytes.push(end_byte);
    }
}
