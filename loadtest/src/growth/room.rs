//! What the measurements need of the machine, looked at before they begin.

use super::axes::{QUEUES_CONNECTIONS, RECORD_SIZE_CONNECTIONS};
use super::backlog::RECORD_BYTES;
use super::{Axis, GrowthError, GrowthPlan, io_error};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Files of a process besides its connections; forebay counts on as many.
const FILES_RESERVED: u64 = 256;
/// Files that a queue may need: segments, directories and the database's.
const FILES_OF_A_QUEUE: u64 = 8;
/// The unit of a file's blocks, whatever its file system's own.
const BLOCK_BYTES: u64 = 512;
/// Bytes of a segment, forebay's own default. Each queue has one at least, and there is a spare.
const SEGMENT_BYTES: u64 = 64 << 20;
/// What a record of the backlog takes beyond its body, with a share of what pads its commit.
const RECORD_OVERHEAD_BYTES: u64 = 100;
/// What rounds of small records may write in a second.
const SMALL_BYTES_PER_SECOND: u64 = 128 << 20;
/// What rounds of larger records may write in a second, which is what the disk takes. Where it takes more and runs
/// full, the forebay says so and the measurement ends.
const LARGE_BYTES_PER_SECOND: u64 = 3 << 29;
/// Records that count as small.
const SMALL_RECORD_BYTES: usize = 1 << 10;

/// Raises the limit of open files for this process, which the servers inherit, and looks for room on the disk.
pub fn check(plan: &GrowthPlan) -> Result<(), GrowthError> {
    raise_open_files(open_files(plan))?;
    let directory = plan.directory.clone().unwrap_or_else(std::env::temp_dir);
    let free_bytes = free_bytes(&directory)?;
    let most = needed_bytes(plan).into_iter().max_by_key(|(_, needed_bytes)| *needed_bytes);
    match most.filter(|(_, needed_bytes)| *needed_bytes > free_bytes) {
        None => Ok(()),
        Some((axis, needed_bytes)) => Err(GrowthError::DiskSpace { axis, directory, needed_bytes, free_bytes }),
    }
}

/// Files that the load generator or a forebay has open at most, whichever has more.
pub fn open_files(plan: &GrowthPlan) -> u64 {
    let fixed = RECORD_SIZE_CONNECTIONS.max(QUEUES_CONNECTIONS);
    // The load generator also has the busy connections of the server without idle ones.
    let idle = plan.idle.map(|idle| idle.open + idle.busy);
    let connections = plan.connections.iter().copied().chain(idle).fold(fixed, usize::max);
    let queues = plan.queues.iter().copied().max().unwrap_or(1);
    connections as u64 + queues as u64 * FILES_OF_A_QUEUE + FILES_RESERVED
}

fn raise_open_files(needed: u64) -> Result<(), GrowthError> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Some(limit) = maximum.filter(|limit| *limit < needed) {
        return Err(GrowthError::OpenFiles { needed, limit });
    }
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    raised.map_err(|error| io_error("the limit of open files (ulimit -n)")(error.into()))
}

/// What each axis may have on the disk at once. Points are removed before the next one begins.
fn needed_bytes(plan: &GrowthPlan) -> Vec<(Axis, u64)> {
    let loaded_seconds = plan.loaded_seconds(1);
    let segments = |queues: usize| (queues as u64 + 2) * SEGMENT_BYTES;
    let small = loaded_seconds.saturating_mul(SMALL_BYTES_PER_SECOND);
    let mut needed = Vec::new();
    if !plan.connections.is_empty() || plan.idle.is_some() {
        // For the idle ones two forebays are loaded, each of which is warmed up at first and before each round.
        let turns = plan.loaded_seconds(plan.rounds.saturating_add(1)).saturating_mul(SMALL_BYTES_PER_SECOND);
        needed.push((Axis::Connections, turns.saturating_add(segments(1)).saturating_mul(2)));
    }
    if let Some(record_bytes) = plan.record_bytes.iter().max() {
        let large = *record_bytes > SMALL_RECORD_BYTES;
        let per_second = if large { LARGE_BYTES_PER_SECOND } else { SMALL_BYTES_PER_SECOND };
        needed.push((Axis::RecordSize, loaded_seconds.saturating_mul(per_second).saturating_add(segments(1))));
    }
    if let Some(records) = plan.backlog_records.iter().max() {
        let backlog = records.saturating_mul(RECORD_BYTES as u64 + RECORD_OVERHEAD_BYTES);
        needed.push((Axis::Backlog, backlog.saturating_add(small).saturating_add(segments(1))));
    }
    if let Some(queues) = plan.queues.iter().max() {
        needed.push((Axis::Queues, small.saturating_add(segments(*queues))));
    }
    needed
}

