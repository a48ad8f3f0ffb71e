//! What a thread asks of the kernel's scheduler when others wait for it.
//!
//! The journal wakes several times for each commit and works some microseconds each time; every client waits
//! for it meanwhile. Left to itself, the scheduler lets a thread that was just woken wait until the one that runs there
//! has used up its slice, which takes up to 4 ms on a machine whose cores are busy. A short slice
//! (`sched_setattr(2)`, Linux 6.12 and newer) makes it preempt at once, and a little priority keeps it
//! entitled to that. `docs/decisions/0007-the-journal-preempts.md` has the figures.

use std::io;

/// The slice that is asked for, in nanoseconds; 0.1 ms is the shortest that the kernel grants.
const SLICE_NS: u64 = 100_000;
/// How much nicer than the rest of the process others are to the thread, if we may ask for that.
const NICE_BELOW_PROCESS: i32 = 5;
/// The bound of nice values.
const NICE_MIN: i32 = -20;
/// `SCHED_OTHER`, the policy of ordinary threads.
const POLICY_OTHER: u32 = 0;

/// `struct sched_attr` in its first version, which every kernel that has the call knows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// `size_of::<Attributes>()`, as the kernel wants it.
const ATTRIBUTES_BYTES: u32 = 48;

/// Makes the calling thread run soon after it was woken, as far as the kernel allows, and before ordinary ones.
/// A thread to which the process gave another policy than the ordinary one is left as it is.
pub fn run_promptly_and_first() {
    ask(NICE_BELOW_PROCESS);
}

/// Makes the calling thread run soon after it was woken, without a greater share of a core that is busy.
pub fn run_promptly() {
    ask(0);
}

fn ask(nice_below_process: i32) {
    let asked = attributes().and_then(|current| match wanted(current, nice_below_process) {
        None => Ok(()),
        // Without the right to a lower nice value the slice can still be had.
        Some(wanted) => set(wanted).or_else(|_| set(Attributes { nice: current.nice, ..wanted })),
    });
    if let Err(error) = asked {
        tracing::debug!(%error, "the kernel grants no short time slice; this thread may wait for other processes");
    }
}

fn wanted(current: Attributes, nice_below_process: i32) -> Option<Attributes> {
    let nice = (current.nice - nice_below_process).max(NICE_MIN);
    (current.policy == POLICY_OTHER).then(|| Attributes {
        size: ATTRIBUTES_BYTES,
        nice,
        runtime: SLICE_NS,
        ..Attributes::default()
    })
}

fn attributes() -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the kernel writes no more than the `ATTRIBUTES_BYTES` bytes that it is told there are, and the
    // structure is that long; thread 0 is the calling one, and there are no flags.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, ATTRIBUTES_BYTES, 0) };
    if result == 0 { Ok(attributes) } else { Err(io::Error::last_os_error()) }
}

fn set(attributes: Attributes) -> io::Result<()> {
    // SAFETY: the kernel only reads the structure, which is as long as its first field says.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_is_as_long_as_the_kernel_is_told() {
        assert_eq!(size_of::<Attributes>(), ATTRIBUTES_BYTES as usize);
    }

    #[test]
    fn a_thread_keeps_its_policy_and_is_at_most_as_nice_as_before() {
        let (before, after) = std::thread::spawn(|| {
            let before = attributes().unwrap();
            run_promptly_and_first();
            (before, attributes().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(after.policy, before.policy);
        assert!(after.nice <= before.nice, "{before:?} {after:?}");
    }

    #[test]
    fn only_ordinary_threads_ask() {
        let ordinary = Attributes { nice: 3, ..Attributes::default() };
        assert_eq!(wanted(ordinary, 5).map(|wanted| (wanted.nice, wanted.runtime)), Some((-2, SLICE_NS)));
        let nicest = Attributes { nice: -18, ..Attributes::default() };
        assert_eq!(wanted(nicest, 5).map(|wanted| wanted.nice), Some(NICE_MIN));
        assert!(wanted(Attributes { policy: 3, ..Attributes::default() }, 5).is_none());
    }
}
