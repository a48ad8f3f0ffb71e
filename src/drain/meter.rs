//! How fast a drain really is, for the ETA of a queue without a configured rate.

/// Counts records over windows of at least a second.
#[derive(Default)]
pub struct Meter {
    window_start_ns: u64,
    records: u64,
    per_second: u64,
}

impl Meter {
    const WINDOW_NS: u64 = 1_000_000_000;
    /// A window this much longer than it should be had a pause in it, and says nothing.
    const STALE_NS: u64 = 5 * Self::WINDOW_NS;

    /// Adds delivered records and returns records per second over the last whole window; 0 at first.
    pub fn add(&mut self, records: u64, now_ns: u64) -> u64 {
        let elapsed = now_ns.saturating_sub(self.window_start_ns);
        self.records += records;
        if self.window_start_ns == 0 || elapsed > Self::STALE_NS {
            (self.window_start_ns, self.records) = (now_ns, 0);
        } else if elapsed >= Self::WINDOW_NS {
            let per_second = u128::from(self.records) * 1_000_000_000 / u128::from(elapsed);
            self.per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
            (self.window_start_ns, self.records) = (now_ns, 0);
        }
        self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_measures_whole_windows_and_forgets_pauses() {
        let mut meter = Meter::default();
        let second = 1_000_000_000;
        assert_eq!(meter.add(50, second), 0);
        for step in 1..=10 {
            meter.add(50, second + step * 100_000_000);
        }
        assert_eq!(meter.add(0, 2 * second), 500);
        assert_eq!(meter.add(7, 60 * second), 500);
        meter.add(100, 61 * second);
        assert_eq!(meter.add(0, 61 * second), 100);
    }
}
