//! A lot: records that are ready to be delivered, with the memory that holds them.

// One that only queued the task again would not let the runtime look at its sockets.
use tokio::task::yield_now;

use super::feed::{Feed, FeedError, Taken};
use super::pacer::Pace;
use super::scheduler::Scheduler;
use super::window::Waiting;
use crate::config;
use crate::queue::Queue;
use crate::rate::Rate;
use crate::record::Sequence;
use crate::sink::Delivery;
use crate::sink::encoded::{Encoded, Encoder, Encoding};

/// Records that are ready to be delivered.
#[derive(Default)]
pub(super) struct Lot {
    pub(super) taken: Taken,
    /// The ticket of each.
    pub(super) tickets: Vec<String>,
    /// The first of them, as the sink sends them.
    pub(super) encoded: Encoded,
}

impl Lot {
    pub(super) fn clear(&mut self) {
        self.taken.clear();
        self.tickets.clear();
        self.encoded = Encoded::default();
    }

    /// Takes what a window has picked.
    pub(super) fn fill(&mut self, queue: &Queue, picked: &[Waiting]) {
        self.clear();
        for Waiting { sequence, bytes, start_byte } in picked {
            self.taken.push(*sequence, bytes, start_byte + bytes.len() as u64);
            self.tickets.push(queue.tickets.ticket(*sequence).to_string());
        }
    }

    /// Takes up to `count` records, up to `through`.
    pub(super) async fn take<S: Scheduler>(
        &mut self,
        feed: &mut Feed<S>,
        queue: &Queue,
        count: u64,
        bytes_max: usize,
        through: Sequence,
    ) -> Result<(), FeedError> {
        self.tickets.clear();
        self.encoded = Encoded::default();
        feed.take(count, bytes_max, through, &mut self.taken).await?;
        for sequence in self.taken.sequences() {
            self.tickets.push(queue.tickets.ticket(sequence).to_string());
        }
        Ok(())
    }

    /// Reads the next batch while the one before it is being delivered, if nothing but the sink limits the rate
    /// and there is a whole batch to read.
    pub(super) async fn look<S: Scheduler>(
        &mut self,
        feed: &mut Feed<S>,
        queue: &Queue,
        pace: Pace,
        batch: &config::Batch,
    ) {
        let count = batch.records_max as u64;
        let durable = queue.journal.durable.get();
        let delivered = feed.position();
        if pace.rate != Rate::Unlimited || !self.taken.is_empty() || durable < delivered + count {
            return;
        }
        // The batch that is on its way leaves first.
        yield_now().await;
        if self.take(feed, queue, count, batch.bytes_max, durable).await.is_err() {
            // The error is found again, and dealt with, when it is this batch's turn.
            self.clear();
        }
    }

    /// Encodes its records for the sink, until all are or `is_over`. What of it is to be sent, if at all, is found out when it is.
    pub(super) async fn encode(&mut self, encoder: Encoder, mut is_over: impl FnMut() -> bool) {
        let mut encoding = Encoding::new(encoder, self.taken.bytes());
        for ((sequence, record), ticket) in self.taken.records().zip(&self.tickets) {
            if encoding.is_turn_over() {
                yield_now().await;
                if is_over() {
                    break;
                }
            }
            let Ok(record) = record else { break };
            if !encoding.add(&Delivery { sequence, record, ticket }) {
                break;
            }
        }
        self.encoded = encoding.finish();
    }
}
