//! What a run came to, as figures.

use super::account::{Account, Kind, Verdict};
use super::client::Record;
use super::{CrashPlan, Finding, Moment, SinkKind};
use crate::results::{grouped, median};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// What the killer counts.
#[derive(Debug, Default)]
pub struct Counts {
    kills_at_start: u32,
    kills_under_load: u32,
    kills_while_stopping: u32,
    stops_before_kill: u32,
    ready_seconds: Vec<f64>,
    starts_with_backlog: u32,
    backlog_records_max: u64,
    /// How often `forebay verify` looked at what was left, the last time aside.
    pub verified: u32,
    /// Records that left the journal because everything in their segment was delivered.
    pub trimmed_records: u64,
    /// Records that the database is said to have refused.
    pub dead_letters: u64,
}

impl Counts {
    /// All kills.
    pub fn kills(&self) -> u32 {
        self.kills_at_start + self.kills_under_load + self.kills_while_stopping
    }

    /// Starts that got ready.
    pub fn starts(&self) -> usize {
        self.ready_seconds.len()
    }

    /// A server was killed, or had stopped before it was.
    pub fn ended(&mut self, moment: Option<Moment>) {
        let count = match moment {
            Some(Moment::AtStart) => &mut self.kills_at_start,
            Some(Moment::UnderLoad) => &mut self.kills_under_load,
            Some(Moment::WhileStopping) => &mut self.kills_while_stopping,
            None => &mut self.stops_before_kill,
        };
        *count += 1;
    }

    /// A server was ready, and had so many records to deliver.
    pub fn started(&mut self, ready: Duration, backlog_records: u64) {
        self.ready_seconds.push(ready.as_secs_f64());
        self.starts_with_backlog += u32::from(backlog_records > 0);
        self.backlog_records_max = self.backlog_records_max.max(backlog_records);
    }
}

/// The figures of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The database.
    pub sink: SinkKind,
    /// The seed of all choices.
    pub seed: u64,
    /// Kills within the first moments of a start.
    pub kills_at_start: u32,
    /// Kills while clients sent.
    pub kills_under_load: u32,
    /// Kills between SIGTERM and the end of the process.
    pub kills_while_stopping: u32,
    /// Stops that had ended before their kill.
    pub stops_before_kill: u32,
    /// Starts that got ready, the last one included.
    pub starts: u64,
    /// Of these, those that found records to deliver.
    pub starts_with_backlog: u32,
    /// The most records that a start had to deliver.
    pub backlog_records_max: u64,
    /// How often `forebay verify` found a killed server's directory intact.
    pub verified: u32,
    /// Requests of all clients; a repetition is none.
    pub requests: u64,
    /// Attempts that got no answer.
    pub attempts_unanswered: u64,
    /// Attempts that were refused for the moment.
    pub attempts_refused: u64,
    /// Requests whose answer was lost, that had been stored, and that were recognised by their key.
    pub requests_replayed: u64,
    /// Acknowledged requests that were sent again and had to get the same ticket.
    pub requests_repeated: u64,
    /// Records that were sent.
    pub sent_records: u64,
    /// Records of which a client was told that they are kept.
    pub acknowledged_records: u64,
    /// Records without any answer that are in the database.
    pub unanswered_records_there: u64,
    /// Records without any answer that are not.
    pub unanswered_records_absent: u64,
    /// Rows of all tables.
    pub rows: u64,
    /// Records that left the journal because their segment was delivered.
    pub trimmed_records: u64,
    /// Records that the database is said to have refused; each of them is also lost.
    pub dead_letters: u64,
    /// From the start of the process until it was ready: the median.
    pub ready_p50_seconds: f64,
    /// The longest.
    pub ready_max_seconds: f64,
    /// The whole run, without the start of the database and the reading of its rows.
    pub seconds: f64,
    /// Everything that is wrong.
    pub findings: Vec<Finding>,
    /// Where the files are, if anything is wrong.
    pub kept: Vec<PathBuf>,
}

