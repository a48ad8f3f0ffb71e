//! Peers side by side: closed-loop rounds that take turns, so that what disturbs the machine disturbs each alike.

use crate::engine::{self, EngineError, Load, Outcome, Plan, Progress};
use crate::peer::RunningPeer;
use crate::results::{LatencyFigures, rate};
use serde::Serialize;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// How a comparison is made.
#[derive(Clone, Debug)]
pub struct ComparePlan {
    /// The numbers of connections to compare at, one after the other.
    pub connections: Vec<usize>,
    /// Rounds for each peer at each number of connections.
    pub rounds: usize,
    /// How long each round lasts.
    pub round: Duration,
    /// How long each peer is loaded before its first round at each number of connections.
    pub warm_up: Duration,
    /// Threads of the load generator.
    pub threads: usize,
}

/// One round of one peer.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// The peer's name.
    pub peer: &'static str,
    /// Connections that the round had.
    pub connections: usize,
    /// The round's number, from 1.
    pub round: usize,
    /// Acknowledged requests per second.
    pub per_second: f64,
    /// Time from sending to acknowledgement.
    pub latency: LatencyFigures,
}

/// One peer at one number of connections.
#[derive(Clone, Debug, Serialize)]
pub struct PeerFigures {
    /// The peer's name.
    pub peer: &'static str,
    /// What it keeps of a request, and when.
    pub keeps: &'static str,
    /// Acknowledged requests per second of each round.
    pub per_second: Vec<f64>,
    /// The median of `per_second`.
    pub median_per_second: f64,
    /// The median of the rounds' 99th percentiles of latency, in milliseconds.
    pub median_p99_ms: f64,
    /// Against the first peer; `None` for the first peer itself.
    pub ratio: Option<Ratio>,
}

/// A peer's requests per second over the first peer's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// The ratio of the medians.
    pub of_medians: f64,
    /// The smallest ratio of two rounds that followed each other.
    pub min: f64,
    /// The largest ratio of two rounds that followed each other.
    pub max: f64,
}

/// The peers at one number of connections.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The number of connections.
    pub connections: usize,
    /// The figures of each peer, in the order in which they took turns.
    pub peers: Vec<PeerFigures>,
}

/// Why a comparison has no result.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The load could not be made.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A server answered with something else than 2xx or not at all, so its rate means nothing.
    #[error("{peer} failed at {connections} connections: {reason}")]
    BadRound {
        /// The peer.
        peer: &'static str,
        /// Connections that the round had.
        connections: usize,
        /// What it answered.
        reason: String,
    },
}

/// Loads the peers in turns and tells `on_round` about each round as it ends. Blocks.
///
/// # Errors
/// The load cannot be made, or any request of any round was not acknowledged.
pub fn compare_peers(
    peers: &[RunningPeer],
    plan: &ComparePlan,
    mut on_round: impl FnMut(&Round),
) -> Result<Vec<Comparison>, CompareError> {
    let mut comparisons = Vec::with_capacity(plan.connections.len());
    for connections in plan.connections.iter().copied() {
        for peer in peers {
            load(peer, connections, plan.warm_up, plan.threads)?;
        }
        let mut rounds: Vec<Vec<Round>> = vec![Vec::with_capacity(plan.rounds); peers.len()];
        for number in 1..=plan.rounds {
            for (peer, rounds) in peers.iter().zip(&mut rounds) {
                let outcome = load(peer, connections, plan.round, plan.threads)?;
                let round = Round {
                    peer: peer.name,
                    connections,
                    round: number,
                    per_second: outcome.acknowledged as f64 / outcome.accept_seconds,
                    latency: LatencyFigures::from_us(&outcome.latency_us),
                };
                on_round(&round);
                rounds.push(round);
            }
        }
        let keeps: Vec<&'static str> = peers.iter().map(|peer| peer.keeps).collect();
        comparisons.push(Comparison { connections, peers: figures(&rounds, &keeps) });
    }
    Ok(comparisons)
}

