//! Delivered segments are used again, and what must outlive them does.

use super::*;
use server::{SMALL_JOURNAL, eventually};

const SEGMENT_BYTES: u64 = 64 * 1024;
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

/// Posts `batches` times twenty records of a kibibyte; returns the last ticket.
fn fill(client: &mut Client, batches: usize) -> String {
    let mut last = String::new();
    for batch in 0..batches {
        let lines: String = (0..20).map(|n| format!("{batch}-{n}-{}\n", "x".repeat(1000))).collect();
        let response = client.post("orders", &[NDJSON], lines);
        assert_eq!(response.status, 202, "{response:?}");
        last = response.text("last_ticket");
    }
    last
}

/// A killed server's site with a backlog in several segments.
pub fn site_with_many_segments() -> Site {
    let site = Site::new(&format!("{SMALL_JOURNAL}{STANDSTILL}"));
    let server = site.start();
    fill(&mut server.client(), 20);
    server.kill9();
    assert!(site.files("orders", "seg").len() > 4);
    site
}

#[test]
fn the_disk_holds_no_more_than_the_backlog_needs() {
    let site = Site::new(&format!("{SMALL_JOURNAL}{UNLIMITED}"));
    let server = site.start();
    let mut client = server.client();
    for _ in 0..3 {
        // About 25 segments a round.
        let last = fill(&mut client, 75);
        server.until_delivered(&last);
        eventually("the way back to the pool", || (site.files("orders", "seg").len() <= 1).then_some(()));
    }
    let pool: Vec<_> = std::fs::read_dir(site.data().join("pool")).unwrap().map(|entry| entry.unwrap()).collect();
    assert!(pool.len() <= 2, "{pool:?}");
    for entry in &pool {
        assert_eq!(entry.metadata().unwrap().len(), SEGMENT_BYTES);
    }
    let trimmed = server.metric("forebay_trimmed_sequence{queue=\"orders\"}");
    assert!(trimmed > 4000, "{trimmed}");
    // Not one of the requests had a key.
    assert!(site.files("orders", "keys").is_empty());
    let count = server::database::sqlite_column(&site.database("orders"), "SELECT count(*) FROM forebay_orders");
    assert_eq!(count, ["4500"]);
    server.stop();
}

#[test]
fn a_backlog_of_many_segments_is_delivered_in_order_after_a_kill() {
    let site = site_with_many_segments();
    site.configure(&format!("{SMALL_JOURNAL}{UNLIMITED}"));
    let server = site.start();
    let sql = "SELECT substr(body, 1, instr(body, '-x') - 1) FROM forebay_orders ORDER BY rowid";
    let wanted: Vec<_> = (0..20).flat_map(|batch| (0..20).map(move |n| format!("{batch}-{n}"))).collect();
    assert_eq!(until_sqlite_has(&site.database("orders"), 400, sql), wanted);
    server.stop();
}

#[test]
fn a_key_outlives_the_segment_of_its_record() {
    let site = Site::new(&format!("{SMALL_JOURNAL}{UNLIMITED}"));
    let mut server = site.start();
    let mut client = server.client();
    let record = client.accept_with_key("orders", "record", "one");
    let headers = [NDJSON, ("idempotency-key", "batch")];
    let batch = client.post("orders", &headers, "two\nthree\n");
    let first_segment = site.files("orders", "seg").remove(0);
    fill(&mut client, 30);
    eventually("the recycling of the first segment", || (!first_segment.exists()).then_some(()));
    for round in 0..4 {
        let mut client = server.client();
        assert_eq!(client.accept_with_key("orders", "record", "one"), record);
        let again = client.post("orders", &headers, "two\nthree\n");
        assert_eq!(again.header("idempotent-replayed"), Some("true"), "{again:?}");
        for field in ["first_ticket", "last_ticket", "count"] {
            assert_eq!(again.json()[field], batch.json()[field]);
        }
        // Keys of a segment that is still open go another way than those of a sealed one.
        client.accept_with_key("orders", &format!("round {round}"), "x");
        fill(&mut client, 10);
        if round % 2 == 0 {
            server.kill9();
        } else {
            server.stop();
        }
        server = site.start();
    }
    let mut client = server.client();
    for round in 0..4 {
        let again = client.post("orders", &[("idempotency-key", &format!("round {round}"))], "x");
        assert_eq!(again.header("idempotent-replayed"), Some("true"), "{again:?}");
    }
    assert!(!site.files("orders", "keys").is_empty());
    let last = client.accept("orders", "last");
    server.until_delivered(&last);
    let sql = "SELECT count(*) FROM forebay_orders WHERE CAST(body AS TEXT) IN ('one', 'two', 'three', 'x')";
    assert_eq!(server::database::sqlite_column(&site.database("orders"), sql), ["7"]);
    server.stop();
}

#[test]
fn key_files_go_when_their_window_has_ended() {
    let site = Site::new(&format!("{SMALL_JOURNAL}{UNLIMITED}idempotency_window_ms = 1000\n"));
    let server = site.start();
    let mut client = server.client();
    let ticket = client.accept_with_key("orders", "k", "one");
    fill(&mut client, 10);
    // Whether it was there for a moment is not for us to see; in the end it must be gone, and the key with it.
    eventually("the end of the window", || (client.accept_with_key("orders", "k", "again") != ticket).then_some(()));
    let last = fill(&mut client, 10);
    server.until_delivered(&last);
    eventually("the end of the files", || site.files("orders", "keys").is_empty().then_some(()));
    server.stop();
}
