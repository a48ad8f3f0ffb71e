//! `forebay verify`: reads and checks everything in a data directory.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use bytesize::ByteSize;
use forebay_loadtest::results::grouped;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output;
use crate::drain::dead_letters::{self, Line};
use crate::journal::directory::DirectoryError;
use crate::journal::findings::{Damage, Finding};
use crate::journal::survey::{QueuePlace, Survey};
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
    nice ionice -c3 forebay verify /var/lib/forebay --queue orders && echo intact")]
pub struct Arguments {
    /// The data directory: `data_dir` of the configuration
    directory: PathBuf,
    /// Check this queue only
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
}

/// Runs the command.
///
/// # Errors
///
/// A directory cannot be read. Damage is printed and is exit code 1.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let survey = match Survey::open(&arguments.directory) {
        Ok(survey) => survey,
        Err(DirectoryError::Damaged(path)) => {
            let finding = Finding { path, offset: None, damage: Damage::SmallFile };
            output::write_out(&(text_of(&finding) + "Nothing else can be checked without it.\n"))?;
            return Ok(ExitCode::FAILURE);
        }
        Err(error @ DirectoryError::NotOurs(_)) => return Ok(output::refuse_usage(&error)),
        Err(error) => return Err(error.into()),
    };
    let queues = match output::chosen_queues(&survey, arguments.queue.as_deref())? {
        Ok(queues) => queues,
        Err(refused) => return Ok(refused),
    };
    let mut report = Report::default();
    verify_directory(survey.path(), &mut report);
    let bar = progress(&queues);
    for queue in &queues {
        bar.set_message(queue.name.clone());
        // Before the segments, which may grow meanwhile.
        let highest = verify_dead_letters(queue, &mut report)?;
        let end = verify_queue(queue, &mut report, |bytes| bar.inc(bytes));
        let end = end.with_context(|| queue.directory.display().to_string())?;
        if let (Some((sequence, offset)), Some(end)) = (highest, end)
            && sequence >= end.next_sequence
        {
            let damage = Damage::BeyondEnd { sequence, end: end.next_sequence.saturating_sub(1) };
            report.find(&dead_letters::path(&queue.directory), Some(offset), damage);
        }
        let found = std::mem::take(&mut report.findings);
        bar.suspend(|| output::write_out(&found.iter().map(text_of).collect::<String>()))?;
        report.findings = found;
    }
    bar.finish_and_clear();
    output::write_out(&summary(&report))?;
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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

/// Checks each dead letter, which the journal does not know of. Returns where the one with the highest sequence is.
fn verify_dead_letters(queue: &QueuePlace, report: &mut Report) -> anyhow::Result<Option<(Sequence, u64)>> {
    let path = dead_letters::path(&queue.directory);
    let mut highest = None;
    let read = dead_letters::read(&queue.directory, |offset, line| {
        match line {
            Err(error) => report.find(&path, Some(offset), Damage::DeadLetter(error.to_string())),
            Ok(Line::Letter(letter)) => highest = highest.max(Some((letter.sequence, offset))),
            Ok(Line::Event(_)) => {}
        }
        Ok(())
    });
    let (whole, all) = read.with_context(|| path.display().to_string())?;
    if whole < all {
        let name = path.display();
        report.notes.push(format!("{name}: byte {whole}: the last line is not finished; the next start cuts it"));
    }
    Ok(highest)
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
