//! Sinks: where a drain delivers.
//!
//! A sink commits rows and our progress in one transaction, so that a record is
//! delivered exactly once whatever is killed when. The first statement of the
//! transaction is the fence: it moves the position of this part from the batch's
//! `after` to its `through`, and only for the epoch that we took over. If it hits
//! no row, somebody else has taken over and nothing of ours may be committed. The same
//! statement writes what is delivered beyond the position, if that changes, and then raises
//! the epoch too: such a batch may leave the position where it is, and sent twice, or to a
//! database that was set back meanwhile, it must hit no row either.
//!
//! A queue whose records may overtake others can have several **lanes**, each a part of its own with a row of its own, so that
//! none waits for another's transaction. Each row says what was known to be delivered when its lane last committed, whichever lane
//! had delivered it; what is delivered is the union of all rows. A database that was set back may have a lane's row as that lane
//! left it and not the rows that it speaks of, so a lane's fence looks at the epochs of the others too ([`Claim`]).
//!
//! A process that another one has taken over finds that out when it takes over once more, and is refused ([`tenure`]).
//!
//! A sink that cannot keep our position keeps nothing of it: its [`Carrier`](kept::Carrier) only takes records, each at least
//! once, and [`kept`] has the position in a file of the data directory.
//!
//! One file is one sink, and one line of the [`REGISTRY`] makes it known.

pub mod encoded;
mod encoding;
mod file;
#[cfg(feature = "http")]
mod http;
mod kept;
pub mod mapping;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "nats")]
mod nats;
pub mod postgres;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;
mod sqlite;
mod statement;
mod tenure;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use self::encoded::{Ahead, Encoder};
use self::tenure::Tenure;
use crate::config::{self, SinkKind};
use crate::limits::RETRY_AFTER_MS_MAX;
use crate::progress::{Progress, ProgressError};
use crate::record::{Record, Sequence};

pub use statement::Dialect;

/// What a sink's asynchronous call returns.
pub type SinkFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, SinkError>> + Send + 'a>>;

/// A record on its way into a sink.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Its number in the queue.
    pub sequence: Sequence,
    /// Its parts.
    pub record: Record<'a>,
    /// Its ticket as text.
    pub ticket: &'a str,
}

/// What is committed in one transaction. In order, that is the records between two positions. Dead
/// letters are among them but have no delivery, so a batch may be empty and still move the position.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The position before: everything up to it has been delivered.
    pub after: Sequence,
    /// The position behind it; `through >= after`. The two are equal if only `beyond` changes.
    pub through: Sequence,
    /// What is delivered beyond `through` once this is committed, as [`Progress::encode_beyond`] writes it: at
    /// most [`BEYOND_BYTES_MAX`](crate::limits::BEYOND_BYTES_MAX) bytes, none for nothing. `None`, which costs
    /// nothing, is for a batch with nothing beyond its position before or after: what is stored counts from the
    /// position, so the two may only move together. `Some` needs [`Part::reorders`], unless [`Sink::take_over`] has
    /// found something there.
    pub beyond: Option<&'a [u8]>,
    /// What to deliver, each behind `after`; those behind `through` are in `beyond`.
    pub deliveries: &'a [Delivery<'a>],
    /// Rows that this one speaks of too: unless each of them has come at least as far, nothing is committed.
    pub witnesses: &'a [Claim],
    /// What there is already of the first deliveries, as this sink or another one sends them.
    pub ahead: Option<Ahead<'a>>,
}

/// A part that is held, and the epoch that its row has reached: it never falls, unless the database is set back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which row: a part's [`id`](Part::id).
    pub part: Arc<str>,
    /// The epoch of that row, as of the last call whose outcome is known.
    pub epoch: i64,
}

