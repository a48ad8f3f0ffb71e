//! Kills forebay at random instants while clients send to it, and accounts for every record in the database itself.
//!
//! A run has one data directory and one database. Each life of the server ends by SIGKILL: under load, during its start
//! (which is a recovery), or during a stop. The clients go on through all of it. In the end a server drains what is
//! left, and each queue's table must hold every acknowledged record once, under its ticket and in the order of the
//! sequences, and nothing else but records whose answer was lost.

mod account;
mod client;
mod connection;
mod database;
mod outcome;
mod request;
mod schedule;
mod site;
mod stage;

pub use account::{Finding, Kind};
pub use client::ClientError;
pub use outcome::Outcome;
pub use schedule::Moment;

use crate::peer::{PeerError, StartOptions};
use crate::verify::VerifyError;
use client::{Client, Record};
use database::Database;
use outcome::Counts;
use schedule::{Kill, Life, Schedule};
use serde::Serialize;
use site::{End, Server, Site};
use stage::{Phase, Stage};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Clients, each with one request in flight.
const CLIENTS: u32 = 16;
/// The rate at which the last server delivers what is left.
const LAST_RATE: &str = "unlimited";
/// How long the last server may deliver nothing. Only one that hangs ever takes so long.
const PATIENCE: Duration = Duration::from_mins(2);
const POLL_PAUSE: Duration = Duration::from_millis(10);

/// A kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkKind {
    /// A file for each queue.
    Sqlite,
    /// A server of our own, with a table for each queue.
    Postgres,
}

/// What is done.
#[derive(Clone, Debug)]
pub struct CrashPlan {
    /// The `forebay` program.
    pub forebay: PathBuf,
    /// Where journal and database are made, which should be a real disk; `None` for the system's temporary directory.
    pub directory: Option<PathBuf>,
    /// How often a server is killed.
    pub kills: u32,
    /// The database.
    pub sink: SinkKind,
    /// What all choices of clients and killer follow from. What scheduler and disk make of them does not.
    pub seed: u64,
}

/// What is told while a run goes on.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A server was killed, or had stopped just before it was.
    Ended {
        /// Kills so far.
        kills: u32,
        /// When it was killed; `None` if it had stopped.
        moment: Option<Moment>,
        /// Records that are acknowledged so far.
        acknowledged_records: u64,
    },
    /// The last server delivers what is left.
    Draining {
        /// Records that are not delivered.
        backlog_records: u64,
    },
}

/// Why there is no result, or none to be believed.
#[derive(Debug, thiserror::Error)]
pub enum CrashError {
    /// A server does not start.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The database cannot be asked.
    #[error(transparent)]
    Database(#[from] VerifyError),
    /// A client met something that no kill explains.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A thread cannot be started.
    #[error("cannot start a client: {0}")]
    Thread(#[from] io::Error),
    /// A client's thread panicked.
    #[error("a client panicked")]
    ClientPanicked,
    /// A client has failed, and says why.
    #[error("the run was abandoned")]
    Abandoned,
    /// What a kill left is damaged, or cannot be looked at.
    #[error("after a kill, forebay verify does not find the data directory intact:\n{said}")]
    Damage {
        /// What it said.
        said: String,
    },
    /// The server did something by itself that it must not, or hangs.
    #[error("forebay: {reason}\n{log}")]
    Server {
        /// What it did.
        reason: String,
        /// The end of what it wrote.
        log: String,
    },
    /// Any of these, once there are files to look at.
    #[error("{error}\nThe files were left in {}", paths(.kept))]
    Kept {
        /// What went wrong.
        error: Box<CrashError>,
        /// Where the data directory, the server's log and the database are.
        kept: Vec<PathBuf>,
    },
}

/// Paths as a sentence has them.
#[must_use]
pub fn paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ")
}

impl fmt::Display for SinkKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        })
    }
}

/// Does it, and tells `on_event` about each end of a server. Blocks. If anything is lost, doubled or wrong, the outcome
/// says so, and its files stay.
///
/// # Errors
/// A program is missing, a server does not start, or somebody fails for another reason than a kill.
pub fn run(plan: &CrashPlan, mut on_event: impl FnMut(Event)) -> Result<Outcome, CrashError> {
    let options = StartOptions {
        parent_directory: plan.directory.clone(),
        forebay_binary: Some(plan.forebay.clone()),
        load_threads: 0,
    };
    let (mut site, directory) = Site::new(&options)?;
    let database = Database::start(plan.sink, site.path(), &options)?;
    let started = Instant::now();
    let storm = Storm { site: &site, database: &database, stage: Arc::new(Stage::new()), counts: Counts::default() };
    let result = storm
        .run(plan, directory, &mut on_event)
        .map(|(counts, clients)| Outcome::new(plan, &counts, clients, started.elapsed()));
    let result = result.and_then(|(outcome, mut account)| {
        database.read(&mut account)?;
        Ok(outcome.with_verdict(account.close()))
    });
    if result.as_ref().is_ok_and(Outcome::is_exact) {
        return result;
    }
    let kept: Vec<PathBuf> = [site.keep()].into_iter().chain(database.keep()).collect();
    match result {
        Ok(outcome) => Ok(Outcome { kept, ..outcome }),
        Err(error) => Err(CrashError::Kept { error: Box::new(error), kept }),
    }
}

/// The killer, and what it counts.
struct Storm<'a> {
    site: &'a Site,
    database: &'a Database,
    stage: Arc<Stage>,
    counts: Counts,
}

