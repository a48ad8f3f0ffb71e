//! Peers side by side: rounds that take turns, so that what disturbs the machine disturbs each alike.

mod page;

use crate::peer::RunningPeer;
use crate::results::{LatencyFigures, median, rate};
use crate::schedule::{Schedule, ScheduleError};
use crate::wire::{Measured, RoundPlan, WireError};
use serde::Serialize;
use std::fmt::{self, Write};
use std::time::Duration;

/// The shares of a peer's own peak at which it is loaded open loop, in percent.
const OPEN_LOOP_PERCENT: [u32; 4] = [25, 50, 75, 90];

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
    /// Whether each peer is also loaded open loop, at shares of its own peak.
    pub open_loop: bool,
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

/// One series of rounds over another one with which it took turns, such as a peer's requests per second over the first
/// peer's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// The ratio of the medians.
    pub of_medians: f64,
    /// The smallest ratio of two rounds that followed each other.
    pub min: f64,
    /// The largest ratio of two rounds that followed each other.
    pub max: f64,
}

impl Ratio {
    /// The ratio of `rounds` to the rounds of `base`, which were measured in turns.
    #[must_use]
    pub fn of(rounds: &[f64], base: &[f64]) -> Self {
        let pairs = || rounds.iter().zip(base).map(|(round, base)| round / base);
        Self {
            of_medians: median(rounds) / median(base),
            min: pairs().fold(f64::INFINITY, f64::min),
            max: pairs().fold(0.0, f64::max),
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of_medians, min, max } = self;
        write!(formatter, "{of_medians:.3} of medians, pairs {min:.3} to {max:.3}")
    }
}

/// One peer at constant arrivals, which do not wait for it.
#[derive(Clone, Debug, Serialize)]
pub struct OpenLoop {
    /// The peer's name.
    pub peer: &'static str,
    /// The figures at each rate, from the lowest up.
    pub steps: Vec<OpenLoopStep>,
}

/// One rate of arrivals.
#[derive(Clone, Debug, Serialize)]
pub struct OpenLoopStep {
    /// The rate as a share of the peer's median closed-loop peak, in percent.
    pub percent_of_peak: u32,
    /// Requests that were due in each second.
    pub due_per_second: f64,
    /// Requests that were acknowledged in each second.
    pub acknowledged_per_second: f64,
    /// Time from due time to acknowledgement.
    pub latency: LatencyFigures,
    /// The 99th percentile of the time from due time to sending, in milliseconds. It is within the latency.
    pub start_lag_p99_ms: f64,
}

/// The peers at one number of connections.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The number of connections.
    pub connections: usize,
    /// The figures of each peer, in the order in which they took turns.
    pub peers: Vec<PeerFigures>,
    /// The same peers open loop; empty when that was not asked for.
    pub open_loop: Vec<OpenLoop>,
}

/// Why a comparison has no result.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A round could not be run, or a server could not be asked what it holds.
    #[error("{peer}: {source}")]
    Wire {
        /// The peer.
        peer: &'static str,
        /// What happened.
        source: WireError,
    },
    /// A server answered with something else than an acknowledgement or not at all, so its rate means nothing.
    #[error("{peer} failed at {connections} connections: {reason}")]
    BadRound {
        /// The peer.
        peer: &'static str,
        /// Connections that the round had.
        connections: usize,
        /// What it answered.
        reason: String,
    },
    /// A server holds less than it acknowledged.
    #[error("{peer} acknowledged {acknowledged} orders and holds {held}")]
    Lost {
        /// The peer.
        peer: &'static str,
        /// What it acknowledged in all rounds.
        acknowledged: u64,
        /// What it says that it holds.
        held: u64,
    },
    /// The arrivals of an open-loop round cannot be made.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
}

/// What is told while a comparison goes on.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A closed-loop round has ended.
    Round(&'a Round),
    /// An open-loop round of the named peer has ended.
    OpenLoop(&'static str, &'a OpenLoopStep),
}

/// A peer, and what it has acknowledged so far.
struct Contender<'a> {
    peer: &'a RunningPeer,
    acknowledged: u64,
}

