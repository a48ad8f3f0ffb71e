//! `run`: loads a URL and prints the figures.

use super::display::Display;
use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args, ValueEnum};
use forebay_loadtest::engine::{self, Load, Outcome, Payload, Plan, Progress, RetryPolicy};
use forebay_loadtest::order::RunId;
use forebay_loadtest::report::{self, Machine, Report};
use forebay_loadtest::results::{Figures, hgrm};
use forebay_loadtest::schedule::Schedule;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// Loads a URL and prints the figures.
///
/// With --schedule, requests are due at fixed times whatever the server does, and latency counts from then (open
/// loop): this is how users behave. With --closed, each connection sends its next request when it has the last
/// answer, which finds out how fast a server can go.
// Each switch is a flag of its own on the command line.
#[allow(clippy::struct_excessive_bools)]
#[derive(Args)]
#[command(group = ArgGroup::new("mode").args(["schedule", "closed"]).required(true))]
pub struct RunArguments {
    /// Where to send requests: http://host:port/path
    #[arg(long)]
    url: String,
    /// Open loop: how requests arrive
    #[arg(long, value_enum)]
    schedule: Option<Arrivals>,
    /// Closed loop: one request after the other on each connection
    #[arg(long)]
    closed: bool,
    /// Requests to send
    #[arg(long)]
    records: Option<u64>,
    /// Requests per second, for constant and poisson
    #[arg(long)]
    rate: Option<f64>,
    /// How long to send requests, in seconds
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    /// Recorded requests per minute, for replay: columns minute (HH:MM) and requests
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Plays a replay this many times as fast
    #[arg(long, default_value_t = 1.0)]
    speed_up: f64,
    /// Multiplies the counts of a replay
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Seed of arrival times and orders: the same seed sends the same load
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep-alive connections, each with one request in flight
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Threads that share the connections
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Request method [default: POST with a body, GET without]
    #[arg(long)]
    method: Option<String>,
    /// Sends generated orders: JSON of about 270 bytes, each with its own id
    #[arg(long, conflicts_with = "body")]
    orders: bool,
    /// Sends this file in each request
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Content type of the bodies
    #[arg(long, default_value = "application/json")]
    content_type: String,
    /// Sends `Idempotency-Key: <order id>` with each request
    #[arg(long)]
    idempotency_keys: bool,
    /// Adds a header to each request; may be repeated
    #[arg(long = "header", value_name = "NAME:VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Retries what was not acknowledged (no answer, 5xx, 429) with the same key, until it is
    #[arg(long)]
    retry: bool,
    /// With --retry: gives up on a request this long after its first attempt, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, requires = "retry")]
    retry_deadline: u64,
    /// How long a request may take, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    request_timeout_ms: u64,
    /// How long a connection may take to open, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    connect_timeout_ms: u64,
    /// Name of the run, which starts each order id [default: random]
    #[arg(long)]
    run: Option<String>,
    /// Writes the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the latency distribution for HdrHistogram plotters
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
    /// Writes a report with plots as one HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Arrivals {
    /// Evenly spaced at --rate
    Constant,
    /// At random with a mean of --rate, as independent users arrive
    Poisson,
    /// All --records at once
    Burst,
    /// As recorded in --csv, --speed-up times as fast
    Replay,
}

pub fn run(arguments: &RunArguments) -> Result<()> {
    let plan = plan(arguments)?;
    let progress = Arc::new(Progress::new());
    let outcome = {
        let _display = Display::start(progress.clone());
        engine::run(&plan, &progress)?
    };
    let figures = Figures::from_outcome(&outcome);
    println!("run {} against {}", plan.run, arguments.url);
    print!("{}", figures.to_text());
    write_files(arguments, &plan, &outcome, &figures)?;
    if outcome.acknowledged < outcome.offered {
        bail!("{} of {} requests were not acknowledged", outcome.offered - outcome.acknowledged, outcome.offered);
    }
    if outcome.acknowledged == 0 {
        bail!("no request was sent");
    }
    Ok(())
}

