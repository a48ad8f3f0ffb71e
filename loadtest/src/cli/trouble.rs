//! `trouble`: what a database in trouble gets.

use anyhow::Result;
use clap::{Args, ValueEnum};
use forebay_loadtest::report::{Document, Machine};
use forebay_loadtest::trouble::{Cause, TroublePlan, measure};
use std::path::PathBuf;

/// Shows what a database in trouble gets from forebay, and how its other clients fare.
///
/// A probe does the shop's own work on a PostgreSQL of its own, twenty times a second: a look at an item and its sale,
/// timed from when they were due. It is alone first; then forebay drains orders for the same items at a rate that the
/// database bears, from a backlog of five seconds, while clients send as much; then the database gets into trouble, and then
/// it is well again. It is done once without forebay, which says what the trouble alone costs the probe, and in each mode of
/// the adaptive limit.
///
/// Each order takes an item out of stock, and each of forebay's transactions counts its orders in the row of a campaign at
/// last. load: four sessions sort on all cores. lock: a job holds the campaign's row for 100 ms again and again, so that the
/// transactions wait for it and the probe for the items that they hold meanwhile.
#[derive(Args)]
pub struct TroubleArguments {
    /// Path of the forebay program
    #[arg(long, value_name = "PATH", default_value = "target/release/forebay")]
    forebay: PathBuf,
    /// Kinds of trouble
    #[arg(long, value_enum, value_delimiter = ',', default_value = "load,lock")]
    causes: Vec<CauseName>,
    /// What lowers forebay's rate
    #[arg(long, value_enum, value_delimiter = ',', default_value = "aimd,gradient2,off")]
    modes: Vec<Mode>,
    /// Records per second that forebay drains at most, and that clients send
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Hundredths of that rate that it always gets; the default of forebay itself is 5
    #[arg(long, value_name = "PERCENT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    share_min_percent: u32,
    /// Seconds that the probe is alone, and again that forebay drains before the trouble
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    before: f64,
    /// Seconds of trouble
    #[arg(long, value_name = "SECONDS", default_value_t = 40.0)]
    trouble: f64,
    /// Seconds after it
    #[arg(long, value_name = "SECONDS", default_value_t = 15.0)]
    after: f64,
    /// Where the servers write, which should be a real disk [default: the system's temporary directory]
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    files: super::PlotFiles,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CauseName {
    /// Sessions that sort
    Load,
    /// A job that holds the row of the campaign
    Lock,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Additive increase, multiplicative decrease
    Aimd,
    /// The ratio of round trips
    Gradient2,
    /// Nothing
    Off,
}

pub fn trouble(arguments: &TroubleArguments) -> Result<()> {
    let cause = |cause: &CauseName| match cause {
        CauseName::Load => Cause::Load,
        CauseName::Lock => Cause::Lock,
    };
    let mode = |mode: &Mode| match mode {
        Mode::Aimd => "aimd".to_owned(),
        Mode::Gradient2 => "gradient2".to_owned(),
        Mode::Off => "off".to_owned(),
    };
    let plan = TroublePlan {
        forebay: arguments.forebay.clone(),
        directory: arguments.directory.clone(),
        causes: arguments.causes.iter().map(cause).collect(),
        modes: arguments.modes.iter().map(mode).collect(),
        share_min_percent: arguments.share_min_percent,
        rate_per_second: arguments.rate,
        before: super::duration(arguments.before)?,
        trouble: super::duration(arguments.trouble)?,
        after: super::duration(arguments.after)?,
    };
    let measured = measure(&plan, |run| println!("{run}"))?;
    print!("\n{}", measured.to_text());
    arguments.files.write(
        &Document {
            title: "A database in trouble",
            summary: &format!(
                "A probe does the shop's own work, and forebay drains {} records/s into the same PostgreSQL.",
                arguments.rate
            ),
            command_line: &super::command_line(),
            machine: &Machine::from_proc(),
            sections: measured.sections(),
        },
        &measured,
    )
}
