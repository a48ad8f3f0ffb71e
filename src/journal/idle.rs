//! How much of the cores that the journal may run on is idle, by the kernel's own account.
//!
//! The journal commits as often as idle cores allow, since every commit takes processor time from whoever
//! else runs there (`docs/decisions/0008-gather-only-when-cores-are-busy.md`). A process with a
//! quota of processor time takes it from itself, however idle the cores are, so there nothing is watched.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::thread::CpuSet;

/// The shortest time over which a share is reckoned, in nanoseconds: the kernel counts in ticks of 10 ms.
const WINDOW_NS_MIN: u64 = 50_000_000;
/// A window that has become longer than this says nothing of the present.
const WINDOW_NS_MAX: u64 = 1_000_000_000;
/// Of `/proc/stat` so much is read, which is the lines of more than a thousand cores.
const STAT_BYTES_MAX: usize = 128 * 1024;
/// Where control groups are to be found by their paths: those of version 2 (with a line `0::` of their own in
/// `/proc/self/cgroup`), and the processor's of version 1.
const CGROUPS: &str = "/sys/fs/cgroup";

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
    /// Watches the cores on which the calling thread may run now; `None` if the kernel does not tell, or if the
    /// process has a quota.
    #[must_use]
    pub fn of_this_thread() -> Option<Self> {
        if has_quota(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default(), Path::new(CGROUPS)) {
            return None;
        }
        Self::watch(File::open("/proc/stat").ok()?, rustix::thread::sched_getaffinity(None).ok()?)
    }

    fn watch(stat: File, cores: CpuSet) -> Option<Self> {
        let text = vec![0; STAT_BYTES_MAX].into_boxed_slice();
        let mut watched = Self { stat, cores, text, began_ns: 0, before: Ticks::default() };
        watched.before = watched.read()?;
        Some(watched)
    }

    /// The share of their time that the cores were idle, from 0 to 1, once enough of it has gone by since the last
    /// look. Costs a system call then, and nothing otherwise.
    ///
    /// # Errors
    ///
    /// The kernel does not tell any more.
    pub fn share(&mut self, now_ns: u64) -> Result<Option<f64>, Unknown> {
        let window_ns = now_ns.saturating_sub(self.began_ns);
        if window_ns < WINDOW_NS_MIN {
            return Ok(None);
        }
        let now = self.read().ok_or(Unknown)?;
        let before = std::mem::replace(&mut self.before, now);
        self.began_ns = now_ns;
        Ok(if window_ns > WINDOW_NS_MAX { None } else { now.idle_share_since(before) })
    }

    fn read(&mut self) -> Option<Ticks> {
        let length = self.stat.read_at(&mut self.text, 0).ok()?;
        if length == self.text.len() {
            // The last number may be cut short.
            return None;
        }
        Ticks::sum(std::str::from_utf8(&self.text[..length]).ok()?, |core| self.cores.is_set(core))
    }
}

/// How idle the cores are cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

/// Whether any of the control groups that the process is in, or one above them, has a quota of processor time.
/// `memberships` is what `/proc/self/cgroup` says (cgroups(7)).
fn has_quota(memberships: &str, root: &Path) -> bool {
    memberships.lines().any(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next(), fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        let path = path.trim_start_matches('/');
        let is_of_processor = controllers.split(',').any(|controller| controller == "cpu");
        // Within a container the path is that of the host, and the container's own group lies at the root.
        let groups = |mount: PathBuf| mount.join(path).ancestors().map(Path::to_path_buf).collect::<Vec<_>>();
        if controllers.is_empty() {
            groups(root.to_path_buf()).iter().any(|group| limits(&group.join("cpu.max"), |quota| quota != "max"))
        } else if is_of_processor {
            let is_quota = |quota: &str| quota.parse().is_ok_and(|us: i64| us > 0);
            groups(root.join("cpu")).iter().any(|group| limits(&group.join("cpu.cfs_quota_us"), is_quota))
        } else {
            false
        }
    })
}

/// Whether the first word of a file is a quota.
fn limits(file: &Path, is_quota: impl Fn(&str) -> bool) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_ascii_whitespace().next().is_some_and(is_quota)
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
    fn windows_are_neither_too_short_nor_too_long() {
        let stat = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str| fs::write(stat.path(), text).unwrap();
        write(STAT);
        let mut cores = CpuSet::new();
        cores.set(0);
        let mut idle = IdleCores::watch(stat.reopen().unwrap(), cores).unwrap();
        assert_eq!(idle.share(1), Ok(None), "too soon");
        write("cpu0 20 0 20 20 10 0 0 0 7 7\n");
        assert_eq!(idle.share(WINDOW_NS_MIN), Ok(Some(1.0 / 3.0)));
        assert_eq!(idle.share(WINDOW_NS_MIN + 1), Ok(None), "too soon again");
        write("cpu0 30 0 30 30 10 0 0 0 7 7\n");
        assert_eq!(idle.share(WINDOW_NS_MAX + WINDOW_NS_MIN + 1), Ok(None), "too late");
        write("cpu1 30 0 30 30 10 0 0 0 7 7\n");
        assert_eq!(idle.share(2 * WINDOW_NS_MAX), Err(Unknown), "the core is gone");
        write(&STAT.repeat(STAT_BYTES_MAX / STAT.len() + 1));
        assert_eq!(idle.share(2 * WINDOW_NS_MAX), Err(Unknown), "more than is read");
    }

    #[test]
    fn quotas_are_found_in_both_versions_and_above() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("system.slice/a/cpu.max", "max 100000\n");
        write("limited.slice/cpu.max", "50000 100000\n");
        write("limited.slice/b/cpu.max", "max 100000\n");
        write("cpu/old/cpu.cfs_quota_us", "-1\n");
        write("cpu/tight/cpu.cfs_quota_us", "200000\n");
        for (memberships, expected) in [
            ("0::/system.slice/a\n", false),
            ("0::/limited.slice/b\n", true),
            ("1:name=systemd:/x\n0::/gone\n", false),
            ("4:memory:/tight\n3:cpu,cpuacct:/old\n", false),
            ("3:cpu,cpuacct:/tight\n", true),
            ("broken", false),
            ("", false),
        ] {
            assert_eq!(has_quota(memberships, root.path()), expected, "{memberships:?}");
        }
    }
}