fn free_bytes(directory: &Path) -> Result<u64, GrowthError> {
    let system = rustix::fs::statvfs(directory);
    let system = system.map_err(|error| io_error(directory.display().to_string())(error.into()))?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

/// The space that a directory's files take on the disk. A file that goes meanwhile takes none.
pub fn disk_bytes(directory: &Path) -> Result<u64, GrowthError> {
    sum_of_blocks(directory).map_err(io_error(directory.display().to_string()))
}

fn sum_of_blocks(directory: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let found = if entry.file_type()?.is_dir() {
            sum_of_blocks(&entry.path())
        } else {
            entry.metadata().map(|metadata| metadata.blocks() * BLOCK_BYTES)
        };
        sum += match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            found => found?,
        };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::super::IdlePlan;
    use super::*;
    use std::path::PathBuf;

    fn no_axis() -> GrowthPlan {
        GrowthPlan {
            connections: Vec::new(),
            idle: None,
            record_bytes: Vec::new(),
            backlog_records: Vec::new(),
            queues: Vec::new(),
            ..GrowthPlan::new(PathBuf::new())
        }
    }

    #[test]
    fn the_widest_axis_says_how_many_files() {
        let plan = GrowthPlan { connections: vec![10], idle: Some(IdlePlan { open: 900, busy: 90 }), ..no_axis() };
        assert_eq!(open_files(&plan), 990 + 8 + 256);
        let plan = GrowthPlan { connections: vec![1000], queues: vec![100], ..plan };
        assert_eq!(open_files(&plan), 1000 + 800 + 256);
    }

    #[test]
    fn more_files_than_may_be_open_are_refused() {
        if getrlimit(Resource::Nofile).maximum.is_some() {
            assert!(matches!(raise_open_files(u64::MAX), Err(GrowthError::OpenFiles { .. })));
        }
        raise_open_files(1).unwrap();
    }

    #[test]
    fn a_backlog_that_no_disk_holds_is_refused() {
        let plan = GrowthPlan { backlog_records: vec![0, u64::MAX / 4096], ..no_axis() };
        let refused = check(&plan).unwrap_err();
        assert!(matches!(refused, GrowthError::DiskSpace { axis: Axis::Backlog, .. }), "{refused}");
        assert!(needed_bytes(&no_axis()).is_empty());
    }

    #[test]
    fn ten_million_records_need_about_eleven_gigabytes() {
        let plan = GrowthPlan { backlog_records: vec![0, 10_000_000], ..no_axis() };
        let [(Axis::Backlog, needed_bytes)] = needed_bytes(&plan)[..] else { panic!("another axis") };
        assert!((11_000_000_000..14_000_000_000).contains(&needed_bytes), "{needed_bytes}");
    }

    #[test]
    fn directories_are_summed_up() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("in")).unwrap();
        let before = disk_bytes(directory.path()).unwrap();
        fs::write(directory.path().join("in/file"), vec![1; 100_000]).unwrap();
        fs::File::open(directory.path().join("in/file")).unwrap().sync_all().unwrap();
        assert!(disk_bytes(directory.path()).unwrap() >= before + 100_000);
    }
}
