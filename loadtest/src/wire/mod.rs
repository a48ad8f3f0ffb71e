//! What the peers of a comparison speak, each with a client of its own that does as little as its protocol allows.
//!
//! HTTP is loaded by the [`engine`](crate::engine). The others have a file each with a `Client`, and `clients` drives
//! them all alike: one request in flight a client, which takes the next one when the last is acknowledged. In a closed
//! loop that one is due at once, in an open loop when the schedule says so.

#[cfg(feature = "brokers")]
mod amqp;
mod clients;
mod http;
mod nats;
mod postgres;
mod redis;
mod text_stream;

pub(crate) use postgres::url as postgres_url;

use crate::engine::{EngineError, Load};
use crate::schedule::Schedule;
use clients::Client;
use hdrhistogram::Histogram;
use std::fmt;
use std::io;
use std::thread;
use std::time::Duration;

/// How long setting up a server or asking it what it holds may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A protocol, and where on this machine it is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wire {
    /// POST to a URL.
    Http {
        /// Where to post.
        url: String,
    },
    /// XADD to a Redis stream.
    Redis {
        /// The server's port.
        port: u16,
    },
    /// Publishing to a stream of NATS JetStream, with its acknowledgement.
    Nats {
        /// The server's port.
        port: u16,
    },
    /// INSERT into a table of PostgreSQL, each a transaction of its own.
    Postgres {
        /// The server's port.
        port: u16,
    },
    /// Publishing to a quorum queue of RabbitMQ, with its confirm.
    #[cfg(feature = "brokers")]
    Amqp {
        /// The server's port.
        port: u16,
    },
}

/// A load of one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundPlan {
    /// Requests in flight at most: connections, or channels where a protocol has them.
    pub connections: usize,
    /// Threads of the load generator.
    pub threads: usize,
    /// How long a closed loop starts new requests. An open loop ends with its schedule.
    pub duration: Duration,
}

/// What a round measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Requests started.
    pub offered: u64,
    /// Requests that the server acknowledged.
    pub acknowledged: u64,
    /// From the time at which the first request was due to the last acknowledgement.
    pub seconds: f64,
    /// Microseconds from sending (closed loop) or from the due time (open loop) to the acknowledgement.
    pub latency_us: Histogram<u64>,
    /// Microseconds from the due time to sending: what of the latency is the load generator's own, or that of a
    /// request before it on the same connection.
    pub start_lag_us: Histogram<u64>,
    /// What went wrong, in words, when anything did.
    pub failure: Option<String>,
}

impl Measured {
    /// Acknowledged requests per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.acknowledged as f64 / self.seconds
    }

    /// What is wrong with the round: a server that does not acknowledge everything is not measured by it. `None` if
    /// nothing is.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let unacknowledged = self.offered - self.acknowledged;
        if self.acknowledged > 0 && unacknowledged == 0 {
            return None;
        }
        let text = format!("{unacknowledged} of {} requests were not acknowledged", self.offered);
        Some(self.failure.as_ref().map_or(text.clone(), |failure| format!("{text}; {failure}")))
    }
}

