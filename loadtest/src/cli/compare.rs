//! `compare`: loads servers in turns and prints their ratio.

use anyhow::{Result, ensure};
use clap::Args;
use forebay_loadtest::compare::{ComparePlan, Comparison, Event, Round, compare_peers};
use forebay_loadtest::peer::{Peer, RunningPeer, StartOptions};
use forebay_loadtest::report::{Document, Machine};
use forebay_loadtest::results::rate;
use std::path::PathBuf;
use std::time::Duration;

/// The longest warm-up of a peer before its first round.
const WARM_UP_MAX: Duration = Duration::from_secs(1);

/// Loads servers in turns and prints their ratio.
///
/// All servers stay up for the whole comparison and take turns, a round each, with the same closed loop of 270-byte
/// orders: as many requests are in flight as there are connections. A round in which any request is not acknowledged
/// fails the comparison, and so does a server that holds fewer orders in the end than it acknowledged, where it can be
/// asked.
///
/// The peers are nginx (keeps nothing), forebay, forebay-memory (ack = "memory"), redis (a stream, appendfsync always),
/// nats (JetStream in files, synced late), rabbitmq (a quorum queue with confirms; needs the cargo feature brokers) and
/// postgres (an INSERT for each order). Each is started on free ports with its files in a temporary directory. What a
/// server puts off, such as syncing later, also disturbs the rounds of the others.
#[derive(Args)]
pub struct CompareArguments {
    /// The peer to compare with; may be repeated, and the ratios are to the first
    #[arg(long = "peer", default_value = "nginx")]
    peers: Vec<String>,
    /// Path of the forebay program; the peer forebay is added unless it or forebay-memory is named
    #[arg(long, value_name = "PATH")]
    forebay: Option<PathBuf>,
    /// Numbers of connections to compare at
    #[arg(long, value_delimiter = ',', default_value = "64,256")]
    connections: Vec<usize>,
    /// Rounds for each server at each number of connections
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each round lasts, in seconds
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Then load each server open loop with constant arrivals at 25, 50, 75 and 90 % of its own median
    ///
    /// Latency then counts from the time at which a request was due, and includes the ticks of 0.1 ms in which
    /// requests go; the start lag says how late they went. Each of the four takes as long as a round, or longer when the server falls behind.
    #[arg(long)]
    open: bool,
    /// Where the servers write, which should be a real disk [default: the system's temporary directory]
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// Writes every figure as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the comparison with plots as one HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub fn compare(arguments: &CompareArguments) -> Result<()> {
    ensure!(arguments.rounds > 0, "a comparison needs at least one round");
    let round = super::duration(arguments.seconds)?;
    let plan = ComparePlan {
        connections: arguments.connections.clone(),
        rounds: arguments.rounds,
        round,
        warm_up: round.min(WARM_UP_MAX),
        threads: arguments.threads,
        open_loop: arguments.open,
    };
    let peers = start(arguments)?;
    for peer in &peers {
        println!("{}: {} (at {})", peer.name, peer.keeps, peer.wire);
    }
    let mut rounds = Vec::new();
    let comparisons = compare_peers(&peers, &plan, |event| match event {
        Event::Round(round) => {
            println!("{}", round_line(round));
            rounds.push(round.clone());
        }
        Event::OpenLoop(peer, step) => println!("     open loop  {peer:<14} {step}"),
    })?;
    for comparison in &comparisons {
        print!("\n{}", comparison.to_text());
    }
    write_json(arguments, &rounds, &comparisons)?;
    write_html(arguments, &peers, &comparisons)
}

fn start(arguments: &CompareArguments) -> Result<Vec<RunningPeer>> {
    let options = StartOptions {
        parent_directory: arguments.directory.clone(),
        forebay_binary: arguments.forebay.clone(),
        load_threads: arguments.threads,
    };
    let mut names: Vec<&str> = arguments.peers.iter().map(String::as_str).collect();
    if arguments.forebay.is_some() && !names.iter().any(|name| ["forebay", "forebay-memory"].contains(name)) {
        names.push("forebay");
    }
    names.into_iter().map(|name| Ok(Peer::named(name)?.start(&options)?)).collect()
}

fn round_line(round: &Round) -> String {
    format!(
        "{:>4} connections  round {:>2}  {:<14} {:>12}  p50 {:>8.3} ms  p99 {:>8.3} ms",
        round.connections,
        round.round,
        round.peer,
        rate(round.per_second),
        round.latency.p50_ms,
        round.latency.p99_ms
    )
}

fn write_json(arguments: &CompareArguments, rounds: &[Round], comparisons: &[Comparison]) -> Result<()> {
    let Some(path) = &arguments.json else { return Ok(()) };
    let json = serde_json::json!({
        "machine": Machine::from_proc(),
        "seconds_per_round": arguments.seconds,
        "comparisons": comparisons,
        "rounds": rounds,
    });
    super::write(path, &format!("{json:#}\n"))
}

fn write_html(arguments: &CompareArguments, peers: &[RunningPeer], comparisons: &[Comparison]) -> Result<()> {
    let Some(path) = &arguments.html else { return Ok(()) };
    let names: Vec<&str> = peers.iter().map(|peer| peer.name).collect();
    let (names, rounds, seconds) = (names.join(", "), arguments.rounds, arguments.seconds);
    let page = Document {
        title: "Servers in turns",
        summary: &format!("{names}: {rounds} rounds of {seconds} s each, in turns, for each number of connections."),
        command_line: &super::command_line(),
        machine: &Machine::from_proc(),
        sections: comparisons.iter().flat_map(Comparison::to_sections).collect(),
    };
    super::write(path, &page.to_html()?)
}