impl Storm<'_> {
    /// Lets the clients send, kills the servers, and lets a last one deliver everything.
    fn run(
        mut self,
        plan: &CrashPlan,
        directory: TempDir,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<(Counts, Vec<Record>), CrashError> {
        let clients = self.start_clients(plan.seed)?;
        let last = self.kill_all(plan, directory, on_event);
        self.stage.enter(if last.is_ok() { Phase::Finishing } else { Phase::Abandoned });
        let joined = |client: JoinHandle<_>| client.join().unwrap_or(Err(CrashError::ClientPanicked));
        // All of them, so that none outlives the run; a client's failure says more than that the run was abandoned.
        let records: Vec<Result<Record, CrashError>> = clients.into_iter().map(joined).collect();
        let records = records.into_iter().collect::<Result<Vec<Record>, _>>()?;
        self.finish(last?, on_event)?;
        Ok((self.counts, records))
    }

    fn start_clients(&self, seed: u64) -> Result<Vec<JoinHandle<Result<Record, CrashError>>>, CrashError> {
        let start = |name: u32| {
            let client = Client::new(name, seed.wrapping_add(name.into()), Arc::clone(&self.stage));
            thread::Builder::new().name(format!("client-{name}")).spawn(move || Ok(client.run()?))
        };
        let clients: io::Result<Vec<_>> = (0..CLIENTS).map(start).collect();
        if clients.is_err() {
            self.stage.enter(Phase::Abandoned);
        }
        Ok(clients?)
    }

    /// Kills as often as planned; returns the server that stays.
    fn kill_all(
        &mut self,
        plan: &CrashPlan,
        mut directory: TempDir,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Server, CrashError> {
        let mut schedule = Schedule::new(plan.seed);
        while self.counts.kills() < plan.kills {
            let Some(life) = schedule.next() else { break };
            let (left, end) = self.live(life, directory)?;
            directory = left;
            let moment = (end == End::Killed).then(|| life.kill.moment());
            self.counts.ended(moment);
            let acknowledged_records = self.stage.acknowledged_records();
            on_event(Event::Ended { kills: self.counts.kills(), moment, acknowledged_records });
            // The first server may have been killed before there was a data directory.
            if life.verified && self.counts.starts() > 0 {
                self.site.verify()?;
                self.counts.verified += 1;
            }
            if self.stage.phase() == Phase::Abandoned {
                return Err(CrashError::Abandoned);
            }
        }
        self.start(LAST_RATE, directory)
    }

    /// Lets one server live.
    fn live(&mut self, life: Life, directory: TempDir) -> Result<(TempDir, End), CrashError> {
        let may_stop = life.kill.moment() == Moment::WhileStopping;
        let ended = match life.kill {
            Kill::AtStart(after) => {
                self.site.configure(life.rate, self.database)?;
                let peer = self.site.spawn(directory)?;
                self.stage.pause(after, Phase::Finishing);
                self.site.kill(peer)
            }
            Kill::UnderLoad(after) => {
                let server = self.start(life.rate, directory)?;
                self.stage.pause(after, Phase::Finishing);
                self.site.kill(server.into_peer())
            }
            Kill::WhileStopping { loaded, stopping } => {
                let server = self.start(life.rate, directory)?;
                self.stage.pause(loaded, Phase::Finishing);
                server.terminate().map_err(|reason| self.site.broken(reason))?;
                self.stage.pause(stopping, Phase::Finishing);
                self.site.kill(server.into_peer())
            }
        };
        self.stage.set_address(None);
        match ended? {
            (_, End::Stopped) if !may_stop => Err(self.site.broken("it ended by itself before it was killed")),
            ended => Ok(ended),
        }
    }

    /// Starts a server and tells the clients where it is.
    fn start(&mut self, rate: &str, directory: TempDir) -> Result<Server, CrashError> {
        self.site.configure(rate, self.database)?;
        let server = self.site.start(directory)?;
        let backlog_records = server.metric("backlog_records").ok_or_else(|| self.no_metrics())?;
        self.counts.started(server.ready, backlog_records);
        self.stage.set_address(Some(server.address));
        Ok(server)
    }

    /// Waits until everything is delivered, and stops the last server in order.
    fn finish(&mut self, mut server: Server, on_event: &mut dyn FnMut(Event)) -> Result<(), CrashError> {
        let mut moved = (0, Instant::now());
        loop {
            let backlog_records = server.metric("backlog_records").ok_or_else(|| self.no_metrics())?;
            on_event(Event::Draining { backlog_records });
            if backlog_records == 0 {
                break;
            }
            if backlog_records != moved.0 {
                moved = (backlog_records, Instant::now());
            }
            if moved.1.elapsed() > PATIENCE {
                let seconds = PATIENCE.as_secs();
                let reason = format!("it delivered nothing for {seconds} s, and {backlog_records} records are left");
                return Err(self.site.broken(reason));
            }
            thread::sleep(POLL_PAUSE);
        }
        self.counts.trimmed_records = server.metric("trimmed_sequence").ok_or_else(|| self.no_metrics())?;
        self.counts.dead_letters = server.metric("dead_letters").ok_or_else(|| self.no_metrics())?;
        server.terminate().map_err(|reason| self.site.broken(reason))?;
        if !server.stopped() {
            return Err(self.site.broken("it does not stop"));
        }
        match self.site.kill(server.into_peer())? {
            (_, End::Stopped) => self.site.verify(),
            (_, End::Killed) => Err(self.site.broken("somebody else killed it")),
        }
    }

    fn no_metrics(&self) -> CrashError {
        self.site.broken("its metrics cannot be read")
    }
}
