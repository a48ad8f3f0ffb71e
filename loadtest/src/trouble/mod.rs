//! What a database in trouble gets from forebay, and how the other clients of the database fare with it.
//!
//! A probe does the shop's own work at a fixed slow rate on a PostgreSQL: a look at an item and its sale, timed from when
//! they were due. First it is alone, then forebay drains into the same database, then the database gets into trouble for a
//! while, and then it is well again. The same without forebay says what the trouble alone does to the probe.
//!
//! What forebay inserts are orders for the same items: each takes one out of stock, and each transaction counts its orders
//! in the row of the campaign. Until its commit a transaction holds the rows of its items, which the probe then waits for.

mod competing;
mod page;
mod probe;
mod run;

pub use competing::Cause;

use crate::engine::EngineError;
use crate::pace::PaceError;
use crate::peer::{Peer, PeerError, StartOptions};
use crate::results::LatencyFigures;
use crate::verify::VerifyError;
use serde::Serialize;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What is measured.
#[derive(Clone, Debug)]
pub struct TroublePlan {
    /// The `forebay` program.
    pub forebay: PathBuf,
    /// Where the servers write, which should be a real disk; `None` for the system's temporary directory.
    pub directory: Option<PathBuf>,
    /// Kinds of trouble.
    pub causes: Vec<Cause>,
    /// What lowers forebay's rate, as `adaptive.mode` says it.
    pub modes: Vec<String>,
    /// Hundredths of the ceiling that the adaptive limit never goes below.
    pub share_min_percent: u32,
    /// The ceiling of the drain, which is also what clients send, in records per second.
    pub rate_per_second: u32,
    /// How long the probe is alone, and how long forebay drains before the trouble.
    pub before: Duration,
    /// How long the trouble lasts.
    pub trouble: Duration,
    /// How long is looked at the database after it.
    pub after: Duration,
}

/// A stretch of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// When it began, in seconds since the run did.
    pub from_seconds: f64,
    /// When it ended.
    pub to_seconds: f64,
    /// Round trips of the probe that were due in it.
    pub probe: LatencyFigures,
    /// Rows that arrived, a second.
    pub arrivals_per_second: f64,
    /// Records that were not delivered at its end.
    pub backlog_end_records: u64,
}

/// What forebay said of itself at a moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Seconds since the run began.
    pub at_seconds: f64,
    /// The rate that the drain keeps to, in records per second.
    pub rate_limit: f64,
    /// The ceiling of that rate.
    pub ceiling: f64,
    /// Records that are not delivered.
    pub backlog_records: u64,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct TroubleRun {
    /// The trouble.
    pub cause: Cause,
    /// The mode of the adaptive limit; `None` without forebay.
    pub mode: Option<String>,
    /// Alone, before, during and after the trouble.
    pub phases: Vec<Phase>,
    /// The lowest rate that forebay kept to since the trouble began.
    pub rate_limit_min: Option<f64>,
    /// Seconds from the end of the trouble until the rate was the ceiling again; `None` if it was not before the end.
    pub back_seconds: Option<f64>,
    /// What forebay said of itself.
    pub samples: Vec<Sample>,
    /// When each round trip of the probe was due, in seconds since the run began, and how long it took, in milliseconds.
    pub probes: Vec<(f64, f64)>,
    /// Rows in each 100 ms since the run began.
    pub arrivals_per_100ms: Vec<u64>,
}

/// Every run, in the order in which they were made.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Trouble {
    /// The runs.
    pub runs: Vec<TroubleRun>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum TroubleError {
    /// A server.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The load.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The database.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The backlog.
    #[error(transparent)]
    Backlog(#[from] PaceError),
    /// A client of the database.
    #[error("the {client}: {reason}")]
    Client {
        /// Which.
        client: &'static str,
        /// What happened.
        reason: String,
    },
}

fn client_error(client: &'static str) -> impl Fn(io::Error) -> TroubleError {
    move |error| TroubleError::Client { client, reason: error.to_string() }
}

/// Measures cause by cause, without forebay and in each mode, and tells `on_run` about each run. Blocks.
///
/// # Errors
/// A server is missing or does not start, or the database refuses.
pub fn measure(plan: &TroublePlan, mut on_run: impl FnMut(&TroubleRun)) -> Result<Trouble, TroubleError> {
    let database = Peer::named("postgres")?.start(&plan.start_options())?;
    let url = database.wire.to_string();
    probe::prepare(&url)?;
    let mut trouble = Trouble::default();
    for cause in &plan.causes {
        for mode in [None].into_iter().chain(plan.modes.iter().map(|mode| Some(mode.as_str()))) {
            let run = run::run(plan, &url, *cause, mode)?;
            on_run(&run);
            trouble.runs.push(run);
        }
    }
    Ok(trouble)
}

impl TroublePlan {
    fn start_options(&self) -> StartOptions {
        StartOptions {
            parent_directory: self.directory.clone(),
            forebay_binary: Some(self.forebay.clone()),
            load_threads: 0,
        }
    }
}

/// A line of the run.
impl fmt::Display for TroubleRun {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:<5} {:<14} probe p99", self.cause.to_string(), page::name(self))?;
        for phase in &self.phases {
            write!(formatter, "  {} {:.1} ms", phase.name, phase.probe.p99_ms)?;
        }
        Ok(())
    }
}
