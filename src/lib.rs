//! Forebay takes bursts of requests, keeps every one that it has acknowledged, and
//! hands them to a database at the rate that the database can bear.

pub mod clock;
pub mod config;
pub mod limits;
pub mod rate;
pub mod record;
pub mod sink;
pub mod ticket;