impl Outcome {
    /// What is known before the database is asked, and the account that its rows go into.
    pub(super) fn new(plan: &CrashPlan, counts: &Counts, clients: Vec<Record>, took: Duration) -> (Self, Account) {
        let sum = |count: fn(&Record) -> u64| clients.iter().map(count).sum();
        let outcome = Self {
            sink: plan.sink,
            seed: plan.seed,
            kills_at_start: counts.kills_at_start,
            kills_under_load: counts.kills_under_load,
            kills_while_stopping: counts.kills_while_stopping,
            stops_before_kill: counts.stops_before_kill,
            starts: counts.starts() as u64,
            starts_with_backlog: counts.starts_with_backlog,
            backlog_records_max: counts.backlog_records_max,
            verified: counts.verified,
            requests: sum(|client| client.sent.len() as u64),
            attempts_unanswered: sum(|client| client.unanswered),
            attempts_refused: sum(|client| client.refused),
            requests_replayed: sum(|client| client.replayed),
            requests_repeated: sum(|client| client.repeated),
            sent_records: 0,
            acknowledged_records: 0,
            unanswered_records_there: 0,
            unanswered_records_absent: 0,
            rows: 0,
            trimmed_records: counts.trimmed_records,
            dead_letters: counts.dead_letters,
            ready_p50_seconds: median(&counts.ready_seconds),
            ready_max_seconds: counts.ready_seconds.iter().copied().fold(0.0, f64::max),
            seconds: took.as_secs_f64(),
            findings: clients.iter().flat_map(|client| client.findings.clone()).collect(),
            kept: Vec::new(),
        };
        (outcome, Account::new(clients.into_iter().map(|client| client.sent).collect()))
    }

    /// Adds what the rows came to.
    pub(super) fn with_verdict(mut self, verdict: Verdict) -> Self {
        self.sent_records = verdict.sent;
        self.acknowledged_records = verdict.acknowledged;
        self.unanswered_records_there = verdict.unanswered_there;
        self.unanswered_records_absent = verdict.unanswered_absent;
        self.rows = verdict.rows;
        self.findings.extend(verdict.findings);
        self
    }

    /// All kills.
    #[must_use]
    pub fn kills(&self) -> u32 {
        self.kills_at_start + self.kills_under_load + self.kills_while_stopping
    }

    /// How many findings are of this kind.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        self.findings.iter().filter(|finding| finding.kind == kind).count() as u64
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.findings.is_empty()
    }

    /// The figures as rows of a name and a value, for people.
    #[must_use]
    pub fn to_rows(&self) -> Vec<(String, String)> {
        let seconds = |value: f64| format!("{value:.3} s");
        let [kills, at_start, under_load, stopping, stopped, verified] = [
            self.kills(),
            self.kills_at_start,
            self.kills_under_load,
            self.kills_while_stopping,
            self.stops_before_kill,
            self.verified,
        ]
        .map(|count| grouped(count.into()));
        let [there, absent] = [self.unanswered_records_there, self.unanswered_records_absent].map(grouped);
        let mut rows = [
            (
                "kills",
                format!("{kills} ({under_load} under load, {at_start} during a start, {stopping} during a stop)"),
            ),
            ("stops that were quicker", stopped),
            ("starts", format!("{} ({} with a backlog)", grouped(self.starts), self.starts_with_backlog)),
            ("largest backlog at a start", grouped(self.backlog_records_max)),
            ("ready after, p50 and max", [self.ready_p50_seconds, self.ready_max_seconds].map(seconds).join(" and ")),
            ("found intact by verify", verified),
            ("requests", grouped(self.requests)),
            ("attempts without an answer", grouped(self.attempts_unanswered)),
            ("attempts refused for a moment", grouped(self.attempts_refused)),
            ("stored although unanswered", format!("{} recognised by key", grouped(self.requests_replayed))),
            ("repeated for the same ticket", grouped(self.requests_repeated)),
            ("records acknowledged", grouped(self.acknowledged_records)),
            ("records never answered", format!("{there} there, {absent} not")),
            ("rows", grouped(self.rows)),
            ("records out of the journal", grouped(self.trimmed_records)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        rows.extend(Kind::ALL.map(|kind| (kind.to_string(), grouped(self.count(kind)))));
        rows.push(("dead letters".to_owned(), grouped(self.dead_letters)));
        rows.push(("took".to_owned(), format!("{:.1} s", self.seconds)));
        rows
    }
}
