//! The only reader of time.
//!
//! Whatever decides takes its time as an argument; whatever acts asks here. The
//! lints forbid `Instant::now` and `SystemTime::now` everywhere else, so that a
//! simulation can stand in for both clocks.

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
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
