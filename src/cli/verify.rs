//! `forebay verify`: reads and checks everything in a data directory.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use bytesize::ByteSize;
use forebay_loadtest::results::grouped;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::output;
use crate::drain::begin;
use crate::drain::dead_letters::{self, Event, Line};
use crate::journal::directory::DirectoryError;
use crate::journal::findings::{Damage, Finding};
use crate::journal::platform::System;
use crate::journal::survey::{QueuePlace, SinkPlace, Survey};
use crate::journal::verify::{Report, verify_directory, verify_queue};
use crate::record::Sequence;

/// Read and check everything in a data directory, and say what is damaged.
///
/// Checks every segment's header, every batch and every record by its checksum, that sequences go on from batch
/// to batch and from segment to segment, footers, padding, files of idempotency keys, cursors, epochs and dead
/// letters. Each finding has a line with file, byte and what is wrong, and one with what follows from it and what to do.
///
/// Reads only, takes no lock, and may run beside a live forebay. It reads all of the backlog from the disk, which the
/// live one notices. An incomplete batch at the end of the log is what a crash leaves and is no damage; the text says if
/// there is one.
///
/// Exit code: 0 everything is intact, 1 damage was found, 2 this is not a data directory or the arguments are wrong.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    forebay verify /var/lib/forebay\n  \
    forebay verify /var/lib/forebay --json | jq -r '.findings[] | [.kind, .file, .offset] | @tsv'\n  \
    nice ionice -c3 forebay verify /var/lib/forebay --queue orders && echo intact")]
pub struct Arguments {
    /// The data directory: `data_dir` of the configuration
    directory: PathBuf,
    /// Check this queue only
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// Write one JSON document at the end, instead of text
    #[arg(long)]
    json: bool,
}

/// What `--json` writes. Names are promised: `docs/operating.md` lists them, and more may come.
#[derive(Serialize)]
struct Document<'a> {
    directory: &'a Path,
    intact: bool,
    findings: Vec<FindingLine<'a>>,
    notes: &'a [String],
    segments: u64,
    bytes: u64,
    batches: u64,
    records: u64,
    /// Records that were lost earlier, and that a repair has marked.
    marks: u64,
}

#[derive(Serialize)]
struct FindingLine<'a> {
    file: &'a Path,
    offset: Option<u64>,
    kind: &'static str,
    first_sequence: Option<Sequence>,
    last_sequence: Option<Sequence>,
    what: String,
    meaning: &'static str,
}

/// Runs the command.
///
/// # Errors
///
/// A directory cannot be read. Damage is printed and is exit code 1.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    let survey = match Survey::open(&arguments.directory) {
        Ok(survey) => survey,
        Err(DirectoryError::Damaged(path)) => {
            report.find(&path, None, Damage::SmallFile);
            report.notes.push(format!("{}: nothing else can be checked without it", path.display()));
            say_findings(arguments, &report.findings)?;
            return conclude(arguments, &report);
        }
        Err(error @ DirectoryError::NotOurs(_)) => return Ok(output::refuse_usage(&error)),
        Err(error) => return Err(error.into()),
    };
    let queues = match output::chosen_queues(&survey, arguments.queue.as_deref())? {
        Ok(queues) => queues,
        Err(refused) => return Ok(refused),
    };
    verify_directory(survey.path(), &mut report);
    say_findings(arguments, &report.findings)?;
    let bar = progress(&queues);
    for queue in &queues {
        bar.set_message(queue.name.clone());
        let said = report.findings.len();
        verify_one(queue, &mut report, |bytes| bar.inc(bytes))?;
        bar.suspend(|| say_findings(arguments, &report.findings[said..]))?;
    }
    bar.finish_and_clear();
    conclude(arguments, &report)
}

fn verify_one(queue: &QueuePlace, report: &mut Report, on_bytes: impl FnMut(u64)) -> anyhow::Result<()> {
    let sinks = queue.sinks().with_context(|| queue.directory.display().to_string())?;
    // Before the segments, which may grow meanwhile.
    let highest: Vec<_> = sinks.iter().map(|sink| verify_dead_letters(sink, report)).collect();
    for sink in &sinks {
        verify_begin(sink, report);
    }
    let end = verify_queue(queue, report, on_bytes).with_context(|| queue.directory.display().to_string())?;
    for (sink, highest) in sinks.iter().zip(highest) {
        if let (Some((sequence, offset)), Some(end)) = (highest, end)
            && sequence >= end.next_sequence
        {
            let damage = Damage::BeyondEnd { sequence, end: end.next_sequence.saturating_sub(1) };
            report.find(&dead_letters::path(&sink.directory), Some(offset), damage);
        }
    }
    Ok(())
}

