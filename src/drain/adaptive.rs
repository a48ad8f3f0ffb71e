//! The adaptive limit: how much of the ceiling a sink in trouble gets.
//!
//! It looks at each round trip. One that fails, or several of the last ones that took much longer than normal, lower the
//! share; trips that are normal again raise it, up to the whole ceiling and never above. What is normal is learned from
//! trips that were, and forgotten slowly, so that a database that is slower from now on is not held down for ever.
//!
//! [`Mode::Aimd`] is additive increase, multiplicative decrease (D.-M. Chiu and R. Jain, "Analysis of the
//! Increase and Decrease Algorithms for Congestion Avoidance in Computer Networks", 1989), with the mean and mean
//! deviation of TCP's retransmission timer (RFC 6298) for what is normal. [`Mode::Gradient2`] follows the ratio of the
//! long-term trip to the last one, as Netflix's concurrency-limits does under that name.

use crate::config::AdaptiveMode as Mode;
use crate::rate::Rate;

/// Trips before anything counts as slow.
const LEARNING_TRIPS: u64 = 16;
/// Slow trips among the last eight that lower the share: one alone is a checkpoint, or a stall of the machine. They need not
/// be in a row, because a lock that comes and goes lets a fast trip through each time.
const SLOW_TRIPS: u32 = 3;
/// Mean deviations above the mean that still are normal.
const DEVIATIONS: f64 = 4.0;
/// Nanoseconds above the mean that still are normal, whatever the deviation: noise of disks and schedulers.
const NOISE_NS: f64 = 50e6;
/// What a slow trip leaves of the share, and what a failed one does.
const AFTER_SLOW: f64 = 0.7;
const AFTER_FAILURE: f64 = 0.5;
/// Nanoseconds in which the share is lowered once at most: trips of one moment tell of one trouble.
const HOLD_NS: u64 = 100_000_000;
/// Share that comes back in a second of normal trips: all of it in five.
const SHARE_A_SECOND: f64 = 0.2;
/// The longest stretch between two trips that counts as time of normal trips, in nanoseconds.
const STRETCH_NS_MAX: u64 = 1_000_000_000;
/// Steps in which the share is given out, so that the pacer is not changed with each trip.
const STEPS: f64 = 100.0;
/// Gradient2: how much longer a trip may take than the long-term one, what is added at each trip, how much of a change
/// counts at once, and how fast the long-term trip comes down when it is far above the last ones.
const TOLERANCE: f64 = 2.0;
const HEADROOM: f64 = 0.02;
const SMOOTHING: f64 = 0.2;
const DRIFT: f64 = 0.95;

/// Decides how much of its ceiling a queue gets.
#[derive(Clone, Debug)]
pub struct Adaptive {
    mode: Mode,
    share_min: f64,
    share: f64,
    normal: Normal,
    /// The last eight trips, a bit for each, set for a slow one.
    recent: u8,
    lowered_at_ns: u64,
    seen_at_ns: u64,
}

/// What a round trip usually takes, in nanoseconds.
#[derive(Clone, Debug, Default)]
struct Normal {
    trips: u64,
    mean: f64,
    deviation: f64,
}

impl Adaptive {
    /// All of the ceiling.
    #[must_use]
    pub fn new(mode: Mode, share_min_percent: u64, now_ns: u64) -> Self {
        let share_min = share_min_percent as f64 / 100.0;
        Self {
            mode,
            share_min,
            share: 1.0,
            normal: Normal::default(),
            recent: 0,
            lowered_at_ns: now_ns,
            seen_at_ns: now_ns,
        }
    }

    /// Goes on in another mode. What was learned stays; switched off, the queue has all of its ceiling.
    pub fn change(&mut self, mode: Mode, share_min_percent: u64) {
        self.mode = mode;
        self.share_min = share_min_percent as f64 / 100.0;
        if mode == Mode::Off {
            self.share = 1.0;
        }
    }

