//! `forebay inspect`: what a data directory holds.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bytesize::ByteSize;
use forebay_loadtest::results::grouped;
use serde::Serialize;

use super::output;
use crate::clock;
use crate::drain::dead_letters::{self, Account, DeadLetter, Line};
use crate::journal::directory::read_epoch;
use crate::journal::summary::{QueueSummary, SegmentState, summarize};
use crate::journal::survey::{QueuePlace, Survey};

/// Segments that the text shows of a queue unless all are asked for: the oldest and the youngest.
const SEGMENTS_SHOWN_MAX: usize = 8;

/// Say what a data directory holds: queues, segments, watermarks, backlog, dead letters.
///
/// Reads only, takes no lock, and may run beside a live forebay; the figures are then of the moment
/// in which each file was read. No configuration is needed, and no database is asked. How far a queue is
/// delivered stands in its database, in the row of `forebay_position` whose part is shown; the journal has
/// only a lower bound of it, its cursor, so what is called the backlog is what is undelivered at most.
///
/// Sealed segments are believed by their footer. To read and check all of it: forebay verify.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    forebay inspect /var/lib/forebay\n  \
    forebay inspect /var/lib/forebay --json | jq '.queues[] | {queue, backlog_records_max}'")]
pub struct Arguments {
    /// The data directory: `data_dir` of the configuration
    directory: PathBuf,
    /// Look at this queue only
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// Write JSON, with every segment
    #[arg(long)]
    json: bool,
    /// Show every segment of a queue with many
    #[arg(long)]
    segments: bool,
}

#[derive(Serialize)]
struct Report {
    directory: PathBuf,
    /// Starts that counted.
    epoch: u64,
    /// The process that has the lock, if the kernel says.
    used_by_process: Option<u32>,
    spare_segments: usize,
    spare_bytes: u64,
    queues: Vec<QueueReport>,
}

#[derive(Serialize)]
struct QueueReport {
    #[serde(flatten)]
    summary: QueueSummary,
    /// How long ago the oldest record that may be undelivered was received.
    oldest_age_s: Option<u64>,
    dead_letters: u64,
    last_dead_letter: Option<DeadLetter>,
    /// Records that were dropped because nobody wanted them any more.
    expired_records: u64,
}

/// Runs the command.
///
/// # Errors
///
/// Something cannot be read.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let survey = match output::open_survey(&arguments.directory)? {
        Ok(survey) => survey,
        Err(refused) => return Ok(refused),
    };
    let queues = match output::chosen_queues(&survey, arguments.queue.as_deref())? {
        Ok(queues) => queues,
        Err(refused) => return Ok(refused),
    };
    let report = look(&survey, &queues)?;
    let text =
        if arguments.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.text(arguments.segments) };
    output::write_out(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn look(survey: &Survey, queues: &[QueuePlace]) -> anyhow::Result<Report> {
    let spares = survey.spares().context("the pool of spare segments")?;
    let queues = queues.iter().map(look_at_queue).collect::<anyhow::Result<_>>()?;
    Ok(Report {
        directory: survey.path().to_owned(),
        epoch: read_epoch(survey.path())?,
        used_by_process: survey.user(),
        spare_segments: spares.len(),
        spare_bytes: spares.iter().sum(),
        queues,
    })
}

fn look_at_queue(queue: &QueuePlace) -> anyhow::Result<QueueReport> {
    let summary = summarize(queue).with_context(|| queue.directory.display().to_string())?;
    let (mut count, mut last, mut expired_records) = (0, None, 0);
    let read = Account::of(&queue.directory).and_then(|account| {
        expired_records = account.expired.count();
        dead_letters::read(&queue.directory, |_, line| {
            if let Ok(Line::Letter(letter)) = line
                && let Some(letter) = account.current(*letter)
            {
                count += 1;
                last = Some(letter);
            }
            Ok(())
        })
    });
    read.with_context(|| dead_letters::path(&queue.directory).display().to_string())?;
    let age_s = |us: u64| clock::unix_us().saturating_sub(us) / 1_000_000;
    let oldest_age_s = summary.oldest_received_at_us.map(age_s);
    Ok(QueueReport { summary, oldest_age_s, dead_letters: count, last_dead_letter: last, expired_records })
}

impl Report {
    fn text(&self, all_segments: bool) -> String {
        let mut text = String::new();
        let used_by = self.used_by_process.map_or_else(
            || "by no process that can be seen".to_owned(),
            |process| format!("by process {process}, so the figures are of moments"),
        );
        let spares = format!("{}, {}", self.spare_segments, ByteSize::b(self.spare_bytes));
        for (name, value) in [
            ("data directory", self.directory.display().to_string()),
            ("in use", used_by),
            ("starts", self.epoch.to_string()),
            ("spare segments", spares),
        ] {
            line(&mut text, name, &value);
        }
        for queue in &self.queues {
            queue.write(&mut text, all_segments);
        }
        if self.queues.is_empty() {
            text += "\nno queue has a directory yet\n";
        }
        text
    }
}

fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{name:<18}{value}");
}

