//! The subcommands: each has its arguments, and a function that does what they say.

pub mod compare;
mod display;
pub mod drain;
pub mod growth;
pub mod run;
pub mod verify;

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;

/// Writes a result file.
fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The command line of this process, for a page to show.
fn command_line() -> String {
    std::env::args().collect::<Vec<_>>().join(" ")
}

/// Takes seconds from the command line as a duration.
fn duration(seconds: f64) -> Result<Duration> {
    let duration = Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero());
    ensure!(duration.is_some(), "`{seconds}` is not a duration in seconds");
    Ok(duration.unwrap_or_default())
}
