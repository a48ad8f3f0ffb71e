//! What the stages know of one queue together: its watermarks, and nothing else.
//!
//! A queue is what is accepted and kept, once; an [`Outlet`] is one of the sinks that all of it goes to.
//!
//! Every number here has one writer, named by the struct that holds it; everybody
//! else only reads. The writers' numbers lie on cache lines of their own, and
//! no executor writes to any, so cores share nothing on the way of a record.
//!
//! Invariant, in the order in which a record passes them:
//! `appended >= durable >= released >= delivered >= trimmed`, with the two in the middle those of any outlet.

mod outlet;

use std::sync::Arc;

use crate::config;
use crate::planted::{Bug, is_planted};
use crate::record::Sequence;
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::ticket::TicketCodec;

pub use outlet::{DrainMarks, DrainState, Instructions, Outlet};

/// One queue, as all threads see it.
pub struct Queue {
    /// Its place in the configuration's order; the ring names a queue by it.
    pub index: u16,
    /// Identifies it within its data directory, whatever its place in the configuration.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its settings as they were at the start; what can be changed since is in its outlets.
    pub config: config::Queue,
    /// Makes and reads its tickets.
    pub tickets: TicketCodec,
    /// Written by the journal alone.
    pub journal: JournalMarks,
    /// The sink that its tickets follow.
    pub main: Arc<Outlet>,
    /// Its other sinks, by name.
    pub others: Box<[Arc<Outlet>]>,
}

/// Watermarks and counters of which the journal is the only writer.
#[derive(Default)]
#[repr(align(128))]
pub struct JournalMarks {
    /// The last sequence that was given out.
    pub appended: Mark,
    /// The last sequence that is on disk.
    pub durable: Mark,
    /// Bytes of all records up to `durable`, since the queue was created.
    pub durable_bytes: Mark,
    /// Everything up to here has left the journal.
    pub trimmed: Mark,
    /// Requests answered with an earlier ticket because of their idempotency key.
    pub replayed: Mark,
    /// Idempotency keys forgotten before their window ended, because there were too many.
    pub keys_evicted: Mark,
}

/// A number with one writer and many readers.
#[derive(Default)]
pub struct Mark(AtomicU64);

impl Mark {
    /// The value; whatever was written before it was published is visible too.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Publishes a value. Only the one writer may call this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    /// Adds to a counter without a locked instruction: only the one writer may call this.
    pub fn add(&self, value: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(value), Ordering::Release);
    }
}

impl Queue {
    /// A queue at the start of its life; recovery moves the watermarks afterwards.
    #[must_use]
    pub fn new(index: u16, id: u64, name: &str, config: config::Queue, tickets: TicketCodec) -> Self {
        let main = Arc::new(Outlet::new(None, config.main_outlet()));
        let other = |(name, config): (&String, &config::Outlet)| Arc::new(Outlet::new(Some(name), config.clone()));
        let others = config.sinks.iter().map(other).collect();
        Self { index, id, name: name.to_owned(), config, tickets, journal: JournalMarks::default(), main, others }
    }

    /// All its sinks, the main one first.
    pub fn outlets(&self) -> impl Iterator<Item = &Arc<Outlet>> {
        std::iter::once(&self.main).chain(&self.others)
    }

    /// The sink that has the most bytes of the queue before it: what it has not got cannot leave the journal.
    #[must_use]
    pub fn slowest(&self) -> &Outlet {
        let behind = |outlet: &&Arc<Outlet>| outlet.drain.delivered_bytes.get();
        self.others.iter().min_by_key(behind).filter(|other| behind(other) < behind(&&self.main)).unwrap_or(&self.main)
    }

    /// Everything up to here has been delivered to every sink.
    #[must_use]
    pub fn delivered_to_all(&self) -> Sequence {
        let delivered = self.main.drain.delivered.get();
        if is_planted(Bug::RecycleForMain) {
            return delivered;
        }
        self.others.iter().fold(delivered, |least, outlet| least.min(outlet.drain.delivered.get()))
    }
}

/// What the process as a whole is able to do. The stop and a failed journal stay; a full disk may pass.
#[derive(Default)]
pub struct Health {
    stopping: AtomicBool,
    journal_failed: AtomicBool,
    disk_full: AtomicBool,
    /// Signals that were sent to executors that did not tick. Written by the watchdog alone.
    pub executor_wakeups: Mark,
}

impl Health {
    /// A stop was asked for: nothing new is accepted.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Announces the stop.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// A write or sync failed: nothing will be acknowledged until a restart.
    #[must_use]
    pub fn is_journal_failed(&self) -> bool {
        self.journal_failed.load(Ordering::Acquire)
    }

    /// Announces the failure.
    pub fn set_journal_failed(&self) {
        self.journal_failed.store(true, Ordering::Release);
    }

    /// The last attempt to get a new segment failed. The one flag that can go back.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Acquire)
    }

    /// Says whether the disk had room for a new segment.
    pub fn set_disk_full(&self, full: bool) {
        self.disk_full.store(full, Ordering::Release);
    }
}
