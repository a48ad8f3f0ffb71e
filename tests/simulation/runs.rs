//! Running seeds: one, or many on all cores.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use forebay::planted::Bug;

use crate::world::{Summary, World};

/// What many seeds did together.
#[derive(Default)]
pub struct Total {
    seeds: u64,
    starts: u64,
    refused: u64,
    requests: usize,
    rows: usize,
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, starts, refused, requests, rows } = self;
        write!(f, "{seeds} seeds: {starts} starts, {refused} ended by damage, {requests} requests, {rows} rows")
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

/// Runs seeds on all cores.
///
/// # Panics
///
/// A seed broke a promise; the message has the command that replays the first of them.
pub fn run_seeds(seeds: u64, steps: u64) -> Total {
    let next = AtomicU64::new(0);
    let total = Mutex::new(Total::default());
    let failures = Mutex::new(Vec::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            let (summary, result) = run_seed(seed, steps, false, None);
            let mut total = total.lock().unwrap();
            total.seeds += 1;
            total.starts += summary.starts;
            total.refused += u64::from(summary.refused);
            total.requests += summary.requests;
            total.rows += summary.rows;
            if let Err(what) = result {
                failures.lock().unwrap().push((seed, what));
                // A few are enough to see a pattern.
                if failures.lock().unwrap().len() >= 10 {
                    next.store(seeds, Ordering::Relaxed);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    if let Some((seed, _)) = failures.first() {
        let list: String = failures.iter().map(|(seed, what)| format!("  seed {seed}: {what}\n")).collect();
        panic!(
            "promises were broken:\n{list}replay the first with:\n  FOREBAY_SIMULATION_SEED={seed} \
             FOREBAY_SIMULATION_STEPS={steps} cargo test --release --test simulation every_seed -- --nocapture"
        );
    }
    total.into_inner().unwrap()
}
