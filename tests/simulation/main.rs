//! Seeded simulation: the whole way of a record through the real journal, recovery and drain, on a machine whose disk
//! fails, whose power is cut, whose clocks jump and whose database misbehaves. `docs/testing.md` explains it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a simulation that is wrong about itself must end")]

mod clients;
mod disk;
mod echo;
mod encoder;
mod extremes;
mod invariants;
mod ledger;
mod machine;
mod model;
mod pace;
mod process;
mod random;
mod regressions;
mod repairs;
mod runs;
mod settle;
mod sink;
mod site;
mod table;
mod weather;
mod world;

use runs::{FIRST_SEED, SEEDS, number, run_part, run_seed, run_seeds};

/// Steps of each seed.
const STEPS: u64 = 3000;

fn steps() -> u64 {
    number("FOREBAY_SIMULATION_STEPS").unwrap_or(STEPS)
}

/// `FOREBAY_SIMULATION_SEEDS` says how many, from `FOREBAY_SIMULATION_FIRST_SEED` on; `FOREBAY_SIMULATION_SEED` names one
/// and prints what happens.
#[test]
fn every_seed_keeps_every_promise() {
    if let Some(seed) = number("FOREBAY_SIMULATION_SEED") {
        let (summary, result) = run_seed(seed, steps(), true, None);
        println!("{}", summary.trace);
        println!("seed {seed}: {result:?}, {} starts, {} rows", summary.starts, summary.rows);
        assert_eq!(result, Ok(()), "seed {seed}");
        return;
    }
    let first = number(FIRST_SEED).unwrap_or(0);
    let seeds = number(SEEDS).unwrap_or(if cfg!(debug_assertions) { 200 } else { 10_000 });
    let total = run_seeds(first..first + seeds, steps());
    println!("{total}");
    assert_eq!(total.unseen(), None, "so many seeds do not try everything");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        let (first, _) = run_seed(seed, steps(), true, None);
        let (second, _) = run_seed(seed, steps(), true, None);
        assert!(first.trace.len() > 1000, "seed {seed} has a trace");
        assert!(first.trace == second.trace, "seed {seed} took two ways");
        assert_eq!(first.digest, second.digest);
        let (without, _) = run_seed(seed, steps(), false, None);
        assert_eq!(first.digest, without.digest, "looking at seed {seed} changes it");
    }
}

/// Neither the order of seeds nor what a process has done before them leaves anything behind.
#[test]
fn other_processes_take_the_same_way() {
    let here = run_part(100..120, steps(), 0, 1);
    assert_eq!(here.digest, run_seeds(100..120, steps()).digest);
}

/// The proof that the simulation can fail.
#[cfg(feature = "planted-bugs")]
#[test]
fn every_planted_bug_is_found() {
    let seeds_max = number(SEEDS).unwrap_or(2000);
    let mut missed = Vec::new();
    println!("| Planted bug | Seeds | How it shows |\n|---|---:|---|");
    for bug in forebay::planted::Bug::SIMULATED {
        let found = (0..seeds_max).find_map(|seed| {
            let (_, result) = run_seed(seed, steps(), false, Some(bug));
            result.err().map(|what| (seed + 1, what))
        });
        match found {
            Some((seeds, what)) => println!("| `{bug:?}` | {seeds} | {what:.120} |"),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found within {seeds_max} seeds: {missed:?}");
}
