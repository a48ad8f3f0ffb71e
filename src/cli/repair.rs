//! `forebay repair`: cuts damage out of a stopped queue.

use std::fmt::Write as _;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use forebay_loadtest::results::grouped;

use super::output;
use crate::clock;
use crate::journal::directory::DataDirectory;
use crate::journal::repair::{Action, Options, Repair, repair_queue};
use crate::journal::survey::{QueuePlace, Survey};
use crate::journal::verify::{Report, verify_queue};
use crate::record::Sequence;

/// Cut damage out of a stopped queue, so that the next start succeeds and the delivery goes through.
///
/// Without --yes nothing is changed: it says what would be done, and exactly which sequences would be lost. Run `forebay verify`
/// before, and restore damaged files from a copy of the directory if there is one: that loses nothing.
///
/// Each segment in which something is damaged is written anew: with all of its records that are whole, one record of a damaged
/// batch being judged by its own checksum, and with a mark in the place of each that is lost. All records keep their
/// sequences and tickets. When the delivery gets to a mark, its ticket becomes `dead`, with that reason; what had been
/// delivered before is not affected. A segment that is missing between two others is made anew, with nothing but marks.
/// A damaged file of idempotency keys is taken away.
///
/// The files as they were are kept in queues/NAME/cut-TIME and are yours to remove. A running forebay has the
/// directory locked, and then this refuses.
///
/// Exit code: 0 nothing was to be done, or it was done and the queue is intact; 1 something is to be done (without
/// --yes), or is still damaged; 2 wrong arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    forebay repair /var/lib/forebay --queue orders --cut-damaged         say what would be done\n  \
    forebay repair /var/lib/forebay --queue orders --cut-damaged --yes   do it")]
pub struct Arguments {
    /// The data directory: `data_dir` of the configuration
    directory: PathBuf,
    /// The queue
    #[arg(long, value_name = "NAME")]
    queue: String,
    /// The choice to give up what is damaged; required, so that nobody loses a record by a slip
    #[arg(long, required = true)]
    cut_damaged: bool,
    /// Repair this segment only, by the name of its file; without it, everything in the queue that is damaged
    #[arg(long, value_name = "FILE")]
    segment: Option<String>,
    /// Do it; without this, only say what would be done
    #[arg(long)]
    yes: bool,
}

/// Runs the command.
///
/// # Errors
///
/// The directory is in use, or something cannot be read, written or repaired.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let survey = match output::open_survey(&arguments.directory)? {
        Ok(survey) => survey,
        Err(refused) => return Ok(refused),
    };
    let queue = match output::chosen_queues(&survey, Some(&arguments.queue))? {
        Ok(queues) => queues.into_iter().next().context("the queue is gone")?,
        Err(refused) => return Ok(refused),
    };
    if let Some(refused) = refuse_unknown_segment(&queue, arguments.segment.as_deref())? {
        return Ok(refused);
    }
    // Held to the end.
    let directory = DataDirectory::open_existing(&arguments.directory)?;
    let now_us = clock::unix_us();
    let cut_directory = fresh_cut_directory(&queue.directory, now_us);
    let options = Options {
        apply: arguments.yes,
        segment: arguments.segment.as_deref(),
        cut_directory: &cut_directory,
        epoch: directory.epoch,
        now_us,
    };
    let mut repairs = 0;
    repair_queue(&queue, &options, |repair| {
        repairs += 1;
        write_out(&text_of(repair, arguments.yes))
    })?;
    match (repairs, arguments.yes) {
        (0, _) => {
            output::write_out("nothing to repair\n")?;
            Ok(ExitCode::SUCCESS)
        }
        (_, false) => {
            output::write_out("Nothing was changed. To do this: the same command with --yes.\n")?;
            Ok(ExitCode::FAILURE)
        }
        (_, true) => conclude(&survey, &queue, &cut_directory),
    }
}

fn write_out(text: &str) -> io::Result<()> {
    output::write_out(text).map_err(io::Error::other)
}

