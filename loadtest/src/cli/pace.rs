//! `pace`: how evenly records arrive downstream.

use anyhow::{Context, Result, ensure};
use clap::Args;
use forebay_loadtest::pace::{CONTENDERS, Contender, Pace, PacePlan, measure};
use forebay_loadtest::report::{Document, Machine};
use std::path::PathBuf;

/// Shows how evenly records arrive downstream, beside what else limits a rate.
///
/// In each run clients send as fast as they are answered, and it is noted when each record arrives behind what limits the
/// rate: by the database's clock for each row, or by that of an HTTP server of the load test's own. Counted are the mean,
/// the worst second and the fullest and emptiest 100 ms, wherever they begin, from the first arrival on.
///
/// forebay drains into a PostgreSQL of its own, forebay-sqlite into SQLite; both were paused before, with a backlog that
/// is enough for the whole run. forebay-50ms makes up to 50 ms good at once instead of 9 ms, and nothing gradually. nginx delays (`limit_req`, clients wait for their answer). HAProxy has nothing that delays
/// requests: it refuses what is above the rate of the last second with 429, and clients repeat after 1 to 20 ms. governor
/// is a loop over `until_ready` of the Rust crate with the bucket that `Quota::per_second` makes, a second's worth;
/// governor-9ms has a bucket of 9 ms.
///
/// nginx, HAProxy and governor hold requests in memory; only forebay has them on disk.
#[derive(Args)]
pub struct PaceArguments {
    /// Path of the forebay program
    #[arg(long, value_name = "PATH", default_value = "target/release/forebay")]
    forebay: PathBuf,
    /// What takes turns
    #[arg(
        long = "peer",
        value_delimiter = ',',
        default_value = "forebay,forebay-50ms,forebay-sqlite,nginx,haproxy,governor,governor-9ms"
    )]
    peers: Vec<String>,
    /// Records per second
    #[arg(long, value_delimiter = ',', default_value = "100,5000,50000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rates: Vec<u32>,
    /// Rounds at each rate
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// How long arrivals are counted, in seconds
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Clients that send, each with one request in flight
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Where the servers write, which should be a real disk [default: the system's temporary directory]
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    files: super::PlotFiles,
}

pub fn pace(arguments: &PaceArguments) -> Result<()> {
    ensure!(arguments.rounds > 0 && arguments.connections > 0, "--rounds and --connections are at least 1");
    let plan = PacePlan {
        forebay: arguments.forebay.clone(),
        directory: arguments.directory.clone(),
        contenders: arguments.peers.iter().map(|name| contender(name)).collect::<Result<_>>()?,
        rates: arguments.rates.clone(),
        rounds: arguments.rounds,
        span: super::duration(arguments.seconds)?,
        connections: arguments.connections,
    };
    let pace: Pace = measure(&plan, |run| println!("{run}"))?;
    print!("\n{}", pace.to_text());
    arguments.files.write(
        &Document {
            title: "How evenly records arrive downstream",
            summary: &format!(
                "Arrivals at the sink, from the first one on, over {} s, while {} clients send as fast as they are answered \
                 on the same cores.",
                arguments.seconds, arguments.connections
            ),
            command_line: &super::command_line(),
            machine: &Machine::from_proc(),
            sections: pace.sections(),
        },
        &pace,
    )
}

fn contender(name: &str) -> Result<Contender> {
    let names = || CONTENDERS.iter().map(|contender| contender.name).collect::<Vec<_>>().join(", ");
    Contender::named(name).with_context(|| format!("there is no peer `{name}`: the peers are {}", names()))
}