    /// The ceiling, or as much of it as the sink bears. Without a ceiling there is nothing to give a share of.
    #[must_use]
    pub fn limit(&self, ceiling: Rate) -> Rate {
        let steps = (self.share * STEPS).round();
        match ceiling {
            Rate::Limited { records, period_ns } if self.mode != Mode::Off && steps < STEPS => {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to 100")]
                let percent = steps.max(1.0) as u64;
                ceiling_share(records, period_ns, percent)
            }
            _ => ceiling,
        }
    }

    /// A transaction was committed and took so long.
    pub fn committed(&mut self, trip_ns: u64, now_ns: u64) {
        let stretch_ns = now_ns.saturating_sub(self.seen_at_ns).min(STRETCH_NS_MAX);
        self.seen_at_ns = now_ns;
        let trip = trip_ns as f64;
        let is_slow = self.normal.is_slow(trip);
        match self.mode {
            Mode::Off => {}
            Mode::Aimd => {
                self.recent = (self.recent << 1) | u8::from(is_slow);
                if !is_slow {
                    self.set(self.share + stretch_ns as f64 / 1e9 * SHARE_A_SECOND);
                } else if self.recent.count_ones() >= SLOW_TRIPS {
                    self.lower(AFTER_SLOW, now_ns);
                }
            }
            Mode::Gradient2 => {
                let ratio = TOLERANCE * self.normal.mean / trip.max(1.0);
                let gradient = if is_slow { ratio.clamp(0.5, 1.0) } else { 1.0 };
                let wanted = self.share * gradient + HEADROOM;
                self.set(self.share * (1.0 - SMOOTHING) + wanted * SMOOTHING);
            }
        }
        self.normal.learn(trip, is_slow);
    }

    /// A transaction failed in a way that may pass.
    pub fn failed(&mut self, now_ns: u64) {
        self.seen_at_ns = now_ns;
        if self.mode != Mode::Off {
            self.lower(AFTER_FAILURE, now_ns);
        }
    }

    /// The share of the ceiling, from 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.share
    }

    fn lower(&mut self, factor: f64, now_ns: u64) {
        if now_ns.saturating_sub(self.lowered_at_ns) >= HOLD_NS {
            self.lowered_at_ns = now_ns;
            self.set(self.share * factor);
        }
    }

    fn set(&mut self, share: f64) {
        self.share = share.clamp(self.share_min, 1.0);
    }
}

impl Normal {
    fn is_slow(&self, trip: f64) -> bool {
        let longest = (self.mean * 2.0).max(self.mean + DEVIATIONS * self.deviation).max(self.mean + NOISE_NS);
        self.trips >= LEARNING_TRIPS && trip > longest
    }

    fn learn(&mut self, trip: f64, is_slow: bool) {
        self.trips += 1;
        if self.trips == 1 {
            (self.mean, self.deviation) = (trip, trip / 2.0);
        } else if is_slow {
            // So slowly that a trouble of minutes is not taken for normal.
            self.mean += self.mean / 2048.0;
        } else {
            let gain = if self.trips < LEARNING_TRIPS { 4.0 } else { 64.0 };
            self.deviation += ((trip - self.mean).abs() - self.deviation) / gain;
            self.mean += (trip - self.mean) / gain;
        }
        if self.mean > TOLERANCE * trip {
            self.mean *= DRIFT;
        }
    }
}

