//! What one executor counts. Each number has one writer, so counting needs no locked
//! instruction, and each executor's numbers lie on cache lines of its own.

use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;

use super::http::problem::Problem;
use crate::queue::Mark;

/// Upper end of the latency histogram: 10 minutes in microseconds.
const LATENCY_US_MAX: u64 = 600_000_000;

/// What shows from outside that an executor is awake. It lies on a cache line of its own: the watchdog reads it all
/// the time, and nothing that counts requests should wait for that.
#[derive(Default)]
#[repr(align(128))]
pub struct Pulse {
    /// The executor's thread, as the kernel numbers it; 0 before it runs, and after it has ended.
    pub thread: Mark,
    /// Ticks so far.
    pub ticks: Mark,
}

/// The counters of one executor.
#[repr(align(128))]
pub struct Counters {
    /// Whether it is awake.
    pub pulse: Pulse,
    /// Requests that were answered 202.
    pub accepted: Mark,
    /// Records in them.
    pub records: Mark,
    /// Bytes of their bodies.
    pub bytes: Mark,
    /// Requests that were refused, by reason.
    pub refused: [Mark; Problem::COUNT],
    /// Requests for a ticket's status.
    pub statuses: Mark,
    /// Connections that are open.
    pub connections: Mark,
    /// Connections that were turned away because there were too many.
    pub turned_away: Mark,
    /// Connections that were closed because the client was too slow or silent for too long.
    pub timed_out: Mark,
    /// Microseconds from a request's last byte to its acknowledgement; added to at every tick.
    latency_us: Mutex<Histogram<u64>>,
}

/// A histogram for acknowledgement latencies in microseconds.
///
/// # Panics
///
/// Never: the bounds are constants that the histogram takes.
#[must_use]
#[expect(clippy::expect_used, reason = "constant arguments; a test makes one")]
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("constant bounds are valid")
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            pulse: Pulse::default(),
            accepted: Mark::default(),
            records: Mark::default(),
            bytes: Mark::default(),
            refused: Default::default(),
            statuses: Mark::default(),
            connections: Mark::default(),
            turned_away: Mark::default(),
            timed_out: Mark::default(),
            latency_us: Mutex::new(latency_histogram()),
        }
    }
}

impl Counters {
    /// Adds what an executor has recorded since it last did.
    pub fn merge_latency(&self, recent: &Histogram<u64>) {
        // The bounds are the same, so adding cannot fail.
        let _ = self.latency_us.lock().unwrap_or_else(PoisonError::into_inner).add(recent);
    }

    /// All latencies so far.
    #[must_use]
    pub fn latency(&self) -> Histogram<u64> {
        self.latency_us.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
