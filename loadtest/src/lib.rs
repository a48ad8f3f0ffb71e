//! Load for Forebay and for anything else that speaks HTTP, and proof of what arrived in the database behind it.
//!
//! - [`schedule`] says when requests are due, [`order`] what is in them, and [`engine`] sends them.
//! - [`results`] turns an outcome into figures, [`report`] into an HTML page.
//! - [`verify`] counts what the database really holds and compares it with what was acknowledged.
//! - [`peer`] starts servers to compare with, and [`compare`] does so round by round.

pub mod bitset;
pub mod compare;
pub mod engine;
pub mod order;
pub mod peer;
pub mod report;
pub mod results;
pub mod schedule;
pub mod verify;
