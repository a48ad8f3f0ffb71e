//! Sinks: where a drain delivers.
//!
//! A sink commits rows and our position in one transaction, so that a record is
//! delivered exactly once whatever is killed when. The first statement of the
//! transaction is the fence: it moves the position of this part from the batch's
//! `after` to its `through`, and only for the epoch that we took over. If it hits
//! no row, somebody else has taken over and nothing of ours may be committed.
//!
//! One file is one sink; [`open`] is the registry.

pub mod mapping;
pub mod postgres;
mod sqlite;
mod statement;

use std::future::Future;
use std::pin::Pin;

use crate::config;
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

/// The records between two positions. Sequences that are dead letters are within
/// the span but have no delivery, so a batch may be empty and still move the position.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The position before: everything up to it has been delivered.
    pub after: Sequence,
    /// The position behind it; `through > after`.
    pub through: Sequence,
    /// What to deliver, in order, each with `after < sequence <= through`.
    pub deliveries: &'a [Delivery<'a>],
}

/// Why a sink did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// It may work later: the connection, a timeout, a deadlock, a full disk, a missing table.
    /// Whether a commit went through is then unknown until the next [`Sink::take_over`].
    #[error("{0}")]
    Transient(String),
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

/// A database that takes records.
pub trait Sink: Send {
    /// Connects if need be, creates forebay's own tables if they are missing, fences
    /// every earlier owner by raising the epoch, and returns the position: the last
    /// sequence of this part that is committed, 0 for a new part. Called at the start and
    /// after every transient error; what a broken connection left behind is then decided.
    fn take_over(&mut self) -> SinkFuture<'_, Sequence>;

    /// Commits a batch: fence, rows and position, in one transaction.
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
    /// Identifies this queue of this data directory in the sink: `<queue>/<journal id>`. A data
    /// directory that was thrown away must not inherit the old one's position.
    pub id: String,
}

/// Opens the sink that a configuration asks for; nothing is connected yet.
#[must_use]
pub fn open(sink: &config::Sink, part: Part) -> Box<dyn Sink> {
    match sink.kind {
        config::SinkKind::Sqlite => Box::new(sqlite::Sqlite::new(sink, part)),
        config::SinkKind::Postgres => Box::new(postgres::Postgres::new(sink, part)),
    }
}