/// Checks where a sink begins that is not the main one.
fn verify_begin(sink: &SinkPlace, report: &mut Report) {
    let path = begin::path(&sink.directory);
    match begin::read(&System, &sink.directory) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => report.find(&path, None, Damage::SmallFile),
        Err(error) => report.find(&path, None, Damage::Unreadable(error.to_string())),
    }
}

/// As text each finding is said when it is found; JSON comes at the end.
fn say_findings(arguments: &Arguments, findings: &[Finding]) -> anyhow::Result<()> {
    if arguments.json { Ok(()) } else { output::write_out(&findings.iter().map(text_of).collect::<String>()) }
}

fn conclude(arguments: &Arguments, report: &Report) -> anyhow::Result<ExitCode> {
    let intact = report.findings.is_empty();
    let text = if arguments.json {
        serde_json::to_string_pretty(&Document {
            directory: &arguments.directory,
            intact,
            findings: report.findings.iter().map(line_of).collect(),
            notes: &report.notes,
            segments: report.segments,
            bytes: report.bytes,
            batches: report.batches,
            records: report.records,
            marks: report.lost,
        })? + "\n"
    } else {
        summary(report)
    };
    output::write_out(&text)?;
    Ok(if intact { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn progress(queues: &[QueuePlace]) -> ProgressBar {
    let sizes = queues.iter().filter_map(|queue| queue.files().ok()).flat_map(|files| files.segments);
    let bytes = sizes.filter_map(|(_, path)| path.metadata().ok()).map(|metadata| metadata.len()).sum();
    let style = ProgressStyle::with_template("{bar:20} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} to go  {msg}");
    let terminal = std::io::stderr().is_terminal();
    let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Checks each dead letter and what has expired, of which the journal does not know. Returns the highest sequence that
/// they name, and where.
fn verify_dead_letters(sink: &SinkPlace, report: &mut Report) -> Option<(Sequence, u64)> {
    let path = dead_letters::path(&sink.directory);
    let mut highest = None;
    let read = dead_letters::read(&sink.directory, |offset, line| {
        match line {
            Err(error) => report.find(&path, Some(offset), Damage::DeadLetter(error.to_string())),
            Ok(Line::Letter(letter)) => highest = highest.max(Some((letter.sequence, offset))),
            Ok(Line::Event(Event::Expired { ranges, .. })) => {
                highest = highest.max(ranges.last().map(|sequence| (sequence, offset)));
            }
            Ok(Line::Event(_)) => {}
        }
        Ok(())
    });
    let (whole, all) = read.unwrap_or_else(|error| {
        report.find(&path, None, Damage::Unreadable(error.to_string()));
        (0, 0)
    });
    if whole < all {
        let name = path.display();
        report.notes.push(format!("{name}: byte {whole}: the last line is not finished; the next start cuts it"));
    }
    highest
}

fn line_of(finding: &Finding) -> FindingLine<'_> {
    let Finding { path, offset, damage } = finding;
    let sequences = damage.sequences();
    FindingLine {
        file: path,
        offset: *offset,
        kind: damage.kind(),
        first_sequence: sequences.as_ref().map(|sequences| *sequences.start()),
        last_sequence: sequences.as_ref().map(|sequences| *sequences.end()),
        what: damage.to_string(),
        meaning: damage.meaning(),
    }
}

fn text_of(finding: &Finding) -> String {
    let place = finding.offset.map_or_else(String::new, |offset| format!("byte {offset}: "));
    format!("{}: {place}{}\n    {}\n", finding.path.display(), finding.damage, finding.damage.meaning())
}

fn summary(report: &Report) -> String {
    let mut text: String = report.notes.iter().map(|note| format!("note: {note}\n")).collect();
    text += &format!(
        "segments read: {} ({}), batches: {}, records: {}\n",
        grouped(report.segments),
        ByteSize::b(report.bytes),
        grouped(report.batches),
        grouped(report.records)
    );
    if report.lost > 0 {
        text += &format!("records that were lost earlier, and that a repair has marked: {}\n", grouped(report.lost));
    }
    text += &match report.findings.len() {
        0 => "intact\n".to_owned(),
        1 => "1 finding\n".to_owned(),
        count => format!("{count} findings\n"),
    };
    text
}
