//! Cores of load threads.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Keeps the calling thread, one of `threads`, on a core of its own from the last one on, if a core is left for the
/// server.
///
/// A kernel that wakes a load thread tends to put it on the core of the thread that woke it, which is the server's. Some
/// rounds then have both on one core from beginning to end while another is idle, and which rounds is chance.
pub fn pin(number: usize, threads: usize) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
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
