//! Dead letters of a real server: listed, read, edited, redriven and purged, by the admin API and the command line; records that
//! are given up, and records that have expired.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_errors_doc,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "a test that cannot go on should panic, and is its own documentation"
)]
#![allow(clippy::disallowed_methods, reason = "a kill at a random instant waits for no bell")]

mod postgres_server;
mod server;

#[path = "dead_letters/drain.rs"]
mod drain;
#[path = "dead_letters/expired.rs"]
mod expired;
#[path = "dead_letters/kills.rs"]
mod kills;
#[path = "dead_letters/redrives.rs"]
mod redrives;
#[path = "dead_letters/requests.rs"]
mod requests;
#[path = "dead_letters/stage.rs"]
mod stage;
