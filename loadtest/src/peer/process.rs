//! What a server's process takes of the machine, as the kernel tells it.

use rustix::param::clock_ticks_per_second;
use serde::Serialize;
use std::fs;
use std::io;
use std::path::PathBuf;

/// The process of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerProcess {
    id: u32,
}

/// What a process has taken so far, and holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Processor time of all its threads, in the kernel and outside, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory (`VmRSS`).
    pub rss_bytes: u64,
    /// The most that was ever resident (`VmHWM`).
    pub rss_peak_bytes: u64,
}

impl ServerProcess {
    /// The child of `guard` that runs another program than it: a shell's own further processes run the shell's.
    pub(super) fn child_of(guard: u32) -> Option<Self> {
        let program = program(guard)?;
        let ids = fs::read_dir("/proc").ok()?.flatten();
        ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|id| parent(*id) == Some(guard))
            .find(|id| self::program(*id).is_some_and(|its| its != program))
            .map(|id| Self { id })
    }

    /// The process id.
    #[must_use]
    pub fn id(self) -> u32 {
        self.id
    }

    /// Reads what it has taken so far.
    ///
    /// # Errors
    /// The process has ended.
    pub fn usage(self) -> io::Result<Usage> {
        let unreadable = |file: &str| io::Error::other(format!("/proc/{}/{file} is not as expected", self.id));
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id))?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.id))?;
        Ok(Usage {
            cpu_seconds: cpu_ticks(&stat).ok_or_else(|| unreadable("stat"))? as f64 / clock_ticks_per_second() as f64,
            rss_bytes: memory_bytes(&status, "VmRSS:").ok_or_else(|| unreadable("status"))?,
            rss_peak_bytes: memory_bytes(&status, "VmHWM:").ok_or_else(|| unreadable("status"))?,
        })
    }

    /// Reads what each of its threads has taken so far, in seconds, by the thread's name. Those that have ended are missing.
    ///
    /// # Errors
    /// The process has ended.
    pub fn thread_cpu_seconds(self) -> io::Result<Vec<(String, f64)>> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.id))?;
        let of_thread = |thread: io::Result<fs::DirEntry>| {
            // A thread may end meanwhile.
            let stat = fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
            Some((name(&stat)?.to_owned(), cpu_ticks(&stat)? as f64 / clock_ticks_per_second() as f64))
        };
        Ok(threads.filter_map(of_thread).collect())
    }
}

fn program(id: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{id}/exe")).ok()
}

fn parent(id: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    fields_after_name(&stat)?.nth(1)?.parse().ok()
}

fn name(stat: &str) -> Option<&str> {
    Some(stat.split_once('(')?.1.rsplit_once(')')?.0)
}

/// The fields from the third one, the state, on. The name before it is in brackets and may hold anything, brackets and
/// spaces too.
fn fields_after_name(stat: &str) -> Option<impl Iterator<Item = &str>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace())
}

/// The sum of `utime` and `stime`, the fields 14 and 15.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = fields_after_name(stat)?.skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn memory_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "7 (a) b (c) R 5 7 7 0 -1 4194560 1 2 3 4 250 50 8 9 20 0 1";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(fields_after_name(stat).unwrap().nth(1), Some("5"));
        assert_eq!(name(stat), Some("a) b (c"));
        assert_eq!(memory_bytes("VmHWM:\t   2048 kB\nVmRSS:\t 1024 kB\n", "VmRSS:"), Some(1024 * 1024));
        assert_eq!(memory_bytes("Name:\tx\n", "VmRSS:"), None);
    }

    #[test]
    fn threads_have_names_and_take_time() {
        let threads = ServerProcess { id: std::process::id() }.thread_cpu_seconds().unwrap();
        // A test's thread is named after it, of which the kernel keeps 15 bytes.
        let own = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        assert!(threads.iter().any(|(name, _)| *name == own.trim_end()), "{own} is not among {threads:?}");
        assert!(threads.iter().all(|(_, seconds)| *seconds >= 0.0));
    }

    #[test]
    fn this_process_takes_memory() {
        let usage = ServerProcess { id: std::process::id() }.usage().unwrap();
        assert!(usage.rss_bytes > 0 && usage.rss_peak_bytes >= usage.rss_bytes, "{usage:?}");
    }

    #[test]
    fn a_servers_process_is_told_from_the_shells_own() {
        // `read` keeps the subshell, which is a process of the shell, waiting for as long as this test holds the pipe.
        let script = "exec 3<&0; sleep 60 </dev/null & { read -r _ <&3; } & wait";
        let mut shell = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap();
        let started = Instant::now();
        let found = loop {
            match ServerProcess::child_of(shell.id()) {
                Some(found) => break found,
                // Only a failure ever takes so long.
                None => assert!(started.elapsed() < Duration::from_mins(1), "the child is not found"),
            }
        };
        let name = fs::read_to_string(format!("/proc/{}/comm", found.id())).unwrap();
        assert!(Command::new("kill").arg(found.id().to_string()).status().unwrap().success());
        drop(shell.stdin.take());
        assert!(shell.wait().unwrap().success());
        assert_eq!(name, "sleep\n");
    }
}
