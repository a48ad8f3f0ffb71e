//! What came of a sale: as text, as JSON and as a page with plots.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitStatus;

use anyhow::Context as _;
use forebay_loadtest::engine::Outcome;
use forebay_loadtest::report::{self, Drain, Machine};
use forebay_loadtest::results::{Figures, aligned, grouped, rate as shown_rate};
use forebay_loadtest::verify::{self, Delivered, Sink};
use serde::Serialize;

use super::chart;
use super::server::log_path;
use super::settings::Settings;
use super::watch::Watched;

/// The figures under the names that scripts know them by.
#[derive(Debug, Serialize)]
struct Results {
    offered: u64,
    acknowledged: u64,
    refused: u64,
    delivered: u64,
    lost: u64,
    duplicated: u64,
    kills: u32,
    accept_seconds: f64,
    drain_seconds: f64,
    drain_rate_configured: Option<f64>,
    drain_rate_measured: Option<f64>,
    drain_per_second: Vec<u64>,
    ack_ms: AckMs,
}

/// Milliseconds from due time to acknowledgement.
#[derive(Debug, Serialize)]
struct AckMs {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// Everything that there is to say about one run.
pub struct Report<'a> {
    settings: &'a Settings,
    results: Results,
    figures: Figures,
    watched: Watched,
    exit: ExitStatus,
    unacknowledged_but_delivered: u64,
    worst_second: u64,
    worst_sliding_second: u64,
}

impl<'a> Report<'a> {
    /// Compares what was acknowledged with what the database holds.
    pub fn new(
        settings: &'a Settings,
        outcome: &Outcome,
        delivered: &Delivered,
        watched: &Watched,
        exit: ExitStatus,
    ) -> Self {
        let verdict = verify::compare(&outcome.acknowledged_indices, delivered);
        let figures = Figures::from_outcome(outcome);
        let span_us = delivered.first_unix_us.zip(delivered.last_unix_us).map_or(0, |(first, last)| last - first);
        let latency = &figures.latency;
        let ack_ms = AckMs { p50: latency.p50_ms, p99: latency.p99_ms, p999: latency.p99_9_ms, max: latency.max_ms };
        Self {
            results: Results {
                offered: outcome.offered,
                acknowledged: outcome.acknowledged,
                refused: outcome.refused,
                delivered: delivered.distinct,
                lost: verdict.lost.len() as u64,
                duplicated: verdict.duplicated,
                kills: watched.kills,
                accept_seconds: outcome.accept_seconds,
                drain_seconds: span_us as f64 / 1e6,
                drain_rate_configured: settings.drain_per_second(),
                drain_rate_measured: delivered.measured_rate,
                drain_per_second: delivered.per_second.clone(),
                ack_ms,
            },
            settings,
            figures,
            watched: *watched,
            exit,
            unacknowledged_but_delivered: verdict.unacknowledged_but_delivered.len() as u64,
            worst_second: delivered.per_second_max,
            worst_sliding_second: delivered.per_second_max_sliding,
        }
    }

    /// Whether nothing was lost or duplicated, and every request was acknowledged or refused.
    pub fn is_clean(&self) -> bool {
        let results = &self.results;
        let settled = results.acknowledged + results.refused;
        results.lost == 0
            && results.duplicated == 0
            && results.offered == self.settings.records
            && settled == results.offered
    }

