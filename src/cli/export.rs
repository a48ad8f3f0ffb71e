//! `forebay export`: the records of a queue as NDJSON.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use forebay_loadtest::results::grouped;
use serde::Serialize;

use super::output;
use crate::drain::dead_letters::{self, Account};
use crate::journal::records::{Missing, visit};
use crate::journal::survey::{QueuePlace, Survey};
use crate::record::Sequence;
use crate::record_text::{RecordText, rfc3339};

/// Write a queue's undelivered records, or its dead letters, as NDJSON.
///
/// One line is one record: sequence, ticket, `received_at` (RFC 3339), and, as far as the client sent them, key,
/// `idempotency_key`, `content_type`, `deliver_at` and `expires_at` (RFC 3339), `priority`, `fair_key`, `throttle_key`, and the
/// body: `body` if it is UTF-8 text, `body_base64` if not. A dead letter has its reason too. What is or was a
/// dead letter, or has expired, is not undelivered.
///
/// Where the undelivered records begin stands in the queue's database (the table `forebay_position`), which is not asked. The
/// journal has a lower bound of it, its cursor, which is at most about half a second old; without --from the export begins
/// behind that. So the first records may be in the database already. For an exact export, read the position there and
/// give --from the number behind it.
///
/// Reads only, takes no lock, and may run beside a live forebay. Goes on behind damage with every record that is
/// still whole. Says on standard error how many were written and which could not be read. Records stay where they
/// are: whatever is done with the export, forebay still delivers them.
///
/// Exit code: 0 everything was written, 1 something could not be read or written, 2 wrong arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    forebay export /var/lib/forebay --queue orders --output orders.ndjson\n  \
    forebay export /var/lib/forebay --queue orders --from 42000 | jq -r .body\n  \
    forebay export /var/lib/forebay --queue orders --dead | jq -r '[.sequence, .reason] | @tsv'")]
pub struct Arguments {
    /// The data directory: `data_dir` of the configuration
    directory: PathBuf,
    /// The queue
    #[arg(long, value_name = "NAME")]
    queue: String,
    /// The first sequence; without it, the one behind the queue's cursor (with --dead: the first)
    #[arg(long, value_name = "SEQ")]
    from: Option<Sequence>,
    /// The last sequence; without it, the last that there is
    #[arg(long, value_name = "SEQ")]
    to: Option<Sequence>,
    /// Export the dead letters instead
    #[arg(long)]
    dead: bool,
    /// Write to this file, which must not exist yet, instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Serialize)]
struct Line<'a> {
    sequence: Sequence,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<String>,
    received_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(flatten)]
    parts: RecordText,
}

/// What came of an export.
#[derive(Default)]
struct Outcome {
    written: u64,
    /// Records that the range would hold, but that are dead letters.
    dead: u64,
    /// Records that the range would hold, but that have expired.
    expired: u64,
    missing: Vec<Missing>,
    /// What of the dead-letter file cannot be read, and why.
    unread_letters: Vec<String>,
}

