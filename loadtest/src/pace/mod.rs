//! How evenly records arrive downstream, measured there: forebay's drain beside what else limits a rate.
//!
//! Each run has servers of its own. While as many clients as there are connections send as fast as they are answered, on
//! the same cores, the moment is kept at which each record arrives at the sink: by PostgreSQL's or SQLite's own clock for
//! each row, or by that of an HTTP server behind the others. The peers take turns, round by round.

mod arrivals;
mod contender;
mod endpoint;
mod governed;
mod page;

pub use arrivals::Arrivals;
pub(crate) use contender::fill;
pub use contender::{CONTENDERS, Contender};

use crate::engine::EngineError;
use crate::peer::{Peer, PeerError, RunningPeer, StartOptions};
use crate::results::grouped;
use crate::verify::VerifyError;
use serde::Serialize;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How much longer than the span the load lasts: the first record needs its time, and the mean looks for one behind the
/// span.
const MARGIN: Duration = Duration::from_millis(1500);
/// Lateness that forebay makes good by default: `linger_ms_max` and the pacer's slack, in milliseconds.
const TOLERANCE_MS: u32 = 9;
/// Milliseconds of the rate by which it makes a stall good in each second.
const CATCH_UP_MS: u32 = 10;
/// The stretch of the rate that forebay gathers into one batch by default: `linger_ms_max`, in milliseconds.
const BATCH_MS: u32 = 5;

/// What is measured.
#[derive(Clone, Debug)]
pub struct PacePlan {
    /// The `forebay` program.
    pub forebay: PathBuf,
    /// Where the servers write, which should be a real disk; `None` for the system's temporary directory.
    pub directory: Option<PathBuf>,
    /// What takes turns.
    pub contenders: Vec<Contender>,
    /// Records per second, each at least 1.
    pub rates: Vec<u32>,
    /// How often each contender has its turn at each rate.
    pub rounds: usize,
    /// How long arrivals are counted, from the first one on.
    pub span: Duration,
    /// Clients that send, each with one request in flight.
    pub connections: usize,
}

/// What arrived in one run.
#[derive(Clone, Debug, Serialize)]
pub struct PaceRun {
    /// What limited the rate.
    pub contender: &'static str,
    /// The rate that was configured, in records per second.
    pub rate_per_second: u32,
    /// The round, from 1.
    pub round: usize,
    /// The most records that a forebay releases in any second; `None` for what is no forebay.
    pub second_bound: Option<u64>,
    /// How far the mean is from the rate, in hundredths.
    pub error_percent: f64,
    /// What arrived.
    #[serde(flatten)]
    pub arrivals: Arrivals,
}

/// Every run, in the order in which they were made.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pace {
    /// The runs.
    pub runs: Vec<PaceRun>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum PaceError {
    /// A server.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The load.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The database.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A server or a client of our own.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// Nothing was let through.
    #[error("{contender} let nothing through{}", reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}")))]
    Nothing {
        /// Which.
        contender: &'static str,
        /// What its clients were told, as far as that is known.
        reason: Option<String>,
    },
    /// A backlog could not be made.
    #[error("only {acknowledged} of {wanted} records were acknowledged when the backlog was filled")]
    NotFilled {
        /// Records that forebay has.
        acknowledged: u64,
        /// How many it should have.
        wanted: u64,
    },
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> PaceError {
    move |error| PaceError::Io { what, error }
}

impl PacePlan {
    fn start_options(&self) -> StartOptions {
        StartOptions {
            parent_directory: self.directory.clone(),
            forebay_binary: Some(self.forebay.clone()),
            load_threads: 0,
        }
    }

    fn load_time(&self) -> Duration {
        self.span + MARGIN
    }
}

/// What a run needs to know, and where it happens.
struct Stage<'a> {
    plan: &'a PacePlan,
    rate_per_second: u32,
    /// A PostgreSQL, where one is needed.
    database: Option<&'a RunningPeer>,
}

/// Measures rate by rate and round by round, and tells `on_run` about each run. Blocks.
///
/// # Errors
/// A server is missing, does not start, or lets nothing through.
pub fn measure(plan: &PacePlan, mut on_run: impl FnMut(&PaceRun)) -> Result<Pace, PaceError> {
    let wants_database = plan.contenders.iter().any(Contender::wants_database);
    let database = wants_database
        .then(|| Peer::named("postgres").and_then(|peer| peer.start(&plan.start_options())))
        .transpose()?;
    let span_ns = u64::try_from(plan.span.as_nanos()).unwrap_or(u64::MAX);
    let mut pace = Pace::default();
    for rate_per_second in &plan.rates {
        let stage = Stage { plan, rate_per_second: *rate_per_second, database: database.as_ref() };
        for round in 1..=plan.rounds {
            for contender in &plan.contenders {
                let arrivals = Arrivals::count(contender.run(&stage)?, span_ns);
                let run = PaceRun {
                    contender: contender.name,
                    rate_per_second: *rate_per_second,
                    round,
                    second_bound: contender.second_bound(*rate_per_second),
                    error_percent: arrivals.error_percent(*rate_per_second),
                    arrivals,
                };
                on_run(&run);
                pace.runs.push(run);
            }
        }
    }
    Ok(pace)
}

/// Whole records in so many milliseconds of a rate.
fn records_in(rate_per_second: u32, ms: u32) -> u64 {
    u64::from(rate_per_second) * u64::from(ms) / 1000
}

/// Records of one batch at a rate, as forebay makes them by default.
#[must_use]
pub fn batch_records(rate_per_second: u32) -> u64 {
    records_in(rate_per_second, BATCH_MS).max(1)
}

/// A line of the run.
impl fmt::Display for PaceRun {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Arrivals { mean_per_second, second_max, window_max, window_min, .. } = &self.arrivals;
        write!(
            formatter,
            "{:>7}/s  round {}  {:<15} mean {mean_per_second:>10.1}/s ({:+.3} %)  worst second {}  100 ms {} to {}",
            grouped(self.rate_per_second.into()),
            self.round,
            self.contender,
            self.error_percent,
            grouped(*second_max),
            grouped(*window_min),
            grouped(*window_max)
        )
    }
}
