//! `growth`: how forebay's cost grows, axis by axis.

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use forebay_loadtest::growth::{Growth, GrowthPlan, measure};
use forebay_loadtest::report::{Document, Machine};
use std::path::PathBuf;

/// Shows how forebay's cost grows, axis by axis.
///
/// Each point has a forebay of its own with the default configuration, but a drain that stands still and bounds that
/// the point does not run into, and is loaded by
/// a closed loop over connections that are open before the clock starts. Beside the requests per second and their
/// latency stands what the forebay's process takes: its memory, and its processor time for a million requests. A
/// request that is not acknowledged ends the measurement.
///
/// connections: 1 to 10,000, each with a 270-byte order in flight; and 100 busy connections of 10,000 open ones against
/// 100 alone, in turns.
///
/// record-size: 64 B to 1 MiB, over 64 connections.
///
/// backlog: up to --backlog-max records of 1,000 bytes, filled in large batches; then the forebay is killed and started
/// again, as often as there are rounds, before it takes single records over 64 connections.
///
/// queues: 1, 10 and 100, which take orders in turns, over 100 connections.
///
/// Whether the limit of open files (ulimit -Hn) and the room on the disk will do is looked at before anything is
/// measured: the whole asks for about 18 GB, and takes some six minutes.
#[derive(Args)]
pub struct GrowthArguments {
    /// Path of the forebay program
    #[arg(long, value_name = "PATH", default_value = "target/release/forebay")]
    forebay: PathBuf,
    /// Where the servers write, which should be a real disk [default: the system's temporary directory]
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// What is measured
    #[arg(long, value_enum, value_delimiter = ',', default_value = "connections,record-size,backlog,queues")]
    axes: Vec<AxisName>,
    /// Rounds at each point
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each round lasts, in seconds
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// The largest backlog, in records; each takes about 1.1 kB of disk
    #[arg(long, value_name = "RECORDS", default_value_t = 10_000_000)]
    backlog_max: u64,
    /// Writes every figure as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes a report with plots as one HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AxisName {
    /// Open connections
    Connections,
    /// Bytes of a record
    RecordSize,
    /// Records that are not delivered yet
    Backlog,
    /// Queues
    Queues,
}

pub fn growth(arguments: &GrowthArguments) -> Result<()> {
    let plan = plan(arguments)?;
    let growth = measure(&plan, |event| println!("{event}"))?;
    print!("\n{}", growth.to_text());
    write_json(arguments, &growth)?;
    write_html(arguments, &growth)
}

fn plan(arguments: &GrowthArguments) -> Result<GrowthPlan> {
    ensure!(arguments.rounds > 0, "a point needs at least one round");
    let round = super::duration(arguments.seconds)?;
    let mut plan = GrowthPlan::new(arguments.forebay.clone()).with_round(round).with_backlog_max(arguments.backlog_max);
    plan.directory.clone_from(&arguments.directory);
    plan.rounds = arguments.rounds;
    let leaves_out = |axis| !arguments.axes.contains(&axis);
    if leaves_out(AxisName::Connections) {
        plan.connections.clear();
        plan.idle = None;
    }
    if leaves_out(AxisName::RecordSize) {
        plan.record_bytes.clear();
    }
    if leaves_out(AxisName::Backlog) {
        plan.backlog_records.clear();
    }
    if leaves_out(AxisName::Queues) {
        plan.queues.clear();
    }
    Ok(plan)
}

fn write_json(arguments: &GrowthArguments, growth: &Growth) -> Result<()> {
    let Some(path) = &arguments.json else { return Ok(()) };
    let json = serde_json::json!({
        "machine": Machine::from_proc(),
        "rounds": arguments.rounds,
        "seconds_per_round": arguments.seconds,
        "growth": growth,
    });
    super::write(path, &format!("{json:#}\n"))
}

fn write_html(arguments: &GrowthArguments, growth: &Growth) -> Result<()> {
    let Some(path) = &arguments.html else { return Ok(()) };
    let document = Document {
        title: "How forebay's cost grows",
        summary: &format!(
            "Medians of {} rounds of {} s at each point. The load generator runs on the same cores as forebay.",
            arguments.rounds, arguments.seconds
        ),
        command_line: &super::command_line(),
        machine: &Machine::from_proc(),
        sections: growth.sections(),
    };
    super::write(path, &document.to_html()?)
}
