//! Running seeds: one, or many on all cores.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::thread;

use forebay::planted::Bug;
use serde::{Deserialize, Serialize};

use crate::world::{Summary, World};

/// The test that runs all seeds, and the variables that tell a process of it which part is its own.
const TEST: &str = "every_seed_keeps_every_promise";
const PART: &str = "FOREBAY_SIMULATION_PART";
const PARTS: &str = "FOREBAY_SIMULATION_PARTS";
/// What stands before the total in the output of such a process.
const TOTAL: &str = "total: ";

/// What many seeds did together.
#[derive(Default, Deserialize, Serialize)]
pub struct Total {
    seeds: u64,
    starts: u64,
    refused: u64,
    requests: usize,
    rows: usize,
    /// How often what does not come up in every seed came up.
    pub seen: BTreeMap<String, u64>,
    failures: Vec<(u64, String)>,
}

impl Total {
    fn add(&mut self, seeds: u64, summary: &Summary) {
        self.seeds += seeds;
        self.starts += summary.starts;
        self.refused += u64::from(summary.refused);
        self.requests += summary.requests;
        self.rows += summary.rows;
        for (what, times) in &summary.seen {
            *self.seen.entry((*what).to_owned()).or_default() += times;
        }
    }

    fn join(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.starts += other.starts;
        self.refused += other.refused;
        self.requests += other.requests;
        self.rows += other.rows;
        for (what, times) in other.seen {
            *self.seen.entry(what).or_default() += times;
        }
        self.failures.extend(other.failures);
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, starts, refused, requests, rows, seen, .. } = self;
        write!(f, "{seeds} seeds: {starts} starts, {refused} ended by damage, {requests} requests, {rows} rows")?;
        seen.iter().try_for_each(|(what, times)| write!(f, "\n{times:>9} {what}"))
    }
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Runs one seed, with a bug planted if one is given.
pub fn run_seed(seed: u64, steps: u64, has_trace: bool, bug: Option<Bug>) -> (Summary, Result<(), String>) {
    plant(bug);
    let run = catch_unwind(AssertUnwindSafe(|| World::new(seed, steps, has_trace).run(steps)));
    plant(None);
    run.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        (Summary::default(), Err(format!("panic: {}", text.unwrap_or_default())))
    })
}

#[cfg(feature = "planted-bugs")]
fn plant(bug: Option<Bug>) {
    forebay::planted::plant(bug);
}

#[cfg(not(feature = "planted-bugs"))]
fn plant(bug: Option<Bug>) {
    assert_eq!(bug, None, "bugs are planted with the feature planted-bugs only");
}

/// Runs every seed of one part: those that leave `part` over when they are divided by `parts`.
fn run_part(seeds: u64, steps: u64, part: u64, parts: u64) -> Total {
    let mut total = Total::default();
    for seed in (part..seeds).step_by(usize::try_from(parts).unwrap()) {
        let (summary, result) = run_seed(seed, steps, false, None);
        total.add(1, &summary);
        if let Err(what) = result {
            total.failures.push((seed, what));
            // A few are enough to see a pattern.
            if total.failures.len() == 5 {
                break;
            }
        }
    }
    total
}

/// Runs seeds on all cores, in a process for each: threads of one process would wait for each other whenever the
/// journal maps memory.
///
/// # Panics
///
/// A seed broke a promise; the message has the command that replays the first of them.
pub fn run_seeds(seeds: u64, steps: u64) -> Total {
    if let (Some(part), Some(parts)) = (number(PART), number(PARTS)) {
        let total = run_part(seeds, steps, part, parts);
        println!("\n{TOTAL}{}", serde_json::to_string(&total).unwrap());
        return total;
    }
    let parts = thread::available_parallelism().map_or(1, usize::from);
    let start = |part: usize| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", TEST, "--nocapture"]).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command.env(PART, part.to_string()).env(PARTS, parts.to_string()).spawn().unwrap()
    };
    let mut total = Total::default();
    let children: Vec<_> = (0..parts).map(start).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(TOTAL));
        let part: Total = serde_json::from_str(line.unwrap_or_else(|| panic!("a part ended early: {text}"))).unwrap();
        total.join(part);
    }
    total.failures.sort();
    if let Some((seed, _)) = total.failures.first() {
        let list: String = total.failures.iter().map(|(seed, what)| format!("  seed {seed}: {what}\n")).collect();
        panic!(
            "promises were broken:\n{list}replay the first with:\n  FOREBAY_SIMULATION_SEED={seed} \
             FOREBAY_SIMULATION_STEPS={steps} cargo test --release --test simulation every_seed -- --nocapture"
        );
    }
    total
}
