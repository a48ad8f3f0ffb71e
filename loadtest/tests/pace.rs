//! How evenly records arrive, with the real forebay, databases and proxies.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test that cannot go on should panic")]

use forebay_loadtest::pace::{CONTENDERS, PacePlan, batch_records, measure};
use std::time::Duration;

mod program;

/// The rate of the test, low enough for any machine.
const RATE: u32 = 200;

#[test]
fn nothing_lets_more_through_than_it_may() {
    let plan = PacePlan {
        forebay: program::forebay(),
        directory: None,
        contenders: CONTENDERS.to_vec(),
        rates: vec![RATE],
        rounds: 1,
        span: Duration::from_secs(2),
        connections: 8,
    };
    let mut told = 0;
    // If a program is missing, the error says how to install it.
    let pace = measure(&plan, |_| told += 1).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((pace.runs.len(), told), (CONTENDERS.len(), CONTENDERS.len()));
    for run in &pace.runs {
        let arrivals = &run.arrivals;
        assert!(arrivals.records > 0 && arrivals.second_max > 0, "{run}");
        assert_eq!(arrivals.per_100ms.iter().sum::<u64>(), arrivals.records, "{run}");
        if let Some(bound) = run.second_bound {
            // What was released just before a second may be held up on its way and arrive in it: as much as leaves at once.
            let bound = bound + (bound - u64::from(RATE)) + batch_records(RATE);
            assert!(arrivals.second_max <= bound, "{run}, where {bound} may arrive");
        }
    }
    let text = pace.to_text();
    for contender in &CONTENDERS {
        assert!(text.contains(contender.name), "{text}");
    }
    assert_eq!(pace.sections().len(), 1);
    assert!(pace.sections()[0].plot.as_ref().unwrap().to_image().unwrap().contains("forebay-sqlite"));
}
