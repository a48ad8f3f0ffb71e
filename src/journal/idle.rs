//! How much of the cores that the journal may run on is idle, by the kernel's own account.
//!
//! The journal commits as often as idle cores allow, since every commit takes processor time from whoever
//! else runs there (`docs/decisions/0008-gather-only-when-cores-are-busy.md`).

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::thread::CpuSet;

/// The shortest time over which a share is reckoned, in nanoseconds: the kernel counts in ticks of 10 ms.
const WINDOW_NS_MIN: u64 = 50_000_000;
/// A window that has become longer than this says nothing of the present.
const WINDOW_NS_MAX: u64 = 1_000_000_000;
/// Of `/proc/stat` so much is read, which is the lines of several hundred cores.
const STAT_BYTES_MAX: usize = 64 * 1024;

/// What is watched.
pub struct IdleCores {
    stat: File,
    cores: CpuSet,
    text: Box<[u8]>,
    began_ns: u64,
    before: Ticks,
}

/// Ticks since the start of the machine, summed over the cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    idle: u64,
    all: u64,
}

impl IdleCores {
    /// Watches the cores on which the calling thread may run; `None` if the kernel does not tell.
    #[must_use]
    pub fn of_this_thread() -> Option<Self> {
        let cores = rustix::thread::sched_getaffinity(None).ok()?;
        let stat = File::open("/proc/stat").ok()?;
        let text = vec![0; STAT_BYTES_MAX].into_boxed_slice();
        let mut watched = Self { stat, cores, text, began_ns: 0, before: Ticks::default() };
        watched.before = watched.read()?;
        Some(watched)
    }

    /// The share of their time that the cores were idle, from 0 to 1, once enough of it has gone by since the last
    /// answer. Costs a system call then, and nothing otherwise.
    pub fn share(&mut self, now_ns: u64) -> Option<f64> {
        let window_ns = now_ns.saturating_sub(self.began_ns);
        if window_ns < WINDOW_NS_MIN {
            return None;
        }
        let now = self.read()?;
        let before = std::mem::replace(&mut self.before, now);
        self.began_ns = now_ns;
        if window_ns > WINDOW_NS_MAX { None } else { now.idle_share_since(before) }
    }

    fn read(&mut self) -> Option<Ticks> {
        let length = self.stat.read_at(&mut self.text, 0).ok()?;
        Ticks::sum(std::str::from_utf8(&self.text[..length]).ok()?, |core| self.cores.is_set(core))
    }
}

impl Ticks {
    /// Reads the lines `cpu<number> user nice system idle iowait irq softirq steal guest guest_nice` (proc(5)) of the
    /// cores that are asked for. What a core waits for a disk it is idle.
    fn sum(stat: &str, is_meant: impl Fn(usize) -> bool) -> Option<Self> {
        let mut sum = Self::default();
        for line in stat.lines().take_while(|line| line.starts_with("cpu")) {
            let mut fields = line.split_ascii_whitespace();
            let core = fields.next()?.strip_prefix("cpu")?;
            // The first line is the sum of all.
            let Ok(core) = core.parse::<usize>() else { continue };
            if core >= CpuSet::MAX_CPU || !is_meant(core) {
                continue;
            }
            // The guest's time is part of user and nice.
            for (number, ticks) in fields.take(8).enumerate() {
                let ticks: u64 = ticks.parse().ok()?;
                sum.all += ticks;
                if number == 3 || number == 4 {
                    sum.idle += ticks;
                }
            }
        }
        (sum.all > 0).then_some(sum)
    }

    fn idle_share_since(self, before: Self) -> Option<f64> {
        // The kernel's account of waiting for disks may go back (proc(5)).
        let (idle, all) = (self.idle.saturating_sub(before.idle), self.all.saturating_sub(before.all));
        (all > 0).then(|| (idle as f64 / all as f64).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  30 0 30 30 30 0 0 0 7 7\ncpu0 10 0 10 10 10 0 0 0 7 7\ncpu1 20 0 20 20 20 0 0 0 0 0\n\
                        intr 5 0\nctxt 1\n";

    #[test]
    fn only_the_cores_that_are_meant_count() {
        assert_eq!(Ticks::sum(STAT, |core| core == 0), Some(Ticks { idle: 20, all: 40 }));
        assert_eq!(Ticks::sum(STAT, |_| true), Some(Ticks { idle: 60, all: 120 }));
        assert_eq!(Ticks::sum(STAT, |core| core > 1), None);
        for broken in ["", "cpu0", "cpu0 x", "cpu99999999999999999999 1 1 1 1", "cpu4294967295 1 1 1 1"] {
            assert_eq!(Ticks::sum(broken, |_| true), None, "{broken:?}");
        }
    }

    #[test]
    fn a_share_is_between_nothing_and_all() {
        let before = Ticks { idle: 100, all: 1000 };
        assert_eq!(Ticks { idle: 105, all: 1010 }.idle_share_since(before), Some(0.5));
        assert_eq!(Ticks { idle: 90, all: 1010 }.idle_share_since(before), Some(0.0));
        assert_eq!(before.idle_share_since(before), None);
    }

    #[test]
    fn this_machine_tells() {
        let mut idle = IdleCores::of_this_thread().unwrap();
        assert_eq!(idle.share(1), None, "too soon");
        assert_eq!(idle.share(WINDOW_NS_MAX + 1), None, "too late");
        assert_eq!(idle.share(WINDOW_NS_MAX + 2), None, "too soon again");
    }
}
