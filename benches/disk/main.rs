//! The journal's own code beside fio on the same disk, in turns: what is written and read back for each byte that the
//! disk could.
//!
//! `cargo bench --bench disk -- --help`

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a bench that cannot go on should panic")]

#[path = "../stand/mod.rs"]
mod stand;

mod journal;

use std::path::PathBuf;

use clap::Parser;
use forebay_loadtest::beside::{self, Beside};
use forebay_loadtest::fio::{self, Access, Job};
use forebay_loadtest::report::Machine;
use journal::Journal;

const MIB: u64 = 1 << 20;
/// What one order's commit writes.
const COMMIT_BLOCK_BYTES: u64 = 4096;
const COMMITS: u64 = 2000;

/// Writes and reads a journal beside fio, on the same disk and in turns.
#[derive(Parser)]
struct Arguments {
    /// Where files are made, which should be a real disk [default: the target directory]
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// Rounds of each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Mebibytes of each round
    #[arg(long, default_value_t = 1024)]
    mebibytes: u64,
    /// Writes every figure as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let parent = arguments.directory.clone().unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let directory = tempfile::Builder::new().prefix("forebay-disk-").tempdir_in(&parent)?;
    let bytes = arguments.mebibytes * MIB;
    let mut append = Beside::new("append, 1 MiB batches", "MiB/s", "journal", "fio write + fdatasync");
    let mut read = Beside::new("read a cold backlog", "MiB/s", "feed of the drain", "fio read");
    let mut commit = Beside::new("commit one order", "µs", "journal", "fio write + fdatasync");
    println!("laying out {} MiB of segments", arguments.mebibytes);
    let journal = Journal::lay_out(directory.path(), bytes);
    for _ in 0..arguments.rounds {
        let bare = |access, block_bytes, file_bytes| {
            fio::run(&Job { directory: directory.path(), access, block_bytes, file_bytes })
        };
        let written = journal.append(MIB);
        let fio = bare(Access::WriteAndSync, MIB, bytes)?;
        println!("{}", append.add(written.bytes_per_second / MIB as f64, fio.bytes_per_second / MIB as f64));
        let read_per_second = written.read();
        let fio = bare(Access::Read, MIB, bytes)?;
        println!("{}", read.add(read_per_second / MIB as f64, fio.bytes_per_second / MIB as f64));
        let p50_us = journal.commit_orders(COMMITS);
        let fio = bare(Access::WriteAndSync, COMMIT_BLOCK_BYTES, COMMITS * COMMIT_BLOCK_BYTES)?;
        println!("{}", commit.add(p50_us, fio.p50_us));
    }
    let measured = [append, read, commit];
    for one in &measured {
        println!("{one}");
    }
    let machine = Machine::from_proc();
    if let Some(path) = &arguments.json {
        std::fs::write(path, beside::to_json(&measured, &machine))?;
    }
    if let Some(path) = &arguments.html {
        let command_line: Vec<String> = std::env::args().collect();
        std::fs::write(path, beside::to_html(&measured, "The journal beside fio", &command_line.join(" "), &machine)?)?;
    }
    Ok(())
}
