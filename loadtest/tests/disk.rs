//! What clients get of a disk, with the real forebay and the real fio.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test that cannot go on should panic")]

use forebay_loadtest::disk::{DiskPlan, measure};
use std::time::Duration;

mod program;

#[test]
fn forebay_and_fio_are_measured_in_turns() {
    let plan = DiskPlan {
        forebay: program::forebay(),
        directory: None,
        rounds: 1,
        round: Duration::from_millis(300),
        large_bytes: 16 << 20,
    };
    let mut lines = Vec::new();
    // If fio is missing, the error says how to install it.
    let measured = measure(&plan, |line| lines.push(line)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((measured.len(), lines.len()), (2, 2));
    for one in &measured {
        let [(ours, theirs)] = one.rounds[..] else { panic!("{one}") };
        assert!(ours > 0.0 && theirs > 0.0, "{one}");
    }
}
