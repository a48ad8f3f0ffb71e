//! A file beside `cat` and `sync` of the very lines that the drain has written.

use super::destination::{Destination, output};
use super::{BulkError, BulkPlan, io_error};
use crate::peer::ServerProcess;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

pub(super) struct Lines {
    path: PathBuf,
    /// What the drain has written.
    drained: PathBuf,
}

impl Lines {
    /// Names the file, which must not be there: it is removed in the end.
    pub(super) fn open(plan: &BulkPlan, url: Option<&str>) -> Result<Self, BulkError> {
        let named = url.and_then(|url| url.strip_prefix("file:")).map(|path| path.strip_prefix("//").unwrap_or(path));
        let path = named.map_or_else(|| plan.directory.join("lines.ndjson"), PathBuf::from);
        // The server runs in its own directory, from which a relative path would lead elsewhere.
        let path = std::path::absolute(&path).map_err(io_error(path.display().to_string()))?;
        if path.exists() {
            return Err(io_error(path.display().to_string())(ErrorKind::AlreadyExists.into()));
        }
        Ok(Self { drained: plan.directory.join("drained.ndjson"), path })
    }
}

impl Destination for Lines {
    fn names(&self) -> (&'static str, &'static str) {
        ("drain into a file", "cat and sync")
    }

    fn sink_toml(&self) -> String {
        format!("type = \"file\"\nurl = {:?}\n", format!("file:{}", self.path.display()))
    }

    fn empty(&mut self) -> Result<(), BulkError> {
        remove(&self.path)
    }

    fn load(&mut self, records: u64) -> Result<f64, BulkError> {
        fs::copy(&self.path, &self.drained).map_err(io_error(self.drained.display().to_string()))?;
        self.empty()?;
        let mut command = Command::new("sh");
        command.args(["-c", r#"cat "$1" >> "$2" && sync "$2""#, "sh"]).arg(&self.drained).arg(&self.path);
        let started = Instant::now();
        output(&mut command)?;
        Ok(records as f64 / started.elapsed().as_secs_f64())
    }

    fn remove(&mut self) -> Result<(), BulkError> {
        remove(&self.path)?;
        remove(&self.drained)
    }

    fn process(&self) -> Option<ServerProcess> {
        None
    }
}

fn remove(path: &Path) -> Result<(), BulkError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error(path.display().to_string())(error)),
        _ => Ok(()),
    }
}