fn refuse_unknown_segment(queue: &QueuePlace, segment: Option<&str>) -> anyhow::Result<Option<ExitCode>> {
    let Some(name) = segment else { return Ok(None) };
    let files = queue.files().with_context(|| queue.directory.display().to_string())?;
    if files.segments.iter().any(|(_, path)| path.file_name().is_some_and(|file| file == name)) {
        return Ok(None);
    }
    let error = format!("{} has no segment {name}; `forebay inspect` lists them", queue.directory.display());
    Ok(Some(output::refuse_usage(&error)))
}

/// A directory that does not exist yet; there may be one of a repair within the same second, which was not finished.
fn fresh_cut_directory(queue: &Path, now_us: u64) -> PathBuf {
    let time = compact_time(now_us);
    let first = queue.join(format!("cut-{time}"));
    let more = (2_u64..).map(|number| queue.join(format!("cut-{time}-{number}")));
    std::iter::once(first.clone()).chain(more).find(|path| !path.exists()).unwrap_or(first)
}

/// As `20260131T235959Z`, which a file's name may be.
fn compact_time(now_us: u64) -> String {
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_micros(now_us)).to_string();
    time.replace(['-', ':'], "")
}

/// Checks what the repair has made of the queue.
fn conclude(survey: &Survey, queue: &QueuePlace, cut_directory: &Path) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    verify_queue(queue, &mut report, |_| {}).with_context(|| queue.directory.display().to_string())?;
    let mut text = format!("The files as they were are in {}.\n", cut_directory.display());
    for finding in &report.findings {
        let _ = writeln!(
            text,
            "still damaged: {}: {}\n    {}",
            finding.path.display(),
            finding.damage,
            finding.damage.meaning()
        );
    }
    let intact = report.findings.is_empty();
    if intact {
        let _ = writeln!(
            text,
            "The queue is intact now. Records: {}; marks of lost ones: {}. If the log of the next start says that the delivery has halted, see \
             docs/operating.md, A halted drain; the queue's part in forebay_position is {}, \
             with /sink-NAME behind it in a sink beside the main one.",
            grouped(report.records),
            grouped(report.lost),
            survey.identity.part(&queue.name, None)
        );
    }
    output::write_out(&text)?;
    Ok(if intact { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text_of(repair: &Repair, done: bool) -> String {
    let mut text = format!("{}\n", repair.path.display());
    for finding in &repair.findings {
        let place = finding.offset.map_or_else(String::new, |offset| format!("byte {offset}: "));
        let _ = writeln!(text, "    {place}{}", finding.damage);
    }
    let will = if done { "" } else { "would be " };
    match &repair.action {
        Action::Rewrite { kept, lost, unknown_from } => {
            let _ = writeln!(text, "    {will}written anew, keeping {} records", grouped(*kept));
            if lost.is_empty() && unknown_from.is_none() {
                text += "    no record is lost\n";
            }
            write_lost(&mut text, lost);
            if let Some(from) = unknown_from {
                let _ = writeln!(
                    text,
                    "    LOST: whatever it held from sequence {from} on. Nothing says how much that was, if anything; the sequences are given \
                     out again. If the position in the database is {from} or more, the delivery halts: see docs/operating.md, A halted drain"
                );
            }
        }
        Action::FillGap { lost } => {
            let _ = writeln!(text, "    {will}made anew, since there is no file of these sequences");
            write_lost(&mut text, std::slice::from_ref(lost));
        }
        Action::CutKeys { has_segment: true } => {
            let _ = writeln!(text, "    {will}taken away; the next start makes it anew from its segment");
        }
        Action::CutKeys { has_segment: false } => {
            let _ =
                writeln!(text, "    {will}taken away; repetitions of the requests with these keys are stored again");
        }
    }
    text
}

fn write_lost(text: &mut String, lost: &[RangeInclusive<Sequence>]) {
    for run in lost {
        let records = run.end() - run.start() + 1;
        let _ = if records == 1 {
            writeln!(text, "    LOST: sequence {}", run.start())
        } else {
            writeln!(text, "    LOST: sequences {} to {} ({} records)", run.start(), run.end(), grouped(records))
        };
    }
}