fn load(peer: &RunningPeer, connections: usize, duration: Duration, threads: usize) -> Result<Outcome, CompareError> {
    let mut plan = Plan::new(&peer.url, Load::Closed { records: None, duration: Some(duration) })?;
    plan.connections = connections;
    plan.threads = threads;
    let outcome = engine::run(&plan, &Arc::new(Progress::new()))?;
    match complaint(&outcome) {
        None => Ok(outcome),
        Some(reason) => Err(CompareError::BadRound { peer: peer.name, connections, reason }),
    }
}

/// What is wrong with a round, if anything.
fn complaint(outcome: &Outcome) -> Option<String> {
    let unacknowledged = outcome.offered - outcome.acknowledged;
    if outcome.acknowledged > 0 && unacknowledged == 0 {
        return None;
    }
    let mut text = format!("{unacknowledged} of {} requests were not acknowledged", outcome.offered);
    for (status, count) in outcome.statuses.iter().filter(|(status, _)| !(200..300).contains(*status)) {
        // Writing to a String cannot fail.
        let _ = write!(text, "; {count} × status {status}");
    }
    if let Some(failure) = &outcome.first_failure {
        let _ = write!(text, "; first failure: {failure}");
    }
    Some(text)
}

fn figures(rounds: &[Vec<Round>], keeps: &[&'static str]) -> Vec<PeerFigures> {
    let mut peers: Vec<PeerFigures> = Vec::with_capacity(rounds.len());
    for (rounds, keeps) in rounds.iter().zip(keeps) {
        let Some(first) = rounds.first() else { continue };
        let per_second: Vec<f64> = rounds.iter().map(|round| round.per_second).collect();
        let p99_ms: Vec<f64> = rounds.iter().map(|round| round.latency.p99_ms).collect();
        let median_per_second = median(&per_second);
        let ratio = peers.first().map(|base| {
            let pairs = || per_second.iter().zip(&base.per_second).map(|(mine, base)| mine / base);
            Ratio {
                of_medians: median_per_second / base.median_per_second,
                min: pairs().fold(f64::INFINITY, f64::min),
                max: pairs().fold(0.0, f64::max),
            }
        });
        peers.push(PeerFigures {
            peer: first.peer,
            keeps,
            per_second,
            median_per_second,
            median_p99_ms: median(&p99_ms),
            ratio,
        });
    }
    peers
}

/// The middle value, or the mean of the two middle ones; 0 of nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length.is_multiple_of(2) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

impl Comparison {
    /// The comparison as lines of text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{} connections\n", self.connections);
        // Writing to a String cannot fail.
        for peer in &self.peers {
            let (rate, p99_ms) = (rate(peer.median_per_second), peer.median_p99_ms);
            let _ = writeln!(text, "  {:<10} median {rate:>12}   p99 {p99_ms:>9.3} ms   {}", peer.peer, peer.keeps);
        }
        for peer in &self.peers {
            if let (Some(ratio), Some(base)) = (peer.ratio, self.peers.first()) {
                let Ratio { of_medians, min, max } = ratio;
                let (name, base) = (peer.peer, base.peer);
                let _ = writeln!(text, "  {name} / {base}: {of_medians:.3} of medians, pairs {min:.3} to {max:.3}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(peer: &'static str, per_second: &[f64]) -> Vec<Round> {
        let round = |(round, per_second): (usize, &f64)| Round {
            peer,
            connections: 4,
            round,
            per_second: *per_second,
            latency: LatencyFigures::default(),
        };
        (1..).zip(per_second).map(round).collect()
    }

    #[test]
    fn ratios_are_of_medians_and_of_pairs() {
        let peers = figures(&[rounds("a", &[100.0, 200.0, 300.0]), rounds("b", &[150.0, 100.0, 300.0])], &["x", "y"]);
        assert!(peers[0].ratio.is_none());
        assert_eq!(peers[1].ratio, Some(Ratio { of_medians: 0.75, min: 0.5, max: 1.5 }));
        let text = Comparison { connections: 4, peers }.to_text();
        assert!(text.contains("b / a: 0.750 of medians, pairs 0.500 to 1.500"), "{text}");
    }

    #[test]
    fn medians_are_in_the_middle() {
        for (values, expected) in [(&[][..], 0.0), (&[3.0], 3.0), (&[3.0, 1.0], 2.0), (&[9.0, 1.0, 2.0], 2.0)] {
            assert!((median(values) - expected).abs() < f64::EPSILON);
        }
    }
}