/// Loads the peers in turns and tells `on_event` about each round as it ends. Blocks.
///
/// In the end each peer that can be asked must hold every order that it acknowledged.
///
/// # Errors
/// The load cannot be made, any request of any round was not acknowledged, or a peer holds too few orders.
pub fn compare_peers(
    peers: &[RunningPeer],
    plan: &ComparePlan,
    mut on_event: impl FnMut(Event<'_>),
) -> Result<Vec<Comparison>, CompareError> {
    let mut contenders: Vec<Contender> = peers.iter().map(|peer| Contender { peer, acknowledged: 0 }).collect();
    let mut comparisons = Vec::with_capacity(plan.connections.len());
    for connections in plan.connections.iter().copied() {
        let round = |duration| RoundPlan { connections, threads: plan.threads, duration };
        for contender in &mut contenders {
            contender.closed_loop(&round(plan.warm_up))?;
        }
        let mut rounds: Vec<Vec<Round>> = vec![Vec::with_capacity(plan.rounds); peers.len()];
        for number in 1..=plan.rounds {
            for (contender, rounds) in contenders.iter_mut().zip(&mut rounds) {
                let measured = contender.closed_loop(&round(plan.round))?;
                let round = Round {
                    peer: contender.peer.name,
                    connections,
                    round: number,
                    per_second: measured.per_second(),
                    latency: LatencyFigures::from_us(&measured.latency_us),
                };
                on_event(Event::Round(&round));
                rounds.push(round);
            }
        }
        let keeps: Vec<&'static str> = peers.iter().map(|peer| peer.keeps).collect();
        let peers = figures(&rounds, &keeps);
        let open_loop = if plan.open_loop {
            open_loop(&mut contenders, &peers, &round(plan.round), &mut on_event)?
        } else {
            Vec::new()
        };
        comparisons.push(Comparison { connections, peers, open_loop });
    }
    contenders.iter().try_for_each(Contender::check_held)?;
    Ok(comparisons)
}

/// Loads the peers in turns with constant arrivals at shares of their own peaks.
fn open_loop(
    contenders: &mut [Contender<'_>],
    peaks: &[PeerFigures],
    round: &RoundPlan,
    on_event: &mut impl FnMut(Event<'_>),
) -> Result<Vec<OpenLoop>, CompareError> {
    let none = |contender: &Contender<'_>| OpenLoop { peer: contender.peer.name, steps: Vec::new() };
    let mut results: Vec<OpenLoop> = contenders.iter().map(none).collect();
    for percent_of_peak in OPEN_LOOP_PERCENT {
        for ((contender, peak), result) in contenders.iter_mut().zip(peaks).zip(&mut results) {
            let due_per_second = peak.median_per_second * f64::from(percent_of_peak) / 100.0;
            let records = at_least_one(due_per_second * round.duration.as_secs_f64());
            let schedule = Schedule::constant(records, due_per_second)?;
            let measured = contender.open_loop(round, schedule)?;
            let step = OpenLoopStep {
                percent_of_peak,
                due_per_second,
                acknowledged_per_second: measured.per_second(),
                latency: LatencyFigures::from_us(&measured.latency_us),
                start_lag_p99_ms: LatencyFigures::from_us(&measured.start_lag_us).p99_ms,
            };
            on_event(Event::OpenLoop(result.peer, &step));
            result.steps.push(step);
        }
    }
    Ok(results)
}

/// Truncates to a number of requests; the cast saturates.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn at_least_one(records: f64) -> u64 {
    (records as u64).max(1)
}

impl Contender<'_> {
    fn closed_loop(&mut self, plan: &RoundPlan) -> Result<Measured, CompareError> {
        let measured = self.peer.wire.closed_loop(plan).map_err(|source| self.wire_error(source))?;
        self.check_acknowledged(plan, measured)
    }

    fn open_loop(&mut self, plan: &RoundPlan, schedule: Schedule) -> Result<Measured, CompareError> {
        let measured = self.peer.wire.open_loop(plan, schedule).map_err(|source| self.wire_error(source))?;
        self.check_acknowledged(plan, measured)
    }

    fn check_acknowledged(&mut self, plan: &RoundPlan, measured: Measured) -> Result<Measured, CompareError> {
        self.acknowledged += measured.acknowledged;
        match measured.complaint() {
            None => Ok(measured),
            Some(reason) => Err(CompareError::BadRound { peer: self.peer.name, connections: plan.connections, reason }),
        }
    }

    fn check_held(&self) -> Result<(), CompareError> {
        let held = self.peer.wire.held().map_err(|source| self.wire_error(source))?;
        match held.filter(|held| *held < self.acknowledged) {
            None => Ok(()),
            Some(held) => Err(CompareError::Lost { peer: self.peer.name, acknowledged: self.acknowledged, held }),
        }
    }

    fn wire_error(&self, source: WireError) -> CompareError {
        CompareError::Wire { peer: self.peer.name, source }
    }
}

fn figures(rounds: &[Vec<Round>], keeps: &[&'static str]) -> Vec<PeerFigures> {
    let mut peers: Vec<PeerFigures> = Vec::with_capacity(rounds.len());
    for (rounds, keeps) in rounds.iter().zip(keeps) {
        let Some(first) = rounds.first() else { continue };
        let per_second: Vec<f64> = rounds.iter().map(|round| round.per_second).collect();
        let p99_ms: Vec<f64> = rounds.iter().map(|round| round.latency.p99_ms).collect();
        let median_per_second = median(&per_second);
        let ratio = peers.first().map(|base| Ratio::of(&per_second, &base.per_second));
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

impl Comparison {
    /// The comparison as lines of text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{} connections\n", self.connections);
        // Writing to a String cannot fail.
        for peer in &self.peers {
            let (rate, p99_ms) = (rate(peer.median_per_second), peer.median_p99_ms);
            let _ = writeln!(text, "  {:<14} median {rate:>12}   p99 {p99_ms:>9.3} ms   {}", peer.peer, peer.keeps);
        }
        for peer in &self.peers {
            if let (Some(ratio), Some(base)) = (peer.ratio, self.peers.first()) {
                let (name, base) = (peer.peer, base.peer);
                let _ = writeln!(text, "  {name} / {base}: {ratio}");
            }
        }
        if !self.open_loop.is_empty() {
            text.push_str("  open loop, latency from each request's due time\n");
        }
        for OpenLoop { peer, steps } in &self.open_loop {
            for step in steps {
                let _ = writeln!(text, "  {peer:<14} {step}");
            }
        }
        text
    }
}

impl fmt::Display for OpenLoopStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { percent_of_peak, due_per_second, acknowledged_per_second, latency, start_lag_p99_ms } = self;
        write!(
            formatter,
            "{percent_of_peak} % of its peak: due {}, acknowledged {}   p50 {:.3} ms  p99 {:.3} ms  p99.9 {:.3} ms  max {:.3} ms  \
             start lag p99 {start_lag_p99_ms:.3} ms",
            rate(*due_per_second),
            rate(*acknowledged_per_second),
            latency.p50_ms,
            latency.p99_ms,
            latency.p99_9_ms,
            latency.max_ms
        )
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
        let text = Comparison { connections: 4, peers, open_loop: Vec::new() }.to_text();
        assert!(text.contains("b / a: 0.750 of medians, pairs 0.500 to 1.500"), "{text}");
    }
}
