//! The tools for a data directory: what they say of an intact one, of a live one and of a damaged one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_errors_doc,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "a test that cannot go on should panic, and is its own documentation"
)]

mod server;

#[path = "tools/export.rs"]
mod export;
#[path = "tools/faults.rs"]
mod faults;
#[path = "tools/faulty.rs"]
mod faulty;
#[path = "tools/flips.rs"]
mod flips;
#[path = "tools/repair.rs"]
mod repair;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;
use server::{SMALL_JOURNAL, Site, database::sqlite_execute};

const STANDSTILL: &str = "[queues.orders]\nrate = \"1/h\"\n";
const UNLIMITED: &str = "[queues.orders]\nrate = \"unlimited\"\n";
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

/// Every file below a directory with its bytes.
fn everything(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(everything(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

fn inspect(site: &Site) -> Value {
    let (code, out, err) = site.tool("inspect", &["--json"]);
    assert_eq!(code, Some(0), "{out}{err}");
    serde_json::from_str(&out).unwrap()
}

fn assert_intact(site: &Site) {
    let (code, out, err) = site.tool("verify", &[]);
    assert_eq!((code, out.ends_with("intact\n")), (Some(0), true), "{out}{err}");
}

/// A stopped server's site: a backlog in several segments, with keys, and nothing delivered.
fn site_with_backlog() -> Site {
    let site = Site::new(&format!("{SMALL_JOURNAL}{STANDSTILL}"));
    let server = site.start();
    let mut client = server.client();
    for batch in 0..12 {
        let lines: String = (0..20).map(|n| format!("{batch}-{n}-{}\n", "x".repeat(1000))).collect();
        let key = format!("k{batch}");
        let response = client.post("orders", &[NDJSON, ("idempotency-key", &key)], lines);
        assert_eq!(response.status, 202, "{response:?}");
    }
    server.stop();
    assert!(site.files("orders", "seg").len() > 3);
    site
}

#[test]
fn an_intact_directory_is_described_verified_and_left_as_it_is() {
    let site = site_with_backlog();
    let before = everything(&site.data());
    let report = inspect(&site);
    let queue = &report["queues"][0];
    assert_eq!(report["used_by_process"], Value::Null);
    assert_eq!((&queue["queue"], &queue["durable_sequence"]), (&"orders".into(), &240.into()), "{report:#}");
    // The drain lets one record go at once.
    let delivered = queue["delivered_sequence_min"].as_u64().unwrap();
    assert!(delivered <= 1);
    assert_eq!(queue["backlog_records_max"], 240 - delivered);
    let bytes = queue["backlog_bytes_max"].as_u64().unwrap();
    assert!((239 * 1048..240 * 1100).contains(&bytes), "{bytes}");
    assert!(queue["oldest_age_s"].as_u64().is_some());
    assert_eq!(queue["dead_letters"], 0);
    let segments = queue["segments"].as_array().unwrap();
    let sealed = segments.iter().filter(|segment| segment["state"] == "sealed").count();
    assert_eq!(sealed, segments.len() - 1, "{segments:?}");
    assert_eq!(segments.last().unwrap()["state"], "open");
    let (code, text, _) = site.tool("inspect", &[]);
    assert_eq!(code, Some(0));
    for part in ["queue orders", "1 to 240 on disk", "sealed", "open"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert_intact(&site);
    assert!(everything(&site.data()) == before, "something on disk was changed");
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let site = site_with_backlog();
    for command in ["inspect", "verify", "export"] {
        let (code, _, err) = site.tool(command, &["--queue", "other"]);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains("it has: orders"), "{err}");
    }
    fs::remove_file(site.data().join("identity")).unwrap();
    for command in ["inspect", "verify"] {
        let (code, _, err) = site.tool(command, &[]);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains("not a data directory"), "{err}");
    }
    assert!(!site.data().join("identity").exists());
}

/// Stops the load when the test ends, in whatever way.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_live_directory_is_described_and_intact_while_segments_come_and_go() {
    let site = Site::new(&format!("{SMALL_JOURNAL}{UNLIMITED}"));
    let server = site.start();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = server.client();
                let lines = format!("{}\n", "x".repeat(900)).repeat(20);
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(client.post("orders", &[NDJSON], lines.clone()).status, 202);
                }
            });
        }
        let _stop = StopOnDrop(&stop);
        let mut durable = 0;
        for _ in 0..60 {
            let report = inspect(&site);
            let now = report["queues"][0]["durable_sequence"].as_u64().unwrap_or(0);
            assert!(now >= durable, "{report:#}");
            durable = now;
            assert!(report["used_by_process"].as_u64().is_some(), "{report:#}");
            let (code, out, err) = site.tool("verify", &[]);
            assert_eq!(code, Some(0), "{out}{err}");
        }
        assert!(durable > 0);
    });
    server.stop();
    assert_intact(&site);
}

/// A stopped server's site with a delivered record and a dead letter.
fn site_with_dead_letter() -> Site {
    let site = Site::new(
        "[queues.orders]\nrate = \"unlimited\"\n[queues.orders.sink]\ntype = \"sqlite\"\ntable = \"orders\"\n\
         columns = { body = \"$body\" }\n",
    );
    sqlite_execute(&site.database("orders"), "CREATE TABLE orders (body TEXT CHECK (body NOT LIKE '%bad%'))");
    let server = site.start();
    let mut client = server.client();
    client.accept("orders", "good");
    let bad = client.accept("orders", "bad");
    server::eventually("the dead letter", || (client.ticket(&bad)["state"] == "dead").then_some(()));
    server.stop();
    site
}

#[test]
fn dead_letters_are_counted_and_shown() {
    let site = site_with_dead_letter();
    let report = inspect(&site);
    let queue = &report["queues"][0];
    assert_eq!((&queue["dead_letters"], &queue["last_dead_letter"]["sequence"]), (&1.into(), &2.into()), "{report:#}");
    assert_eq!(queue["last_dead_letter"]["body"], "bad");
    assert_eq!(queue["backlog_records_max"], 0);
    assert_intact(&site);
}
