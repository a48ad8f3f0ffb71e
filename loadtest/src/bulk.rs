//! The drain beside what else is known to fill a sink fast: the same records into the same place, in turns.
//!
//! A journal is filled once. Each round then lets `forebay serve` drain a copy of it into an empty table, stream, queue or
//! file at an unlimited rate, and lets the sink's own program or client library write the same records: `\copy` of psql,
//! `LOAD DATA LOCAL INFILE` of mariadb, `.import` of the sqlite3 shell within one transaction, `redis-cli --pipe`, `cat` and
//! `sync`, wrk, async-nats, lapin. [`measure_cpu`] lets it drain at a fixed rate and says what of a processor that takes.

mod cpu;
mod database;
mod destination;
mod file;
mod http;
#[cfg(feature = "brokers")]
mod nats;
#[cfg(feature = "brokers")]
mod rabbitmq;
mod redis;
mod server;

pub use cpu::{CpuFigures, measure_cpu};

use crate::beside::Beside;
use crate::engine::{self, EngineError, Load, Plan, Progress};
use crate::peer::{PeerError, RunningPeer, StartOptions};
use destination::Destination;
use server::Server;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const POLL_PAUSE: Duration = Duration::from_millis(5);
/// The longest that the server may take to start, and to drain without any progress.
const PATIENCE: Duration = Duration::from_secs(30);
const QUEUE: &str = "orders";
/// Messages of a broker that wait for their acknowledgement, of the drain's and of a client library's by itself.
#[cfg(feature = "brokers")]
const IN_FLIGHT_MAX: usize = 1000;

/// How it is measured.
#[derive(Clone, Debug)]
pub struct BulkPlan {
    /// The `forebay` program.
    pub forebay: PathBuf,
    /// Batches of the drain at a time, in a queue that keeps no order; `None` for one that keeps a strict order.
    pub concurrency: Option<u32>,
    /// Records in each round.
    pub records: u64,
    /// Records of one batch of the drain's.
    pub batch_records: u64,
    /// Whether psql commits as often as the drain, each time with an UPDATE of a position, and not once behind all rows.
    pub same_transactions: bool,
    /// Records of the drain's that may leave at once; `None` for what forebay allows by itself.
    pub burst: Option<u64>,
    /// How many rounds.
    pub rounds: usize,
    /// An existing directory on the disk that is meant.
    pub directory: PathBuf,
}

impl BulkPlan {
    /// Where the journal is filled.
    fn filled(&self) -> PathBuf {
        self.directory.join("filled")
    }

    /// The URL of a server: the one that was given, or that of one that is started.
    fn serve(
        &self,
        url: Option<&str>,
        start: impl FnOnce(&StartOptions) -> Result<RunningPeer, PeerError>,
    ) -> Result<(String, Option<RunningPeer>), BulkError> {
        if let Some(url) = url {
            return Ok((url.to_owned(), None));
        }
        let options = StartOptions { parent_directory: Some(self.directory.clone()), ..StartOptions::default() };
        let server = start(&options)?;
        Ok((server.wire.to_string(), Some(server)))
    }
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The journal could not be filled.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A server does not start.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// A file.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// Nothing is known that the drain could be held against.
    #[error(
        "the sink is sqlite, postgres, mysql, redis, file, http, nats or rabbitmq, or the URL of such a server \
         (postgres://, mysql://, redis://, file:, http://, nats://, amqp://)"
    )]
    UnknownSink,
    /// Nothing but psql can commit as often as the drain.
    #[error("--same-transactions is for psql: the sink must be postgres, or postgres://")]
    NoTransactions,
    /// A program or client library failed.
    #[error("{program} failed: {reason}{}", remedy(program))]
    Program {
        /// Which.
        program: String,
        /// What it said.
        reason: String,
    },
}

fn remedy(program: &str) -> &'static str {
    match program {
        "psql" => " (if it is not installed: apt-get install postgresql-client)",
        "mariadb" => " (if it is not installed: apt-get install mariadb-client)",
        "sqlite3" => " (if it is not installed: apt-get install sqlite3)",
        "redis-cli" => " (if it is not installed: apt-get install redis-tools)",
        "wrk" => " (if it is not installed: apt-get install wrk)",
        _ => "",
    }
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> BulkError {
    let what = what.into();
    move |error| BulkError::Io { what, error }
}

