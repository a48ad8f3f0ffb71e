//! When a record may leave: departure times, not ticks.
//!
//! This is the generic cell rate algorithm (ITU-T I.371) in its virtual-scheduling form.
//! Each record has a departure time, one interval behind the one before. Being late by
//! up to the tolerance is made good; what is lost beyond it stays lost, so that no window
//! of any length T ever sees more than `rate × T + burst` records. There is no bucket
//! that could be full at the start, after a pause or after a change of the rate.
//!
//! Lateness that the sink or the machine causes may be made good in two ways. What a small tolerance covers leaves at once. A
//! second, larger one is made good a little above the rate, by a second cell rate that limits the first: so a stall
//! costs nothing in the mean, and no short window sees a burst for it. Idle time counts for the first alone.
//!
//! Time is counted in units of a nanosecond divided by the rate's numerator, so that
//! every interval is a whole number and no rounding ever adds up.

use crate::rate::Rate;

/// How fast records may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The ceiling.
    pub rate: Rate,
    /// How much lateness is made good.
    pub tolerance: Tolerance,
}

/// How much lateness is made good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// So many nanoseconds. No window sees more than `rate × (T + this) + 1` records.
    Time(u64),
    /// So many nanoseconds in all, of which `at_once_ns` leave at once and the rest at [`CATCH_UP_PERCENT`] of the rate.
    /// No window sees more than `rate × (T + in_all_ns) + 1` records, nor more than that share of `rate × T` and
    /// `rate × at_once_ns + 1`.
    Gradual {
        /// What may leave at once.
        at_once_ns: u64,
        /// What is made good in all, if there was something to send all the time.
        in_all_ns: u64,
    },
    /// As much as lets so many records, at least one, leave at once. No window sees more than `rate × T + this`.
    Records(u64),
}

/// Paces one queue.
#[derive(Clone, Debug)]
pub struct Pacer {
    limit: Option<Limit>,
    /// How fast lateness is made good, if not at once.
    catch_up: Option<Limit>,
}

/// Hundredths of the rate at which lateness is made good: in 100 ms one of them is a millisecond's worth.
pub const CATCH_UP_PERCENT: u64 = 101;

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
    pub fn new(pace: Pace, now_ns: u64) -> Self {
        Self { limit: Limit::new(pace, now_ns, 1), catch_up: Limit::catching_up(pace, now_ns, 1) }
    }

    /// Goes on at another pace. Lateness that could have been made good is lost, as at the start; records that were
    /// taken early are still waited for, at the new pace.
    pub fn change(&mut self, pace: Pace, now_ns: u64) {
        let owed = self.limit.as_ref().map_or(1, |limit| limit.owed(now_ns));
        self.limit = Limit::new(pace, now_ns, owed);
        self.catch_up = Limit::catching_up(pace, now_ns, owed);
    }

    /// There was nothing to send until now: what could have left is made good as far as it may leave at once.
    pub fn rest(&mut self, now_ns: u64) {
        if let (Some(limit), Some(catch_up)) = (&mut self.limit, &self.catch_up) {
            let at_once = catch_up.tolerance / catch_up.interval * limit.interval;
            limit.next = limit.next.max(limit.now(now_ns).saturating_sub(at_once));
        }
    }

    /// How many records may leave now.
    #[must_use]
    pub fn due(&self, now_ns: u64) -> u64 {
        let Some(limit) = &self.limit else { return u64::MAX };
        let due = limit.due(now_ns);
        match &self.catch_up {
            Some(catch_up) if due > 0 => due.min(catch_up.due(now_ns)),
            _ => due,
        }
    }

    /// Takes `count` departures, due or not: records that are sent again count too, and
    /// what was taken early is waited for afterwards.
    pub fn take(&mut self, count: u64, now_ns: u64) {
        if let Some(limit) = &mut self.limit {
            limit.take(count, now_ns);
        }
        if let Some(catch_up) = &mut self.catch_up {
            catch_up.take(count, now_ns);
        }
    }

    /// When `count` records (at least one) may leave together, in nanoseconds; never more than
    /// what the tolerance lets gather.
    #[must_use]
    pub fn when_due_ns(&self, count: u64, now_ns: u64) -> u64 {
        let Some(limit) = &self.limit else { return now_ns };
        let due_ns = limit.when_due_ns(count, now_ns);
        self.catch_up.as_ref().map_or(due_ns, |catch_up| due_ns.max(catch_up.when_due_ns(count, now_ns)))
    }

    /// How many records make up `span_ns` of the rate, at least one, and at most what may leave at once.
    #[must_use]
    pub fn records_in(&self, span_ns: u64) -> u64 {
        let Some(limit) = &self.limit else { return u64::MAX };
        let records = u128::from(span_ns) * limit.units_per_ns / limit.interval;
        u64::try_from(records).unwrap_or(u64::MAX).clamp(1, self.at_once())
    }

    /// How many records may leave at once, at least one.
    #[must_use]
    pub fn at_once(&self) -> u64 {
        let Some(limit) = self.catch_up.as_ref().or(self.limit.as_ref()) else { return u64::MAX };
        u64::try_from(limit.tolerance / limit.interval + 1).unwrap_or(u64::MAX)
    }
}

