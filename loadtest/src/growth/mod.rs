//! How the cost of forebay grows: with connections, with the size of a record, with the backlog and with queues.
//!
//! Each axis is a series of its own. A point of it has a forebay of its own, loaded by a closed loop over connections
//! that are open before the clock starts, and beside its figures stands what the forebay's process took of memory and
//! processor time.

mod axes;
mod backlog;
mod figures;
mod idle;
mod page;
mod room;
mod station;
mod table;

pub use figures::{BacklogPoint, Growth, IdleComparison, Point, Round};

use crate::engine::EngineError;
use crate::peer::{ForebayConfiguration, PeerError, StartOptions};
use crate::results::{bytes, grouped, rate};
use serde::Serialize;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The longest that a forebay is loaded before its first round.
const WARM_UP_MAX: Duration = Duration::from_secs(1);
/// Far more than any axis fills.
const BACKLOG_BYTES_MAX: u64 = 1 << 40;
/// The longest that can be configured: connections that are silent on purpose must not be closed for it.
const IDLE_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;

/// What a cost grows with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// Open connections, each with a request in flight.
    Connections,
    /// Bytes of a record.
    RecordSize,
    /// Records that are not delivered yet.
    Backlog,
    /// Queues, over which the load is spread.
    Queues,
}

/// What is measured. An axis without points is left out.
#[derive(Clone, Debug)]
pub struct GrowthPlan {
    /// The `forebay` program.
    pub forebay: PathBuf,
    /// Where the servers write, which should be a real disk; `None` for the system's temporary directory.
    pub directory: Option<PathBuf>,
    /// Rounds at each point.
    pub rounds: usize,
    /// How long each round lasts.
    pub round: Duration,
    /// How long each forebay is loaded before its first round.
    pub warm_up: Duration,
    /// Threads of the load generator.
    pub threads: usize,
    /// Numbers of connections.
    pub connections: Vec<usize>,
    /// The comparison that goes with the connections: many of them open and few busy.
    pub idle: Option<IdlePlan>,
    /// Bytes of a record.
    pub record_bytes: Vec<usize>,
    /// Records of backlog.
    pub backlog_records: Vec<u64>,
    /// Numbers of queues.
    pub queues: Vec<usize>,
}

/// Open connections of which few are busy, to be compared with those few alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdlePlan {
    /// All open connections.
    pub open: usize,
    /// Those of them that are busy.
    pub busy: usize,
}

impl GrowthPlan {
    /// All axes with their usual points, three rounds of 3 s each.
    #[must_use]
    pub fn new(forebay: PathBuf) -> Self {
        Self {
            forebay,
            directory: None,
            rounds: 3,
            round: Duration::from_secs(3),
            warm_up: WARM_UP_MAX,
            threads: 1,
            connections: vec![1, 10, 100, 1_000, 10_000],
            idle: Some(IdlePlan { open: 10_000, busy: 100 }),
            record_bytes: vec![64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20],
            backlog_records: vec![0, 10_000, 100_000, 1_000_000, 10_000_000],
            queues: vec![1, 10, 100],
        }
    }

    /// Sets how long a round lasts, and no longer a warm-up.
    #[must_use]
    pub fn with_round(self, round: Duration) -> Self {
        Self { round, warm_up: round.min(WARM_UP_MAX), ..self }
    }

    /// Lets the backlog end with `records`, which become the last point of its axis.
    #[must_use]
    pub fn with_backlog_max(mut self, records: u64) -> Self {
        self.backlog_records.retain(|point| *point < records);
        self.backlog_records.push(records);
        self
    }

    fn start_options(&self) -> StartOptions {
        StartOptions {
            parent_directory: self.directory.clone(),
            forebay_binary: Some(self.forebay.clone()),
            load_threads: 0,
        }
    }

    /// What every forebay is told: the drain stands still, and nothing is refused or closed that is to be measured.
    fn configuration(&self) -> ForebayConfiguration {
        ForebayConfiguration {
            rate: "1/h".to_owned(),
            max_backlog_bytes: Some(BACKLOG_BYTES_MAX),
            // There are never as many connections as files.
            connections_max: Some(room::open_files(self)),
            idle_timeout_ms: Some(IDLE_TIMEOUT_MS),
            ..ForebayConfiguration::default()
        }
    }

    /// How long one forebay is loaded in all, if it is warmed up so often. Begun seconds count.
    fn loaded_seconds(&self, warm_ups: usize) -> u64 {
        let times = |duration: Duration, count| duration.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        let seconds = times(self.round, self.rounds).saturating_add(times(self.warm_up, warm_ups)).as_secs();
        seconds.saturating_add(1)
    }
}

