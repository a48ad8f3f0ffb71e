//! Cores of load threads.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Keeps the calling thread, one of `threads`, on a core of its own from the last one on, if a core is left for the
/// server.
///
/// A kernel that wakes a load thread tends to put it on the core of the thread that woke it, which is the server's. Some
/// rounds then have both on one core from beginning to end while another is idle, and which rounds is chance.
pub fn pin(number: usize, threads: usize) {
    let cores = allowed_cores();
    if threads >= cores.len() {
        return;
    }
    if let Some(core) = cores.iter().rev().nth(number) {
        let mut own = CpuSet::new();
        own.set(*core);
        // A thread that may not choose its core runs where the kernel puts it.
        let _ = sched_setaffinity(None, &own);
    }
}

/// The cores that load threads leave free; `None` if there are none.
///
/// A server with a single thread belongs there: woken by a load thread that keeps to its core it would be put beside it.
#[must_use]
pub fn cores_left_by(threads: usize) -> Option<CpuSet> {
    let cores = allowed_cores();
    let left = cores.len().checked_sub(threads).filter(|left| *left > 0)?;
    let mut set = CpuSet::new();
    cores[..left].iter().for_each(|core| set.set(*core));
    Some(set)
}

/// Starts something with the calling thread on these cores only, which children inherit.
pub fn kept_to<T>(cores: &CpuSet, start: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None);
    let _ = sched_setaffinity(None, cores);
    let started = start();
    if let Ok(before) = before {
        let _ = sched_setaffinity(None, &before);
    }
    started
}

fn allowed_cores() -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_and_server_share_no_core_where_there_are_enough() {
        let cores = allowed_cores();
        assert!(cores_left_by(cores.len()).is_none());
        let alone = std::thread::spawn(|| {
            pin(0, 1);
            allowed_cores()
        });
        let load = alone.join().unwrap_or_default();
        let Some(left) = cores_left_by(1) else { return assert_eq!(load, cores, "there is only one") };
        assert_eq!(load, cores[cores.len() - 1..]);
        let inherited = kept_to(&left, || std::thread::spawn(allowed_cores).join().unwrap_or_default());
        assert_eq!(inherited, cores[..cores.len() - 1]);
        assert_eq!(allowed_cores(), cores, "and everything is as before");
    }
}
