//! Forebay takes bursts of requests, keeps every one that it has acknowledged, and
//! hands them to a database at the rate that the database can bear.
//!
//! The modules stand in the order in which a record meets them, and imports go one way:
//! a stage may use what stands above it in its own list and the vocabulary, and nothing
//! that stands below. `server` is the one place that knows all stages.

// Vocabulary: imports nothing of ours but each other.
pub mod clock;
pub mod limits;
#[doc(hidden)]
pub mod planted;
pub mod scheduling;
#[doc(hidden)]
pub mod sync;
pub mod rate;
pub mod value;
pub mod schedule;
pub mod record;
pub mod record_text;
pub mod progress;
pub mod sequence_ranges;
pub mod ticket;
pub mod config;
pub mod dead_letter_index;
pub mod queue;

// The way of a record.
pub mod ring;
pub mod admission;
pub mod ingress;
pub mod journal;
pub mod sink;
pub mod drain;

// Around it.
pub mod metrics;
pub mod control;
pub mod admin;
pub mod server;
pub mod cli;
