//! Ingress: the front door. One glommio executor a core, pinned, each with listening
//! sockets of its own, its own end of a ring to the journal, and nothing shared.
//!
//! A further wire protocol is a further module beside [`http`].

pub mod connection;
pub mod core;
pub mod counters;
mod executor;
pub mod http;
pub mod listen;
pub mod net;

pub use executor::{Door, Executor, ExecutorError};
