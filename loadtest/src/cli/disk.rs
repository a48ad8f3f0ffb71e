//! `disk`: what clients get of a disk through forebay.

use anyhow::{Result, ensure};
use clap::Args;
use forebay_loadtest::disk::{DiskPlan, measure};
use std::path::PathBuf;

/// Bytes that fio writes in blocks of 1 MiB in each round.
const LARGE_BYTES: u64 = 1 << 30;

/// Shows what clients get of a disk through forebay, beside what fio gets of it.
///
/// One connection with one order in flight, whose acknowledgement waits for a write and a sync, beside fio's bare write
/// and fdatasync of 4 KiB. And large requests of 1,000 records over 16 connections, beside fio's writes of 1 MiB, each
/// synced. Both take turns on the same disk.
///
/// Each round of large requests writes as much as the disk takes in its time, a few gigabytes on a fast one, and removes
/// it again.
///
/// fio is in the Debian package of that name. What the journal itself makes of the disk, without HTTP and a server, is
/// measured by `cargo bench --bench disk`.
#[derive(Args)]
pub struct DiskArguments {
    /// Path of the forebay program
    #[arg(long, value_name = "PATH", default_value = "target/release/forebay")]
    forebay: PathBuf,
    /// Where the journal and fio's file are made, which should be a real disk [default: the system's temporary
    /// directory]
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// Rounds of each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long forebay is loaded in each round, in seconds
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    #[command(flatten)]
    files: super::BesideFiles,
}

pub fn disk(arguments: &DiskArguments) -> Result<()> {
    ensure!(arguments.rounds > 0, "nothing to measure: --rounds is at least 1");
    let plan = DiskPlan {
        forebay: arguments.forebay.clone(),
        directory: arguments.directory.clone(),
        rounds: arguments.rounds,
        round: super::duration(arguments.seconds)?,
        large_bytes: LARGE_BYTES,
    };
    let measured = measure(&plan, |line| println!("{line}"))?;
    arguments.files.tell("A disk through forebay, and by itself", &measured)
}
