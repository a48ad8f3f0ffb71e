//! The comparison against a real nginx, where there is one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test that cannot go on should panic, and is its own documentation"
)]

use forebay_loadtest::compare::{ComparePlan, compare_peers};
use forebay_loadtest::peer::{Peer, StartOptions};
use std::path::PathBuf;
use std::time::Duration;

#[test]
fn two_servers_take_turns_and_leave_nothing_behind() {
    let options = StartOptions::default();
    let start = || Peer::named("nginx").unwrap().start(&options);
    // If nginx is missing, the error says how to install it.
    let peers = [start().unwrap(), start().unwrap()];
    let plan = ComparePlan {
        connections: vec![1, 3],
        rounds: 2,
        round: Duration::from_millis(50),
        warm_up: Duration::from_millis(10),
        threads: 1,
    };
    let mut rounds = 0;
    let comparisons = compare_peers(&peers, &plan, |_| rounds += 1).unwrap();
    assert_eq!((comparisons.len(), rounds), (2, 8));
    assert!(comparisons.iter().all(|comparison| comparison.peers[1].ratio.is_some()));
    let left: Vec<(PathBuf, PathBuf)> = peers
        .iter()
        .map(|peer| (peer.directory().to_owned(), PathBuf::from(format!("/proc/{}", peer.process_id()))))
        .collect();
    drop(peers);
    assert!(left.iter().all(|(directory, process)| !directory.exists() && !process.exists()));
}
