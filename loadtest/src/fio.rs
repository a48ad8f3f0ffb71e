//! What the disk can do by itself, measured by fio.
//!
//! Every job has one thread with one request in flight and goes around the page cache, as a journal does. The file is
//! laid out before the clock starts, so that no write has to allocate.

use serde::Deserialize;
use std::io;
use std::path::Path;
use std::process::Command;

/// What fio does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Writes one block after the other and syncs each with fdatasync.
    WriteAndSync,
    /// Reads one block after the other.
    Read,
}

/// One run of fio.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// Where its file is made and removed again.
    pub directory: &'a Path,
    /// What it does.
    pub access: Access,
    /// Bytes of each request.
    pub block_bytes: u64,
    /// Bytes of the file; it is gone through once.
    pub file_bytes: u64,
}

/// What a run measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Bytes read or written in each second, with all syncs.
    pub bytes_per_second: f64,
    /// The median time of a request: the median of the reads or writes, and of the syncs added to it.
    pub p50_us: f64,
}

/// Why fio brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum FioError {
    /// The program cannot be started.
    #[error("fio cannot be started: {0} (if it is not installed: apt-get install fio)")]
    Start(io::Error),
    /// It ended with an error.
    #[error("fio failed: {0}")]
    Failed(String),
    /// It printed something else than figures.
    #[error("the output of fio cannot be read: {0}")]
    Output(String),
}

#[derive(Deserialize)]
struct Output {
    jobs: Vec<Figures>,
}

#[derive(Deserialize)]
struct Figures {
    read: Requests,
    write: Requests,
    sync: Syncs,
}

#[derive(Deserialize)]
struct Requests {
    bw_bytes: f64,
    /// Nanoseconds in the kernel's hands.
    clat_ns: Times,
}

#[derive(Deserialize)]
struct Syncs {
    lat_ns: Times,
}

#[derive(Deserialize)]
struct Times {
    #[serde(default)]
    percentile: Percentiles,
}

#[derive(Default, Deserialize)]
struct Percentiles {
    #[serde(rename = "50.000000")]
    p50: Option<f64>,
}

/// Lays the file out, goes through it once, and removes it. Blocks.
///
/// # Errors
/// fio is not installed or fails, for example for want of room.
pub fn run(job: &Job<'_>) -> Result<Measured, FioError> {
    let file = job.directory.join("fio.data");
    let output = Command::new("fio")
        .args(["--name=bare", "--ioengine=psync", "--direct=1", "--unlink=1", "--output-format=json"])
        .arg(format!("--filename={}", file.display().to_string().replace(':', "\\:")))
        .arg(format!("--bs={}", job.block_bytes))
        .arg(format!("--size={}", job.file_bytes))
        .args(match job.access {
            Access::WriteAndSync => &["--rw=write", "--fdatasync=1", "--overwrite=1"][..],
            Access::Read => &["--rw=read"][..],
        })
        .output()
        .map_err(FioError::Start)?;
    if !output.status.success() {
        return Err(FioError::Failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    measured(job.access, &output.stdout)
}

fn measured(access: Access, output: &[u8]) -> Result<Measured, FioError> {
    // Warnings stand before the figures, on the same stream.
    let start = output.iter().position(|byte| *byte == b'{').unwrap_or(output.len());
    let output: Output =
        serde_json::from_slice(&output[start..]).map_err(|error| FioError::Output(error.to_string()))?;
    let job = output.jobs.into_iter().next().ok_or_else(|| FioError::Output("it names no job".to_owned()))?;
    let (requests, sync_ns) = match access {
        Access::WriteAndSync => (job.write, job.sync.lat_ns.percentile.p50),
        Access::Read => (job.read, Some(0.0)),
    };
    let (Some(request_ns), Some(sync_ns)) = (requests.clat_ns.percentile.p50, sync_ns) else {
        return Err(FioError::Output("it has no median".to_owned()));
    };
    Ok(Measured { bytes_per_second: requests.bw_bytes, p50_us: (request_ns + sync_ns) / 1000.0 })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

    use super::*;

    #[test]
    fn figures_are_found_behind_warnings() {
        let output = br#"fio: a warning
{"fio version": "3", "jobs": [{"jobname": "bare",
  "read": {"bw_bytes": 0, "clat_ns": {"min": 0}},
  "write": {"bw_bytes": 4096000, "clat_ns": {"percentile": {"50.000000": 35000, "99.000000": 1}}},
  "sync": {"total_ios": 3, "lat_ns": {"percentile": {"50.000000": 40000}}}}]}"#;
        let figures = measured(Access::WriteAndSync, output).unwrap();
        assert_eq!(figures, Measured { bytes_per_second: 4_096_000.0, p50_us: 75.0 });
        assert!(matches!(measured(Access::Read, output), Err(FioError::Output(_))), "it did not read");
        assert!(matches!(measured(Access::Read, b"nothing"), Err(FioError::Output(_))));
    }
}
