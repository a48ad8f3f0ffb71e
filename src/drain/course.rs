//! The course that a drain keeps: what it was told, and how fast it may go for that and for the state of its sink.

use tokio::sync::watch;

use super::adaptive::Adaptive;
use super::pacer::{Pace, Pacer, Tolerance};
use crate::config;
use crate::limits::{PACER_CATCH_UP_MS, PACER_SLACK_MS};
use crate::planted::{Bug, is_planted};
use crate::queue::{DrainState, Instructions, Outlet};

/// What a drain keeps to.
pub(super) struct Course {
    /// What it is told, as it was last looked at.
    pub(super) told: Instructions,
    /// Changes when it is told something else.
    pub(super) instructions: watch::Receiver<Instructions>,
    /// How fast it may go now.
    pub(super) pace: Pace,
    /// When the next record may leave.
    pub(super) pacer: Pacer,
    /// How much less than the ceiling the sink bears.
    pub(super) adaptive: Adaptive,
    /// Counts changes of any of it: what was released before one is released anew.
    pub(super) changes: u64,
}

impl Course {
    /// The course of a sink's drain from now on.
    pub(super) fn new(outlet: &Outlet, now_ns: u64, unix_us: u64) -> Self {
        let instructions = outlet.instructions.subscribe();
        let told = instructions.borrow().clone();
        let config::Adaptive { mode, share_min_percent } = told.shaping.adaptive;
        let pace = ceiling(&told.shaping, unix_us);
        Self {
            pace,
            pacer: Pacer::new(pace, now_ns),
            adaptive: Adaptive::new(mode, share_min_percent, now_ns),
            changes: 0,
            told,
            instructions,
        }
    }

    /// Does from here on what it is told, what the time of day says, and what the sink bears.
    pub(super) fn follow(&mut self, outlet: &Outlet, now_ns: u64, unix_us: u64) {
        if self.is_told_otherwise() {
            let told = self.instructions.borrow_and_update().clone();
            self.changes += 1;
            self.adaptive.change(told.shaping.adaptive.mode, told.shaping.adaptive.share_min_percent);
            let was_paused = std::mem::replace(&mut self.told, told).is_paused;
            if was_paused && !self.told.is_paused {
                // What could have left meanwhile is lost, or the database would see more than the rate now.
                self.pacer.change(self.pace, now_ns);
                outlet.drain.set_state(DrainState::Running);
            }
        }
        let ceiling = ceiling(&self.told.shaping, unix_us);
        let pace = Pace { rate: self.adaptive.limit(ceiling.rate), ..ceiling };
        if pace != self.pace {
            self.pacer.change(pace, now_ns);
            self.pace = pace;
            self.changes += 1;
        }
        outlet.drain.interval_ps.set(pace.rate.interval_ps());
        outlet.drain.ceiling_interval_ps.set(ceiling.rate.interval_ps());
    }

    /// Whether there is something new to follow.
    pub(super) fn is_told_otherwise(&self) -> bool {
        self.instructions.has_changed().unwrap_or(false)
    }

    /// Failures in a row after which single records are sent.
    pub(super) fn failures_max(&self) -> u32 {
        u32::try_from(self.told.shaping.retry.failures_max).unwrap_or(u32::MAX)
    }
}

/// The ceiling of a moment, in microseconds since the Unix epoch.
fn ceiling(shaping: &config::Shaping, unix_us: u64) -> Pace {
    let rate = shaping.schedule.rate_at(unix_us).unwrap_or(shaping.rate);
    let tolerance_ms = shaping.batch.linger_ms_max.saturating_add(PACER_SLACK_MS);
    let mut tolerance = match shaping.burst {
        Some(burst) => Tolerance::Records(burst),
        None => Tolerance::Gradual {
            at_once_ns: tolerance_ms.saturating_mul(1_000_000),
            in_all_ns: tolerance_ms.saturating_add(PACER_CATCH_UP_MS).saturating_mul(1_000_000),
        },
    };
    if is_planted(Bug::DoubleFirstSecond) {
        tolerance = Tolerance::Time((tolerance_ms + 1000) * 1_000_000);
    }
    Pace { rate, tolerance }
}
