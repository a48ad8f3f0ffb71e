//! `drain`: the drain beside what else fills a sink fast, and its processor time at a fixed rate.

use anyhow::{Context, Result, ensure};
use clap::Args;
use forebay_loadtest::bulk::{BulkPlan, compare_bulk, measure_cpu};
use forebay_loadtest::report::Machine;
use std::path::PathBuf;
use std::time::Duration;

/// Drains a backlog beside what else fills the same sink fast, or at a fixed rate.
///
/// They take turns with the same records, the drain at an unlimited rate, and each begins with an empty sink:
///
///   sqlite     .import of the sqlite3 shell in one transaction
///   postgres   \copy of psql
///   mysql      LOAD DATA LOCAL INFILE of the program mariadb
///   redis      redis-cli --pipe, adding to the same stream
///   file       cat of the same lines, and sync
///   http       wrk, over as many connections, with a body as large; the queue keeps no order
///   nats       the client library async-nats by itself, as many messages in flight
///   rabbitmq   the client library lapin by itself, with confirms, as many messages in flight; a quorum queue
///
/// With one of these words the server is started here and goes in the end. With a URL it is one that runs, in which the table,
/// stream or queue `forebay_bulk` and the table `forebay_position` are dropped. A file must not be there yet; it is removed.
///
/// With --rate-per-s nothing is compared: it prints what the drain takes of a processor at that rate.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct DrainArguments {
    /// Path of the forebay program
    #[arg(long, value_name = "PATH", default_value = "target/release/forebay")]
    forebay: PathBuf,
    /// A word from above, or postgres://, mysql://, redis://, file:, http://, nats:// or amqp://
    #[arg(long, default_value = "sqlite")]
    sink: String,
    /// Batches of the drain at a time, up to 16, in a queue that keeps no order; by default one, in a strict order
    #[arg(long, value_name = "LANES")]
    concurrency: Option<u32>,
    /// Records in each round
    #[arg(long, default_value_t = 500_000)]
    records: u64,
    /// Records of one batch of the drain's
    #[arg(long, value_name = "RECORDS", default_value_t = 10_000)]
    batch_records: u64,
    /// Has psql commit as often as the drain, each time with an UPDATE of a position; by default once behind all rows
    #[arg(long, conflicts_with = "rate_per_s")]
    same_transactions: bool,
    /// How many rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Prints the processor time at this rate instead
    #[arg(long, value_name = "RATE", value_parser = clap::value_parser!(u64).range(1..=1_000_000),
        conflicts_with_all = ["records", "rounds", "html"])]
    rate_per_s: Option<u64>,
    /// Records that may leave at once at this rate (`burst`); by default what forebay allows by itself
    #[arg(long, value_name = "RECORDS", value_parser = clap::value_parser!(u64).range(1..), requires = "rate_per_s")]
    burst: Option<u64>,
    /// How long that is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600),
        requires = "rate_per_s")]
    seconds: u64,
    /// Where journal and files go, which should be a real disk
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    directory: PathBuf,
    #[command(flatten)]
    files: super::BesideFiles,
}

pub fn drain(arguments: &DrainArguments) -> Result<()> {
    ensure!(arguments.rounds > 0 && arguments.records > 0, "nothing to measure: --rounds and --records are at least 1");
    let scratch = tempfile::Builder::new()
        .prefix("forebay-drain-")
        .tempdir_in(&arguments.directory)
        .with_context(|| format!("cannot write in {}", arguments.directory.display()))?;
    let plan = BulkPlan {
        forebay: arguments.forebay.clone(),
        concurrency: arguments.concurrency,
        records: arguments.records,
        batch_records: arguments.batch_records,
        same_transactions: arguments.same_transactions,
        burst: arguments.burst,
        rounds: arguments.rounds,
        directory: scratch.path().canonicalize()?,
    };
    if let Some(rate_per_s) = arguments.rate_per_s {
        let figures = measure_cpu(&plan, &arguments.sink, rate_per_s, Duration::from_secs(arguments.seconds))?;
        print!("{figures}");
        return arguments.files.write_json(&serde_json::json!({ "machine": Machine::from_proc(), "cpu": figures }));
    }
    println!("filling a journal with {} records", arguments.records);
    let measured = compare_bulk(&plan, &arguments.sink, |line| println!("{line}"))?;
    arguments.files.tell("The drain beside what else fills a sink", &[measured])
}
