//! `forebay demo`: a flash sale against a server of its own, and a count of what arrived.
//!
//! The server is another process of this very program, the requests are real HTTP, and the verdict
//! comes from the database's own rows: nothing here looks into the server but over its addresses.

mod chart;
mod configuration;
mod interrupt;
mod kills;
mod metrics;
mod progress;
mod report;
mod server;
mod settings;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use forebay_loadtest::engine::{self, Load, Outcome, Plan, Progress, RetryPolicy};
use forebay_loadtest::schedule::Schedule;
use forebay_loadtest::verify;

use crate::rate::Rate;
use interrupt::{Interrupt, Interrupted};
use kills::KillSchedule;
use report::Report;
use server::ServerProcess;
use settings::{Settings, SinkChoice};
use watch::{Watch, Watched};

/// Fire a flash sale at a server of its own and count what arrived in the database.
///
/// Starts `forebay serve` on free ports in a fresh directory, sends it orders over HTTP at a fixed rate,
/// whatever it does, waits until they are drained, and then counts in the database itself: how many
/// acknowledged orders are missing (lost), and how many are there twice (duplicated). Latency counts from
/// the time that a request was due, so a server that stalls cannot hide it.
///
/// Exit code 0 if nothing was lost, nothing was duplicated and no request failed; 1 otherwise.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    forebay demo                                  100,000 orders in 5 s, drained in 10 s into SQLite\n  \
    forebay demo --kill 3                         the same, with kill -9 in the middle, three times\n  \
    forebay demo --rate 2000/s --records 20000    a slower database\n  \
    forebay demo --sink postgres://shop@127.0.0.1/shop\n                                                \
    into a table of its own in a PostgreSQL\n  \
    forebay demo --dir ./sale --json sale.json    beside you, with the figures as JSON\n\n\
    The report says where the files are: a page with plots, the configuration to go on with, and the database.")]
pub struct Arguments {
    /// Orders to send
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    records: u64,
    /// How fast they come: 20000/s, 300/min or a bare number per second
    #[arg(long, value_name = "RATE", default_value = "20000/s", value_parser = settings::offered_rate)]
    offered_rate: Rate,
    /// Keep-alive connections, each with one request at a time
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,
    /// How fast the server drains into the database, or unlimited
    #[arg(long, value_name = "RATE", default_value = "10000/s", value_parser = settings::drain_rate)]
    rate: Rate,
    /// The database: sqlite (a file in the directory) or `postgres://user@host/database`
    #[arg(long, value_name = "SINK", default_value = "sqlite")]
    sink: SinkChoice,
    /// Where everything is written; must be empty or not exist [default: a fresh directory for temporary files]
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
    /// Kill the server (kill -9) and restart it N times during the sale; clients then retry under the same key
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    kill: u32,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
///
/// The demo could not be carried through. What the count finds wrong is printed and is exit code 1.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::catch()?;
    let settings = Settings::prepare(arguments)?;
    let directory = settings.directory.display();
    let result = hold_sale(&settings, &interrupt).with_context(|| format!("the demo in {directory} ended early"));
    match result {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        Err(error) => match error.downcast_ref::<Interrupted>() {
            Some(interrupted) => {
                eprintln!("{interrupted}: the server was killed, its files are still in {directory}");
                Ok(ExitCode::from(interrupted.exit_code()))
            }
            None => Err(error),
        },
    }
}

/// The whole demo; says whether everything is as it should be.
fn hold_sale(settings: &Settings, interrupt: &Interrupt) -> anyhow::Result<bool> {
    settings::raise_open_files_limit();
    verify::create_orders_table(&settings.sink, &settings.table)?;
    configuration::write(settings)?;
    let mut server = ServerProcess::new(settings, interrupt);
    server.start().context("the server did not start")?;
    eprintln!("{}", settings.description());
    eprintln!("files are in {}", settings.directory.display());
    let plan = load_plan(settings)?;
    let (outcome, watched) = sell(settings, &plan, &mut server, interrupt)?;
    let exit = server.stop().context("the server could not be stopped")?;
    // The server is gone, so what is counted now is what the database has for good.
    eprintln!("counting in the database");
    let delivered = verify::count(&settings.sink, &settings.table, &settings.run)?;
    let report = Report::new(settings, &outcome, &delivered, &watched, exit);
    println!("{}", report.text());
    report.write_files(&outcome, &delivered)?;
    Ok(report.is_clean())
}

/// What is sent, and how.
fn load_plan(settings: &Settings) -> anyhow::Result<Plan> {
    let schedule = Schedule::constant(settings.records, settings.offered_rate.per_second())?;
    let url = format!("http://{}/v1/queues/{}/records", settings.address, settings::QUEUE);
    let mut plan = Plan::new(&url, Load::Open(schedule))?;
    plan.run = settings.run.clone();
    plan.connections = usize::try_from(settings.connections)?;
    plan.idempotency_keys = true;
    // Without kills a refusal is a figure of its own; with them, a client that gives up at once would prove little.
    plan.retry = (settings.kills > 0).then(RetryPolicy::default);
    Ok(plan)
}

/// Sends the load and watches the server until it has drained.
fn sell(
    settings: &Settings,
    plan: &Plan,
    server: &mut ServerProcess<'_>,
    interrupt: &Interrupt,
) -> anyhow::Result<(Outcome, Watched)> {
    let progress = Arc::new(Progress::new());
    thread::scope(|scope| {
        // The scope waits for the load, so whatever ends the watch must end the load as well.
        let _guard = CancelOnDrop(Arc::clone(&progress));
        let loaded = Arc::clone(&progress);
        let load = thread::Builder::new()
            .name("sale".to_owned())
            .spawn_scoped(scope, move || engine::run(plan, &loaded))
            .context("cannot start a thread")?;
        let kills = KillSchedule::new(settings.kills, settings.planned_ns());
        let watched = Watch::new(settings, &progress, interrupt, kills).until_drained(server, &load)?;
        let outcome = load.join().map_err(|_| anyhow::anyhow!("the load generator failed"))??;
        Ok((outcome, watched))
    })
}

/// Ends the load when it is dropped; after the load's own end that changes nothing.
struct CancelOnDrop(Arc<Progress>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
