//! How long to wait before the next attempt: exponential backoff with full jitter.
//!
//! Full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015)
//! draws the pause between nothing and the doubled ceiling, so that many drains which lost
//! the same database do not come back in step.

use crate::config;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_ceiling_and_start_over() {
        let mut backoff = Backoff::new(&config::Retry { backoff_ms_min: 100, backoff_ms_max: 1000, failures_max: 5 });
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