/// What is told while the measurements go on.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A round has ended.
    Round {
        /// The point that it belongs to.
        point: &'a str,
        /// Its number, from 1.
        number: usize,
        /// Its figures.
        round: &'a Round,
    },
    /// A part of a backlog is there.
    Filled {
        /// Records that are there.
        records: u64,
        /// Records that there will be.
        of: u64,
    },
    /// A forebay was killed and is ready again.
    Ready {
        /// Records that it has not delivered.
        backlog_records: u64,
        /// How long it took from its start.
        seconds: f64,
    },
    /// Connections are open that will be idle.
    Idle {
        /// How many.
        connections: usize,
    },
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum GrowthError {
    /// Too few files may be open.
    #[error(
        "{needed} files have to be open at once, for the connections and some more, and the hard limit is {limit}: \
         raise it as root (ulimit -n {needed}), or measure fewer connections"
    )]
    OpenFiles {
        /// How many files.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// The disk has too little room.
    #[error(
        "the axis {axis} needs about {} in {}, where {} are free: name another directory{}",
        bytes(*needed_bytes), directory.display(), bytes(*free_bytes), smaller(*axis)
    )]
    DiskSpace {
        /// The axis that needs the most.
        axis: Axis,
        /// Where it would be written.
        directory: PathBuf,
        /// What it needs.
        needed_bytes: u64,
        /// What there is.
        free_bytes: u64,
    },
    /// A file or the kernel's word about a process.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// A forebay did not start.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// A load could not be made.
    #[error("{point}: {error}")]
    Engine {
        /// The point that was to be measured.
        point: String,
        /// What happened.
        error: EngineError,
    },
    /// Something was not acknowledged, so the rate means nothing.
    #[error("{point}: {reason}\n{log}")]
    BadRound {
        /// The point that was measured.
        point: String,
        /// What happened.
        reason: String,
        /// The end of what the forebay wrote.
        log: String,
    },
    /// The forebay has gone, or its process is not to be found.
    #[error("{point}: the forebay's process is gone")]
    NoProcess {
        /// The point that was measured.
        point: String,
    },
    /// A forebay that was killed has less than it acknowledged.
    #[error("forebay acknowledged {acknowledged} records, was killed, and holds {held}")]
    Lost {
        /// What it acknowledged.
        acknowledged: u64,
        /// What it says that it holds.
        held: u64,
    },
}

fn smaller(axis: Axis) -> &'static str {
    match axis {
        Axis::Connections => " or shorter rounds",
        Axis::RecordSize => ", smaller records or shorter rounds",
        Axis::Backlog => " or a smaller backlog",
        Axis::Queues => " or fewer queues",
    }
}

/// Says what was tried when the system refused it.
fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> GrowthError {
    let what = what.into();
    move |error| GrowthError::Io { what, error }
}

/// Measures axis by axis and tells `on_event` how it goes. Raises this process's limit of open files as far as it needs
/// to. Blocks.
///
/// # Errors
/// Open files or disk space would not last, which is looked at first; the program is missing or does not start; or
/// anything that was sent was not acknowledged.
pub fn measure(plan: &GrowthPlan, mut on_event: impl FnMut(Event<'_>)) -> Result<Growth, GrowthError> {
    room::check(plan)?;
    let on_event: &mut dyn FnMut(Event<'_>) = &mut on_event;
    let connections = axes::connections(plan, on_event)?;
    let idle = plan.idle.map(|idle| idle::compare(plan, idle, on_event)).transpose()?;
    let record_size = axes::record_size(plan, on_event)?;
    let backlog = backlog::measure(plan, on_event)?;
    let queues = axes::queues(plan, on_event)?;
    Ok(Growth { connections, idle, record_size, backlog, queues })
}

impl Axis {
    /// The name of the point `at` of this axis.
    #[must_use]
    pub fn point(self, at: u64) -> String {
        match self {
            Self::RecordSize => format!("{self} {}", bytes(at)),
            Self::Connections | Self::Backlog | Self::Queues => format!("{self} {}", grouped(at)),
        }
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Connections => "connections",
            Self::RecordSize => "record size",
            Self::Backlog => "backlog",
            Self::Queues => "queues",
        })
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Round { point, number, round } => write!(formatter, "{point:<24} round {number:>2}  {round}"),
            Self::Filled { records, of } => {
                write!(formatter, "{:<24} {} records are there", Axis::Backlog.point(*of), grouped(*records))
            }
            Self::Ready { backlog_records, seconds } => {
                let point = Axis::Backlog.point(*backlog_records);
                write!(formatter, "{point:<24} killed, and ready again in {seconds:.3} s")
            }
            Self::Idle { connections } => {
                write!(formatter, "{} idle connections are open", grouped(*connections as u64))
            }
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:>12}  p50 {:>8.3} ms  p99 {:>8.3} ms  cpu {:>5.1} s per million ({:>3.0} % of the cores)  resident {}",
            rate(self.requests_per_second),
            self.latency.p50_ms,
            self.latency.p99_ms,
            self.cpu_seconds_per_million_requests,
            self.cpu_share * 100.0,
            bytes(self.rss_bytes),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_backlog_is_the_last_point() {
        let plan = GrowthPlan::new(PathBuf::new());
        for (records_max, points) in
            [(100_000, &[0, 10_000, 100_000][..]), (500_000, &[0, 10_000, 100_000, 500_000]), (0, &[0])]
        {
            assert_eq!(plan.clone().with_backlog_max(records_max).backlog_records, points);
        }
    }

    #[test]
    fn points_and_refusals_are_in_words() {
        assert_eq!(Axis::RecordSize.point(64 << 10), "record size 64 KiB");
        assert_eq!(Axis::Connections.point(10_000), "connections 10,000");
        let refused = GrowthError::OpenFiles { needed: 10_356, limit: 1024 }.to_string();
        assert!(refused.contains("ulimit -n 10356"), "{refused}");
        let refused = GrowthError::DiskSpace {
            axis: Axis::Backlog,
            directory: "/var/tmp".into(),
            needed_bytes: 12 << 30,
            free_bytes: 3 << 29,
        };
        let refused = refused.to_string();
        assert!(refused.contains("backlog needs about 12 GiB in /var/tmp, where 1.5 GiB are free"), "{refused}");
    }
}