impl Limit {
    /// `owed` departures, at least one, lie before the next record.
    fn new(pace: Pace, now_ns: u64, owed: u64) -> Option<Self> {
        let Rate::Limited { records, period_ns } = pace.rate else { return None };
        let (units_per_ns, interval) = (u128::from(records), u128::from(period_ns));
        let tolerance = match pace.tolerance {
            Tolerance::Time(ns) | Tolerance::Gradual { in_all_ns: ns, .. } => u128::from(ns) * units_per_ns,
            // One unit short of as many intervals: with all of it, one more record would be due.
            Tolerance::Records(burst) => u128::from(burst.max(1)) * interval - 1,
        };
        let next = u128::from(now_ns) * units_per_ns + u128::from(owed.max(1)) * interval;
        Some(Self { units_per_ns, interval, tolerance, next })
    }

    /// The rate at which lateness is made good, of which as much as may leave at once is this one's tolerance.
    fn catching_up(pace: Pace, now_ns: u64, owed: u64) -> Option<Self> {
        let (Rate::Limited { records, period_ns }, Tolerance::Gradual { at_once_ns, .. }) = (pace.rate, pace.tolerance)
        else {
            return None;
        };
        let units_per_ns = u128::from(records) * u128::from(CATCH_UP_PERCENT);
        let interval = u128::from(period_ns) * 100;
        // In records at the rate itself, so that what may leave at once is no more than it says.
        let tolerance = u128::from(at_once_ns) * u128::from(records) * 100;
        let next = u128::from(now_ns) * units_per_ns + u128::from(owed.max(1)) * interval;
        Some(Self { units_per_ns, interval, tolerance, next })
    }

    #[inline]
    fn take(&mut self, count: u64, now_ns: u64) {
        self.next = self.next_at(self.now(now_ns)) + u128::from(count) * self.interval;
    }

    #[inline]
    fn due(&self, now_ns: u64) -> u64 {
        let now = self.now(now_ns);
        let next = self.next_at(now);
        if now < next { 0 } else { u64::try_from((now - next) / self.interval + 1).unwrap_or(u64::MAX) }
    }

    fn when_due_ns(&self, count: u64, now_ns: u64) -> u64 {
        let next = self.next_at(self.now(now_ns));
        let last = next + u128::from(count.saturating_sub(1)) * self.interval;
        u64::try_from(last.div_ceil(self.units_per_ns)).unwrap_or(u64::MAX)
    }

    fn now(&self, now_ns: u64) -> u128 {
        u128::from(now_ns) * self.units_per_ns
    }

    /// The next departure, moved up to what the tolerance still makes good.
    fn next_at(&self, now: u128) -> u128 {
        self.next.max(now.saturating_sub(self.tolerance))
    }