/// Why a sink did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// It may work later: the connection, a timeout, a deadlock, a full disk, a missing table.
    /// Whether a commit went through is then unknown until the next [`Sink::take_over`].
    #[error("{0}")]
    Transient(String),
    /// It has asked for less: nothing is wrong with it or with the data. What was sent is sent again.
    #[error("{message}")]
    Throttled {
        /// What it said.
        message: String,
        /// Milliseconds after which it wants to be asked again, if it said so.
        retry_after_ms: Option<u64>,
    },
    /// The sink refuses this data for good (a constraint, a type): nothing of the batch was committed.
    #[error("{message}")]
    Permanent {
        /// The database's own words, with its error code.
        message: String,
    },
    /// Another process took this part over; we must not go on.
    #[error("another forebay has taken over this queue's position in the sink: {0}")]
    Fenced(String),
}

impl SinkError {
    /// Milliseconds for which the sink has asked to be left alone, within [`RETRY_AFTER_MS_MAX`]; 0 if it has not.
    #[must_use]
    pub fn asked_pause_ms(&self) -> u64 {
        match self {
            Self::Throttled { retry_after_ms, .. } => retry_after_ms.unwrap_or(0).min(RETRY_AFTER_MS_MAX),
            _ => 0,
        }
    }
}

/// A database that takes records.
pub trait Sink: Send {
    /// Connects if need be, creates forebay's own tables if they are missing, fences
    /// every earlier owner by raising the epoch, and returns what of this part is committed:
    /// nothing for a new one. Called at the start and after every transient error; what a
    /// broken connection left behind is then decided. [`SinkError::Fenced`] if another process has taken over
    /// the queue since this one has ([`Part::succeed`]).
    fn take_over(&mut self) -> SinkFuture<'_, Progress>;

    /// The lanes of this part, from 1 on, that have a row, in order; some may be of a life that had more of them. Needs
    /// [`take_over`](Self::take_over) before it. After an error nothing is held any more.
    fn lanes(&mut self) -> SinkFuture<'_, Vec<u32>>;

    /// What is held since [`take_over`](Self::take_over); `None` before that and after a transient error.
    fn claim(&self) -> Option<Claim>;

    /// What encodes records as the next [`commit`](Self::commit) sends them, if that can be done ahead of it.
    fn encoder(&self) -> Option<Encoder> {
        None
    }

    /// Commits a batch: fence, rows, position and what is beyond it, in one transaction.
    fn commit<'a>(&'a mut self, batch: Batch<'a>) -> SinkFuture<'a, ()>;

    /// Says everything that can be found wrong without delivering: connects, looks at the
    /// table, its columns and our privileges. An empty list is a sink that will work.
    /// Changes nothing in the database, so it runs beside a live server.
    fn check(&mut self) -> SinkFuture<'_, Vec<String>>;
}

/// What a sink needs to know of the queue that it serves.
#[derive(Clone, Debug)]
pub struct Part {
    /// The queue's name, for `$queue` and messages.
    pub queue: String,
    /// Its name among the queue's sinks; `None` for the main one.
    pub sink: Option<String>,
    /// Identifies this queue of this data directory in the sink: `<queue>/<journal id>`. A data
    /// directory that was thrown away must not inherit the old one's position.
    pub id: String,
    /// Whether it may deliver out of order. The table of positions must then have its column `beyond`.
    pub reorders: bool,
    /// The part whose row shows who holds this one; `None` for that one itself.
    first: Option<String>,
    tenure: Arc<Tenure>,
}

/// What of a queue has a position of its own beside that of its first lane.
#[derive(Clone, Copy, Debug)]
pub enum Subpart<'a> {
    /// Another lane, from 1 on.
    Lane(u32),
    /// Dead letters that are delivered once more, of the file with this identity.
    Redrive(&'a str),
}

/// What stands between a part and the number of its lane.
const LANE: &str = "/lane-";

impl Part {
    /// A part that this process has not taken over yet. `random` tells it from other processes that do.
    #[must_use]
    pub fn new(queue: String, sink: Option<String>, id: String, reorders: bool, random: u64) -> Self {
        Self { queue, sink, id, reorders, first: None, tenure: Arc::new(Tenure::new(random)) }
    }

