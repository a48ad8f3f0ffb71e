//! `crash`: kills forebay at random instants and accounts for every record.

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use forebay_loadtest::crash::{CrashPlan, Event, Kind, Outcome, SinkKind, paths, run};
use forebay_loadtest::report::Machine;
use forebay_loadtest::results::{aligned, grouped};
use std::io::{IsTerminal, Write, stderr};
use std::path::PathBuf;

/// Findings of each kind that are printed; --json has all.
const FINDINGS_SHOWN: usize = 10;
/// Off a terminal, the progress of every so many'th kill is printed.
const PLAIN_EVERY: u32 = 10;

/// Kills forebay (kill -9) at random instants, and accounts for every record in the database itself.
///
/// Sixteen clients send single records and NDJSON bodies to two queues with `ack = "durable"`. Requests with an
/// idempotency key are repeated until they are acknowledged, and some once more after that; one request in five has no
/// key and is sent once. Meanwhile the server is killed: half of the times within 0.4 s of load, a quarter within 0.1 s
/// of its start, where it recovers from the kill before, and a quarter within 40 ms of a SIGTERM. Its journal has
/// segments of 64 KiB, and its drain a slow, a middling or no limit, changing from life to life. After about half of
/// the kills `forebay verify` must find nothing.
///
/// In the end a server drains everything. Then each acknowledged record must be in its queue's table once, with its
/// content and the ticket that its client holds, in the order of the sequences; a record without an answer at most
/// once; and nothing else. If not, what is wrong is printed, data directory, log and database stay, and the exit code
/// is 1.
///
/// PostgreSQL is started for it, from the Debian package postgresql. 200 kills take about a minute for each database.
#[derive(Args)]
pub struct CrashArguments {
    /// Path of the forebay program
    #[arg(long, value_name = "PATH", default_value = "target/release/forebay")]
    forebay: PathBuf,
    /// Where journal and database are made, which should be a real disk [default: the system's temporary directory]
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// How often a server is killed, for each database
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kills: u32,
    /// The database
    #[arg(long, value_enum, default_value_t = SinkChoice::Both)]
    sink: SinkChoice,
    /// Repeats the choices of clients and killer; not what scheduler and disk make of them [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Writes every figure and finding as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SinkChoice {
    /// A SQLite file for each queue
    Sqlite,
    /// A PostgreSQL of its own
    Postgres,
    /// One after the other
    Both,
}

impl SinkChoice {
    fn kinds(self) -> &'static [SinkKind] {
        match self {
            Self::Sqlite => &[SinkKind::Sqlite],
            Self::Postgres => &[SinkKind::Postgres],
            Self::Both => &[SinkKind::Sqlite, SinkKind::Postgres],
        }
    }
}

pub fn crash(arguments: &CrashArguments) -> Result<()> {
    let seed = arguments.seed.unwrap_or_else(rand::random);
    println!("seed {seed}: --seed {seed} repeats the choices of this run");
    let mut outcomes = Vec::new();
    for sink in arguments.sink.kinds() {
        let plan = CrashPlan {
            forebay: arguments.forebay.clone(),
            directory: arguments.directory.clone(),
            kills: arguments.kills,
            sink: *sink,
            seed,
        };
        let progress = Progress { sink: *sink, of: arguments.kills, terminal: stderr().is_terminal() };
        let outcome = run(&plan, |event| progress.show(event));
        progress.end();
        let outcome = outcome?;
        tell(&outcome);
        outcomes.push(outcome);
    }
    if let Some(path) = &arguments.json {
        let json = serde_json::json!({ "machine": Machine::from_proc(), "runs": outcomes });
        super::write(path, &format!("{json:#}\n"))?;
    }
    ensure!(outcomes.iter().all(Outcome::is_exact), "not every record is accounted for");
    println!("\nOK: every acknowledged record is in the database exactly once.");
    Ok(())
}

fn tell(outcome: &Outcome) {
    print!("\n{}\n{}", outcome.sink, aligned(&outcome.to_rows()));
    for kind in Kind::ALL {
        let mut findings = outcome.findings.iter().filter(|finding| finding.kind == kind);
        findings.by_ref().take(FINDINGS_SHOWN).for_each(|finding| println!("{finding}"));
        let more = findings.count();
        if more > 0 {
            println!("{kind}: {} more, which --json has", grouped(more as u64));
        }
    }
    if !outcome.kept.is_empty() {
        println!("The files were left in {}", paths(&outcome.kept));
    }
}

/// One line that changes on a terminal, and a line now and then elsewhere.
struct Progress {
    sink: SinkKind,
    of: u32,
    terminal: bool,
}

impl Progress {
    fn show(&self, event: Event) {
        let line = match event {
            Event::Ended { kills, moment, acknowledged_records } => {
                let Some(moment) = moment.filter(|_| self.terminal || kills.is_multiple_of(PLAIN_EVERY)) else {
                    return;
                };
                let (of, acknowledged) = (self.of, grouped(acknowledged_records));
                format!("{}: kill {kills} of {of} ({moment}), {acknowledged} records acknowledged", self.sink)
            }
            Event::Draining { .. } if !self.terminal => return,
            Event::Draining { backlog_records } => format!("{}: {} to drain", self.sink, grouped(backlog_records)),
        };
        // Progress that cannot be shown is no reason to stop the run.
        let _ = if self.terminal { write!(stderr(), "\r\x1b[K{line}") } else { writeln!(stderr(), "{line}") };
    }

    fn end(&self) {
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
