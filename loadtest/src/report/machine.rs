//! The machine that a run was made on, as the kernel tells it.

use serde::Serialize;
use std::fs;
use std::thread;

/// What a reader needs to know to compare figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// The processor's model name.
    pub cpu: String,
    /// The kernel's name and release.
    pub kernel: String,
    /// Memory, in mebibytes.
    pub memory_mib: u64,
}

impl Machine {
    /// Reads `/proc`; what is not to be found there is named `unknown` or is 0.
    #[must_use]
    pub fn from_proc() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let release = read("/proc/sys/kernel/osrelease");
        Self {
            cores: thread::available_parallelism().map_or(0, Into::into),
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            kernel: if release.is_empty() { "unknown".to_owned() } else { format!("Linux {}", release.trim()) },
            memory_mib: field(&read("/proc/meminfo"), "MemTotal").map_or(0, |text| kibibytes(&text) / 1024),
        }
    }
}

/// The value of the first line `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn kibibytes(text: &str) -> u64 {
    text.trim_end_matches(" kB").parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let text = "processor\t: 0\nmodel name\t: Some CPU: fast\nmodel name\t: other\n";
        assert_eq!(field(text, "model name").as_deref(), Some("Some CPU: fast"));
        assert_eq!(field(text, "absent"), None);
        assert_eq!(kibibytes("2048 kB"), 2048);
    }

    #[test]
    fn this_machine_has_a_core() {
        assert!(Machine::from_proc().cores > 0);
    }
}
