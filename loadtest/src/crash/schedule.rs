//! How each life of the server ends: a pure sequence of choices, the same for the same seed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// The longest that a server is loaded.
const LOADED_US_MAX: u64 = 400_000;
/// The longest that a start is left alone: about as long as one takes on a busy machine.
const START_US_MAX: u64 = 100_000;
/// The longest that a stop is left alone.
const STOP_US_MAX: u64 = 40_000;
/// The rates of the drain: far below what the clients send, near it, and one that leaves no backlog.
const RATES: [&str; 3] = ["500/s", "3000/s", "unlimited"];

/// When a server is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// So long after it was started, whether it is ready or not.
    AtStart(Duration),
    /// After it was loaded for so long.
    UnderLoad(Duration),
    /// After it was loaded, and then told to stop (SIGTERM), for so long each.
    WhileStopping {
        /// From readiness to the signal.
        loaded: Duration,
        /// From the signal to the kill.
        stopping: Duration,
    },
}

/// The moments at which servers are killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// During a start.
    AtStart,
    /// Under load.
    UnderLoad,
    /// During a stop.
    WhileStopping,
}

/// One life of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The rate of every queue's drain.
    pub rate: &'static str,
    /// How it ends.
    pub kill: Kill,
    /// Whether `forebay verify` looks at what it left.
    pub verified: bool,
}

/// All lives of a run, without an end.
pub struct Schedule(StdRng);

impl Schedule {
    /// The lives that belong to a seed.
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    fn below(&mut self, max_us: u64) -> Duration {
        Duration::from_micros(self.0.random_range(0..max_us))
    }
}

impl Iterator for Schedule {
    type Item = Life;

    fn next(&mut self) -> Option<Life> {
        let kill = match self.0.random_range(0..4) {
            0 => Kill::AtStart(self.below(START_US_MAX)),
            1 => Kill::WhileStopping { loaded: self.below(LOADED_US_MAX), stopping: self.below(STOP_US_MAX) },
            _ => Kill::UnderLoad(self.below(LOADED_US_MAX)),
        };
        // Sometimes the next start comes at once, while the database may still have the last transaction.
        Some(Life { rate: RATES[self.0.random_range(0..RATES.len())], kill, verified: self.0.random() })
    }
}

impl Kill {
    /// The moment that it belongs to.
    #[must_use]
    pub fn moment(self) -> Moment {
        match self {
            Self::AtStart(_) => Moment::AtStart,
            Self::UnderLoad(_) => Moment::UnderLoad,
            Self::WhileStopping { .. } => Moment::WhileStopping,
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::AtStart => "during a start",
            Self::UnderLoad => "under load",
            Self::WhileStopping => "during a stop",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_its_lives_and_every_moment_comes() {
        let lives: Vec<Life> = Schedule::new(7).take(100).collect();
        assert!(lives.iter().copied().eq(Schedule::new(7).take(100)));
        assert!(!lives.iter().copied().eq(Schedule::new(8).take(100)));
        for moment in [Moment::AtStart, Moment::UnderLoad, Moment::WhileStopping] {
            assert!(lives.iter().filter(|life| life.kill.moment() == moment).count() > 10, "{moment}");
        }
        for rate in RATES {
            assert!(lives.iter().any(|life| life.rate == rate), "{rate}");
        }
        assert!(lives.iter().any(|life| life.verified) && lives.iter().any(|life| !life.verified));
    }
}
