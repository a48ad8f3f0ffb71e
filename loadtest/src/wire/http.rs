//! HTTP peers, loaded by the engine over connections that are open before the clock starts, as those of the others are.

use super::{Measured, RoundPlan, WireError};
use crate::engine::{self, Connections, Load, Outcome, Plan, Progress};
use std::fmt::Write;
use std::sync::Arc;

pub fn run(url: &str, round: &RoundPlan, load: Load) -> Result<Measured, WireError> {
    let mut plan = Plan::new(url, load)?;
    plan.connections = round.connections;
    plan.threads = round.threads;
    plan.pinned = true;
    let mut connections = Connections::open(&plan)?;
    Ok(engine::run_over(&plan, &mut connections, &Arc::new(Progress::new()))?.into())
}

impl From<Outcome> for Measured {
    fn from(outcome: Outcome) -> Self {
        Self {
            offered: outcome.offered,
            acknowledged: outcome.acknowledged,
            seconds: outcome.accept_seconds,
            failure: failure(&outcome),
            latency_us: outcome.latency_us,
            start_lag_us: outcome.start_lag_us,
        }
    }
}

/// The statuses that are no acknowledgement, and the first failure.
fn failure(outcome: &Outcome) -> Option<String> {
    let mut text = String::new();
    for (status, count) in outcome.statuses.iter().filter(|(status, _)| !(200..300).contains(*status)) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{count} × status {status}; ");
    }
    if let Some(failure) = &outcome.first_failure {
        let _ = write!(text, "first failure: {failure}; ");
    }
    let text = text.trim_end_matches("; ");
    (!text.is_empty()).then(|| text.to_owned())
}
