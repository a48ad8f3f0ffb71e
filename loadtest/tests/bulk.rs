//! The drain beside what else fills a sink, with the real forebay, servers and programs.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test that cannot go on should panic")]

use forebay_loadtest::bulk::{BulkPlan, compare_bulk, measure_cpu};
use std::path::Path;
use std::time::Duration;

mod program;

/// Batches are small, so that the drain is still at it when its first one is noticed.
fn plan(directory: &Path) -> BulkPlan {
    BulkPlan {
        forebay: program::forebay(),
        concurrency: None,
        records: 5_000,
        batch_records: 10,
        same_transactions: false,
        burst: None,
        rounds: 1,
        directory: directory.to_path_buf(),
    }
}

/// If a server or a program is missing, the error says how to install it.
fn both_fill(sink: &str) {
    let directory = tempfile::tempdir().unwrap();
    both_fill_by(&plan(directory.path()), sink);
}

fn both_fill_by(plan: &BulkPlan, sink: &str) {
    let mut lines = Vec::new();
    let measured = compare_bulk(plan, sink, |line| lines.push(line)).unwrap_or_else(|error| panic!("{sink}: {error}"));
    let [(ours, theirs)] = measured.rounds[..] else { panic!("{measured}") };
    assert!(ours > 0.0 && theirs > 0.0 && lines.len() == 1, "{measured}");
}

#[test]
fn a_file_is_filled_by_the_drain_and_by_cat() {
    both_fill("file");
}

#[test]
fn postgres_is_filled_by_the_drain_and_by_psql_in_transactions_of_the_same_size() {
    let directory = tempfile::tempdir().unwrap();
    both_fill_by(&BulkPlan { same_transactions: true, ..plan(directory.path()) }, "postgres");
    let other = BulkPlan { same_transactions: true, ..plan(Path::new("/nonexistent")) };
    let error = compare_bulk(&other, "sqlite", |_| {}).unwrap_err().to_string();
    assert!(error.contains("--same-transactions"), "{error}");
}

#[test]
fn redis_is_filled_by_the_drain_and_by_redis_cli() {
    both_fill("redis");
}

#[test]
fn nginx_is_asked_by_the_drain_and_by_wrk() {
    both_fill("http");
}

#[cfg(feature = "brokers")]
#[test]
fn nats_is_filled_by_the_drain_and_by_the_client_library() {
    both_fill("nats");
}

#[cfg(feature = "brokers")]
#[test]
fn rabbitmq_is_filled_by_the_drain_and_by_the_client_library() {
    both_fill("rabbitmq");
}

#[test]
fn what_is_no_sink_is_refused_before_anything_is_filled() {
    let plan = plan(Path::new("/nonexistent"));
    let error = compare_bulk(&plan, "ftp://user:secret@host/", |_| {}).unwrap_err().to_string();
    assert!(error.contains("rabbitmq") && !error.contains("secret"), "{error}");
}

#[test]
fn a_file_that_is_there_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kept.ndjson");
    std::fs::write(&path, "kept").unwrap();
    let sink = format!("file:{}", path.display());
    let error = compare_bulk(&plan(directory.path()), &sink, |_| {}).unwrap_err().to_string();
    assert!(error.contains("kept.ndjson") && error.contains("exists"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept");
}

#[test]
fn the_processor_time_of_a_drain_is_told_by_thread() {
    let directory = tempfile::tempdir().unwrap();
    let figures = measure_cpu(&plan(directory.path()), "file", 1000, Duration::from_secs(1)).unwrap();
    let names: Vec<_> = figures.threads_percent.keys().copied().collect();
    assert_eq!(names, ["drain", "ingress", "journal", "others"]);
    assert!(figures.delivered_per_second > 0.0 && figures.forebay_percent > 0.0, "{figures}");
    assert_eq!(figures.server_percent, None);
}

/// As one that is larger than forebay takes shows, which says so.
#[test]
fn the_burst_of_a_drain_is_what_it_was_told() {
    let directory = tempfile::tempdir().unwrap();
    let plan = BulkPlan { burst: Some(1_000_000_001), ..plan(directory.path()) };
    let error = measure_cpu(&plan, "file", 1000, Duration::from_secs(1)).unwrap_err().to_string();
    assert!(error.contains("`queues.orders.burst` cannot be 1000000001"), "{error}");
}
