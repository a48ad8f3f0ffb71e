//! What the stages know of one sink of a queue together: what its drain is told, how far it has come, and what it refused.

use std::io;
use std::sync::{Arc, PoisonError};

use tokio::sync::watch;

use super::{JournalMarks, Mark};
use crate::config;
use crate::dead_letter_index::{DeadLetterIndex, Fate};
use crate::planted::{Bug, is_planted};
use crate::progress::Progress;
use crate::rate::Rate;
use crate::record::Sequence;
use crate::sync::{AtomicU8, Notify, Ordering, RwLock};

/// One of the sinks that a queue's records go to, as all threads see it.
pub struct Outlet {
    /// Its name within the queue; `None` for the queue's main sink, which tickets follow.
    pub name: Option<String>,
    /// Its settings as they were at the start; what can be changed since is in `instructions`.
    pub config: config::Outlet,
    /// What the drain is told; it follows at once.
    pub instructions: watch::Sender<Instructions>,
    /// Written by the drain alone.
    pub drain: DrainMarks,
    /// Records that the sink refused for good.
    pub dead_letters: Arc<DeadLetterIndex>,
    /// Rung by the journal when `durable` has moved.
    pub durable_moved: Notify,
    /// Records up to here are not for this sink: they had left the journal before it was added. Written by recovery.
    pub begins_after: Mark,
}

/// What a queue's drain is told while it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Instructions {
    /// How records leave.
    pub shaping: config::Shaping,
    /// Nothing leaves, and everything is accepted.
    pub is_paused: bool,
}

/// Watermarks and counters of which the drain is the only writer.
#[derive(Default)]
#[repr(align(128))]
pub struct DrainMarks {
    /// The last sequence that was handed to the sink.
    pub released: Mark,
    /// The last sequence that the sink has committed (or that is a dead letter).
    pub delivered: Mark,
    /// Bytes of all records up to `delivered`, since the queue was created.
    pub delivered_bytes: Mark,
    /// Transactions that the sink committed.
    pub batches: Mark,
    /// Attempts that failed and were repeated.
    pub retries: Mark,
    /// Picoseconds between two departures at the rate of this moment; 0 for no limit.
    pub interval_ps: Mark,
    /// The same at the ceiling of this moment, which is more where the sink is in trouble.
    pub ceiling_interval_ps: Mark,
    /// Lanes that there are, each with a connection to the sink.
    pub lanes: Mark,
    /// Transactions that are on their way to the sink.
    pub in_flight: Mark,
    /// Records a second, measured over the last seconds; 0 while unknown.
    pub rate_measured: Mark,
    /// Records beyond `delivered` that the sink has committed too, since the queue need not be delivered in order.
    pub beyond_records: Mark,
    /// Records that were read and wait for their turn, in such a queue.
    pub window_records: Mark,
    /// Bytes of those.
    pub window_bytes: Mark,
    /// Which ones are beyond; current as long as there are any.
    progress: RwLock<Arc<Progress>>,
    state: AtomicU8,
}

/// What a queue's drain is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainState {
    /// Not yet connected to the sink for the first time.
    Connecting,
    /// Delivering, or waiting for records.
    Running,
    /// The last attempt failed; waiting to try again.
    Retrying,
    /// Somebody has told it to.
    Paused,
    /// It cannot go on without a person: another process took over, or the positions contradict.
    Halted,
}

impl DrainMarks {
    /// Publishes what is delivered. Only the drain may call this.
    pub fn publish(&self, progress: &Arc<Progress>) {
        let beyond = if progress.is_in_order() { 0 } else { progress.count_beyond_below(Sequence::MAX) };
        if beyond > 0 || self.beyond_records.get() > 0 {
            *self.progress.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(progress);
        }
        // Before the number, so that whoever finds none beyond finds a position that has passed them.
        self.delivered.set(progress.through());
        self.beyond_records.set(beyond);
    }

    /// What the drain is doing.
    #[must_use]
    pub fn state(&self) -> DrainState {
        match self.state.load(Ordering::Acquire) {
            0 => DrainState::Connecting,
            1 => DrainState::Running,
            2 => DrainState::Retrying,
            3 => DrainState::Paused,
            _ => DrainState::Halted,
        }
    }