    /// The part with the queue's first row, which says who holds all of them; `None` if it is this one.
    #[must_use]
    pub fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }

    /// The part of some of this queue's records.
    #[must_use]
    pub fn subpart(&self, subpart: Subpart<'_>) -> Self {
        let (id, reorders) = match subpart {
            Subpart::Lane(lane) => (format!("{}{LANE}{lane}", self.id), true),
            Subpart::Redrive(id) => (format!("{}/redrive-{id}", self.id), false),
        };
        let first = Some(self.first.as_ref().unwrap_or(&self.id).clone());
        Self {
            queue: self.queue.clone(),
            sink: self.sink.clone(),
            id,
            reorders,
            first,
            tenure: Arc::clone(&self.tenure),
        }
    }

    /// The name of a file of its own in the data directory: `<queue>.<extension>`, or `<queue>.<sink>.<extension>`.
    fn file_name(&self, extension: &str) -> String {
        match &self.sink {
            None => format!("{}.{extension}", self.queue),
            Some(sink) => format!("{}.{sink}.{extension}", self.queue),
        }
    }

    /// With what the parts of its lanes begin.
    fn lanes_prefix(&self) -> String {
        format!("{}{LANE}", self.id)
    }
}

/// The numbers of lanes whose parts are these, in order.
fn lane_numbers(prefix: &str, parts: &[String]) -> Result<Vec<u32>, RowError> {
    let number = |part: &String| {
        let number = part.strip_prefix(prefix).and_then(|number| number.parse().ok());
        number.ok_or_else(|| RowError::Lane(part.clone()))
    };
    let mut numbers = parts.iter().map(number).collect::<Result<Vec<u32>, _>>()?;
    numbers.sort_unstable();
    Ok(numbers)
}

/// Why a row of `forebay_position` does not say how far its part is delivered.
#[derive(Debug, thiserror::Error)]
enum RowError {
    #[error("forebay_position.position is {0}, which is no sequence")]
    Position(i64),
    #[error("forebay_position.part {0:?} is none of ours")]
    Lane(String),
    #[error("forebay_position.beyond: {0}")]
    Beyond(#[from] ProgressError),
}

/// What a row of `forebay_position` says; NULL is nothing beyond the position.
fn progress_of(position: i64, beyond: Option<&[u8]>) -> Result<Progress, RowError> {
    let through = Sequence::try_from(position).map_err(|_| RowError::Position(position))?;
    Ok(Progress::decode(through, beyond.unwrap_or_default())?)
}

/// A sink as the registry has it.
pub struct Driver {
    /// What the configuration knows of it.
    kind: &'static SinkKind,
    /// Makes one for a part; the path is that of the data directory. Nothing is connected yet.
    open: fn(&config::Sink, Part, &Path) -> Box<dyn Sink>,
}

/// Every sink, one line each; the first is the one of a queue that names none.
static REGISTRY: &[&Driver] = &[
    &sqlite::DRIVER,
    &postgres::DRIVER,
    #[cfg(feature = "mysql")]
    &mysql::DRIVER,
    &file::DRIVER,
    #[cfg(feature = "redis")]
    &redis::DRIVER,
    #[cfg(feature = "http")]
    &http::DRIVER,
    #[cfg(feature = "nats")]
    &nats::DRIVER,
    #[cfg(feature = "rabbitmq")]
    &rabbitmq::DRIVER,
];

/// What the configuration knows of them.
pub static KINDS: [&SinkKind; REGISTRY.len()] = kinds();

const fn kinds() -> [&'static SinkKind; REGISTRY.len()] {
    let mut kinds = [REGISTRY[0].kind; REGISTRY.len()];
    let mut number = 0;
    while number < REGISTRY.len() {
        kinds[number] = REGISTRY[number].kind;
        number += 1;
    }
    kinds
}

/// Opens the sink that a configuration asks for; nothing is connected yet. `data_dir` is where a sink keeps what it keeps here.
#[must_use]
pub fn open(sink: &config::Sink, part: Part, data_dir: &Path) -> Box<dyn Sink> {
    let driver = REGISTRY.iter().find(|driver| *driver.kind == *sink.kind).unwrap_or(&REGISTRY[0]);
    (driver.open)(sink, part, data_dir)
}
