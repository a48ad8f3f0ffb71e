//! The command line: one file for each command.

mod admin_client;
mod check;
mod dead_letters;
mod demo;
mod export;
mod inspect;
mod output;
mod queues;
mod repair;
mod serve;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An ingress buffer: accepts a burst of requests, keeps every one that it acknowledges, and
/// hands them to a database at the rate that the database can bear.
#[derive(Parser)]
#[command(
    name = "forebay",
    version,
    after_help = "Examples:\n  \
        forebay demo                                   see the main job on this machine, with nothing to install\n  \
        forebay check --config config/flash-sale.toml  find out whether a configuration will work\n  \
        forebay serve --config config/flash-sale.toml  run until SIGTERM\n  \
        forebay rate orders 8000/s                     change a rate while the server runs\n  \
        forebay inspect data                           see what a data directory holds, beside a live forebay or not\n\n\
        RUST_LOG=debug says more; docs/ says everything."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until SIGTERM or SIGINT: accept, keep, deliver
    Serve(serve::Arguments),
    /// Say everything that is wrong with a configuration, and try its sinks
    Check(check::Arguments),
    /// Say what the queues of a running forebay do
    Queues(queues::QueuesArguments),
    /// Change the rate, the burst or the batches of a queue of a running forebay
    Rate(queues::RateArguments),
    /// Deliver nothing of a queue until somebody resumes it; it still accepts
    Pause(queues::PauseArguments),
    /// Deliver a paused queue again
    Resume(queues::PauseArguments),
    /// List, read, edit, redrive or purge dead letters of a running forebay
    DeadLetters(dead_letters::Arguments),
    /// Say what a data directory holds, also of a live forebay
    Inspect(inspect::Arguments),
    /// Read and check everything in a data directory, also of a live forebay
    Verify(verify::Arguments),
    /// Write a queue's undelivered records, or its dead letters, as NDJSON
    Export(export::Arguments),
    /// Cut damage out of a stopped queue, so that the next start succeeds; says what is lost
    Repair(repair::Arguments),
    /// Fire a flash sale at a server of its own and count what arrived in the database
    Demo(demo::Arguments),
}

/// Runs the command of the process's arguments. Exit code 0 is success, 1 a failure that was
/// reported, 2 arguments that could not be read.
#[must_use]
pub fn main() -> ExitCode {
    start_log();
    let result = match Arguments::parse().command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Queues(arguments) => queues::list(&arguments),
        Command::Rate(arguments) => queues::rate(&arguments),
        Command::Pause(arguments) => queues::pause(&arguments),
        Command::Resume(arguments) => queues::resume(&arguments),
        Command::DeadLetters(arguments) => dead_letters::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Repair(arguments) => repair::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("forebay: {error:#}");
        ExitCode::FAILURE
    })
}

/// What is logged unless `RUST_LOG` says otherwise. Clients of brokers log each attempt that fails, which we log ourselves, and
/// bodies that come back.
const LOG_DEFAULT: &str = "info,async_nats=off,lapin=off";

/// Logs go to standard error; standard output is for what was asked for.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOG_DEFAULT));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
}
