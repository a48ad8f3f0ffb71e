//! What a configuration file says, once it has been read and found sound.
//!
//! These types hold no optional nonsense: every default has been filled in and
//! every bound checked by [`load`], which reports all errors of a file at once.

mod context;
mod environment;
mod error;
mod grammar;
mod load;
mod ordering;
mod queue;
mod reader;
mod shaping;
mod sink;
mod sink_kind;
mod template;
mod wording;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::rate::Rate;
use crate::schedule::Schedule;

pub use error::{ConfigError, ConfigErrors};
pub use load::{known_keys, load, parse};
pub use shaping::{patch, written};
pub use sink_kind::{OptionRule, OptionValue, OptionValues, Options, SinkKind, Takes, UrlRule};
pub use template::{Piece, Template};

/// A whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where the journal lives; one process at a time.
    pub data_dir: PathBuf,
    /// Where clients reach us; at least one.
    pub listeners: Vec<Listener>,
    /// Health and metrics.
    pub admin: Admin,
    /// Bounds of the front door.
    pub ingress: Ingress,
    /// Sizes of the journal.
    pub journal: Journal,
    /// How a stop goes.
    pub shutdown: Shutdown,
    /// Queues by name; at least one.
    pub queues: BTreeMap<String, Queue>,
}

/// One address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// What is spoken there.
    pub protocol: Protocol,
    /// The queue that takes every request as it comes, whatever its path; `None` for the paths of the API.
    pub queue: Option<String>,
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
}

/// A wire protocol of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
}

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens; loopback by default, since it asks for no password.
    pub address: SocketAddr,
}

/// Bounds of the front door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Executors, one pinned to a core; 0 takes the cores less one, and at least one.
    pub executors: usize,
    /// Open connections of the whole process.
    pub connections_max: usize,
    /// Bytes of a request head.
    pub head_bytes_max: usize,
    /// Time for a head, in milliseconds.
    pub head_timeout_ms: u64,
    /// Time for a body, in milliseconds.
    pub body_timeout_ms: u64,
    /// Silence between requests, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Bytes of one record's body.
    pub record_bytes_max: usize,
    /// Bytes of one NDJSON body.
    pub batch_request_bytes_max: usize,
    /// Records of one NDJSON body.
    pub batch_request_records_max: usize,
    /// Requests of one executor that wait for the journal.
    pub in_flight_max: usize,
    /// Bytes of bodies that one executor holds while they arrive.
    pub body_bytes_in_flight_max: usize,
}

/// Sizes of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Bytes of the ring between one executor and the journal.
    pub ring_bytes: usize,
    /// Bytes written for one queue before one sync.
    pub commit_bytes_max: usize,
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// Zeroed segments kept ready.
    pub spare_segments: usize,
    /// Bytes of the ring from the journal to one queue's drain.
    pub hot_ring_bytes: usize,
}

/// How a stop goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Time for requests in flight, in milliseconds.
    pub grace_ms: u64,
}

/// One queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    /// How records leave; all of it can be changed while the server runs.
    pub shaping: Shaping,
    /// Which records may leave before others.
    pub ordering: Ordering,
    /// When a record is acknowledged.
    pub ack: Ack,
    /// Bytes of undelivered records; beyond it requests are refused.
    pub max_backlog_bytes: u64,
    /// How long an idempotency key is remembered, in milliseconds; 0 turns it off.
    pub idempotency_window_ms: u64,
    /// How many keys are remembered.
    pub idempotency_keys_max: usize,
    /// Bytes of the dead-letter file.
    pub dead_letters_bytes_max: u64,
    /// Headers that records keep because the sink asks for their values, in lower case.
    pub kept_headers: BTreeSet<String>,
    /// Where the records go.
    pub sink: Sink,
}

/// How a queue's records leave.
#[derive(Clone, Debug, PartialEq)]
pub struct Shaping {
    /// The ceiling of the drain, at times of which `schedule` says nothing.
    pub rate: Rate,
    /// Records that may leave at once; `None` for what `linger_ms_max` and a little lateness make of the rate.
    pub burst: Option<u64>,
    /// Other ceilings by the time of day.
    pub schedule: Schedule,
    /// How records are gathered into transactions.
    pub batch: Batch,
    /// How a sink in trouble gets less.
    pub adaptive: Adaptive,
    /// How long to wait between attempts.
    pub retry: Retry,
}

/// Which of a queue's records may leave before others, and which must wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordering {
    /// Which order is kept.
    pub order: Order,
    /// Whose records take turns; `None` if nobody's.
    pub fair_by: Option<Selector>,
    /// How many turns the records of a key get where the others get one; 1 for a key that is not here.
    pub fair_weights: BTreeMap<String, u32>,
    /// What one key's records get at most.
    pub throttle: Option<Throttle>,
    /// The longest delay that a client may ask for, in milliseconds; 0 if none is taken.
    pub delay_ms_max: u64,
    /// How far the drain looks ahead.
    pub window: Window,
    /// Transactions that are on their way at a time, each on a connection of its own; more than 1 only if records may overtake
    /// others.
    pub concurrency: u32,
}

/// Which order a queue keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Records leave as they were received.
    Strict,
    /// Records with the same `Forebay-Key` leave as they were received.
    Key,
    /// Any record may leave before any other.
    None,
}

/// What of a record says whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// `Forebay-Key`.
    Key,
    /// The value of this header, whose name is in lower case.
    Header(String),
    /// What an RFC 6901 JSON pointer finds in the body.
    Pointer(String),
}

