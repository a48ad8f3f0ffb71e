//! The Redis sink beside `redis-cli --pipe` on the same rows and server, in turns, and beside the same commands within MULTI and EXEC.
//!
//! `cargo bench --bench redis -- --help`

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a bench that cannot go on should panic")]
#![allow(clippy::disallowed_methods, reason = "time is what a bench is about")]

#[path = "../tests/redis_server/mod.rs"]
mod redis_server;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Parser;
use forebay::config::{self, Options, Target};
use forebay::record::{Attributes, Record};
use forebay::sink::encoded::{Encoded, Encoder, Encoding};
use forebay::sink::{Batch, Delivery, KINDS, Part, open};
use forebay_loadtest::beside::{self, Beside};
use forebay_loadtest::report::Machine;
use futures_lite::future::zip;
use redis_server::RedisServer;

const RECEIVED_AT: &str = "2023-11-14T22:13:20.000042Z";
const RECEIVED_AT_US: u64 = 1_700_000_000_000_042;

/// Writes the same rows by the sink, by redis-cli and in transactions, in turns.
#[derive(Parser)]
struct Arguments {
    /// Rounds of each
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Records of each round
    #[arg(long, default_value_t = 100_000)]
    records: u64,
    /// Records of one batch
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Bytes of a body
    #[arg(long, default_value_t = 256)]
    bytes: usize,
    /// What the server syncs: always, everysec, or no
    #[arg(long, default_value = "always")]
    appendfsync: String,
    /// Writes every figure as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<std::path::PathBuf>,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    // A rewrite of the log, which takes a core, would begin in one of the rounds.
    let options = ["--appendfsync", &arguments.appendfsync, "--auto-aof-rewrite-percentage", "0"];
    let server = RedisServer::start_with(&options);
    let directory = tempfile::tempdir()?;
    let (body, path) = ("x".repeat(arguments.bytes), directory.path().join("commands"));
    let tickets: Vec<_> = (1..=arguments.records).map(|sequence| format!("q-{sequence:x}-0")).collect();
    let rows: Vec<_> = tickets.iter().map(|ticket| row(ticket, &body)).collect();
    std::fs::write(&path, rows.iter().flat_map(redis::Cmd::get_packed_command).collect::<Vec<_>>())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut pipe = Beside::new("rows of a stream", "rows/s", "sink", "redis-cli --pipe");
    let mut multi = Beside::new("rows of a stream", "rows/s", "sink", "MULTI and EXEC");
    for _ in 0..arguments.rounds {
        let ours =
            timed(&server, &arguments, || runtime.block_on(deliver(&server, &tickets, body.as_bytes(), &arguments)));
        let theirs = timed(&server, &arguments, || pipe_in(&server, &path));
        println!("{}", pipe.add(ours, theirs));
        let theirs = timed(&server, &arguments, || runtime.block_on(transact(&server, &rows, &arguments)));
        println!("{}", multi.add(ours, theirs));
    }
    let measured = [pipe, multi];
    for one in &measured {
        println!("{one}");
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, beside::to_json(&measured, &Machine::from_proc()))?;
    }
    Ok(())
}

/// Rows a second of what fills an empty server.
fn timed(server: &RedisServer, arguments: &Arguments, fill: impl FnOnce()) -> f64 {
    server.ask::<()>(&["FLUSHALL", "SYNC"]);
    let started = Instant::now();
    fill();
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(server.ask::<u64>(&["XLEN", "forebay:q"]), arguments.records);
    arguments.records as f64 / seconds
}

fn row(ticket: &str, body: &str) -> redis::Cmd {
    let mut command = redis::cmd("XADD");
    command.arg("forebay:q").arg("*").arg("ticket").arg(ticket).arg("received_at").arg(RECEIVED_AT);
    command.arg("key").arg("").arg("content_type").arg("text/plain").arg("body").arg(body);
    command
}

async fn deliver(server: &RedisServer, tickets: &[String], body: &[u8], arguments: &Arguments) {
    let kind = KINDS.into_iter().find(|kind| kind.name == "redis").unwrap();
    let sink = config::Sink {
        kind,
        url: server.url(),
        target: Target::Own,
        options: Options::defaults(kind),
        connect_timeout_ms: 10_000,
        commit_timeout_ms: 60_000,
    };
    let part = Part::new("q".to_owned(), None, "q/1".to_owned(), false, 0);
    let mut sink = open(&sink, part, Path::new("/nonexistent"));
    sink.take_over().await.unwrap();
    let record = Record {
        received_at_us: RECEIVED_AT_US,
        idempotency_hash: [0; 16],
        group_count: 1,
        key: b"",
        idempotency_key: b"",
        content_type: b"text/plain",
        attributes: Attributes::NONE,
        body,
    };
    let batches: Vec<Vec<_>> = {
        let deliveries = (1..).zip(tickets).map(|(sequence, ticket)| Delivery { sequence, record, ticket });
        deliveries.collect::<Vec<_>>().chunks(arguments.batch as usize).map(<[_]>::to_vec).collect()
    };
    let (mut after, mut encoded) = (0, Encoded::default());
    for (number, deliveries) in batches.iter().enumerate() {
        let through = after + deliveries.len() as u64;
        let ahead = encoded.part(0, deliveries.len());
        let by = sink.encoder().unwrap();
        let batch = Batch { after, through, beyond: None, deliveries, witnesses: &[], ahead };
        let next = encode(by, batches.get(number + 1).map_or(&[], Vec::as_slice));
        let (committed, next) = zip(sink.commit(batch), next).await;
        committed.unwrap();
        (after, encoded) = (through, next);
    }
}

/// What the drain does while the sink works.
async fn encode(encoder: Encoder, deliveries: &[Delivery<'_>]) -> Encoded {
    let mut encoding = Encoding::new(encoder, deliveries.iter().map(|delivery| delivery.record.body.len()).sum());
    for delivery in deliveries {
        if encoding.is_turn_over() {
            tokio::task::yield_now().await;
        }
        assert!(encoding.add(delivery));
    }
    encoding.finish()
}

fn pipe_in(server: &RedisServer, path: &Path) {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &server.port().to_string(), "--pipe"]).stdin(File::open(path).unwrap()).stdout(Stdio::null());
    assert!(command.status().unwrap().success());
}

/// What is not exactly once: the same commands, and a position that nothing guards.
async fn transact(server: &RedisServer, rows: &[redis::Cmd], arguments: &Arguments) {
    let client = redis::Client::open(server.url()).unwrap();
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    let mut position = 0;
    for rows in rows.chunks(arguments.batch as usize) {
        position += rows.len();
        let mut transaction = redis::pipe();
        transaction.atomic();
        for row in rows {
            transaction.add_command(row.clone()).ignore();
        }
        transaction.cmd("HSET").arg("forebay:position:q/1").arg("position").arg(position).ignore();
        let () = transaction.query_async(&mut connection).await.unwrap();
    }
}
