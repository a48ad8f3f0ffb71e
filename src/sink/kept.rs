//! Sinks that cannot keep our position: it is kept in a file of the data directory.
//!
//! A [`Carrier`] takes records, each at least once: between its taking one and our noting so, a crash has it sent again, with the
//! same ticket. Within a life of the process nothing that was taken is sent again, whatever becomes of its neighbours: what the
//! carrier has taken or refused is remembered until the position has passed it.
//!
//! The file is not synced with every batch. What a power cut takes back is what the journal still has, or what it
//! has given up because it was delivered; so a position before the journal's first record means that record
//! ([`Sink::is_position_kept_here`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::sqlite::Sqlite;
use super::{Batch, Claim, Delivery, Part, Sink, SinkError, SinkFuture};
use crate::config;
use crate::progress::Progress;
use crate::record::Sequence;

/// Takes records and keeps no position.
pub(super) trait Carrier: Send {
    /// Connects, if it is not connected.
    fn connect(&mut self) -> SinkFuture<'_, ()>;

    /// Sends records and says in `outcome` which were taken and which were refused for good. Fails if any could not be settled;
    /// those that were are in `outcome` all the same. `deliveries` are in an order that may be kept. A strict order must be, and
    /// with `order = "key"` that of records with one key, of which a batch can hold several; where a part
    /// [reorders](Part::reorders), others may be sent in any order and all at once.
    fn deliver<'a>(&'a mut self, deliveries: &'a [Delivery<'a>], outcome: &'a mut Outcome) -> SinkFuture<'a, ()>;

    /// Says everything that can be found wrong without delivering.
    fn check(&mut self) -> SinkFuture<'_, Vec<String>>;
}

/// What became of records.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    taken: BTreeSet<Sequence>,
    refused: BTreeMap<Sequence, String>,
}

impl Outcome {
    /// A record has arrived.
    pub(super) fn take(&mut self, sequence: Sequence) {
        self.taken.insert(sequence);
    }

    /// A record will never be taken, for this reason.
    pub(super) fn refuse(&mut self, sequence: Sequence, reason: String) {
        self.refused.insert(sequence, reason);
    }

    fn is_settled(&self, sequence: Sequence) -> bool {
        self.taken.contains(&sequence) || self.refused.contains_key(&sequence)
    }

    fn forget(&mut self, batch: &Batch<'_>) {
        for delivery in batch.deliveries {
            self.taken.remove(&delivery.sequence);
        }
        // Refused ones became dead letters and are in no batch.
        self.refused = self.refused.split_off(&(batch.through + 1));
    }
}

/// A carrier with its position.
pub(super) struct Kept<C> {
    carrier: C,
    positions: Sqlite,
    outcome: Outcome,
}

impl<C: Carrier> Kept<C> {
    pub(super) fn new(carrier: C, sink: &config::Sink, part: Part, data_dir: &Path) -> Self {
        let path = data_dir.join(format!("{}.positions.db", part.queue));
        let positions = Sqlite::of_positions(path, part, Duration::from_millis(sink.commit_timeout_ms));
        Self { carrier, positions, outcome: Outcome::default() }
    }

    async fn deliver_and_note(&mut self, batch: Batch<'_>) -> Result<(), SinkError> {
        let is_new = |delivery: &&Delivery<'_>| !self.outcome.is_settled(delivery.sequence);
        let new: Vec<_> = batch.deliveries.iter().filter(is_new).copied().collect();
        if !new.is_empty() {
            self.carrier.deliver(&new, &mut self.outcome).await?;
        }
        let refused = batch.deliveries.iter().find_map(|delivery| self.outcome.refused.get(&delivery.sequence));
        if let Some(message) = refused {
            return Err(SinkError::Permanent { message: message.clone() });
        }
        self.positions.commit(Batch { deliveries: &[], ..batch }).await?;
        self.outcome.forget(&batch);
        Ok(())
    }
}

impl<C: Carrier> Sink for Kept<C> {
    fn take_over(&mut self) -> SinkFuture<'_, Progress> {
        Box::pin(async {
            self.carrier.connect().await?;
            self.positions.take_over().await
        })
    }

    fn lanes(&mut self) -> SinkFuture<'_, Vec<u32>> {
        self.positions.lanes()
    }

    fn claim(&self) -> Option<Claim> {
        self.positions.claim()
    }

    fn is_position_kept_here(&self) -> bool {
        true
    }

    fn commit<'a>(&'a mut self, batch: Batch<'a>) -> SinkFuture<'a, ()> {
        Box::pin(self.deliver_and_note(batch))
    }

    fn check(&mut self) -> SinkFuture<'_, Vec<String>> {
        self.carrier.check()
    }
}