fn plan(arguments: &RunArguments) -> Result<Plan> {
    let mut plan = Plan::new(&arguments.url, load(arguments)?)?;
    plan.payload = match &arguments.body {
        Some(path) => {
            Payload::Fixed(std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?.into())
        }
        None if arguments.orders => Payload::Orders { seed: arguments.seed },
        None => Payload::Empty,
    };
    let default_method = if matches!(plan.payload, Payload::Empty) { "GET" } else { "POST" };
    plan.method = arguments.method.clone().unwrap_or_else(|| default_method.to_owned());
    plan.headers.clone_from(&arguments.headers);
    plan.content_type.clone_from(&arguments.content_type);
    plan.idempotency_keys = arguments.idempotency_keys;
    if let Some(run) = &arguments.run {
        plan.run = RunId::new(run.as_str())?;
    }
    plan.connections = arguments.connections;
    plan.threads = arguments.threads;
    plan.limits.request_timeout_ms = arguments.request_timeout_ms;
    plan.limits.connect_timeout_ms = arguments.connect_timeout_ms;
    plan.retry = arguments
        .retry
        .then(|| RetryPolicy { deadline_ms: arguments.retry_deadline.saturating_mul(1000), ..RetryPolicy::default() });
    Ok(plan)
}

fn load(arguments: &RunArguments) -> Result<Load> {
    let Some(arrivals) = arguments.schedule else {
        let duration = arguments.duration.map(super::duration).transpose()?;
        if arguments.records.is_none() && duration.is_none() {
            bail!("--closed needs --records or --duration to end");
        }
        return Ok(Load::Closed { records: arguments.records, duration });
    };
    let seed = arguments.seed;
    let schedule = match arrivals {
        Arrivals::Constant => {
            let (records, rate) = records_and_rate(arguments)?;
            Schedule::constant(records, rate)?
        }
        Arrivals::Poisson => {
            let (records, rate) = records_and_rate(arguments)?;
            Schedule::poisson(records, rate, seed)?
        }
        Arrivals::Burst => Schedule::burst(arguments.records.context("--schedule burst needs --records")?)?,
        Arrivals::Replay => {
            let path = arguments.csv.as_ref().context("--schedule replay needs --csv")?;
            let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            Schedule::replay(file, arguments.speed_up, arguments.scale, seed)?
        }
    };
    Ok(Load::Open(schedule))
}

/// The number of records, given or as many as the rate makes in the duration. The cast saturates, and the schedule
/// refuses what is too much.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn records_and_rate(arguments: &RunArguments) -> Result<(u64, f64)> {
    let rate = arguments.rate.context("a constant or poisson schedule needs --rate")?;
    let records = match (arguments.records, arguments.duration) {
        (Some(records), _) => records,
        (None, Some(seconds)) => (rate * super::duration(seconds)?.as_secs_f64()).round() as u64,
        (None, None) => bail!("a constant or poisson schedule needs --records or --duration"),
    };
    Ok((records, rate))
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is NAME:VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn write_files(arguments: &RunArguments, plan: &Plan, outcome: &Outcome, figures: &Figures) -> Result<()> {
    let machine = Machine::from_proc();
    if let Some(path) = &arguments.json {
        let json = serde_json::json!({
            "run": plan.run.as_str(),
            "url": arguments.url,
            "connections": plan.connections,
            "threads": plan.threads,
            "machine": machine,
            "figures": figures,
            "acknowledged_per_100ms": outcome.acknowledged_per_100ms,
        });
        super::write(path, &format!("{json:#}\n"))?;
    }
    if let Some(path) = &arguments.hgrm {
        super::write(path, &hgrm(&outcome.latency_us))?;
    }
    if let Some(path) = &arguments.html {
        let page = report::html(&Report {
            title: "Load test",
            summary: &format!("Run {} against {}.", plan.run, arguments.url),
            command_line: &super::command_line(),
            machine: &machine,
            figures: &figures.rows(),
            latency_us: &outcome.latency_us,
            started_unix_us: outcome.started_unix_us,
            acknowledged_per_100ms: &outcome.acknowledged_per_100ms,
            drain: None,
        })?;
        super::write(path, &page)?;
    }
    Ok(())
}
