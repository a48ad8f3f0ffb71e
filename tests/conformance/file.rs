//! The row of files, and what only they can get into.

use std::fs;
use std::path::PathBuf;

use forebay::record_text::RecordText;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;
use tempfile::TempDir;

use crate::station::{Arrival, Server, Station};

pub struct File {
    directory: TempDir,
}

impl File {
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("orders.ndjson")
    }

    fn in_the_way(&self) -> PathBuf {
        self.directory.path().join("in-the-way")
    }
}

impl Station for File {
    const KIND: &'static str = "file";
    const EXACTLY_ONCE: bool = false;

    fn start(_: Server) -> Self {
        Self { directory: tempfile::Builder::new().prefix("forebay-file-").tempdir().unwrap() }
    }

    fn sink(&self) -> String {
        format!("type = \"file\"\nurl = \"file:{}\"\n", self.path().display())
    }

    /// A kill may cut a line short; its record is then there once more.
    fn arrived(&self) -> Vec<Arrival> {
        let text = fs::read(self.path()).unwrap_or_default();
        let lines = text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        lines
            .map(|line| {
                let ticket = line["ticket"].as_str().unwrap().to_owned();
                let parts: RecordText = serde_json::from_value(line).unwrap();
                Arrival { ticket, body: parts.body().unwrap() }
            })
            .collect()
    }

    /// There is no server; a directory in its place keeps everybody out.
    fn take_away(&mut self) {
        fs::create_dir(self.in_the_way()).unwrap();
        if self.path().exists() {
            // At once, or forebay would make a file meanwhile.
            renameat_with(CWD, self.in_the_way(), CWD, self.path(), RenameFlags::EXCHANGE).unwrap();
        } else {
            fs::rename(self.in_the_way(), self.path()).unwrap();
        }
    }

    fn bring_back(&mut self) {
        if self.in_the_way().exists() {
            renameat_with(CWD, self.in_the_way(), CWD, self.path(), RenameFlags::EXCHANGE).unwrap();
            fs::remove_dir(self.in_the_way()).unwrap();
        } else {
            fs::remove_dir(self.path()).unwrap();
        }
    }
}
