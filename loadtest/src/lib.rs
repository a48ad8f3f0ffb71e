//! Load for Forebay and for anything else that speaks HTTP, and proof of what arrived in the database behind it.
//!
//! - [`schedule`] says when requests are due, [`order`] what is in them, and [`engine`] sends them.
//! - [`results`] turns an outcome into figures, [`report`] figures into HTML pages.
//! - [`verify`] counts what the database really holds and compares it with what was acknowledged.
//! - [`peer`] starts servers to compare with, [`wire`] speaks to them, and [`compare`] does so round by round.
//! - [`growth`] says how forebay's cost grows with connections, record size, backlog and queues.
//! - [`crash`] kills forebay again and again, and accounts for every record in the database behind it.
//! - [`pace`] says how evenly records arrive at a sink, beside what else limits a rate.
//! - [`trouble`] says what a database in trouble gets, and how its other clients fare.
//! - [`bulk`] holds the drain against the database's own bulk loader, and [`disk`] holds what clients get of a disk
//!   against what [`fio`] gets; [`beside`] sums up such pairs.
//!
//! A flash sale, from its first order to the verdict about the database:
//!
//! ```no_run
//! use forebay_loadtest::engine::{self, Load, Plan, Progress, RetryPolicy};
//! use forebay_loadtest::report::{self, Drain, Machine, Report};
//! use forebay_loadtest::results::Figures;
//! use forebay_loadtest::schedule::Schedule;
//! use forebay_loadtest::verify::{self, OrdersTable, Sink};
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (sink, table) = (Sink::parse("sqlite:orders.db")?, OrdersTable::new("orders")?);
//! verify::create_orders_table(&sink, &table)?;
//!
//! let url = "http://127.0.0.1:8080/v1/queues/orders/records";
//! let mut plan = Plan::new(url, Load::Open(Schedule::burst(100_000)?))?;
//! plan.connections = 256;
//! plan.idempotency_keys = true;
//! plan.retry = Some(RetryPolicy::default());
//!
//! let progress = Arc::new(Progress::new());
//! let watched = progress.clone(); // Another thread may call watched.counts() or watched.cancel().
//! let outcome = engine::run(&plan, &progress)?;
//! let figures = Figures::from_outcome(&outcome);
//! print!("{}", figures.to_text());
//!
//! // Poll verify::count_rows(&sink, &table) until the drain has caught up, then:
//! let delivered = verify::count(&sink, &table, &plan.run)?;
//! let verdict = verify::compare(&outcome.acknowledged_indices, &delivered);
//! println!("lost {}, duplicated {}", verdict.lost.len(), verdict.duplicated);
//!
//! let page = report::html(&Report {
//!     title: "Flash sale",
//!     summary: "100,000 orders at once.",
//!     command_line: "forebay demo",
//!     machine: &Machine::from_proc(),
//!     figures: &figures.rows(),
//!     latency_us: &outcome.latency_us,
//!     started_unix_us: outcome.started_unix_us,
//!     acknowledged_per_100ms: &outcome.acknowledged_per_100ms,
//!     drain: delivered.first_unix_us.map(|first_unix_us| Drain {
//!         per_100ms: &delivered.per_100ms,
//!         first_unix_us,
//!         configured_per_second: Some(5_000.0),
//!     }),
//! })?;
//! std::fs::write("report.html", page)?;
//! # Ok(())
//! # }
//! ```

pub mod beside;
pub mod bitset;
pub mod bulk;
pub mod compare;
pub mod crash;
pub mod disk;
pub mod engine;
pub mod fio;
pub mod growth;
pub mod order;
pub mod pace;
pub mod peer;
pub mod report;
pub mod results;
pub mod schedule;
pub mod trouble;
pub mod verify;
pub mod wire;
