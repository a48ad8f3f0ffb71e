//! The Redis sink on real servers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_errors_doc,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::return_self_not_must_use,
    missing_docs,
    reason = "a test that cannot go on should panic, and is its own documentation"
)]
#![allow(clippy::disallowed_methods, reason = "a kill at a random instant waits for no bell")]

#[path = "redis/ahead.rs"]
mod ahead;
#[path = "redis/check.rs"]
mod check;
#[path = "redis/cluster.rs"]
mod cluster;
#[path = "redis/faults.rs"]
mod faults;
#[path = "redis/poison.rs"]
mod poison;
#[allow(dead_code, reason = "these tests use some of it")]
#[path = "conformance/proxy.rs"]
mod proxy;
mod redis_server;
#[path = "redis/rows.rs"]
mod rows;
mod server;
#[allow(dead_code, reason = "only the moments of a conversation are of use here")]
#[path = "conformance/station.rs"]
mod station;
#[path = "redis/whole.rs"]
mod whole;

use std::path::Path;

use forebay::config::{self, OptionValue, Options, Target, Template};
use forebay::progress::Progress;
use forebay::record::{Attributes, Record, Sequence};
use forebay::sink::{Batch, Delivery, KINDS, Part, Sink, SinkError, open};
use redis_server::RedisServer;
use tokio::runtime::Runtime;

/// A server and what a sink on it needs.
pub struct Stage {
    pub server: RedisServer,
    pub runtime: Runtime,
    pub url: String,
    pub options: Options,
    pub commit_timeout_ms: u64,
}

impl Stage {
    pub fn start() -> Self {
        Self::with(RedisServer::start())
    }

    pub fn with(server: RedisServer) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let kind = KINDS.into_iter().find(|kind| kind.name == "redis").unwrap();
        let url = server.url();
        Self { server, runtime, url, options: Options::defaults(kind), commit_timeout_ms: 10_000 }
    }

    /// With these commands instead of the default one.
    pub fn commands(mut self, commands: &[&str]) -> Self {
        self.set_commands(commands);
        self
    }

    pub fn set_commands(&mut self, commands: &[&str]) {
        let templates = commands.iter().map(|command| Template::parse(command).unwrap()).collect();
        self.options.set("commands", OptionValue::Templates(templates));
    }

    pub fn set_text(&mut self, key: &'static str, text: &str) {
        self.options.set(key, OptionValue::Text(text.to_owned()));
    }

    /// A sink for the part `q/1`.
    pub fn sink(&self) -> Box<dyn Sink> {
        self.sink_of("q/1")
    }

    pub fn sink_of(&self, part: &str) -> Box<dyn Sink> {
        self.sink_for(&part_of(part))
    }

    /// A sink for a part that somebody else has made.
    pub fn sink_for(&self, part: &Part) -> Box<dyn Sink> {
        let sink = config::Sink {
            kind: KINDS.into_iter().find(|kind| kind.name == "redis").unwrap(),
            url: self.url.clone(),
            target: Target::Own,
            options: self.options.clone(),
            connect_timeout_ms: self.commit_timeout_ms,
            commit_timeout_ms: self.commit_timeout_ms,
        };
        open(&sink, part.clone(), Path::new("/nonexistent"))
    }

    /// What `forebay check` would say.
    pub fn problems(&self) -> Vec<String> {
        self.runtime.block_on(self.sink().check()).unwrap()
    }

    pub fn position(&self) -> String {
        self.server.ask(&["HGET", "forebay:position:q/1", "position"])
    }

    /// How many notes there are of what was carried out of records that are not delivered.
    pub fn notes(&self) -> usize {
        let fields: Vec<String> = self.server.ask(&["HKEYS", "forebay:position:q/1"]);
        fields.iter().filter(|field| field.starts_with("applied/")).count()
    }
}

/// A part as another process has it each time.
pub fn part_of(id: &str) -> Part {
    let name = id.split('/').find_map(|segment| segment.strip_prefix("sink-")).map(str::to_owned);
    Part::new("q".to_owned(), name, id.to_owned(), true, getrandom::u64().unwrap())
}

pub fn record(body: &[u8]) -> Record<'_> {
    Record {
        received_at_us: 1_700_000_000_000_042,
        idempotency_hash: [0; 16],
        group_count: 1,
        key: b"",
        idempotency_key: b"",
        content_type: b"application/json",
        attributes: Attributes::NONE,
        body,
    }
}

/// Commits records of these sequences; then so much is delivered.
pub async fn deliver<B: AsRef<[u8]>>(
    sink: &mut dyn Sink,
    after: Sequence,
    records: &[(Sequence, B)],
    then: &Progress,
) -> Result<(), SinkError> {
    let tickets: Vec<_> = records.iter().map(|(sequence, _)| format!("q-{sequence:x}-0")).collect();
    let deliveries: Vec<_> = records
        .iter()
        .zip(&tickets)
        .map(|((sequence, body), ticket)| Delivery { sequence: *sequence, record: record(body.as_ref()), ticket })
        .collect();
    let mut beyond = Vec::new();
    then.encode_beyond(&mut beyond);
    let beyond = (!then.is_in_order()).then_some(beyond.as_slice());
    sink.commit(Batch { after, through: then.through(), beyond, deliveries: &deliveries, witnesses: &[], ahead: None })
        .await
}

/// Commits records behind `after`, in order.
pub async fn commit<B: AsRef<[u8]>>(sink: &mut dyn Sink, after: Sequence, bodies: &[B]) -> Result<(), SinkError> {
    let records: Vec<_> = (after + 1..).zip(bodies).collect();
    deliver(sink, after, &records, &Progress::up_to(after + bodies.len() as u64)).await
}

/// What a take-over says of a part that is delivered in order up to here.
pub fn at(position: Sequence) -> Result<Progress, SinkError> {
    Ok(Progress::up_to(position))
}

pub fn is_permanent(outcome: &Result<(), SinkError>, part: &str) -> bool {
    matches!(outcome, Err(SinkError::Permanent { message }) if message.contains(part))
}

pub fn is_transient(outcome: &Result<(), SinkError>, part: &str) -> bool {
    matches!(outcome, Err(SinkError::Transient(message)) if message.contains(part))
}

pub fn is_fenced(outcome: &Result<(), SinkError>) -> bool {
    matches!(outcome, Err(SinkError::Fenced(_)))
}
