//! How long to wait before the next attempt, by exponential backoff with full jitter, and when there is to be none.
//!
//! Full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015)
//! draws the pause between nothing and the doubled ceiling, so that many drains which lost
//! the same database do not come back in step.

use crate::config;
use crate::record::Sequence;

/// Counts the failures of one queue's sink.
#[derive(Clone, Debug)]
pub struct Backoff {
    ms_min: u64,
    ms_max: u64,
    failures: u32,
}

impl Backoff {
    /// No failure yet.
    #[must_use]
    pub fn new(retry: &config::Retry) -> Self {
        Self { ms_min: retry.backoff_ms_min, ms_max: retry.backoff_ms_max, failures: 0 }
    }

    /// Other bounds for the pauses to come.
    pub fn change(&mut self, retry: &config::Retry) {
        (self.ms_min, self.ms_max) = (retry.backoff_ms_min, retry.backoff_ms_max);
    }

    /// The sink works again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Milliseconds to wait after one more failure; `random` is uniform over all of `u64`.
    pub fn next_ms(&mut self, random: u64) -> u64 {
        let doubled = self.ms_min.saturating_mul(1_u64.checked_shl(self.failures).unwrap_or(u64::MAX));
        self.failures = self.failures.saturating_add(1);
        let ceiling = doubled.min(self.ms_max);
        let drawn = (u128::from(random) * u128::from(ceiling)) >> 64;
        // Never quite at once: a sink that refuses quickly would be asked in a tight loop.
        u64::try_from(drawn).unwrap_or(ceiling).max(self.ms_min / 10).max(1)
    }
}

/// Counts how often the record whose turn it is has failed by itself. The record is the one that was sent last: none overtakes.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    sequence: Sequence,
    failures: u64,
}

impl Attempts {
    /// An attempt of this record alone has failed with `error`; why it is to be given up, if `retry.attempts_max` says so.
    pub fn fail(&mut self, sequence: Sequence, retry: &config::Retry, error: &str) -> Option<String> {
        if self.sequence != sequence {
            *self = Self { sequence, failures: 0 };
        }
        self.failures = self.failures.saturating_add(1);
        let attempts_max = retry.attempts_max.filter(|attempts_max| self.failures >= *attempts_max)?;
        Some(format!("given up after {} attempts (retry.attempts_max = {attempts_max}): {error}", self.failures))
    }
}

/// Whether a record is too old to be sent. Times are microseconds since the Unix epoch; a clock that was set back
/// makes records younger, never older.
#[must_use]
pub fn is_expired(age_ms_max: u64, received_at_us: u64, now_us: u64) -> bool {
    now_us.saturating_sub(received_at_us) / 1000 > age_ms_max
}

/// What the dead letter of such a record says.
#[must_use]
pub fn expired_reason(age_ms_max: u64) -> String {
    format!("given up undelivered: older than retry.age_ms_max = {age_ms_max}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(attempts_max: Option<u64>) -> config::Retry {
        config::Retry { backoff_ms_min: 100, backoff_ms_max: 1000, failures_max: 5, attempts_max, age_ms_max: None }
    }

    #[test]
    fn a_record_is_given_up_after_its_own_attempts_and_never_without_a_bound() {
        let mut attempts = Attempts::default();
        let bounded = retry(Some(3));
        assert_eq!(attempts.fail(7, &bounded, "no"), None);
        assert_eq!(attempts.fail(7, &bounded, "no"), None);
        let reason = attempts.fail(7, &bounded, "no").unwrap();
        assert_eq!(reason, "given up after 3 attempts (retry.attempts_max = 3): no");
        assert_eq!(attempts.fail(8, &bounded, "no"), None, "the next one begins anew");
        assert!((0..10_000).all(|_| attempts.fail(9, &retry(None), "no").is_none()));
        assert!(attempts.fail(9, &retry(Some(1)), "no").is_some(), "a bound that comes later counts what was");
    }

    #[test]
    fn age_counts_from_the_arrival_and_a_clock_that_was_set_back_expires_nothing() {
        assert!(!is_expired(10, 1_000_000, 1_010_999));
        assert!(is_expired(10, 1_000_000, 1_011_000));
        assert!(!is_expired(10, 1_000_000, 0));
    }

    #[test]
    fn pauses_grow_to_the_ceiling_and_start_over() {
        let mut backoff = Backoff::new(&retry(None));
        let longest: Vec<_> = (0..6).map(|_| backoff.next_ms(u64::MAX)).collect();
        assert_eq!(longest, [99, 199, 399, 799, 999, 999]);
        assert_eq!(backoff.next_ms(0), 10);
        for _ in 0..100 {
            backoff.next_ms(0);
        }
        backoff.reset();
        assert_eq!(backoff.next_ms(u64::MAX), 99);
    }
}