/// Why a round or a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection, or a thread or runtime of ours.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The server answered with an error.
    #[error("the server answered: {0}")]
    Refused(String),
    /// The server does not speak the protocol.
    #[error("the server sent {0}")]
    Protocol(&'static str),
    /// The server sent more than any answer needs.
    #[error("the server sent more than {max_bytes} bytes in one answer")]
    TooLong {
        /// The bound.
        max_bytes: usize,
    },
    /// The server did not answer.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// PostgreSQL's client failed.
    #[error(transparent)]
    Postgres(tokio_postgres::Error),
    /// RabbitMQ's client failed.
    #[cfg(feature = "brokers")]
    #[error(transparent)]
    Amqp(#[from] lapin::Error),
    /// The HTTP load could not be made.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No histogram could be made.
    #[error("cannot make a histogram: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
    /// A thread of ours panicked.
    #[error("a load worker failed: its counts are lost")]
    WorkerPanicked,
}

impl Wire {
    /// Runs one closed-loop round of flash-sale orders: each is sent when the last one of its connection is
    /// acknowledged. Blocks.
    ///
    /// # Errors
    /// The load cannot be made or a connection cannot be opened. A request that fails is part of what is measured.
    pub fn closed_loop(&self, plan: &RoundPlan) -> Result<Measured, WireError> {
        self.run(plan, Load::Closed { records: None, duration: Some(plan.duration) })
    }

    /// Runs one open-loop round of flash-sale orders: each is due when the schedule says so, is sent then or, if every
    /// connection is still busy, as soon as one is not, and its latency counts from when it was due. Blocks.
    ///
    /// # Errors
    /// As for [`Wire::closed_loop`].
    pub fn open_loop(&self, plan: &RoundPlan, schedule: Schedule) -> Result<Measured, WireError> {
        self.run(plan, Load::Open(schedule))
    }

    fn run(&self, plan: &RoundPlan, load: Load) -> Result<Measured, WireError> {
        match self {
            Self::Http { url } => http::run(url, plan, load),
            Self::Redis { port } => clients::run::<redis::Redis>(*port, plan, &load),
            Self::Nats { port } => clients::run::<nats::Nats>(*port, plan, &load),
            Self::Postgres { port } => clients::run::<postgres::Postgres>(*port, plan, &load),
            #[cfg(feature = "brokers")]
            Self::Amqp { port } => clients::run::<amqp::Amqp>(*port, plan, &load),
        }
    }

    /// Makes the stream, queue or table that the orders go into, unless it is there. Blocks.
    ///
    /// # Errors
    /// The server cannot be reached or refuses.
    pub fn prepare(&self) -> Result<(), WireError> {
        match self {
            Self::Http { .. } => Ok(()),
            Self::Redis { port } => call(redis::Redis::prepare(*port)),
            Self::Nats { port } => call(nats::Nats::prepare(*port)),
            Self::Postgres { port } => call(postgres::Postgres::prepare(*port)),
            #[cfg(feature = "brokers")]
            Self::Amqp { port } => call(amqp::Amqp::prepare(*port)),
        }
    }

    /// Asks the server how many orders it holds; `None` over HTTP, where there is no common way to ask. Blocks.
    ///
    /// # Errors
    /// The server cannot be reached or refuses.
    pub fn held(&self) -> Result<Option<u64>, WireError> {
        match self {
            Self::Http { .. } => Ok(None),
            Self::Redis { port } => call(redis::Redis::held(*port)).map(Some),
            Self::Nats { port } => call(nats::Nats::held(*port)).map(Some),
            Self::Postgres { port } => call(postgres::Postgres::held(*port)).map(Some),
            #[cfg(feature = "brokers")]
            Self::Amqp { port } => call(amqp::Amqp::held(*port)).map(Some),
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { url } => formatter.write_str(url),
            Self::Redis { port } => write!(formatter, "redis://127.0.0.1:{port}"),
            Self::Nats { port } => write!(formatter, "nats://127.0.0.1:{port}"),
            Self::Postgres { port } => formatter.write_str(&postgres::url(*port)),
            #[cfg(feature = "brokers")]
            Self::Amqp { port } => formatter.write_str(&amqp::url(*port)),
        }
    }
}

/// Does one call on a thread and runtime of its own, so that the caller may itself be in a runtime.
fn call<T: Send>(work: impl Future<Output = Result<T, WireError>> + Send) -> Result<T, WireError> {
    let on_thread = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let answered = runtime.block_on(async { tokio::time::timeout(CALL_TIMEOUT, work).await });
        answered.unwrap_or(Err(WireError::Timeout(CALL_TIMEOUT)))
    };
    thread::scope(|scope| scope.spawn(on_thread).join().unwrap_or(Err(WireError::WorkerPanicked)))
}
