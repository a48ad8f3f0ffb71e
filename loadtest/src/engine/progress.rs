//! Counters that another thread may read while a run goes on, and the flag that stops it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The state of a run, shared between the engine and whoever watches it.
///
/// The counters are each exact but are read one by one, so sums of them may be off by what happened in between.
#[derive(Debug, Default)]
pub struct Progress {
    pub(super) offered: AtomicU64,
    pub(super) acknowledged: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) retries: AtomicU64,
    cancelled: AtomicBool,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgressCounts {
    /// Requests started, each counted once however often it is retried.
    pub offered: u64,
    /// Requests answered with 2xx.
    pub acknowledged: u64,
    /// Requests that ended with 429 or 503.
    pub refused: u64,
    /// Requests that ended in any other way.
    pub errors: u64,
    /// Attempts beyond the first of each request.
    pub retries: u64,
    /// Requests started and not yet settled; those waiting to be retried are among them.
    pub in_flight: u64,
}

impl Progress {
    /// A fresh set of counters, for one run.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the counters.
    #[must_use]
    pub fn counts(&self) -> ProgressCounts {
        // Settled counts are read before the offered one, so that the requests in flight never come out negative.
        let acknowledged = self.acknowledged.load(Relaxed);
        let refused = self.refused.load(Relaxed);
        let errors = self.errors.load(Relaxed);
        let retries = self.retries.load(Relaxed);
        let offered = self.offered.load(Relaxed);
        let in_flight = offered.saturating_sub(acknowledged + refused + errors);
        ProgressCounts { offered, acknowledged, refused, errors, retries, in_flight }
    }

    /// Tells the run to stop now: requests in flight are abandoned and count as unfinished.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// Says whether [`Progress::cancel`] was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }
}