/// What the client libraries run on, which is what the drain runs them on.
#[cfg(feature = "brokers")]
fn runtime() -> Result<tokio::runtime::Runtime, BulkError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(io_error("cannot start a runtime"))
}

/// Fills a journal, then measures round by round and tells `on_line` about each. `sink` is a kind, of which a server is
/// started, or the URL of one that runs. Blocks.
///
/// # Errors
/// The server or the program that the drain is held against is missing or fails, or the disk is full.
pub fn compare_bulk(plan: &BulkPlan, sink: &str, mut on_line: impl FnMut(String)) -> Result<Beside, BulkError> {
    let mut destination = destination::open(plan, sink)?;
    if plan.same_transactions && !destination.has_transactions() {
        return Err(BulkError::NoTransactions);
    }
    fill(plan)?;
    let (title, other) = destination.names();
    let mut beside = Beside::new(title, "records/s", "forebay", other);
    for _ in 0..plan.rounds {
        let data = plan.directory.join("data");
        copy_directory(&plan.filled(), &data)?;
        destination.empty()?;
        let drained_per_second = drain(plan, &data, destination.as_ref())?;
        let loaded_per_second = destination.load(plan.records)?;
        on_line(beside.add(drained_per_second, loaded_per_second));
    }
    destination.remove()?;
    Ok(beside)
}

fn fill(plan: &BulkPlan) -> Result<(), BulkError> {
    let server = Server::start_filling(plan, &plan.filled())?;
    let load = Load::Closed { records: Some(plan.records), duration: None };
    let mut orders = Plan::new(server.url(), load)?;
    orders.connections = 256;
    let outcome = engine::run(&orders, &Arc::new(Progress::new()))?;
    if outcome.acknowledged < plan.records {
        return Err(failed(format!("only {} of {} records were acknowledged", outcome.acknowledged, plan.records)));
    }
    Ok(())
}

/// Why a forebay is of no use.
fn failed(reason: String) -> BulkError {
    BulkError::Program { program: "forebay".to_owned(), reason }
}

/// Lets the server drain everything; returns the records a second from the first batch on.
fn drain(plan: &BulkPlan, data: &Path, destination: &dyn Destination) -> Result<f64, BulkError> {
    let server = Server::start_draining(plan, data, "unlimited", destination)?;
    let (at_first, began) = wait_for_backlog(&server, plan.records, |backlog| backlog < plan.records)?;
    let (_, ended) = wait_for_backlog(&server, at_first, |backlog| backlog == 0)?;
    if server.dead_letters() != Some(0) {
        return Err(failed("the sink has refused records".to_owned()));
    }
    if at_first < plan.records / 2 {
        let reason = format!("it drained {} records before their rate could be told", plan.records - at_first);
        return Err(failed(reason + "; take more (--records)"));
    }
    Ok(at_first as f64 / ended.duration_since(began).as_secs_f64())
}

/// Waits until the backlog is as it should be; returns it, and when it was so.
fn wait_for_backlog(
    server: &Server,
    mut backlog: u64,
    is_reached: impl Fn(u64) -> bool,
) -> Result<(u64, Instant), BulkError> {
    let mut changed = Instant::now();
    loop {
        let now = Instant::now();
        if let Some(told) = server.backlog() {
            if is_reached(told) {
                return Ok((told, now));
            }
            if told != backlog {
                (backlog, changed) = (told, now);
            }
        }
        if changed.elapsed() > PATIENCE {
            let patience = PATIENCE.as_secs();
            return Err(failed(format!("it delivered nothing for {patience} s; {backlog} records are left")));
        }
        thread::sleep(POLL_PAUSE);
    }
}

fn copy_directory(from: &Path, to: &Path) -> Result<(), BulkError> {
    if to.exists() {
        fs::remove_dir_all(to).map_err(io_error(to.display().to_string()))?;
    }
    fs::create_dir(to).map_err(io_error(to.display().to_string()))?;
    for entry in fs::read_dir(from).map_err(io_error(from.display().to_string()))? {
        let entry = entry.map_err(io_error(from.display().to_string()))?;
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_directory(&path, &copy)?;
        } else {
            fs::copy(&path, &copy).map_err(io_error(path.display().to_string()))?;
            // What is still to be written back would disturb what is measured.
            fs::File::open(&copy).and_then(|file| file.sync_all()).map_err(io_error(copy.display().to_string()))?;
        }
    }
    Ok(())
}
