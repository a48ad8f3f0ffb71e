//! Reports as single HTML pages: figures, plots, the machine and the command line.
//!
//! [`html`] makes the page about one run, a [`Document`] any other.

mod axis;
mod document;
mod machine;
mod page;
mod plot;
mod run;

pub use document::{Document, Plot, Scale, Section, Series, Table};
pub use machine::Machine;
pub use run::html;

use hdrhistogram::Histogram;

/// Why a report cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A plot could not be drawn.
    #[error("cannot draw a plot: {0}")]
    Drawing(String),
}

impl ReportError {
    fn drawing(error: impl std::fmt::Display) -> Self {
        Self::Drawing(error.to_string())
    }
}

/// What the database received, to be laid over what the server acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Drain<'a> {
    /// Rows in each 100 ms from the first row on.
    pub per_100ms: &'a [u64],
    /// When the first row came, in microseconds since 1970.
    pub first_unix_us: i64,
    /// The rate that the drain was configured for, in records per second.
    pub configured_per_second: Option<f64>,
}

/// Everything that goes into a report.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The heading.
    pub title: &'a str,
    /// One or two sentences under it: what was done and what came of it.
    pub summary: &'a str,
    /// The command that made the run.
    pub command_line: &'a str,
    /// Where it was made.
    pub machine: &'a Machine,
    /// Names and values, in the order to show them; see [`crate::results::Figures::rows`].
    pub figures: &'a [(String, String)],
    /// Acknowledgement latency, in microseconds.
    pub latency_us: &'a Histogram<u64>,
    /// When the run started, in microseconds since 1970.
    pub started_unix_us: i64,
    /// Acknowledgements in each 100 ms from the start on.
    pub acknowledged_per_100ms: &'a [u64],
    /// What came out at the other end, if there is one.
    pub drain: Option<Drain<'a>>,
}
