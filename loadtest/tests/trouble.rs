//! A database in trouble, with the real forebay and the real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test that cannot go on should panic")]

use forebay_loadtest::trouble::{Cause, TroublePlan, measure};
use std::time::Duration;

mod program;

#[test]
fn a_lock_makes_the_backlog_grow_and_the_probe_goes_on() {
    let plan = TroublePlan {
        forebay: program::forebay(),
        directory: None,
        causes: vec![Cause::Lock],
        modes: vec!["aimd".to_owned()],
        share_min_percent: 5,
        rate_per_second: 200,
        before: Duration::from_secs(1),
        trouble: Duration::from_secs(2),
        after: Duration::from_secs(2),
    };
    // If PostgreSQL is missing, the error says how to install it.
    let trouble = measure(&plan, |_| {}).unwrap_or_else(|error| panic!("{error}"));
    let [without, with] = &trouble.runs[..] else { panic!("{}", trouble.to_text()) };
    for run in [without, with] {
        assert_eq!(
            run.phases.iter().map(|phase| phase.name).collect::<Vec<_>>(),
            ["alone", "before", "during", "after"]
        );
        assert!(run.phases.iter().all(|phase| phase.probe.p50_ms > 0.0), "{run}");
    }
    assert!(without.samples.is_empty() && without.arrivals_per_100ms.iter().all(|rows| *rows == 0), "{without}");
    // What the lock keeps out is still there when it ends: 2 s of it, and the backlog from before.
    let [before, during] = [&with.phases[1], &with.phases[2]];
    assert!(during.backlog_end_records > before.backlog_end_records, "{}", trouble.to_text());
    assert!(
        with.samples.iter().all(|sample| (sample.ceiling - 200.0).abs() < 0.5 && sample.rate_limit <= sample.ceiling)
    );
    assert_eq!(trouble.sections().len(), 5);
}
