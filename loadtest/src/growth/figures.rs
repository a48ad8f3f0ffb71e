//! What is measured, from a round to the whole.

use super::Axis;
use crate::compare::Ratio;
use crate::results::{LatencyFigures, median};
use serde::Serialize;

/// One round of closed-loop load.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Requests, every one of them acknowledged.
    pub requests: u64,
    /// Acknowledged requests per second.
    pub requests_per_second: f64,
    /// Time from sending to acknowledgement.
    pub latency: LatencyFigures,
    /// Processor time that forebay's process took, in seconds.
    pub cpu_seconds: f64,
    /// The same for a million requests.
    pub cpu_seconds_per_million_requests: f64,
    /// The same as a share of what all cores have to give in that time, from 0 to 1.
    pub cpu_share: f64,
    /// Memory of forebay's process that is resident at the end.
    pub rss_bytes: u64,
    /// The most that was resident since the process started.
    pub rss_peak_bytes: u64,
}

/// One point of an axis.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Where on the axis: connections, bytes, records or queues.
    pub at: u64,
    /// Connections that loaded it.
    pub connections: usize,
    /// Its rounds; the figures below are medians of theirs.
    pub rounds: Vec<Round>,
    /// Acknowledged requests per second.
    pub requests_per_second: f64,
    /// The median time from sending to acknowledgement, in milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile of that time, in milliseconds.
    pub p99_ms: f64,
    /// Processor time of forebay's process for a million requests, in seconds.
    pub cpu_seconds_per_million_requests: f64,
    /// Processor time as a share of what all cores have to give, from 0 to 1.
    pub cpu_share: f64,
    /// Resident memory of forebay's process at the end of the last round, and no median.
    pub rss_bytes: u64,
    /// The most that was resident until then, since the process started.
    pub rss_peak_bytes: u64,
    /// Space that its data directory takes on the disk at the end, segments that are only reserved included.
    pub disk_bytes: u64,
}

impl Point {
    /// Sums the rounds up.
    #[must_use]
    pub fn new(at: u64, connections: usize, rounds: Vec<Round>, disk_bytes: u64) -> Self {
        let of = |figure: fn(&Round) -> f64| median(&rounds.iter().map(figure).collect::<Vec<_>>());
        Self {
            at,
            connections,
            requests_per_second: of(|round| round.requests_per_second),
            p50_ms: of(|round| round.latency.p50_ms),
            p99_ms: of(|round| round.latency.p99_ms),
            cpu_seconds_per_million_requests: of(|round| round.cpu_seconds_per_million_requests),
            cpu_share: of(|round| round.cpu_share),
            rss_bytes: rounds.last().map_or(0, |round| round.rss_bytes),
            rss_peak_bytes: rounds.last().map_or(0, |round| round.rss_peak_bytes),
            disk_bytes,
            rounds,
        }
    }

    pub(super) fn rates(&self) -> Vec<f64> {
        self.rounds.iter().map(|round| round.requests_per_second).collect()
    }
}

/// One point of the axis of the backlog. Its rounds begin with the backlog and make it larger.
#[derive(Clone, Debug, Serialize)]
pub struct BacklogPoint {
    /// The figures that every point has, of single records and of the process that was started last.
    #[serde(flatten)]
    pub point: Point,
    /// Undelivered records at the end of the last round.
    pub backlog_end_records: u64,
    /// Records per second while the backlog was filled; `None` for an empty one.
    pub filled_per_second: Option<f64>,
    /// Resident memory of the process that took the backlog, when it had it.
    pub filled_rss_bytes: u64,
    /// The most that was resident of that process.
    pub filled_rss_peak_bytes: u64,
    /// Space that the data directory with the backlog alone takes on the disk.
    pub filled_disk_bytes: u64,
    /// Seconds from the start until ready, after each kill.
    pub ready_seconds: Vec<f64>,
    /// Their median.
    pub median_ready_seconds: f64,
}

/// Few busy connections alone, and the same number among many that are idle.
#[derive(Clone, Debug, Serialize)]
pub struct IdleComparison {
    /// The busy connections alone.
    pub alone: Point,
    /// The same number of them, on a forebay with all connections open.
    pub among_idle: Point,
    /// Requests per second of the second over those of the first.
    pub ratio: Ratio,
}

/// The result. An axis that was left out is empty.
#[derive(Clone, Debug, Serialize)]
pub struct Growth {
    /// By connections.
    pub connections: Vec<Point>,
    /// Busy connections with and without idle ones.
    pub idle: Option<IdleComparison>,
    /// By bytes of a record.
    pub record_size: Vec<Point>,
    /// By undelivered records.
    pub backlog: Vec<BacklogPoint>,
    /// By queues.
    pub queues: Vec<Point>,
}

impl Growth {
    /// The points of an axis, as far as they are the same on each.
    #[must_use]
    pub fn points(&self, axis: Axis) -> Vec<&Point> {
        match axis {
            Axis::Connections => self.connections.iter().collect(),
            Axis::RecordSize => self.record_size.iter().collect(),
            Axis::Backlog => self.backlog.iter().map(|level| &level.point).collect(),
            Axis::Queues => self.queues.iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_has_the_medians_and_the_last_memory() {
        let round = |rate, rss_bytes| Round {
            requests: 1,
            requests_per_second: rate,
            latency: LatencyFigures::default(),
            cpu_seconds: 0.0,
            cpu_seconds_per_million_requests: 2.0 * rate,
            cpu_share: 0.0,
            rss_bytes,
            rss_peak_bytes: 2 * rss_bytes,
        };
        let point = Point::new(7, 3, vec![round(5.0, 1), round(1.0, 9), round(2.0, 4)], 11);
        assert!((point.requests_per_second - 2.0).abs() < f64::EPSILON);
        assert!((point.cpu_seconds_per_million_requests - 4.0).abs() < f64::EPSILON);
        assert_eq!((point.rss_bytes, point.rss_peak_bytes, point.disk_bytes), (4, 8, 11));
    }
}
