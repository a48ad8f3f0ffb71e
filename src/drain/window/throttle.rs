//! A rate for each key, beside the queue's own.
//!
//! The generic cell rate algorithm once more (see [`pacer`](super::super::pacer)), but with a departure for each record that asks:
//! whoever is above the limit is given a later one, and nothing is refused. A key of which nothing is known starts as
//! one whose last record left when the window began: what it sent before a restart is not known.

use std::collections::HashMap;

/// How many records of one key may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Nanoseconds from one departure to the next, at least one.
    pub interval_ns: u64,
    /// How many may leave at once after a pause, at least one.
    pub burst: u32,
}

/// What is known of each key.
#[derive(Debug)]
pub(super) struct Throttle {
    limit: Limit,
    /// How much earlier than its even departure a record may leave.
    tolerance_ns: u64,
    /// The even departure behind a key's last one, while that matters.
    next_ns: HashMap<u64, u64>,
    /// The same for keys that are not there.
    floor_ns: u64,
    /// How many keys may be there until those are looked for that do not matter any more.
    look_at: usize,
}

/// So many keys are kept without a look at whether they still matter.
const KEYS_KEPT: usize = 1024;

impl Throttle {
    pub(super) fn new(limit: Limit, now_ns: u64) -> Self {
        let limit = Limit { interval_ns: limit.interval_ns.max(1), burst: limit.burst.max(1) };
        let tolerance_ns = limit.interval_ns.saturating_mul(u64::from(limit.burst - 1));
        let floor_ns = now_ns.saturating_add(limit.interval_ns).saturating_add(tolerance_ns);
        Self { limit, tolerance_ns, next_ns: HashMap::new(), floor_ns, look_at: KEYS_KEPT }
    }

    /// When the next record of this key may leave; it is then taken to leave at that time.
    pub(super) fn reserve(&mut self, key: u64, now_ns: u64) -> u64 {
        if self.next_ns.len() >= self.look_at {
            // A key whose even departure is past may send a whole burst, like one that was never seen.
            self.next_ns.retain(|_, next_ns| *next_ns > now_ns);
            self.look_at = (self.next_ns.len() * 2).max(KEYS_KEPT);
        }
        let floor_ns = self.floor_ns;
        let next_ns = self.next_ns.entry(key).or_insert(floor_ns);
        let departure_ns = now_ns.max(next_ns.saturating_sub(self.tolerance_ns));
        *next_ns = (*next_ns).max(departure_ns).saturating_add(self.limit.interval_ns);
        departure_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn keys_that_do_not_matter_any_more_are_forgotten() {
        let mut throttle = Throttle::new(Limit { interval_ns: SECOND, burst: 1 }, 0);
        for key in 1..1_000_000 {
            assert_eq!(throttle.reserve(key, key * SECOND), key * SECOND);
        }
        assert!(throttle.next_ns.len() <= KEYS_KEPT, "{}", throttle.next_ns.len());
    }
}
