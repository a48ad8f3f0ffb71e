//! How early and how late a wall clock that jumps has stood since any moment.

/// Times of a clock, in microseconds since the Unix epoch. A moment is named by how many times were noted up to it.
#[derive(Clone, Default)]
pub struct Extremes {
    moments: u64,
    /// Moments behind which the clock never stood as late again, and when it stood so.
    highs: Vec<(u64, u64)>,
    /// The same for early.
    lows: Vec<(u64, u64)>,
}

impl Extremes {
    /// The clock stands there now.
    pub fn note(&mut self, unix_us: u64) {
        self.moments += 1;
        while self.highs.last().is_some_and(|(_, before_us)| *before_us <= unix_us) {
            self.highs.pop();
        }
        while self.lows.last().is_some_and(|(_, before_us)| *before_us >= unix_us) {
            self.lows.pop();
        }
        self.highs.push((self.moments, unix_us));
        self.lows.push((self.moments, unix_us));
    }

    /// The moment of the last time that was noted.
    pub fn now(&self) -> u64 {
        self.moments
    }

    /// The earliest and the latest time from a moment on, that one included.
    pub fn since(&self, moment: u64) -> (u64, u64) {
        let from = |list: &[(u64, u64)]| list[list.partition_point(|(at, _)| *at < moment)].1;
        (from(&self.lows), from(&self.highs))
    }
}

#[test]
fn extremes_are_those_of_a_plain_list() {
    let mut random = crate::random::Random::new(3);
    let (mut extremes, mut all) = (Extremes::default(), Vec::new());
    for _ in 0..300 {
        let time_us = random.below(1000);
        extremes.note(time_us);
        all.push(time_us);
        let from = random.index(all.len());
        let since = &all[from..];
        let expected = (*since.iter().min().unwrap(), *since.iter().max().unwrap());
        assert_eq!(extremes.since(from as u64 + 1), expected);
    }
}
