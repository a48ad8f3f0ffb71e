//! The drain beside the database's own bulk loader: the same rows into the same table, in turns.
//!
//! A journal is filled once. Each round then lets `forebay serve` drain a copy of it into an empty table at an
//! unlimited rate, and lets the database's own program load the same rows into it from a file: `\copy` of psql,
//! `LOAD DATA LOCAL INFILE` of mariadb, or `.import` of the sqlite3 shell within one transaction.

mod database;

pub use database::BulkSink;
use database::Database;

use crate::beside::Beside;
use crate::engine::{self, EngineError, Load, Plan, Progress};
use crate::peer::{
    PeerError, RunningPeer, ServerProgram, StartOptions, Stop, forebay_program, free_ports, queue_metric, write_file,
};
use crate::wire::Wire;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const POLL_PAUSE: Duration = Duration::from_millis(5);
/// The longest that the server may take to start, and to drain without any progress.
const PATIENCE: Duration = Duration::from_secs(30);
const TABLE: &str = "forebay_bulk";

/// What is compared.
#[derive(Clone, Debug)]
pub struct BulkPlan {
    /// The `forebay` program.
    pub forebay: PathBuf,
    /// The database.
    pub sink: BulkSink,
    /// Rows in each round.
    pub records: u64,
    /// Rows of one transaction of the drain's.
    pub batch_records: u64,
    /// How many rounds.
    pub rounds: usize,
    /// An existing directory on the disk that is meant.
    pub directory: PathBuf,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The journal could not be filled.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No free port.
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
    /// A program failed.
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
        _ => "",
    }
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> BulkError {
    let what = what.into();
    move |error| BulkError::Io { what, error }
}

/// Fills a journal, then measures round by round and tells `on_line` about each. Blocks.
///
/// # Errors
/// The server or a program of the database is missing or fails, or the disk is full.
pub fn compare_bulk(plan: &BulkPlan, mut on_line: impl FnMut(String)) -> Result<Beside, BulkError> {
    let database = Database { sink: &plan.sink, directory: &plan.directory };
    let filled = plan.directory.join("filled");
    fill(plan, &filled)?;
    let (title, loader) = plan.sink.names();
    let mut beside = Beside::new(title, "rows/s", "forebay", loader);
    for _ in 0..plan.rounds {
        let data = plan.directory.join("data");
        copy_directory(&filled, &data)?;
        database.empty(true)?;
        let drained_per_second = drain(plan, &data)?;
        database.export()?;
        database.empty(false)?;
        let started = Instant::now();
        database.load()?;
        let loaded_per_second = plan.records as f64 / started.elapsed().as_secs_f64();
        on_line(beside.add(drained_per_second, loaded_per_second));
    }
    database.drop()?;
    Ok(beside)
}

fn fill(plan: &BulkPlan, data: &Path) -> Result<(), BulkError> {
    let idle = BulkSink::Sqlite(plan.directory.join("idle.db"));
    let server = Server::start(plan, data, "1/h", &idle)?;
    let load = Load::Closed { records: Some(plan.records), duration: None };
    let Wire::Http { url } = &server.peer.wire else { return Ok(()) };
    let mut orders = Plan::new(url, load)?;
    orders.connections = 256;
    let outcome = engine::run(&orders, &Arc::new(Progress::new()))?;
    if outcome.acknowledged < plan.records {
        let reason = format!("only {} of {} records were acknowledged", outcome.acknowledged, plan.records);
        return Err(BulkError::Program { program: "forebay".to_owned(), reason });
    }
    Ok(())
}

/// Lets the server drain everything; returns the rows a second from the first batch on.
fn drain(plan: &BulkPlan, data: &Path) -> Result<f64, BulkError> {
    let server = Server::start(plan, data, "unlimited", &plan.sink)?;
    let mut last = (plan.records, Instant::now());
    let mut first = None;
    loop {
        let now = Instant::now();
        if let Some(backlog) = server.backlog() {
            if backlog != last.0 {
                last = (backlog, now);
            }
            let (at_first, began) = *first.get_or_insert((backlog, now));
            if backlog == plan.records {
                first = None;
            } else if backlog == 0 && at_first < plan.records / 2 {
                let reason = format!("it drained {} records before their rate could be told", plan.records - at_first);
                return Err(BulkError::Program {
                    program: "forebay".to_owned(),
                    reason: reason + "; take more (--records)",
                });
            } else if backlog == 0 {
                return Ok(at_first as f64 / now.duration_since(began).as_secs_f64());
            }
        }
        if last.1.elapsed() > PATIENCE {
            let reason = format!("it delivered nothing for {} s; {} records are left", PATIENCE.as_secs(), last.0);
            return Err(BulkError::Program { program: "forebay".to_owned(), reason });
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

/// `forebay serve`, killed when it is dropped.
struct Server {
    peer: RunningPeer,
    admin_port: u16,
}

impl Server {
    fn start(plan: &BulkPlan, data: &Path, rate: &str, sink: &BulkSink) -> Result<Self, BulkError> {
        let [port, admin_port] = free_ports()?;
        let (kind, url) = sink.configured();
        let target = if rate == "unlimited" {
            format!(
                "table = \"{TABLE}\"\n\
                 columns = {{ id = \"/order_id\", buyer = \"/user_id\", body = \"$body\", ticket = \"$ticket\" }}\n\
                 [queues.orders.batch]\nrecords_max = {}\n",
                plan.batch_records
            )
        } else {
            String::new()
        };
        let configuration = format!(
            "data_dir = {:?}\n[[listeners]]\naddress = \"127.0.0.1:{port}\"\n[admin]\n\
             address = \"127.0.0.1:{admin_port}\"\n[queues.orders]\nrate = \"{rate}\"\nmax_backlog_bytes = \"1TiB\"\n\
             [queues.orders.sink]\ntype = \"{kind}\"\nurl = {url:?}\n{target}",
            data.display().to_string()
        );
        let options = StartOptions {
            parent_directory: Some(plan.directory.clone()),
            forebay_binary: Some(plan.forebay.clone()),
            load_threads: 0,
        };
        let program = forebay_program(&options)?;
        let directory = options.temporary_directory()?;
        let config = directory.path().join("forebay.toml");
        write_file(&config, &configuration)?;
        let peer = RunningPeer::spawn(ServerProgram {
            name: "forebay",
            keeps: "",
            wire: Wire::Http { url: format!("http://127.0.0.1:{port}/v1/queues/orders/records") },
            program: &program,
            arguments: vec!["serve".to_owned(), "--config".to_owned(), config.display().to_string()],
            environment: Vec::new(),
            stop: Stop::Kill,
            account: None,
            cores: None,
            directory,
        })?
        .wait_until(PATIENCE, |_| {
            let told = queue_metric::<u64>(admin_port, "backlog_records", "orders");
            told.map(drop).ok_or_else(|| "its metrics cannot be read".to_owned())
        })?;
        Ok(Self { peer, admin_port })
    }

    /// Records that are not delivered yet, by the server's own metrics.
    fn backlog(&self) -> Option<u64> {
        queue_metric(self.admin_port, "backlog_records", "orders")
    }
}
