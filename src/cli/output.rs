//! What the commands that look at a data directory say, and where.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::journal::directory::DirectoryError;
use crate::journal::survey::{QueuePlace, Survey};

/// Exit code for arguments that cannot be meant, as clap has it.
const EXIT_USAGE: u8 = 2;

/// Says why the arguments are refused.
pub fn refuse_usage(error: &impl Display) -> ExitCode {
    eprintln!("forebay: {error}");
    ExitCode::from(EXIT_USAGE)
}

/// Writes to standard output. Whoever reads it may stop at any time, as `head` does.
pub fn write_out(text: &str) -> anyhow::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output"),
    }
}

/// Looks at a data directory; one that is none is refused.
pub fn open_survey(path: &Path) -> anyhow::Result<Result<Survey, ExitCode>> {
    match Survey::open(path) {
        Err(error @ DirectoryError::NotOurs(_)) => Ok(Err(refuse_usage(&error))),
        opened => Ok(Ok(opened?)),
    }
}

/// The queue of that name, or all; a name without a queue is refused.
pub fn chosen_queues(survey: &Survey, name: Option<&str>) -> anyhow::Result<Result<Vec<QueuePlace>, ExitCode>> {
    let mut queues = survey.queues().with_context(|| survey.path().join("queues").display().to_string())?;
    let Some(name) = name else { return Ok(Ok(queues)) };
    if !queues.iter().any(|queue| queue.name == name) {
        let known: Vec<_> = queues.iter().map(|queue| queue.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let error = format!("{} has no queue {name:?}; it has: {known}", survey.path().display());
        return Ok(Err(refuse_usage(&error)));
    }
    queues.retain(|queue| queue.name == name);
    Ok(Ok(queues))
}