    /// Publishes what the drain is doing.
    pub fn set_state(&self, state: DrainState) {
        self.state.store(state as u8, Ordering::Release);
    }
}

impl Outlet {
    /// A sink at the start of its life; recovery moves the watermarks afterwards.
    #[must_use]
    pub fn new(name: Option<&str>, config: config::Outlet) -> Self {
        let instructions = Instructions { shaping: config.shaping.clone(), is_paused: false };
        let drain = DrainMarks::default();
        for mark in [&drain.interval_ps, &drain.ceiling_interval_ps] {
            mark.set(config.shaping.rate.interval_ps());
        }
        Self {
            name: name.map(str::to_owned),
            config,
            instructions: watch::Sender::new(instructions),
            drain,
            dead_letters: Arc::default(),
            durable_moved: Notify::new(),
            begins_after: Mark::default(),
        }
    }

    /// Records that are on disk and not yet delivered.
    #[must_use]
    pub fn backlog_records(&self, journal: &JournalMarks) -> u64 {
        // The smaller mark is read first: both only grow, so the difference cannot be negative.
        let delivered = self.drain.delivered.get() + self.drain.beyond_records.get();
        journal.durable.get().saturating_sub(delivered)
    }

    /// Bytes of the records that are on disk and not yet delivered.
    #[must_use]
    pub fn backlog_bytes(&self, journal: &JournalMarks) -> u64 {
        let delivered = self.drain.delivered_bytes.get();
        journal.durable_bytes.get().saturating_sub(delivered)
    }

    /// How many records must be delivered until this one is, itself included; 0 once it is. In a queue that need not be
    /// delivered in order it is how many came before it and are not delivered.
    #[must_use]
    pub fn position(&self, sequence: Sequence) -> u64 {
        if self.drain.beyond_records.get() == 0 {
            return sequence.saturating_sub(self.drain.delivered.get());
        }
        let progress = Arc::clone(&self.drain.progress.read().unwrap_or_else(PoisonError::into_inner));
        if progress.contains(sequence) {
            return 0;
        }
        sequence - progress.through() - progress.count_beyond_below(sequence)
    }

    /// How fast records may leave at this moment.
    #[must_use]
    pub fn rate(&self) -> Rate {
        Rate::from_interval_ps(self.drain.interval_ps.get())
    }

    /// The ceiling of this moment: [`rate`](Self::rate), if the sink is not in trouble.
    #[must_use]
    pub fn ceiling(&self) -> Rate {
        Rate::from_interval_ps(self.drain.ceiling_interval_ps.get())
    }

    /// What a ticket's status is made of: the record's [`position`](Self::position), and its fate, if it is or was a
    /// dead letter.
    ///
    /// # Errors
    ///
    /// The reason of a dead letter cannot be read.
    pub fn position_and_fate(&self, sequence: Sequence) -> io::Result<(u64, Option<Fate>)> {
        if is_planted(Bug::FateBeforePosition) {
            let fate = self.dead_letters.fate(sequence)?;
            return Ok((self.position(sequence), fate));
        }
        // In this order: the drain sets a record aside before it passes it, so whoever sees that it has been passed
        // finds its fate.
        let position = self.position(sequence);
        Ok((position, self.dead_letters.fate(sequence)?))
    }

    /// Milliseconds until `position` records are delivered, at the rate of this moment or, when
    /// that is unlimited, at the measured one. `None` while the drain delivers nothing.
    #[must_use]
    pub fn eta_ms(&self, position: u64) -> Option<u64> {
        if position == 0 {
            return Some(0);
        }
        if self.drain.state() != DrainState::Running {
            return None;
        }
        match self.rate() {
            Rate::Unlimited => {
                let measured = self.drain.rate_measured.get();
                (measured > 0).then(|| position.saturating_mul(1000).div_ceil(measured))
            }
            limited @ Rate::Limited { .. } => Some(limited.time_for_ns(position).div_ceil(1_000_000)),
        }
    }
}
