//! The only reader of time.
//!
//! Whatever decides takes its time as an argument; whatever acts asks here. The
//! lints forbid `Instant::now` and `SystemTime::now` everywhere else, so that a
//! simulation can stand in for both clocks.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

static START: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds on the monotonic clock since the process first asked.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this module is the one reader of the clock")]
pub fn monotonic_ns() -> u64 {
    let start = *START.get_or_init(Instant::now);
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Microseconds since the Unix epoch on the wall clock; 0 if the clock stands before it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this module is the one reader of the clock")]
pub fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Both clocks as they stood at the beginning of an executor's turn. What happens within one turn
/// happens at one time, and a request does not read the clock a dozen times.
#[derive(Debug, Default)]
pub struct TurnClock {
    monotonic_ns: Cell<u64>,
    unix_us: Cell<u64>,
}

impl TurnClock {
    /// Begins another turn.
    pub fn advance(&self) {
        self.set(monotonic_ns(), unix_us());
    }

    /// Begins another turn at these times, nanoseconds and microseconds: a simulation has clocks of its own.
    pub fn set(&self, monotonic_ns: u64, unix_us: u64) {
        self.monotonic_ns.set(monotonic_ns);
        self.unix_us.set(unix_us);
    }

    /// Nanoseconds on the monotonic clock at the turn's beginning.
    #[must_use]
    pub fn monotonic_ns(&self) -> u64 {
        self.monotonic_ns.get()
    }

    /// Milliseconds on the monotonic clock at the turn's beginning.
    #[must_use]
    pub fn monotonic_ms(&self) -> u64 {
        self.monotonic_ns.get() / 1_000_000
    }

    /// Microseconds since the Unix epoch at the turn's beginning.
    #[must_use]
    pub fn unix_us(&self) -> u64 {
        self.unix_us.get()
    }
}