/// So many hundredths of a rate, exactly.
fn ceiling_share(records: u64, period_ns: u64, percent: u64) -> Rate {
    match (records.checked_mul(percent), period_ns.checked_mul(100)) {
        (Some(records), Some(period_ns)) => Rate::Limited { records, period_ns },
        // A period of years; nothing of it needs to be shared out.
        _ => Rate::Limited { records, period_ns },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const CEILING: Rate = Rate::Limited { records: 1, period_ns: 200_000 };

    /// A queue whose trips take so long, one after the other with a pause of 5 ms.
    fn run(adaptive: &mut Adaptive, now_ns: &mut u64, trips: u64, trip_ms: u64) {
        for _ in 0..trips {
            *now_ns += (trip_ms + 5) * MS;
            adaptive.committed(trip_ms * MS, *now_ns);
        }
    }

    fn learned(mode: Mode) -> (Adaptive, u64) {
        let (mut adaptive, mut now_ns) = (Adaptive::new(mode, 5, 0), 0);
        run(&mut adaptive, &mut now_ns, 200, 3);
        (adaptive, now_ns)
    }

    #[test]
    fn normal_trips_have_all_of_the_ceiling_and_never_more() {
        for mode in [Mode::Aimd, Mode::Gradient2, Mode::Off] {
            let (adaptive, _) = learned(mode);
            assert_eq!(adaptive.limit(CEILING), CEILING);
            assert_eq!(adaptive.limit(Rate::Unlimited), Rate::Unlimited);
        }
    }

    #[test]
    fn noise_of_a_disk_lowers_nothing() {
        for mode in [Mode::Aimd, Mode::Gradient2] {
            let (mut adaptive, mut now_ns) = learned(mode);
            for _ in 0..50 {
                run(&mut adaptive, &mut now_ns, 20, 3);
                // A checkpoint stalls one transaction, and twice that does not stand out of the noise.
                run(&mut adaptive, &mut now_ns, 2, 40);
            }
            assert!(adaptive.share() > 0.99, "{mode:?}: {}", adaptive.share());
        }
    }

    #[test]
    fn a_stall_of_two_trips_lowers_nothing() {
        let (mut adaptive, mut now_ns) = learned(Mode::Aimd);
        for _ in 0..50 {
            run(&mut adaptive, &mut now_ns, 20, 3);
            run(&mut adaptive, &mut now_ns, 2, 400);
        }
        assert_eq!(adaptive.limit(CEILING), CEILING);
    }

    #[test]
    fn slow_trips_lower_the_share_when_each_lets_a_fast_one_through() {
        for mode in [Mode::Aimd, Mode::Gradient2] {
            let (mut adaptive, mut now_ns) = learned(mode);
            for _ in 0..40 {
                run(&mut adaptive, &mut now_ns, 1, 100);
                run(&mut adaptive, &mut now_ns, 1, 3);
            }
            assert!(adaptive.share() < 0.2, "{mode:?}: {}", adaptive.share());
        }
    }

    #[test]
    fn slow_trips_lower_the_share_and_normal_ones_bring_it_back_within_ten_seconds() {
        for mode in [Mode::Aimd, Mode::Gradient2] {
            let (mut adaptive, mut now_ns) = learned(mode);
            run(&mut adaptive, &mut now_ns, 60, 300);
            assert!(adaptive.share() < 0.3, "{mode:?}: {}", adaptive.share());
            assert!(adaptive.share() >= 0.05);
            let end = now_ns + 10_000 * MS;
            while now_ns < end {
                run(&mut adaptive, &mut now_ns, 1, 3);
            }
            assert_eq!(adaptive.limit(CEILING), CEILING, "{mode:?}: {}", adaptive.share());
        }
    }

    #[test]
    fn a_failure_halves_the_share_once_for_each_moment() {
        let (mut adaptive, now_ns) = learned(Mode::Aimd);
        for step in 0..10 {
            adaptive.failed(now_ns + HOLD_NS + step);
        }
        assert!((adaptive.share() - 0.5).abs() < 1e-9);
        assert_eq!(adaptive.limit(CEILING), Rate::Limited { records: 50, period_ns: 20_000_000 });
        let (mut off, now_ns) = learned(Mode::Off);
        off.failed(now_ns + HOLD_NS);
        assert_eq!(off.limit(CEILING), CEILING);
    }

    #[test]
    fn a_database_that_is_slower_for_good_has_all_of_the_ceiling_again() {
        let (mut adaptive, mut now_ns) = learned(Mode::Aimd);
        // A day of trips of 100 ms.
        run(&mut adaptive, &mut now_ns, 24 * 3600 * 1000 / 105, 100);
        assert_eq!(adaptive.limit(CEILING), CEILING, "{}", adaptive.share());
    }
}
