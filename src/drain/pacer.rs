//! When a record may leave: departure times, not ticks.
//!
//! This is the generic cell rate algorithm (ITU-T I.371) in its virtual-scheduling form.
//! Each record has a departure time, one interval behind the one before. Being late by
//! up to the tolerance is made good; what is lost beyond it stays lost, so that no window
//! of any length T ever sees more than `rate × (T + tolerance) + 1` records. There is no
//! bucket that could be full at the start, after a pause or after a change of the rate.
//!
//! Time is counted in units of a nanosecond divided by the rate's numerator, so that
//! every interval is a whole number and no rounding ever adds up.

use crate::rate::Rate;

/// Paces one queue.
#[derive(Clone, Debug)]
pub struct Pacer {
    limit: Option<Limit>,
}

#[derive(Clone, Debug)]
struct Limit {
    /// Units in one nanosecond: the numerator of the rate.
    units_per_ns: u128,
    /// Units between two departures: the denominator of the rate.
    interval: u128,
    /// Units by which a departure may be late and still be made good.
    tolerance: u128,
    /// When the next record may leave.
    next: u128,
}

impl Pacer {
    /// A pacer whose first record may leave one interval from now.
    #[must_use]
    pub fn new(rate: Rate, tolerance_ns: u64, now_ns: u64) -> Self {
        let limit = match rate {
            Rate::Unlimited => None,
            Rate::Limited { records, period_ns } => {
                let units_per_ns = u128::from(records);
                let interval = u128::from(period_ns);
                let next = u128::from(now_ns) * units_per_ns + interval;
                Some(Limit { units_per_ns, interval, tolerance: u128::from(tolerance_ns) * units_per_ns, next })
            }
        };
        Self { limit }
    }

    /// How many records may leave now.
    #[must_use]
    pub fn due(&self, now_ns: u64) -> u64 {
        let Some(limit) = &self.limit else { return u64::MAX };
        let now = limit.now(now_ns);
        let next = limit.next_at(now);
        if now < next { 0 } else { u64::try_from((now - next) / limit.interval + 1).unwrap_or(u64::MAX) }
    }

    /// Takes `count` departures, due or not: records that are sent again count too, and
    /// what was taken early is waited for afterwards.
    pub fn take(&mut self, count: u64, now_ns: u64) {
        if let Some(limit) = &mut self.limit {
            limit.next = limit.next_at(limit.now(now_ns)) + u128::from(count) * limit.interval;
        }
    }

    /// When `count` records (at least one) may leave together, in nanoseconds; never more than
    /// what the tolerance lets gather.
    #[must_use]
    pub fn when_due_ns(&self, count: u64, now_ns: u64) -> u64 {
        let Some(limit) = &self.limit else { return now_ns };
        let next = limit.next_at(limit.now(now_ns));
        let last = next + u128::from(count.saturating_sub(1)) * limit.interval;
        u64::try_from(last.div_ceil(limit.units_per_ns)).unwrap_or(u64::MAX)
    }

    /// How many records make up `span_ns` of the rate, at least one.
    #[must_use]
    pub fn records_in(&self, span_ns: u64) -> u64 {
        let Some(limit) = &self.limit else { return u64::MAX };
        u64::try_from(u128::from(span_ns) * limit.units_per_ns / limit.interval).unwrap_or(u64::MAX).max(1)
    }
}

impl Limit {
    fn now(&self, now_ns: u64) -> u128 {
        u128::from(now_ns) * self.units_per_ns
    }

    /// The next departure, moved up to what the tolerance still makes good.
    fn next_at(&self, now: u128) -> u128 {
        self.next.max(now.saturating_sub(self.tolerance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_first_second_is_like_every_other() {
        let mut pacer = Pacer::new("5000/s".parse().unwrap(), 8_000_000, 0);
        let mut sent = [0_u64; 3];
        for ms in 0..3000 {
            let now = ms * 1_000_000;
            let due = pacer.due(now);
            pacer.take(due, now);
            sent[usize::try_from(ms / 1000).unwrap()] += due;
        }
        assert_eq!(sent, [4995, 5000, 5000]);
    }

    #[test]
    fn a_tenth_of_a_record_a_second_is_one_in_ten_seconds() {
        let pacer = Pacer::new("0.1/s".parse().unwrap(), 8_000_000, 0);
        assert_eq!(pacer.due(10 * SECOND - 1), 0);
        assert_eq!(pacer.due(10 * SECOND), 1);
        assert_eq!(pacer.when_due_ns(1, 0), 10 * SECOND);
    }

    #[test]
    fn a_long_idle_time_hoards_only_the_tolerance() {
        let pacer = Pacer::new("1000/s".parse().unwrap(), 8_000_000, 0);
        assert_eq!(pacer.due(3600 * SECOND), 9);
    }

    #[test]
    fn what_is_sent_again_is_paid_for() {
        let mut pacer = Pacer::new("1000/s".parse().unwrap(), 8_000_000, 0);
        pacer.take(10, 0);
        assert_eq!(pacer.due(10_999_999), 0);
        assert_eq!(pacer.due(11_000_000), 1);
    }

    #[test]
    fn three_a_second_never_drifts() {
        let mut pacer = Pacer::new("3/s".parse().unwrap(), 1000, 0);
        for count in 1..=3_000_000_u64 {
            let due = pacer.when_due_ns(1, 0);
            assert_eq!(u128::from(due), (u128::from(count) * u128::from(SECOND)).div_ceil(3));
            pacer.take(1, due);
        }
    }

    proptest! {
        /// Whatever the rate, the tolerance and the moments at which somebody looks: no window
        /// between two looks sees more than the bound.
        #[test]
        fn no_window_sees_more_than_the_rate_and_the_tolerance(
            records in 1_u64..1_000_000,
            period_ms in 1_u64..100_000,
            tolerance_ns in 0_u64..50_000_000,
            pauses in prop::collection::vec(0_u64..40_000_000, 1..120),
        ) {
            let rate = Rate::Limited { records, period_ns: period_ms * 1_000_000 };
            let mut pacer = Pacer::new(rate, tolerance_ns, 0);
            let mut now = 0;
            let mut sent = Vec::new();
            for pause in pauses {
                now += pause;
                let due = pacer.due(now);
                pacer.take(due, now);
                prop_assert_eq!(pacer.due(now), 0);
                sent.push((now, due));
            }
            for from in 0..sent.len() {
                let mut total: u128 = 0;
                for (at, count) in &sent[from..] {
                    total += u128::from(*count);
                    let window = u128::from(at - sent[from].0 + tolerance_ns);
                    let bound = window * u128::from(records) / u128::from(period_ms * 1_000_000) + 1;
                    prop_assert!(total <= bound, "{} in {} ns", total, at - sent[from].0);
                }
            }
        }
    }
}
