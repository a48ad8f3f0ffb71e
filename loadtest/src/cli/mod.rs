//! The subcommands: each has its arguments, and a function that does what they say.

pub mod compare;
pub mod crash;
pub mod disk;
mod display;
pub mod drain;
pub mod growth;
pub mod pace;
pub mod run;
pub mod trouble;
pub mod verify;

use anyhow::{Context, Result, ensure};
use clap::Args;
use forebay_loadtest::beside::{self, Beside};
use forebay_loadtest::report::{Document, Machine};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Writes a result file.
fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The command line of this process, for a page to show.
fn command_line() -> String {
    std::env::args().collect::<Vec<_>>().join(" ")
}

/// Where figures that were measured in turns go, besides the terminal.
#[derive(Args)]
pub struct BesideFiles {
    /// Writes every figure as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes a report with plots as one HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl BesideFiles {
    /// Prints the sums and writes the files that were asked for.
    fn tell(&self, title: &str, measured: &[Beside]) -> Result<()> {
        println!();
        for one in measured {
            println!("{one}");
        }
        let machine = Machine::from_proc();
        if let Some(path) = &self.json {
            write(path, &beside::to_json(measured, &machine))?;
        }
        if let Some(path) = &self.html {
            write(path, &beside::to_html(measured, title, &command_line(), &machine)?)?;
        }
        Ok(())
    }

    /// Writes figures that have no pairs as JSON, if that was asked for.
    fn write_json(&self, figures: &serde_json::Value) -> Result<()> {
        self.json.as_ref().map_or(Ok(()), |path| write(path, &format!("{figures:#}\n")))
    }
}

/// Where figures with plots go, besides the terminal.
#[derive(Args)]
pub struct PlotFiles {
    /// Writes every figure as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes a report with plots as one HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Writes each plot as an SVG file into an existing directory
    #[arg(long, value_name = "DIRECTORY")]
    svg: Option<PathBuf>,
}

impl PlotFiles {
    /// Writes the files that were asked for.
    fn write(&self, document: &Document<'_>, figures: &impl Serialize) -> Result<()> {
        if let Some(path) = &self.json {
            let json = serde_json::json!({ "machine": document.machine, "figures": figures });
            write(path, &format!("{json:#}\n"))?;
        }
        if let Some(path) = &self.html {
            write(path, &document.to_html()?)?;
        }
        let Some(directory) = &self.svg else { return Ok(()) };
        for section in &document.sections {
            let Some(plot) = &section.plot else { continue };
            let in_name = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
            let name: String = section.title.replace(',', "").chars().map(in_name).collect();
            write(&directory.join(format!("{name}.svg")), &plot.to_image()?)?;
        }
        Ok(())
    }
}

/// Takes seconds from the command line as a duration.
fn duration(seconds: f64) -> Result<Duration> {
    let duration = Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero());
    ensure!(duration.is_some(), "`{seconds}` is not a duration in seconds");
    Ok(duration.unwrap_or_default())
}