/// What one key's records get at most, beside the queue's rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// Whose records count together.
    pub by: Selector,
    /// Records of one key in each period.
    pub limit: u64,
    /// The period, in milliseconds.
    pub period_ms: u64,
    /// Records of one key that may leave at once.
    pub burst: u64,
    /// Keys that are remembered.
    pub keys_max: usize,
}

/// How far the drain looks ahead for records that may leave before others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Records.
    pub records_max: usize,
    /// Their bytes.
    pub bytes_max: usize,
}

/// When a record is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// After fdatasync.
    Durable,
    /// Once the journal has taken it from the ring; a crash may lose the last moments.
    Memory,
}

/// How records are gathered into transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Records of one transaction.
    pub records_max: usize,
    /// Bytes of one transaction.
    pub bytes_max: usize,
    /// Milliseconds of the rate that one transaction may hold.
    pub linger_ms_max: u64,
}

/// How a sink in trouble gets less than the ceiling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adaptive {
    /// By which rule.
    pub mode: AdaptiveMode,
    /// Hundredths of the ceiling that it always gets.
    pub share_min_percent: u64,
}

/// A rule of the adaptive limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdaptiveMode {
    /// Additive increase, multiplicative decrease.
    Aimd,
    /// By the ratio of the usual round trip to the last one.
    Gradient2,
    /// The ceiling, whatever happens.
    Off,
}

/// How long to wait between attempts, and how long to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// First pause, in milliseconds.
    pub backoff_ms_min: u64,
    /// Longest pause, in milliseconds.
    pub backoff_ms_max: u64,
    /// Failures in a row after which single records are tried until one goes through.
    pub failures_max: u64,
    /// Failed attempts of a record by itself after which it becomes a dead letter; `None` for no such end.
    pub attempts_max: Option<u64>,
    /// Milliseconds since its arrival after which a record becomes a dead letter instead of being sent; `None` for none.
    pub age_ms_max: Option<u64>,
}

/// Where a queue's records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    /// Which kind of sink.
    pub kind: &'static SinkKind,
    /// Where it is, as its kind has it; empty for its default.
    pub url: String,
    /// How a record becomes a row.
    pub target: Target,
    /// What only this kind can be told.
    pub options: Options,
    /// Time to connect, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Time for one transaction, in milliseconds.
    pub commit_timeout_ms: u64,
}

/// How a record becomes a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A table that forebay creates, with the columns `ticket`, `received_at`, `key`, `content_type` and `body`.
    Created {
        /// Its name, `forebay_<queue>` with dashes as underscores.
        table: String,
    },
    /// A table of the user's, one [`Source`] for each column, in the file's order.
    Table {
        /// Its name, with a schema if need be; each part quoted as an identifier when used.
        table: String,
        /// Column names and where their values come from.
        columns: Vec<(String, Source)>,
    },
    /// A statement of the user's own with named parameters (`:name`), run once for each record.
    Statement {
        /// The SQL text.
        statement: String,
        /// Parameters by name; `:ticket`, `:body` and the other built-in names need no entry.
        parameters: Vec<(String, Source)>,
    },
    /// What the sink's own options say.
    Own,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An RFC 6901 JSON pointer into the body: `/order_id`.
    Pointer(String),
    /// `$ticket`
    Ticket,
    /// `$sequence`
    Sequence,
    /// `$queue`
    Queue,
    /// `$received_at`: RFC 3339 with microseconds, UTC.
    ReceivedAt,
    /// `$key`: the `Forebay-Key`, or NULL.
    Key,
    /// `$idempotency_key`: the `Idempotency-Key`, or NULL.
    IdempotencyKey,
    /// `$content_type`, or NULL.
    ContentType,
    /// `$body`
    Body,
    /// `$method`: that of the request, or NULL if the record did not come through a listener with `queue`.
    Method,
    /// `$path`: the path of the request with its query, or NULL as above.
    Path,
    /// `$header.NAME`, whose name is in lower case: the value of a header of the request, or NULL if it had none.
    Header(String),
}

impl Sink {
    /// Where its values come from.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        let pairs = match &self.target {
            Target::Table { columns: pairs, .. } | Target::Statement { parameters: pairs, .. } => pairs.as_slice(),
            Target::Created { .. } | Target::Own => &[],
        };
        pairs.iter().map(|(_, source)| source).chain(self.options.sources())
    }
}

impl Ordering {
    /// Whether records may leave before others.
    #[must_use]
    pub fn is_reordering(&self) -> bool {
        self.order != Order::Strict
    }

    /// The header whose value a record keeps for `fair_by`.
    #[must_use]
    pub fn fair_header(&self) -> Option<&str> {
        self.fair_by.as_ref().and_then(Selector::header)
    }

    /// The header whose value a record keeps for the throttle, if it is not that of `fair_by`.
    #[must_use]
    pub fn throttle_header(&self) -> Option<&str> {
        let header = self.throttle.as_ref().and_then(|throttle| throttle.by.header());
        header.filter(|header| self.fair_header() != Some(header))
    }

    /// Whether a record keeps the value of any header.
    #[must_use]
    pub fn keeps_header(&self) -> bool {
        self.fair_header().is_some() || self.throttle_header().is_some()
    }
}

impl Queue {
    /// Whether the front door keeps the value of any header with a record.
    #[must_use]
    pub fn keeps_header(&self) -> bool {
        self.ordering.keeps_header() || !self.kept_headers.is_empty()
    }
}

impl Selector {
    fn header(&self) -> Option<&str> {
        match self {
            Self::Header(name) => Some(name),
            Self::Key | Self::Pointer(_) => None,
        }
    }
}
