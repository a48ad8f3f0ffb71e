//! Running seeds: one, or many on all cores.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
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
/// The first seed, and how many.
pub const FIRST_SEED: &str = "FOREBAY_SIMULATION_FIRST_SEED";
pub const SEEDS: &str = "FOREBAY_SIMULATION_SEEDS";
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
    /// Of everything that happened, whatever the order of seeds.
    pub digest: u64,
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
        self.digest = self.digest.wrapping_add(summary.digest);
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
        self.digest = self.digest.wrapping_add(other.digest);
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

/// What must come up in so many seeds, or the simulation tries less than it says.
const SEEN_SEEDS_MIN: u64 = 2000;
const SEEN: [&str; 27] = [
    "acknowledged from memory and lost",
    "busy",
    "client gone",
    "database set back",
    "delivered in another lane",
    "delivered to a second sink",
    "directory copied",
    "directory set back",
    "disk full",
    "drain fenced",
    "key forgotten",
    "misdirected write",
    "position before the journal",
    "position beyond the journal",
    "rot",
    "shed",
    "sink added when records had gone",
    "take-over refused",
    "too large",
    "turned away by a stop",
    "paused",
    "told another number of lanes",
    "a lane more",
    "a lane less",
    "told another rate",
    "zombie committed",
    "zombie fenced",
];

impl Total {
    /// Something that ought to come up in so many seeds and has not.
    pub fn unseen(&self) -> Option<&'static str> {
        let is_unseen = |what: &&str| self.seeds >= SEEN_SEEDS_MIN && !self.seen.contains_key(*what);
        SEEN.into_iter().find(is_unseen)
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

/// Runs every seed of one part: from the one with this number on, one of every `parts`.
pub fn run_part(seeds: Range<u64>, steps: u64, part: u64, parts: u64) -> Total {
    let mut total = Total::default();
    for seed in seeds.skip(usize::try_from(part).unwrap()).step_by(usize::try_from(parts).unwrap()) {
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
pub fn run_seeds(seeds: Range<u64>, steps: u64) -> Total {
    if let (Some(part), Some(parts)) = (number(PART), number(PARTS)) {
        let total = run_part(seeds, steps, part, parts);
        println!("\n{TOTAL}{}", serde_json::to_string(&total).unwrap());
        return total;
    }
    let parts = thread::available_parallelism().map_or(1, usize::from);
    let start = |part: usize| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", TEST, "--nocapture"]).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command.env(PART, part.to_string()).env(PARTS, parts.to_string());
        command.env(FIRST_SEED, seeds.start.to_string()).env(SEEDS, (seeds.end - seeds.start).to_string());
        command.spawn().unwrap()
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
