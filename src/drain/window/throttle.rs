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
    /// Keys that are known at a time, at least one; records of more keys than that wait until others need not be known any more.
    pub keys_max: usize,
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
    /// When they were last looked for.
    looked_ns: u64,
}

/// So many keys are kept without a look at whether they still matter.
const KEYS_KEPT: usize = 1024;
/// Bounds of the time after which a key is tried again that there was no room for: looking takes time with the keys.
const RETRY_NS_MIN: u64 = 10_000_000;
const RETRY_NS_MAX: u64 = 1_000_000_000;

impl Throttle {
    pub(super) fn new(limit: Limit, now_ns: u64) -> Self {
        let limit =
            Limit { interval_ns: limit.interval_ns.max(1), burst: limit.burst.max(1), keys_max: limit.keys_max.max(1) };
        let tolerance_ns = limit.interval_ns.saturating_mul(u64::from(limit.burst - 1));
        let floor_ns = now_ns.saturating_add(limit.interval_ns).saturating_add(tolerance_ns);
        Self {
            limit,
            tolerance_ns,
            next_ns: HashMap::new(),
            floor_ns,
            look_at: KEYS_KEPT.min(limit.keys_max),
            looked_ns: now_ns,
        }
    }

    /// When the next record of this key may leave; it is then taken to leave at that time. `None` if there are too many
    /// keys to know one more; [`retry_ns`](Self::retry_ns) says when to ask again.
    pub(super) fn reserve(&mut self, key: u64, now_ns: u64) -> Option<u64> {
        if self.next_ns.len() >= self.look_at && !self.next_ns.contains_key(&key) {
            if now_ns >= self.looked_ns.saturating_add(RETRY_NS_MIN) {
                // A key whose even departure is past may send a whole burst, like one that was never seen.
                self.next_ns.retain(|_, next_ns| *next_ns > now_ns);
                self.looked_ns = now_ns;
            }
            if self.next_ns.len() >= self.limit.keys_max {
                return None;
            }
            self.look_at = (self.next_ns.len() * 2).max(KEYS_KEPT).min(self.limit.keys_max);
        }
        let floor_ns = self.floor_ns;
        let next_ns = self.next_ns.entry(key).or_insert(floor_ns);
        let departure_ns = now_ns.max(next_ns.saturating_sub(self.tolerance_ns));
        *next_ns = (*next_ns).max(departure_ns).saturating_add(self.limit.interval_ns);
        Some(departure_ns)
    }

    /// When to ask again for a key that there was no room for.
    pub(super) fn retry_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_add(self.limit.interval_ns.clamp(RETRY_NS_MIN, RETRY_NS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn keys_that_do_not_matter_any_more_are_forgotten() {
        let mut throttle = Throttle::new(Limit { interval_ns: SECOND, burst: 1, keys_max: usize::MAX }, 0);
        for key in 1..1_000_000 {
            assert_eq!(throttle.reserve(key, key * SECOND), Some(key * SECOND));
        }
        assert!(throttle.next_ns.len() <= KEYS_KEPT, "{}", throttle.next_ns.len());
    }

    #[test]
    fn a_key_too_many_waits_for_another_to_be_forgotten() {
        let mut throttle = Throttle::new(Limit { interval_ns: SECOND, burst: 1, keys_max: 2 }, 0);
        let start = 10 * SECOND;
        assert_eq!(
            [1, 2, 3, 1].map(|key| throttle.reserve(key, start)),
            [Some(start), Some(start), None, Some(start + SECOND)]
        );
        assert_eq!(throttle.reserve(3, start + SECOND), Some(start + SECOND));
        assert_eq!(throttle.reserve(2, start + SECOND), None);
    }
}
