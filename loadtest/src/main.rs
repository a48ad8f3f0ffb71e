//! The command line of the load test.

mod cli;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Loads HTTP servers, compares them with each other and with brokers, kills forebay, and counts what arrived in the
/// database behind them.
#[derive(Parser)]
#[command(version, about, arg_required_else_help = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// None has a description here: clap would take it instead of the longer one that its arguments have.
#[derive(Subcommand)]
enum Command {
    Run(Box<cli::run::RunArguments>),
    Compare(cli::compare::CompareArguments),
    Growth(cli::growth::GrowthArguments),
    Disk(cli::disk::DiskArguments),
    Drain(cli::drain::DrainArguments),
    Crash(cli::crash::CrashArguments),
    Pace(cli::pace::PaceArguments),
    Trouble(cli::trouble::TroubleArguments),
    Verify(cli::verify::VerifyArguments),
}

const EXAMPLES: &str = "Examples:
  A flash sale: 100,000 orders at once, each retried until it is acknowledged
    forebay-loadtest run --url http://127.0.0.1:8080/v1/queues/orders/records --orders \\
        --schedule burst --records 100000 --connections 256 --idempotency-keys --retry
  Then count what came out, with the run's name from the output above
    forebay-loadtest verify --sink sqlite:orders.db --table orders --run r1a2b3c4
  How fast is any server? GET for 10 s over 64 connections
    forebay-loadtest run --url http://127.0.0.1:8080/ --closed --duration 10
  Side by side with nginx, which keeps nothing
    forebay-loadtest compare --peer nginx --forebay target/release/forebay
  Side by side with what takes orders today, where it has to be on disk
    forebay-loadtest compare --peer redis --peer postgres --forebay target/release/forebay --directory /var/tmp
  How forebay's cost grows with open connections and with its backlog
    forebay-loadtest growth --axes connections,backlog --backlog-max 1000000 --directory /var/tmp --html growth.html
  What clients get of this disk, beside what fio gets of it
    forebay-loadtest disk --directory /var/tmp
  Kill it (kill -9) 200 times under load, and account for every record in SQLite and PostgreSQL
    forebay-loadtest crash --directory /var/tmp
  How evenly records arrive downstream, beside nginx, HAProxy and a loop of our own
    forebay-loadtest pace --rates 5000 --directory /var/tmp --html pace.html

Exit code: 0 when every request was acknowledged and every record accounted for, 1 when not, 2 for a wrong command line.";

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(arguments) => cli::run::run(&arguments),
        Command::Compare(arguments) => cli::compare::compare(&arguments),
        Command::Growth(arguments) => cli::growth::growth(&arguments),
        Command::Disk(arguments) => cli::disk::disk(&arguments),
        Command::Drain(arguments) => cli::drain::drain(&arguments),
        Command::Crash(arguments) => cli::crash::crash(&arguments),
        Command::Pace(arguments) => cli::pace::pace(&arguments),
        Command::Trouble(arguments) => cli::trouble::trouble(&arguments),
        Command::Verify(arguments) => cli::verify::verify(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
