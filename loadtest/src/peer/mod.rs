//! Servers to compare with, started on free ports with everything they write in a temporary directory.
//!
//! Each peer has a file of its own and a line in [`PEERS`]. [`Forebay`] can also be configured and killed.

mod child;
mod forebay;
mod forebay_memory;
mod haproxy;
mod mariadb;
mod nats;
mod nginx;
mod postgres;
mod process;
mod rabbitmq;
mod redis;

pub use child::RunningPeer;
pub(crate) use child::{LOG_FILE, Server as ServerProgram, Stop};
pub(crate) use child::{answers_ok, free_ports, tail};
pub(crate) use forebay::program as forebay_program;
pub(crate) use forebay::queue_metric;
pub use forebay::{Ack, Forebay, ForebayConfiguration};
pub(crate) use haproxy::start_limiting as start_limiting_haproxy;
pub(crate) use mariadb::start as start_mariadb;
pub(crate) use nginx::start_answering as start_answering_nginx;
pub(crate) use nginx::start_limiting as start_limiting_nginx;
pub(crate) use postgres::start_on_port as start_postgres;
pub use process::{ServerProcess, Usage};

use crate::engine::cores_left_by;
use rustix::thread::CpuSet;
use std::io;
use std::path::{Path, PathBuf};

/// Every peer that can be started.
pub const PEERS: &[Peer] =
    &[nginx::PEER, forebay::PEER, forebay_memory::PEER, redis::PEER, nats::PEER, rabbitmq::PEER, postgres::PEER];

/// A server that this crate knows how to start.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its name on the command line.
    pub name: &'static str,
    start: fn(&StartOptions) -> Result<RunningPeer, PeerError>,
}

impl Peer {
    /// Finds a peer by its name.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn named(name: &str) -> Result<Self, PeerError> {
        PEERS.iter().find(|peer| peer.name == name).copied().ok_or_else(|| PeerError::Unknown { name: name.to_owned() })
    }

    /// Starts the server, waits until it answers and makes what it keeps orders in. It is killed and reaped when the
    /// result is dropped.
    ///
    /// # Errors
    /// The program is missing, does not start, or does not answer within the time that it may take: 10 s for most.
    pub fn start(&self, options: &StartOptions) -> Result<RunningPeer, PeerError> {
        (self.start)(options)
    }
}

/// What peers may need to know to start.
#[derive(Clone, Debug, Default)]
pub struct StartOptions {
    /// Where to make the temporary directory; `None` for the system's usual place. A durable server should write to
    /// a real disk, which `/tmp` is not on every system.
    pub parent_directory: Option<PathBuf>,
    /// The `forebay` program.
    pub forebay_binary: Option<PathBuf>,
    /// Threads of the load generator, from whose cores servers with a single thread are kept off; 0 if it is not known.
    pub load_threads: usize,
}

impl StartOptions {
    /// Where a server with a single thread should run.
    fn cores_without_load(&self) -> Option<CpuSet> {
        (self.load_threads > 0).then(|| cores_left_by(self.load_threads)).flatten()
    }

    pub(crate) fn temporary_directory(&self) -> Result<tempfile::TempDir, PeerError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("forebay-loadtest-");
        let made =
            self.parent_directory.as_ref().map_or_else(|| builder.tempdir(), |parent| builder.tempdir_in(parent));
        made.map_err(|source| PeerError::Directory { source })
    }
}

/// Why a peer cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No peer has this name.
    #[error("there is no peer `{name}`: the peers are {}", names())]
    Unknown {
        /// The name given.
        name: String,
    },
    /// This build cannot speak to the peer.
    #[error("{name} is not in this build: build it with `--features {feature}`")]
    NotBuilt {
        /// The peer.
        name: &'static str,
        /// The cargo feature that it needs.
        feature: &'static str,
    },
    /// A program is not installed.
    #[error("{program} is not installed: {remedy}")]
    Missing {
        /// The program.
        program: String,
        /// What to do about it.
        remedy: String,
    },
    /// The temporary directory or a file in it cannot be written.
    #[error("cannot write the server's directory: {source}")]
    Directory {
        /// What the system said.
        source: io::Error,
    },
    /// The program cannot be run.
    #[error("cannot start {program}: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A forebay does not tell how a queue is.
    #[error("forebay's metrics have no {metric} of the queue {queue}")]
    NoMetric {
        /// The metric.
        metric: &'static str,
        /// The queue.
        queue: String,
    },
    /// A forebay does not do what it is told.
    #[error("forebay was asked for {path} and answered: {reason}")]
    Refused {
        /// What it was asked for.
        path: String,
        /// What it said.
        reason: String,
    },
    /// The program ended, or did not answer in time.
    #[error("{name} did not start: {reason}\n{log}")]
    NotReady {
        /// The peer.
        name: &'static str,
        /// What happened.
        reason: String,
        /// The end of what it wrote.
        log: String,
    },
}

fn names() -> String {
    PEERS.iter().map(|peer| peer.name).collect::<Vec<_>>().join(", ")
}

pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), PeerError> {
    std::fs::write(path, text).map_err(|source| PeerError::Directory { source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_found_by_name() {
        assert_eq!(Peer::named("nginx").unwrap().name, "nginx");
        let message = Peer::named("apache").unwrap_err().to_string();
        assert!(message.contains("nginx, forebay, forebay-memory, redis, nats, rabbitmq, postgres"), "{message}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let options = StartOptions { forebay_binary: Some("/nonexistent/forebay".into()), ..StartOptions::default() };
        let error = Peer::named("forebay").unwrap().start(&options).unwrap_err();
        assert!(matches!(error, PeerError::Missing { .. }), "{error}");
    }

    #[test]
    fn a_program_that_ends_at_once_is_not_ready() {
        let options = StartOptions { forebay_binary: Some("/bin/false".into()), ..StartOptions::default() };
        let error = Peer::named("forebay").unwrap().start(&options).unwrap_err();
        assert!(matches!(error, PeerError::NotReady { .. }), "{error}");
    }
}
