//! What arrived when, as figures: the mean, and the fullest and the emptiest windows, wherever they begin.

use serde::Serialize;

pub const SECOND_NS: u64 = 1_000_000_000;
/// The length of the short windows.
pub const WINDOW_NS: u64 = SECOND_NS / 10;

/// What arrived within a span that begins with the first arrival.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Arrivals {
    /// Records within the span.
    pub records: u64,
    /// Records per second, from the first arrival to the first one behind the span: nothing of it depends on whether the
    /// span ends just before or just behind a batch.
    pub mean_per_second: f64,
    /// The most records in any second, wherever it begins.
    pub second_max: u64,
    /// The most records in any 100 ms, wherever they begin.
    pub window_max: u64,
    /// The fewest records in any 100 ms of the span, wherever they begin.
    pub window_min: u64,
    /// Records in each 100 ms from the first arrival on.
    pub per_100ms: Vec<u64>,
}

impl Arrivals {
    /// Counts moments, in nanoseconds of any one clock and in any order. What came later than the span after the first one
    /// is only looked at for the mean.
    #[must_use]
    pub fn count(mut at_ns: Vec<u64>, span_ns: u64) -> Self {
        at_ns.sort_unstable();
        let first = at_ns.first().copied().unwrap_or(0);
        for at in &mut at_ns {
            *at -= first;
        }
        let within = at_ns.partition_point(|at| *at < span_ns);
        // A sink that got nothing more had the whole span for what it got.
        let closed_ns = at_ns.get(within).map_or(span_ns, |at| (*at).max(span_ns));
        let within = &at_ns[..within];
        Self {
            records: within.len() as u64,
            mean_per_second: within.len() as f64 / closed_ns.max(1) as f64 * SECOND_NS as f64,
            second_max: most_within(within, SECOND_NS),
            window_max: most_within(within, WINDOW_NS),
            window_min: fewest_within(within, WINDOW_NS, span_ns),
            per_100ms: per_window(within, span_ns),
        }
    }

    /// How far the mean is from a rate, in hundredths of it: below zero if too few came.
    #[must_use]
    pub fn error_percent(&self, rate_per_second: u32) -> f64 {
        let rate = f64::from(rate_per_second);
        (self.mean_per_second - rate) / rate * 100.0
    }
}

/// The most of the sorted moments in any window that holds its beginning and not its end.
fn most_within(at_ns: &[u64], window_ns: u64) -> u64 {
    let (mut from, mut most) = (0, 0);
    for (last, at) in at_ns.iter().enumerate() {
        while at - at_ns[from] >= window_ns {
            from += 1;
        }
        most = most.max(last + 1 - from);
    }
    most as u64
}

/// The fewest in any such window that lies within the span. One that holds the fewest begins at the beginning or just
/// behind a moment.
fn fewest_within(at_ns: &[u64], window_ns: u64, span_ns: u64) -> u64 {
    let mut fewest = at_ns.len();
    let mut end = 0;
    for begin in [0].into_iter().chain(at_ns.iter().map(|at| at + 1)) {
        if begin + window_ns > span_ns {
            break;
        }
        while at_ns.get(end).is_some_and(|at| *at < begin + window_ns) {
            end += 1;
        }
        fewest = fewest.min(end - at_ns.partition_point(|at| *at < begin));
    }
    fewest as u64
}

fn per_window(at_ns: &[u64], span_ns: u64) -> Vec<u64> {
    let windows = usize::try_from(span_ns / WINDOW_NS).unwrap_or(usize::MAX);
    let mut counts = vec![0; windows];
    for at in at_ns {
        let window = usize::try_from(at / WINDOW_NS).unwrap_or(usize::MAX);
        if let Some(count) = counts.get_mut(window) {
            *count += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn even_batches_have_the_rate_and_no_worse_window() {
        // 25 records each 5 ms, 20 µs apart, from some moment on: 5,000 a second.
        let at = (0..2100).flat_map(|batch| (0..25).map(move |record| 777 + batch * 5 * MS + record * 20_000));
        let arrivals = Arrivals::count(at.collect(), 10 * SECOND_NS);
        assert!((arrivals.mean_per_second - 5000.0).abs() < 1e-6, "{arrivals:?}");
        assert_eq!((arrivals.records, arrivals.second_max), (50_000, 5000));
        assert_eq!((arrivals.window_max, arrivals.window_min), (500, 500));
        assert_eq!(arrivals.per_100ms, vec![500; 100]);
        assert!((arrivals.error_percent(4000) - 25.0).abs() < 1e-6);
    }

    #[test]
    fn a_gap_shows_in_the_mean_and_in_the_emptiest_window() {
        // 100 records a second, of which half a second is missing, and then nothing more.
        let at = (0..200).filter(|n| !(50..100).contains(n)).map(|n| n * 10 * MS).collect();
        let arrivals = Arrivals::count(at, 10 * SECOND_NS);
        assert!((arrivals.mean_per_second - 15.0).abs() < 1e-6, "{arrivals:?}");
        assert_eq!((arrivals.window_min, arrivals.window_max, arrivals.second_max), (0, 10, 100));
    }

    #[test]
    fn nothing_is_no_rate() {
        let arrivals = Arrivals::count(Vec::new(), SECOND_NS);
        assert_eq!((arrivals.records, arrivals.second_max, arrivals.window_min), (0, 0, 0));
        assert_eq!(arrivals.per_100ms, vec![0; 10]);
        assert!((arrivals.error_percent(5) + 100.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn windows_are_those_of_trying_every_beginning(at in prop::collection::vec(0_u64..60, 1..60), window in 1_u64..30) {
            let span = 70;
            let mut sorted = at;
            sorted.sort_unstable();
            let within = |begin: u64| sorted.iter().filter(|at| (begin..begin + window).contains(*at)).count() as u64;
            prop_assert_eq!(Some(most_within(&sorted, window)), (0..span).map(within).max());
            prop_assert_eq!(Some(fewest_within(&sorted, window, span)), (0..=span - window).map(within).min());
        }
    }
}