/// Runs the command.
///
/// # Errors
///
/// The queue cannot be read or the export not written.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let survey = match output::open_survey(&arguments.directory)? {
        Ok(survey) => survey,
        Err(refused) => return Ok(refused),
    };
    let queue = match output::chosen_queues(&survey, Some(&arguments.queue))? {
        Ok(queues) => queues.into_iter().next().context("the queue is gone")?,
        Err(refused) => return Ok(refused),
    };
    let first =
        arguments.from.unwrap_or_else(|| if arguments.dead { 1 } else { queue.delivered_min().saturating_add(1) });
    let range = first..=arguments.to.unwrap_or(Sequence::MAX);
    if arguments.from.is_some() && range.is_empty() {
        return Ok(output::refuse_usage(&"--from is behind --to"));
    }
    let mut out: Box<dyn Write> = match &arguments.output {
        None => Box::new(BufWriter::new(io::stdout().lock())),
        Some(path) => {
            let made = OpenOptions::new().write(true).create_new(true).open(path);
            Box::new(BufWriter::new(made.with_context(|| path.display().to_string())?))
        }
    };
    let exported = if arguments.dead {
        export_dead_letters(&queue, &range, &mut out)
    } else {
        export_records(&survey, &queue, &range, &mut out)
    };
    let outcome = match exported.and_then(|outcome| Ok(out.flush().map(|()| outcome)?)) {
        Err(error) if is_broken_pipe(&error) => return Ok(ExitCode::SUCCESS),
        exported => exported?,
    };
    report(arguments, &queue, first, &outcome);
    Ok(if outcome.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whoever reads the export may stop at any time, as `head` does.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn export_records(
    survey: &Survey,
    queue: &QueuePlace,
    range: &RangeInclusive<Sequence>,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut dead = Account::default();
    if let Err(error) = dead.read(&queue.directory) {
        let unread =
            format!("{error}; records that are dead letters or have expired may be among those that were written");
        outcome.unread_letters.push(unread);
    }
    let tickets = match survey.tickets(queue) {
        Ok(tickets) => Some(tickets),
        Err(error) => {
            eprintln!("the lines have no tickets: {error}");
            None
        }
    };
    outcome.missing = visit(queue, range, |found| {
        if dead.known.contains(&found.sequence) {
            outcome.dead += 1;
            return Ok(());
        }
        if dead.expired.contains(found.sequence) {
            outcome.expired += 1;
            return Ok(());
        }
        outcome.written += 1;
        let line = Line {
            sequence: found.sequence,
            ticket: tickets.as_ref().map(|tickets| tickets.ticket(found.sequence).to_string()),
            received_at: rfc3339(found.record.received_at_us),
            reason: None,
            parts: RecordText::of(&found.record),
        };
        write_line(out, &line)
    })?;
    Ok(outcome)
}

fn export_dead_letters(
    queue: &QueuePlace,
    range: &RangeInclusive<Sequence>,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let account = Account::of(&queue.directory)?;
    dead_letters::read(&queue.directory, |offset, line| {
        let letter = match line {
            Ok(dead_letters::Line::Letter(letter)) => *letter,
            Ok(dead_letters::Line::Event(_)) => return Ok(()),
            Err(error) => {
                outcome.unread_letters.push(format!("the line at byte {offset} is damaged: {error}"));
                return Ok(());
            }
        };
        if !range.contains(&letter.sequence) {
            return Ok(());
        }
        // Redriven and purged letters may still be there, until the file is rewritten.
        let Some(letter) = account.current(letter) else { return Ok(()) };
        outcome.written += 1;
        let line = Line {
            sequence: letter.sequence,
            ticket: Some(letter.ticket),
            received_at: rfc3339(letter.received_at_us),
            reason: Some(&letter.reason),
            parts: letter.parts,
        };
        write_line(out, &line)
    })?;
    Ok(outcome)
}

fn write_line(out: &mut dyn Write, line: &Line<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

impl Outcome {
    fn is_complete(&self) -> bool {
        self.missing.iter().all(|missing| missing.cause.is_delivery()) && self.unread_letters.is_empty()
    }
}

fn report(arguments: &Arguments, queue: &QueuePlace, first: Sequence, outcome: &Outcome) {
    let what = if arguments.dead { "dead letters" } else { "records" };
    eprintln!("{} {what} of queue {} written", grouped(outcome.written), queue.name);
    if outcome.dead > 0 {
        eprintln!(
            "{} left out because they are dead letters, or were; --dead exports those that are",
            grouped(outcome.dead)
        );
    }
    if outcome.expired > 0 {
        eprintln!("{} left out because they have expired; nothing delivers them any more", grouped(outcome.expired));
    }
    for missing in &outcome.missing {
        let place = missing.place.as_ref();
        let place = place.map_or_else(String::new, |(path, offset)| format!(" ({}, byte {offset})", path.display()));
        let (first, last) = (missing.first, missing.last);
        let which = match last {
            Sequence::MAX => format!("sequence {first} and on"),
            _ if first == last => format!("sequence {first}"),
            _ => format!("sequences {first} to {last}"),
        };
        eprintln!("not written: {which}: {}{place}", missing.cause);
    }
    for unread in &outcome.unread_letters {
        eprintln!("not read: {}: {unread}", dead_letters::path(&queue.directory).display());
    }
    if !arguments.dead && arguments.from.is_none() {
        eprintln!(
            "began with sequence {first}, behind the queue's cursor, which is a lower bound of what is delivered. The exact position is in \
             the queue's database: SELECT position FROM forebay_position WHERE part = '{}'; give --from the number behind it",
            queue.part
        );
    }
}