    /// Departures between now and the next record, that one included.
    fn owed(&self, now_ns: u64) -> u64 {
        let ahead = self.next.saturating_sub(self.now(now_ns));
        u64::try_from(ahead.div_ceil(self.interval)).unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn pacer(rate: &str, tolerance_ns: u64) -> Pacer {
        Pacer::new(Pace { rate: rate.parse().unwrap(), tolerance: Tolerance::Time(tolerance_ns) }, 0)
    }

    #[test]
    fn the_first_second_is_like_every_other() {
        let mut pacer = pacer("5000/s", 8_000_000);
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
        let pacer = pacer("0.1/s", 8_000_000);
        assert_eq!(pacer.due(10 * SECOND - 1), 0);
        assert_eq!(pacer.due(10 * SECOND), 1);
        assert_eq!(pacer.when_due_ns(1, 0), 10 * SECOND);
    }

    #[test]
    fn a_long_idle_time_hoards_only_the_tolerance() {
        let pacer = pacer("1000/s", 8_000_000);
        assert_eq!(pacer.due(3600 * SECOND), 9);
    }

    #[test]
    fn what_is_sent_again_is_paid_for() {
        let mut pacer = pacer("1000/s", 8_000_000);
        pacer.take(10, 0);
        assert_eq!(pacer.due(10_999_999), 0);
        assert_eq!(pacer.due(11_000_000), 1);
    }

    #[test]
    fn three_a_second_never_drifts() {
        let mut pacer = pacer("3/s", 1000);
        for count in 1..=3_000_000_u64 {
            let due = pacer.when_due_ns(1, 0);
            assert_eq!(u128::from(due), (u128::from(count) * u128::from(SECOND)).div_ceil(3));
            pacer.take(1, due);
        }
    }

    #[test]
    fn half_a_million_a_second_are_exact_whenever_somebody_looks() {
        let mut pacer = pacer("500000/s", 9_000_000);
        let (mut now, mut sent) = (0, 0);
        for look in 0..20_000_u64 {
            // From 0.1 to 8.9 ms later, which the tolerance makes good: in a minute and a half not a record is missing.
            now += 100_000 + look * 7_919_993 % 8_800_000;
            let due = pacer.due(now);
            pacer.take(due, now);
            sent += due;
            assert_eq!(sent, now / 2_000);
        }
    }

    #[test]
    fn a_burst_is_all_that_may_leave_at_once() {
        for burst in [1, 5, 1000] {
            let pace = Pace { rate: "1000/s".parse().unwrap(), tolerance: Tolerance::Records(burst) };
            let mut pacer = Pacer::new(pace, 0);
            assert_eq!(pacer.due(3600 * SECOND), burst);
            assert_eq!(pacer.records_in(u64::MAX), burst);
            pacer.take(burst, 3600 * SECOND);
            assert_eq!(pacer.due(3600 * SECOND), 0);
        }
    }

    fn gradual(rate: &str) -> Pacer {
        let tolerance = Tolerance::Gradual { at_once_ns: 9_000_000, in_all_ns: 100_000_000 };
        Pacer::new(Pace { rate: rate.parse().unwrap(), tolerance }, 0)
    }

    /// Sends what is due, looking every millisecond, and returns how many records each 100 ms saw.
    fn hundreds(pacer: &mut Pacer, looks_ms: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut sent = Vec::new();
        for ms in looks_ms {
            let hundred = usize::try_from(ms / 100).unwrap();
            sent.resize(sent.len().max(hundred + 1), 0);
            let due = pacer.due(ms * 1_000_000);
            pacer.take(due, ms * 1_000_000);
            sent[hundred] += due;
        }
        sent
    }

    #[test]
    fn a_stall_is_made_good_a_hundredth_above_the_rate() {
        let mut pacer = gradual("5000/s");
        // Nobody looks from 1,000 to 1,060 ms.
        let sent = hundreds(&mut pacer, (0..10_000).filter(|ms| !(1000..1060).contains(ms)));
        assert_eq!(sent.iter().sum::<u64>(), 49_995, "all of ten seconds but the last millisecond");
        assert_eq!((sent[9], sent[10]), (500, 242));
        assert!(sent[11..60].iter().all(|records| (504..=506).contains(records)), "{sent:?}");
        assert!(sent[63..].iter().all(|records| *records == 500), "{sent:?}");
    }

    #[test]
    fn idle_time_is_made_good_at_once_or_not_at_all() {
        let mut pacer = gradual("5000/s");
        pacer.rest(3600 * SECOND);
        assert_eq!(pacer.due(3600 * SECOND), 46);
        let now_ms = 3_600_000;
        let sent: u64 = hundreds(&mut pacer, now_ms..now_ms + 1000).iter().sum();
        assert_eq!(sent, 46 + 4995);
    }

    #[test]
    fn a_change_neither_hoards_nor_forgets_what_is_owed() {
        let pace = |rate: &str| Pace { rate: rate.parse().unwrap(), tolerance: Tolerance::Time(8_000_000) };
        // From one in ten seconds to a thousand in one: nobody waits for the old departure.
        let mut slow = Pacer::new(pace("0.1/s"), 0);
        slow.change(pace("1000/s"), SECOND);
        assert_eq!(slow.when_due_ns(1, SECOND), SECOND + 1_000_000);
        // After a long idle time a change leaves nothing that could be made good.
        let mut idle = Pacer::new(pace("1000/s"), 0);
        idle.change(pace("2000/s"), 3600 * SECOND);
        assert_eq!(idle.due(3600 * SECOND), 0);
        // A hundred records that were taken early are waited for, each at the new rate.
        let mut early = Pacer::new(pace("10/s"), 0);
        early.take(100, 0);
        early.change(pace("1000/s"), 0);
        assert_eq!(early.when_due_ns(1, 0), 101_000_000);
        // Without a limit nothing is owed.
        early.change(pace("unlimited"), 0);
        assert_eq!(early.due(0), u64::MAX);
        early.change(pace("10/s"), 0);
        assert_eq!(early.when_due_ns(1, 0), 100_000_000);
    }

    proptest! {
        /// However often the rate changes: no window sees more than the rates allow in it, and one burst.
        #[test]
        fn no_window_sees_more_than_the_rates_of_its_time_and_one_burst(
            steps in prop::collection::vec((0_u64..40_000_000, prop::option::weighted(0.1, 1_u64..100_000)), 1..150),
            burst in 1_u64..50,
        ) {
            let pace = |records| Pace { rate: Rate::Limited { records, period_ns: SECOND }, tolerance: Tolerance::Records(burst) };
            let mut rate = 1000;
            let mut pacer = Pacer::new(pace(rate), 0);
            let (mut now, mut changes) = (0, 0);
            // When, how many left, how many the rates allow until then (in billionths), and the changes until then.
            let mut sent: Vec<(u64, u128, u128)> = Vec::new();
            let mut allowed: u128 = 0;
            for (pause, change) in steps {
                now += pause;
                allowed += u128::from(pause) * u128::from(rate);
                let due = pacer.due(now);
                pacer.take(due, now);
                sent.push((u64::from(changes), u128::from(due), allowed));
                if let Some(other) = change {
                    rate = other;
                    changes += 1_u32;
                    pacer.change(pace(rate), now);
                }
            }
            for from in 0..sent.len() {
                let mut total = 0;
                for (changes, count, allowed) in &sent[from..] {
                    total += count;
                    let window = (allowed - sent[from].2) / u128::from(SECOND);
                    let bound = window + u128::from(burst) + 1 + u128::from(changes - sent[from].0);
                    prop_assert!(total <= bound, "{total} where {bound} may leave");
                }
            }
        }

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
            let mut pacer = Pacer::new(Pace { rate, tolerance: Tolerance::Time(tolerance_ns) }, 0);
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

        /// The same where lateness is made good gradually, whenever there was nothing to send.
        #[test]
        fn no_window_sees_more_than_both_rates_and_their_tolerances(
            records in 1_u64..1_000_000,
            period_ms in 1_u64..100_000,
            at_once_ns in 0_u64..20_000_000,
            more_ns in 0_u64..100_000_000,
            looks in prop::collection::vec((0_u64..60_000_000, any::<bool>()), 1..120),
        ) {
            let rate = Rate::Limited { records, period_ns: period_ms * 1_000_000 };
            let in_all_ns = at_once_ns + more_ns;
            let mut pacer = Pacer::new(Pace { rate, tolerance: Tolerance::Gradual { at_once_ns, in_all_ns } }, 0);
            let mut now = 0;
            let mut sent = Vec::new();
            for (pause, rests) in looks {
                now += pause;
                if rests {
                    pacer.rest(now);
                }
                let due = pacer.due(now);
                prop_assert!(due <= pacer.at_once());
                pacer.take(due, now);
                sent.push((now, due));
            }
            let records_in = |ns: u128| ns * u128::from(records) / u128::from(period_ms * 1_000_000) + 1;
            for from in 0..sent.len() {
                let mut total: u128 = 0;
                for (at, count) in &sent[from..] {
                    total += u128::from(*count);
                    let window = u128::from(at - sent[from].0);
                    let even = records_in((window * u128::from(CATCH_UP_PERCENT)).div_ceil(100) + u128::from(at_once_ns));
                    let bound = records_in(window + u128::from(in_all_ns)).min(even + 1);
                    prop_assert!(total <= bound, "{} in {} ns, where {} may", total, window, bound);
                }
            }
        }
    }
}
