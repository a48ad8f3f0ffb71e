//! Records that have expired: passed over after a restart, seen by everybody, and no letters.

use std::process::Command;
use std::sync::Arc;

use forebay::drain::dead_letters::DeadLetterFile;
use forebay::journal::platform::System;
use serde_json::{Value, json};

use crate::server::database::sqlite_column;
use crate::server::{Client, Site, eventually};
use crate::stage::{IDS, asked, list, order, queue_request, request, strict_site};

/// Drops records of a server that has ended, as its drain does.
fn expire(site: &Site, sequences: &[u64]) {
    let file = DeadLetterFile::open(&System, &site.queue("orders"), 1 << 20, &Arc::default()).unwrap();
    file.expire(sequences, 1_700_000_000_000_000).unwrap();
}

/// What the file says has expired is passed over after a restart, however the server before it ended, and everybody is told.
#[test]
fn what_has_expired_is_not_delivered_and_everybody_can_see_it() {
    let site = strict_site();
    let server = site.start();
    queue_request(&server, "POST", "/pause", "");
    let mut client = server.client();
    let tickets: Vec<_> = (1..=8).map(|id| client.accept("orders", order(id, if id == 8 { -1 } else { 1 }))).collect();
    server.kill9();
    expire(&site, &[2, 3, 4, 6]);

    let said = |command: &str, arguments: &[&str]| site.tool(command, arguments);
    let (code, exported, told) = said("export", &["--queue", "orders", "--from", "1"]);
    let ids: Vec<_> =
        exported.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["sequence"].clone()).collect();
    assert_eq!((code, ids), (Some(0), vec![json!(1), json!(5), json!(7), json!(8)]), "{told}");
    assert!(told.contains("4 left out because they have expired"), "{told}");
    let (_, exported, _) = said("export", &["--queue", "orders", "--dead"]);
    assert_eq!(exported, "");
    let (_, report, _) = said("inspect", &["--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["queues"][0]["expired_records"], &report["queues"][0]["dead_letters"]), (&json!(4), &json!(0)));
    let (_, report, _) = said("inspect", &[]);
    assert!(report.contains("4 records, dropped"), "{report}");
    let (code, found, _) = said("verify", &[]);
    assert_eq!(code, Some(0), "{found}");

    let server = site.start();
    assert_eq!(server.client().ticket(&tickets[1])["state"], "expired", "the queue is paused still");
    queue_request(&server, "POST", "/resume", "");
    eventually("the last", || (server.client().ticket(&tickets[7])["state"] == "dead").then_some(()));
    let states: Vec<_> = tickets.iter().map(|ticket| server.client().ticket(ticket)["state"].clone()).collect();
    let (gone, there) = ("expired", "delivered");
    assert_eq!(states, [there, gone, gone, gone, there, gone, there, "dead"]);
    assert_eq!(sqlite_column(&site.database("orders"), IDS), ["1", "5", "7"]);
    assert_eq!(server.metric("forebay_drain_expired_records_total{queue=\"orders\"}"), 4);
    assert_eq!(server.metric("forebay_dead_letters{queue=\"orders\"}"), 1);
    let now = Client::connect(server.admin()).unwrap().get("/v1/queues/orders").json()["now"].clone();
    assert_eq!((&now["expired_records"], &now["dead_letters"]), (&json!(4), &json!(1)));
    let mut queues = Command::new(env!("CARGO_BIN_EXE_forebay"));
    let table = queues.args(["queues", "--admin", &server.admin().to_string()]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    let ends: Vec<_> = table.lines().map(|line| line.split_whitespace().rev().take(2).collect::<Vec<_>>()).collect();
    assert_eq!(ends, [["EXPIRED", "DEAD"], ["4", "1"]], "{table}");

    // They are no letters.
    assert_eq!(list(&server)["dead_letters"].as_array().unwrap().len(), 1);
    request(&server, "GET", "/2", b"").assert_problem(404, "not-found");
    for path in ["/redrive", "/purge"] {
        request(&server, "POST", path, br#"{"sequences":[2]}"#).assert_problem(404, "not-found");
    }
    assert_eq!(asked(&server, "POST", "/purge", &json!({ "all": true }))["count"], 1);
    server.kill9();
    let server = site.start();
    assert_eq!(server.client().ticket(&tickets[5])["state"], gone);
    assert_eq!(server.metric("forebay_drain_expired_records_total{queue=\"orders\"}"), 4);
    server.stop();
}

#[test]
fn what_has_expired_beyond_the_end_of_the_journal_is_found() {
    let site = strict_site();
    let server = site.start();
    let ticket = server.client().accept("orders", order(1, 1));
    server.until_delivered(&ticket);
    server.stop();
    expire(&site, &[4, 5]);
    let (code, found, _) = site.tool("verify", &[]);
    assert!(code == Some(1) && found.contains("sequence 5 was delivered, set aside or dropped"), "{found}");
}
