//! What clients get of a disk through forebay, beside what fio gets of it by itself, in turns.

use crate::beside::Beside;
use crate::engine::{self, EngineError, Load, Payload, Plan, Progress};
use crate::fio::{self, Access, FioError, Job};
use crate::peer::{Forebay, ForebayConfiguration, PeerError, StartOptions};
use crate::results::LatencyFigures;
use crate::wire::Measured;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const QUEUE: &str = "orders";
const MIB: u64 = 1 << 20;
const US_PER_MS: f64 = 1000.0;
/// What a commit of one order writes.
const COMMIT_BLOCK_BYTES: u64 = 4096;
/// How many of them fio writes in a round.
const COMMITS: u64 = 4000;
/// Records of a large request.
const BATCH_RECORDS: usize = 1000;
/// Bytes of each of them, with its end of line.
const BATCH_RECORD_BYTES: usize = 256;
/// Large requests in flight.
const BATCH_CONNECTIONS: usize = 16;

/// What is measured.
#[derive(Clone, Debug)]
pub struct DiskPlan {
    /// The `forebay` program.
    pub forebay: PathBuf,
    /// Where the journal and fio's file are made, which should be a real disk; `None` for the system's temporary
    /// directory.
    pub directory: Option<PathBuf>,
    /// Rounds of each.
    pub rounds: usize,
    /// How long forebay is loaded in each round.
    pub round: Duration,
    /// Bytes that fio writes in large blocks in each round.
    pub large_bytes: u64,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// forebay does not start.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The load cannot be made.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// fio brought nothing.
    #[error(transparent)]
    Fio(#[from] FioError),
    /// Some of the load was not acknowledged, so its figures mean nothing.
    #[error("forebay under load: {0}")]
    BadRound(String),
}

/// Measures round by round and tells `on_line` about each. Blocks.
///
/// # Errors
/// forebay or fio is missing or fails, or a request was not acknowledged.
pub fn measure(plan: &DiskPlan, mut on_line: impl FnMut(String)) -> Result<Vec<Beside>, DiskError> {
    let alone = Beside::new(
        "acknowledgement, one connection, median",
        "µs",
        "forebay over HTTP",
        "fio, 4 KiB write + fdatasync",
    );
    let batches = Beside::new(
        "NDJSON, 1,000 records of 256 B a request",
        "records/s",
        "forebay over HTTP",
        "fio, the same bytes in 1 MiB writes + fdatasync",
    );
    let mut temporary = tempfile::Builder::new();
    temporary.prefix("forebay-loadtest-");
    let directory = plan.directory.as_ref().map_or_else(|| temporary.tempdir(), |parent| temporary.tempdir_in(parent));
    let directory = directory.map_err(|source| PeerError::Directory { source })?;
    let bare = |block_bytes, file_bytes| {
        fio::run(&Job { directory: directory.path(), access: Access::WriteAndSync, block_bytes, file_bytes })
    };
    let alone = rounds(
        plan,
        alone,
        &mut on_line,
        |forebay| {
            let orders = load(forebay, Payload::Orders { seed: 1 }, "application/json", 1, plan.round)?;
            Ok(LatencyFigures::from_us(&orders.latency_us).p50_ms * US_PER_MS)
        },
        || Ok(bare(COMMIT_BLOCK_BYTES, COMMITS * COMMIT_BLOCK_BYTES)?.p50_us),
    )?;
    let batches = rounds(
        plan,
        batches,
        &mut on_line,
        |forebay| {
            let body = Payload::Fixed(batch().into());
            let large = load(forebay, body, "application/x-ndjson", BATCH_CONNECTIONS, plan.round)?;
            Ok(large.per_second() * BATCH_RECORDS as f64)
        },
        || Ok(bare(MIB, plan.large_bytes)?.bytes_per_second / BATCH_RECORD_BYTES as f64),
    )?;
    Ok(vec![alone, batches])
}

/// Measures all rounds. Each has a forebay of its own, and fio writes when that is gone: what one load leaves to be done
/// is not the other's. They begin in turns.
fn rounds(
    plan: &DiskPlan,
    mut beside: Beside,
    on_line: &mut impl FnMut(String),
    forebay: impl Fn(&Forebay) -> Result<f64, DiskError>,
    bare: impl Fn() -> Result<f64, FioError>,
) -> Result<Beside, DiskError> {
    let options = StartOptions {
        parent_directory: plan.directory.clone(),
        forebay_binary: Some(plan.forebay.clone()),
        load_threads: 1,
    };
    let configuration = ForebayConfiguration {
        rate: "1/h".to_owned(),
        max_backlog_bytes: Some(1 << 40),
        ..ForebayConfiguration::default()
    };
    let ours = || forebay(&Forebay::start(&configuration, &options)?);
    for round in 0..plan.rounds {
        let (ours, theirs) = if round % 2 == 0 {
            let ours = ours()?;
            (ours, bare()?)
        } else {
            let theirs = bare()?;
            (ours()?, theirs)
        };
        on_line(beside.add(ours, theirs));
    }
    Ok(beside)
}

fn load(
    forebay: &Forebay,
    payload: Payload,
    content_type: &str,
    connections: usize,
    duration: Duration,
) -> Result<Measured, DiskError> {
    let mut plan = Plan::new(&forebay.url(QUEUE), Load::Closed { records: None, duration: Some(duration) })?;
    plan.payload = payload;
    content_type.clone_into(&mut plan.content_type);
    plan.connections = connections;
    plan.pinned = true;
    let measured = Measured::from(engine::run(&plan, &Arc::new(Progress::new()))?);
    match measured.complaint() {
        None => Ok(measured),
        Some(reason) => Err(DiskError::BadRound(reason)),
    }
}

/// A body of records, each a JSON object in a line of its own.
fn batch() -> Vec<u8> {
    let mut line = br#"{"order_id":"A-1234567","amount_cents":1999,"note":""#.to_vec();
    line.resize(BATCH_RECORD_BYTES - 3, b'x');
    line.extend_from_slice(b"\"}\n");
    line.repeat(BATCH_RECORDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_lines_of_the_length_that_is_told() {
        let batch = batch();
        assert_eq!(batch.len(), BATCH_RECORDS * BATCH_RECORD_BYTES);
        assert!(batch.split_inclusive(|byte| *byte == b'\n').all(|line| line.len() == BATCH_RECORD_BYTES));
    }
}