impl QueueReport {
    fn write(&self, text: &mut String, all_segments: bool) {
        let summary = &self.summary;
        let _ = writeln!(text, "\nqueue {}", summary.queue);
        line(text, "  part", &format!("{} (its row in forebay_position)", summary.part));
        line(text, "  sequences", &self.sequences());
        let delivered = summary.delivered_sequence_min;
        line(text, "  delivered", &format!("at least up to {delivered}; its database knows exactly"));
        line(text, "  backlog", &self.backlog());
        if let Some(age_s) = self.oldest_age_s {
            let age = humantime::format_duration(Duration::from_secs(age_s));
            let attributes: String = summary.oldest_attributes.iter().map(|words| format!(", {words}")).collect();
            line(text, "  oldest", &format!("{age} ago{attributes}"));
        }
        line(text, "  dead letters", &self.letters());
        if self.expired_records > 0 {
            line(
                text,
                "  expired",
                &format!("{} records, dropped when their turn came", grouped(self.expired_records)),
            );
        }
        let keys = format!("{} keys in {} files, beside those in memory", summary.saved_keys, summary.key_files);
        line(text, "  idempotency", &keys);
        self.write_segments(text, all_segments);
    }

    fn sequences(&self) -> String {
        let summary = &self.summary;
        if summary.durable_sequence == summary.trimmed_sequence {
            return format!("none on disk; the next is {}", summary.durable_sequence + 1);
        }
        format!("{} to {} on disk", summary.trimmed_sequence + 1, summary.durable_sequence)
    }

    fn backlog(&self) -> String {
        let bytes = self.summary.backlog_bytes_max.map_or("unknown size".to_owned(), |b| ByteSize::b(b).to_string());
        format!("at most {} records, {bytes}", grouped(self.summary.backlog_records_max))
    }

    fn letters(&self) -> String {
        let last = self.last_dead_letter.as_ref();
        let last = last.map(|letter| format!("; the last is sequence {}: {}", letter.sequence, letter.reason));
        format!("{}{}", grouped(self.dead_letters), last.unwrap_or_default())
    }

    fn write_segments(&self, text: &mut String, all: bool) {
        let segments = &self.summary.segments;
        let files: u64 = segments.iter().map(|segment| segment.file_bytes).sum();
        line(text, "  segments", &format!("{}, {}", segments.len(), ByteSize::b(files)));
        let shown = if all { segments.len() } else { SEGMENTS_SHOWN_MAX };
        let hidden = shown / 2..segments.len().saturating_sub(shown - shown / 2);
        for (index, segment) in segments.iter().enumerate() {
            if index == hidden.start && !hidden.is_empty() {
                let _ = writeln!(text, "    … {} more; --segments shows all", hidden.len());
            }
            if hidden.contains(&index) {
                continue;
            }
            let state = match segment.state {
                SegmentState::Sealed => "sealed",
                SegmentState::Open => "open",
                SegmentState::Damaged => "damaged; forebay verify says how",
            };
            let count = segment.next_sequence.saturating_sub(segment.first_sequence);
            let used = ByteSize::b(segment.used_bytes).to_string();
            let _ = writeln!(text, "    {}  {:>12} records {used:>12}  {state}", segment.file, grouped(count));
        }
    }
}
