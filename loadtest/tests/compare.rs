//! Comparisons with the real servers. One that is not installed fails its test with the command that installs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test that cannot go on should panic, and is its own documentation"
)]

use forebay_loadtest::compare::{CompareError, ComparePlan, Event, compare_peers};
use forebay_loadtest::peer::{Peer, RunningPeer, StartOptions};
use forebay_loadtest::wire::RoundPlan;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const ROUND: RoundPlan = RoundPlan { connections: 4, threads: 2, duration: Duration::from_millis(300) };

fn start(name: &str) -> RunningPeer {
    // If the program is missing, the error says how to install it.
    Peer::named(name).unwrap().start(&StartOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn short_plan() -> ComparePlan {
    ComparePlan {
        connections: vec![1, 3],
        rounds: 2,
        round: Duration::from_millis(50),
        warm_up: Duration::from_millis(10),
        threads: 1,
        open_loop: false,
    }
}

/// The processes, other than zombies, that have `directory` in their command line.
fn processes_of(directory: &Path) -> Vec<String> {
    let directory = directory.to_str().unwrap();
    let command_line = |process: fs::DirEntry| fs::read_to_string(process.path().join("cmdline")).ok();
    let lines = fs::read_dir("/proc").unwrap().flatten().filter_map(command_line);
    lines.filter(|line| line.contains(directory)).collect()
}

/// Loads a peer for one round, asks it what it holds, and stops it; nothing may be left of it.
fn round_trip(name: &str) {
    let peer = start(name);
    let measured = peer.wire.closed_loop(&ROUND).unwrap();
    assert!(measured.acknowledged > 4, "{measured:?}");
    assert_eq!((measured.offered, measured.failure), (measured.acknowledged, None));
    assert_eq!(measured.latency_us.len(), measured.acknowledged);
    assert!(measured.seconds > 0.0, "{}", measured.seconds);
    assert_eq!(peer.wire.held().unwrap(), Some(measured.acknowledged));
    let directory = peer.directory().to_owned();
    assert!(!processes_of(&directory).is_empty());
    drop(peer);
    assert!(!directory.exists());
    // Processes that follow their parent into its end may take a moment.
    let stopped = Instant::now();
    while !processes_of(&directory).is_empty() {
        // Only a failure ever takes so long.
        assert!(stopped.elapsed() < Duration::from_mins(1), "left: {:?}", processes_of(&directory));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn redis_holds_what_it_acknowledged() {
    round_trip("redis");
}

#[test]
fn nats_holds_what_it_acknowledged() {
    round_trip("nats");
}

#[test]
fn postgres_holds_what_it_acknowledged() {
    round_trip("postgres");
}

#[cfg(feature = "brokers")]
#[test]
fn rabbitmq_holds_what_it_acknowledged() {
    round_trip("rabbitmq");
}

#[cfg(not(feature = "brokers"))]
#[test]
fn rabbitmq_says_which_feature_it_needs() {
    let error = Peer::named("rabbitmq").unwrap().start(&StartOptions::default()).unwrap_err();
    assert!(error.to_string().contains("--features brokers"), "{error}");
}

#[test]
fn nginx_acknowledges_and_cannot_be_asked() {
    let peer = start("nginx");
    let measured = peer.wire.closed_loop(&ROUND).unwrap();
    assert!(measured.acknowledged > 4, "{measured:?}");
    assert_eq!((measured.offered, measured.failure), (measured.acknowledged, None));
    assert_eq!(peer.wire.held().unwrap(), None);
}

#[test]
fn two_servers_take_turns_and_leave_nothing_behind() {
    let peers = [start("nginx"), start("nginx")];
    let mut rounds = 0;
    let comparisons = compare_peers(&peers, &short_plan(), |_| rounds += 1).unwrap();
    assert_eq!((comparisons.len(), rounds), (2, 8));
    assert!(comparisons.iter().all(|comparison| comparison.peers[1].ratio.is_some()));
    assert!(comparisons.iter().all(|comparison| comparison.open_loop.is_empty()));
    let directories: Vec<_> = peers.iter().map(|peer| peer.directory().to_owned()).collect();
    drop(peers);
    assert!(directories.iter().all(|directory| !directory.exists() && processes_of(directory).is_empty()));
}

#[test]
fn every_peer_is_measured_open_loop() {
    let mut names = vec!["nginx", "redis", "nats", "postgres"];
    names.extend(cfg!(feature = "brokers").then_some("rabbitmq"));
    let peers: Vec<RunningPeer> = names.iter().copied().map(start).collect();
    let plan = ComparePlan { connections: vec![4], rounds: 1, open_loop: true, ..short_plan() };
    let mut steps = Vec::new();
    let comparisons = compare_peers(&peers, &plan, |event| {
        if let Event::OpenLoop(peer, step) = event {
            steps.push((step.percent_of_peak, peer));
        }
    });
    let comparisons = comparisons.unwrap();
    let in_turns = [25, 50, 75, 90].into_iter().flat_map(|percent| names.iter().map(move |name| (percent, *name)));
    assert_eq!(steps, in_turns.collect::<Vec<_>>());
    for (peer, open_loop) in comparisons[0].peers.iter().zip(&comparisons[0].open_loop) {
        assert_eq!((open_loop.peer, open_loop.steps.len()), (peer.peer, 4));
        for step in &open_loop.steps {
            assert!(step.latency.max_ms > 0.0 && step.acknowledged_per_second > 0.0, "{open_loop:?}");
            let share = f64::from(step.percent_of_peak) / 100.0;
            assert!((step.due_per_second / peer.median_per_second - share).abs() < 0.01, "{open_loop:?}");
        }
    }
}

#[test]
fn the_command_writes_a_page_and_json() {
    let directory = tempfile::tempdir().unwrap();
    let (html, json) = (directory.path().join("compare.html"), directory.path().join("compare.json"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-loadtest"));
    command.args(["compare", "--peer", "nginx", "--peer", "redis", "--connections", "1,3", "--rounds", "2"]);
    command.args(["--seconds", "0.05", "--open", "--html"]).arg(&html).arg("--json").arg(&json);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let page = fs::read_to_string(html).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"), "{page}");
    // For each number of connections: requests per second, p50, p99, p99.9 and max.
    assert_eq!(page.matches("<svg").count(), 2 * 5, "{page}");
    assert!(page.contains("--seconds 0.05 --open"), "{page}");
    assert!(!page.contains("src=") && !page.contains("href="), "{page}");

    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(json["rounds"].as_array().unwrap().len(), 2 * 2 * 2);
    for open_loop in json["comparisons"][1]["open_loop"].as_array().unwrap() {
        let percents: Vec<_> =
            open_loop["steps"].as_array().unwrap().iter().map(|step| &step["percent_of_peak"]).collect();
        assert_eq!(percents, [25, 50, 75, 90]);
    }
}

#[test]
fn a_server_that_has_gone_fails_the_comparison() {
    for name in ["nginx", "redis"] {
        let peer = start(name);
        let group = format!("-{}", peer.process_group());
        assert!(Command::new("kill").args(["-KILL", "--", &group]).status().unwrap().success());
        let failed = compare_peers(&[peer], &short_plan(), |_| {}).unwrap_err();
        assert!(matches!(failed, CompareError::BadRound { .. } | CompareError::Wire { .. }), "{failed}");
    }
}

/// What the load test leaves in a directory.
fn left_in(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

#[test]
fn a_load_test_that_is_killed_leaves_neither_servers_nor_directories() {
    let parent = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-loadtest"));
    command.args(["compare", "--peer", "redis", "--rounds", "1000", "--directory"]).arg(parent.path());
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while left_in(parent.path()) == 0 || processes_of(parent.path()).len() < 2 {
        assert!(started.elapsed() < Duration::from_mins(1) && child.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();
    while left_in(parent.path()) > 0 || !processes_of(parent.path()).is_empty() {
        assert!(killed.elapsed() < Duration::from_mins(1), "{:?}", processes_of(parent.path()));
        thread::sleep(Duration::from_millis(50));
    }
}
