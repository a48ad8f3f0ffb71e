//! `drain`: the drain beside the database's own bulk loader.

use anyhow::{Context, Result, ensure};
use clap::Args;
use forebay_loadtest::bulk::{BulkPlan, BulkSink, compare_bulk};
use forebay_loadtest::verify::Sink;
use std::path::PathBuf;

/// Drains a backlog beside the database's own bulk loader.
///
/// They take turns with the same rows, the drain at an unlimited rate: into PostgreSQL beside psql's \copy, into MySQL or
/// MariaDB beside LOAD DATA LOCAL INFILE of the program mariadb, into SQLite beside .import of the sqlite3 shell in one
/// transaction. Both begin with the same empty table of four columns with a primary key; it is dropped in the end.
#[derive(Args)]
pub struct DrainArguments {
    /// Path of the forebay program
    #[arg(long, value_name = "PATH", default_value = "target/release/forebay")]
    forebay: PathBuf,
    /// sqlite, or the URL of a database of PostgreSQL or MySQL whose tables `forebay_bulk` and `forebay_position` may be dropped
    #[arg(long, default_value = "sqlite")]
    sink: String,
    /// Rows in each round
    #[arg(long, default_value_t = 500_000)]
    records: u64,
    /// Rows of one transaction of the drain's
    #[arg(long, value_name = "ROWS", default_value_t = 10_000)]
    batch_records: u64,
    /// How many rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
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
    let directory = scratch.path().canonicalize()?;
    let sink = match arguments.sink.as_str() {
        "sqlite" => BulkSink::Sqlite(directory.join("rows.db")),
        url if url.starts_with("mysql://") => BulkSink::Mysql(url.to_owned()),
        url => match Sink::parse(url)? {
            Sink::Sqlite(path) => BulkSink::Sqlite(path),
            Sink::Postgres(url) => BulkSink::Postgres(url),
        },
    };
    let plan = BulkPlan {
        forebay: arguments.forebay.clone(),
        sink,
        records: arguments.records,
        batch_records: arguments.batch_records,
        rounds: arguments.rounds,
        directory,
    };
    println!("filling a journal with {} records", arguments.records);
    let measured = compare_bulk(&plan, |line| println!("{line}"))?;
    arguments.files.tell("The drain and a bulk loader", &[measured])
}
