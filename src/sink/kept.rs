//! Sinks that cannot keep our position: it is kept in a file of the data directory.
//!
//! A [`Carrier`] takes records, each at least once: between its taking one and our noting so, a crash has it sent again, with the
//! same ticket. Within a life of the process nothing that was taken is sent again, whatever becomes of its neighbours: what the
//! carrier has taken or refused is remembered until the position has passed it.
//!
//! The file is synced with every batch, as that of a SQLite sink: a position before what the journal still has is then never the work
//! of a power cut, but of somebody who took the sink out for a while, or the file away, and the queue says so and halts.

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

    /// Whether a record was taken or refused.
    pub(super) fn is_settled(&self, sequence: Sequence) -> bool {
        self.taken.contains(&sequence) || self.refused.contains_key(&sequence)
    }

    /// What is committed does not come again.
    fn forget(&mut self, batch: &Batch<'_>) {
        for delivery in batch.deliveries {
            self.taken.remove(&delivery.sequence);
        }
        // Those that were given up before they could be committed, too old or expired, come in no batch.
        self.taken = self.taken.split_off(&(batch.through + 1));
        self.refused = self.refused.split_off(&(batch.through + 1));
    }

    /// Why a record of these was refused. If it is the only one it becomes a dead letter, and when it is sent again somebody
    /// has asked for that and may have edited it: then the carrier has to look at it again.
    fn refusal(&mut self, deliveries: &[Delivery<'_>]) -> Option<String> {
        match deliveries {
            [only] => self.refused.remove(&only.sequence),
            several => several.iter().find_map(|delivery| self.refused.get(&delivery.sequence)).cloned(),
        }
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
        let path = data_dir.join(part.file_name("positions.db"));
        let positions = Sqlite::of_positions(path, part, Duration::from_millis(sink.commit_timeout_ms));
        Self { carrier, positions, outcome: Outcome::default() }
    }

    async fn deliver_and_note(&mut self, batch: Batch<'_>) -> Result<(), SinkError> {
        let is_new = |delivery: &&Delivery<'_>| !self.outcome.is_settled(delivery.sequence);
        let new: Vec<_> = batch.deliveries.iter().filter(is_new).copied().collect();
        if !new.is_empty() {
            self.carrier.deliver(&new, &mut self.outcome).await?;
        }
        if let Some(message) = self.outcome.refusal(batch.deliveries) {
            return Err(SinkError::Permanent { message });
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

    fn commit<'a>(&'a mut self, batch: Batch<'a>) -> SinkFuture<'a, ()> {
        Box::pin(self.deliver_and_note(batch))
    }

    fn check(&mut self) -> SinkFuture<'_, Vec<String>> {
        self.carrier.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Attributes, NO_KEY, Record};

    /// Takes what it is told to, and notes what it was sent.
    #[derive(Default)]
    struct Picky {
        sent: Vec<Vec<Sequence>>,
        refuses: BTreeSet<Sequence>,
        /// How many it takes of a delivery before its connection breaks.
        breaks_after: Option<usize>,
    }

    impl Carrier for Picky {
        fn connect(&mut self) -> SinkFuture<'_, ()> {
            Box::pin(async { Ok(()) })
        }

        fn deliver<'a>(&'a mut self, deliveries: &'a [Delivery<'a>], outcome: &'a mut Outcome) -> SinkFuture<'a, ()> {
            Box::pin(async {
                self.sent.push(deliveries.iter().map(|delivery| delivery.sequence).collect());
                let breaks_after = self.breaks_after.take();
                for Delivery { sequence, .. } in deliveries.iter().take(breaks_after.unwrap_or(usize::MAX)) {
                    if self.refuses.contains(sequence) {
                        outcome.refuse(*sequence, format!("{sequence} is not welcome"));
                    } else {
                        outcome.take(*sequence);
                    }
                }
                breaks_after.map_or(Ok(()), |_| Err(SinkError::Transient("it broke".to_owned())))
            })
        }

        fn check(&mut self) -> SinkFuture<'_, Vec<String>> {
            Box::pin(async { Ok(Vec::new()) })
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn kept(carrier: Picky, directory: &Path) -> Kept<Picky> {
        let part = Part::new("orders".to_owned(), None, "orders/1".to_owned(), false, 0);
        let positions = Sqlite::of_positions(directory.join("positions.db"), part, Duration::from_mins(1));
        Kept { carrier, positions, outcome: Outcome::default() }
    }

    async fn commit(sink: &mut Kept<Picky>, after: Sequence, sequences: &[Sequence]) -> Result<(), SinkError> {
        let through = sequences.last().copied().unwrap_or(after).max(after + 1);
        let record = Record {
            received_at_us: 0,
            idempotency_hash: NO_KEY,
            group_count: 1,
            key: b"",
            idempotency_key: b"",
            content_type: b"",
            attributes: Attributes::NONE,
            body: b"",
        };
        let delivery = |sequence: &Sequence| Delivery { sequence: *sequence, record, ticket: "" };
        let deliveries: Vec<_> = sequences.iter().map(delivery).collect();
        sink.commit(Batch { after, through, beyond: None, deliveries: &deliveries, witnesses: &[], ahead: None }).await
    }

    fn refusal(sequence: Sequence) -> Result<(), SinkError> {
        Err(SinkError::Permanent { message: format!("{sequence} is not welcome") })
    }

    #[test]
    fn what_was_taken_is_not_sent_again_with_what_was_not() {
        let directory = tempfile::tempdir().unwrap();
        let carrier = Picky { breaks_after: Some(2), ..Picky::default() };
        let mut sink = kept(carrier, directory.path());
        runtime().block_on(async {
            sink.take_over().await.unwrap();
            assert!(matches!(commit(&mut sink, 0, &[1, 2, 3, 4]).await, Err(SinkError::Transient(_))));
            assert_eq!(sink.take_over().await, Ok(Progress::up_to(0)));
            assert_eq!(commit(&mut sink, 0, &[1, 2, 3, 4]).await, Ok(()));
            assert_eq!(sink.take_over().await, Ok(Progress::up_to(4)));
        });
        assert_eq!(sink.carrier.sent, [vec![1, 2, 3, 4], vec![3, 4]]);
        assert!(sink.outcome.taken.is_empty(), "{:?}", sink.outcome);
    }

    #[test]
    fn neighbours_of_a_refused_record_are_not_sent_again() {
        let directory = tempfile::tempdir().unwrap();
        let carrier = Picky { refuses: [2].into(), ..Picky::default() };
        let mut sink = kept(carrier, directory.path());
        runtime().block_on(async {
            sink.take_over().await.unwrap();
            assert_eq!(commit(&mut sink, 0, &[1, 2, 3]).await, refusal(2));
            assert_eq!(commit(&mut sink, 0, &[1]).await, Ok(()));
            assert_eq!(commit(&mut sink, 1, &[2, 3]).await, refusal(2));
            assert_eq!(commit(&mut sink, 1, &[2]).await, refusal(2));
            assert_eq!(commit(&mut sink, 1, &[]).await, Ok(()));
            assert_eq!(commit(&mut sink, 2, &[3]).await, Ok(()));
        });
        assert_eq!(sink.carrier.sent, [[1, 2, 3]]);
        assert!(sink.outcome.taken.is_empty() && sink.outcome.refused.is_empty(), "{:?}", sink.outcome);
    }

    /// As a redrive does, whose positions are not sequences.
    #[test]
    fn a_letter_that_was_refused_is_looked_at_again_when_it_is_sent_again() {
        let directory = tempfile::tempdir().unwrap();
        let carrier = Picky { refuses: [7].into(), ..Picky::default() };
        let mut sink = kept(carrier, directory.path());
        runtime().block_on(async {
            sink.take_over().await.unwrap();
            assert_eq!(commit(&mut sink, 0, &[7]).await, refusal(7));
            assert_eq!(commit(&mut sink, 0, &[7]).await, refusal(7));
            // Somebody has edited it, or told the carrier to take it.
            sink.carrier.refuses.clear();
            assert_eq!(commit(&mut sink, 0, &[7]).await, Ok(()));
        });
        assert_eq!(sink.carrier.sent, [[7], [7], [7]]);
    }
}