    /// The report for a reader.
    pub fn text(&self) -> String {
        let mut text = format!("\n{}\n\n{}", self.settings.description(), aligned(&self.rows()));
        for note in self.notes() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{note}");
        }
        let chart = chart::draw(&self.results.drain_per_second, self.results.drain_rate_configured);
        let _ = write!(text, "\n{chart}\n{}\n{}", aligned(&self.files()), self.verdict());
        text
    }

    fn rows(&self) -> Vec<(String, String)> {
        let (results, latency) = (&self.results, &self.figures.latency);
        let counts = [
            ("offered", results.offered),
            ("acknowledged", results.acknowledged),
            ("refused (429, 503)", results.refused),
            ("failed", self.settings.records.saturating_sub(results.acknowledged + results.refused)),
            ("delivered", results.delivered),
            ("lost", results.lost),
            ("duplicated", results.duplicated),
            ("kills", results.kills.into()),
            ("retries", self.figures.retries),
        ];
        let mut rows: Vec<(String, String)> = counts
            .into_iter()
            .filter(|(name, count)| *count > 0 || !matches!(*name, "failed" | "kills" | "retries"))
            .map(|(name, count)| (name.to_owned(), grouped(count)))
            .collect();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        row("accepted in", format!("{:.3} s", results.accept_seconds));
        for (name, value_ms) in [
            ("acknowledgement p50", latency.p50_ms),
            ("acknowledgement p99", latency.p99_ms),
            ("acknowledgement p99.9", latency.p99_9_ms),
            ("acknowledgement max", latency.max_ms),
        ] {
            row(name, format!("{value_ms:.3} ms"));
        }
        row("drained in", format!("{:.3} s", results.drain_seconds));
        let measured = results.drain_rate_measured;
        row("drain rate", measured.map_or_else(|| "-".to_owned(), |rate| self.against_rate(shown_rate(rate), rate)));
        for (name, count) in [("worst second", self.worst_second), ("worst sliding second", self.worst_sliding_second)]
        {
            row(name, self.against_rate(grouped(count), count as f64));
        }
        rows
    }

    /// A rate with its share of the configured one.
    fn against_rate(&self, shown: String, rate: f64) -> String {
        match self.results.drain_rate_configured {
            Some(configured) => {
                format!("{shown} ({:.1} % of {})", rate / configured * 100.0, shown_rate(configured))
            }
            None => shown,
        }
    }

    /// What a reader of the figures should know.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let Watched { kills_while_draining, dead_letters, .. } = self.watched;
        if kills_while_draining > 0 {
            notes.push(format!(
                "{kills_while_draining} of the kills came after the last acknowledgement, during the drain."
            ));
        }
        let extra = self.unacknowledged_but_delivered;
        if extra > 0 {
            notes.push(format!(
                "{extra} more orders arrived whose acknowledgement never reached the client: neither lost nor duplicated."
            ));
        }
        if dead_letters > 0 {
            notes.push(format!("The database refused {dead_letters} orders for good; they are kept as dead letters."));
        }
        if let Some(failure) = self.figures.first_failure.as_ref().filter(|_| self.results.kills == 0) {
            notes.push(format!("The first request that failed: {failure}."));
        }
        if !self.exit.success() {
            let log = log_path(&self.settings.directory);
            notes.push(format!("The server ended with {}; see {}.", self.exit, log.display()));
        }
        if self.settings.is_tmpfs {
            notes.push(
                "The directory is in memory (tmpfs), where a sync costs nothing: the latencies mean little. Name one on \
                 a disk with --dir."
                    .to_owned(),
            );
        }
        notes
    }

    fn files(&self) -> Vec<(String, String)> {
        let in_directory = |name: &str| self.settings.directory.join(name).display().to_string();
        let mut files = vec![
            ("report with plots", in_directory("report.html")),
            ("server's log", in_directory("server.log")),
            ("go on with", format!("forebay serve --config {}", in_directory("config.toml"))),
        ];
        let table = &self.settings.table_name;
        match &self.settings.sink {
            Sink::Sqlite(path) => files.push(("database", format!("{} (table {table})", path.display()))),
            Sink::Postgres(_) => {
                files.push(("table", format!("{table} in the PostgreSQL database")));
                files.push(("remove it with", format!("DROP TABLE {table};")));
            }
        }
        files.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn verdict(&self) -> String {
        let Results { lost, duplicated, .. } = self.results;
        if self.is_clean() {
            return "OK: every acknowledged order is in the database exactly once.".to_owned();
        }
        if lost == 0 && duplicated == 0 {
            return "NOT OK: every acknowledged order is in the database exactly once, but requests failed.".to_owned();
        }
        format!("NOT OK: {} acknowledged orders lost, {} rows duplicated.", grouped(lost), grouped(duplicated))
    }

    /// Writes the page, and the figures as JSON if they were asked for.
    pub fn write_files(&self, outcome: &Outcome, delivered: &Delivered) -> anyhow::Result<()> {
        let drain = delivered.first_unix_us.map(|first_unix_us| Drain {
            per_100ms: &delivered.per_100ms,
            first_unix_us,
            configured_per_second: self.results.drain_rate_configured,
        });
        let page = report::html(&report::Report {
            title: "Flash sale",
            summary: &format!("{} {}", self.settings.description(), self.verdict()),
            command_line: &command_line(std::env::args()),
            machine: &Machine::from_proc(),
            figures: &self.rows(),
            latency_us: &outcome.latency_us,
            started_unix_us: outcome.started_unix_us,
            acknowledged_per_100ms: &outcome.acknowledged_per_100ms,
            drain,
        })?;
        write(&self.settings.directory.join("report.html"), &page)?;
        if let Some(path) = &self.settings.json {
            write(path, &format!("{}\n", serde_json::to_string_pretty(&self.results)?))?;
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The command line without the database's address, which may hold a password.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let shown = arguments.map(|argument| match argument.find("postgres://").or(argument.find("postgresql://")) {
        Some(start) => format!("{}postgres://…", &argument[..start]),
        None => argument,
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_hides_the_database() {
        let line = |argument: &str| command_line(["forebay", "demo", argument].map(str::to_owned).into_iter());
        assert_eq!(line("--sink=postgresql://u:secret@h/d"), "forebay demo --sink=postgres://…");
        assert_eq!(line("postgres://u:secret@h/d"), "forebay demo postgres://…");
    }
}
