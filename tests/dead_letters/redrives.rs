//! Redrives: past a key that is known, at a rate, cancelled.

use std::path::Path;

use serde_json::{Value, json};

use crate::server::database::{sqlite_column, sqlite_execute, until_sqlite_has};
use crate::server::{Server, eventually};
use crate::stage::{IDS, LENIENT, asked, dead, list, order, queue_request, request, strict_site, until_redriven};

fn change(server: &Server, changes: &Value) {
    queue_request(server, "PATCH", "", &changes.to_string());
}

/// Lets records of the queue's own and a redrive begin together; returns the last record's ticket.
fn deliver_beside(server: &Server, ids: std::ops::Range<usize>, redrive: &Value) -> String {
    queue_request(server, "POST", "/pause", "");
    let lines: String = ids.map(|id| order(id, 1) + "\n").collect();
    let own = server.client().post("orders", &[("content-type", "application/x-ndjson")], lines).text("last_ticket");
    asked(server, "POST", "/redrive", redrive);
    queue_request(server, "POST", "/resume", "");
    own
}

/// The most rows of any second, by times of the database in order.
fn most_in_a_second(database: &Path, times: &str) -> usize {
    let at: Vec<f64> = sqlite_column(database, times).iter().map(|at| at.parse().unwrap()).collect();
    let within = |first: usize| at[first..].iter().take_while(|time| **time < at[first] + 1.0).count();
    (0..at.len()).map(within).max().unwrap()
}

#[test]
fn a_key_that_is_still_known_does_not_swallow_a_redrive() {
    let site = strict_site();
    let server = site.start();
    let key = [("idempotency-key", "order-1")];
    let ticket = server.client().post("orders", &key, order(1, -1)).text("ticket");
    eventually("the dead letter", || (server.client().ticket(&ticket)["state"] == "dead").then_some(()));
    // The same request again is the same record.
    let again = server.client().post("orders", &key, order(1, -1));
    assert_eq!((again.text("ticket"), again.header("idempotent-replayed")), (ticket.clone(), Some("true")));
    assert_eq!(request(&server, "PUT", "/1", order(1, 5).as_bytes()).status, 200);
    asked(&server, "POST", "/redrive", &json!({ "all": true }));
    server.until_delivered(&ticket);
    assert_eq!(sqlite_column(&site.database("orders"), IDS), ["1"]);
    server.stop();
}

#[test]
fn a_redrive_has_a_rate_of_its_own_and_is_cancelled_between_two_letters() {
    let site = strict_site();
    let server = site.start();
    let tickets = dead(&server, 1..11);
    server.stop();
    sqlite_execute(&site.database("orders"), LENIENT);
    let server = site.start();
    assert_eq!(asked(&server, "POST", "/redrive", &json!({ "all": true, "rate": "2/h" }))["count"], 10);
    // Records of the queue's own do not wait for it.
    let own = server.client().accept("orders", order(99, 1));
    server.until_delivered(&own);
    assert_eq!(server.client().ticket(&tickets[9])["state"], "redriving");
    request(&server, "DELETE", "/10", b"").assert_problem(409, "conflict");
    request(&server, "PUT", "/10", b"x").assert_problem(409, "conflict");
    server.kill9();
    let server = site.start();
    let listed = list(&server);
    assert!(listed["redriving"].as_u64() >= Some(8), "at 2/h two letters left within moments: {listed:#}");
    // Which were under way is known once the database has said so.
    eventually("the cancellation", || {
        asked(&server, "DELETE", "/redrive", &Value::Null);
        (list(&server)["redriving"] == 0).then_some(())
    });
    let redriven = list(&server)["redriven"].as_u64().unwrap();
    assert!(redriven <= 2, "{redriven} letters left");
    asked(&server, "POST", "/redrive", &json!({ "all": true, "rate": "unlimited" }));
    assert_eq!(until_redriven(&server)["redriven"], 10);
    let mut ids = until_sqlite_has(&site.database("orders"), 11, IDS);
    ids.sort_by_key(|id| id.parse::<u64>().unwrap());
    assert_eq!(ids, (1..=10).chain([99]).map(|id: u64| id.to_string()).collect::<Vec<_>>());
    server.stop();
}

/// Whatever a redrive is asked for, it and the queue's own records together stay within the queue's ceiling; and
/// however fast the queue is, a redrive stays within its own rate.
#[test]
fn a_redrive_keeps_to_its_own_rate_and_to_the_ceiling_of_its_queue() {
    const CEILING: usize = 50;
    const BURST: usize = 2;
    const REDRIVE_RATE: usize = 10;
    let site = strict_site();
    let server = site.start();
    dead(&server, 0..70);
    server.stop();
    let database = site.database("orders");
    let seconds = "(julianday('now') - 2440587.5) * 86400.0";
    sqlite_execute(
        &database,
        &format!(
            "DROP TABLE orders; CREATE TABLE orders (id INTEGER, amount INTEGER, ticket TEXT UNIQUE, at REAL DEFAULT ({seconds}))"
        ),
    );
    let server = site.start();
    change(&server, &json!({ "rate": format!("{CEILING}/s"), "burst": BURST }));
    let own =
        deliver_beside(&server, 1000..1100, &json!({ "sequences": (1..=40).collect::<Vec<_>>(), "rate": "unlimited" }));
    until_redriven(&server);
    server.until_delivered(&own);
    let together = "SELECT at FROM orders ORDER BY at";
    assert_eq!(sqlite_column(&database, together).len(), 140);
    let between = "SELECT count(*) FROM orders WHERE id < 1000 AND at < (SELECT max(at) FROM orders WHERE id >= 1000)";
    assert_ne!(sqlite_column(&database, between), ["0"], "no letter left beside the queue's own records");
    // One transaction of at most BURST rows is on its way at a time, and may have been held up there.
    let most = most_in_a_second(&database, together);
    assert!(most <= CEILING + 2 * BURST + 1, "{most} within one second");

    change(&server, &json!({ "rate": "unlimited" }));
    let own = deliver_beside(&server, 2000..2200, &json!({ "all": true, "rate": format!("{REDRIVE_RATE}/s") }));
    server.until_delivered(&own);
    assert_eq!(until_redriven(&server)["redriven"], 70);
    let letters = "SELECT at FROM orders WHERE id BETWEEN 40 AND 69 ORDER BY at";
    assert_eq!(sqlite_column(&database, letters).len(), 30);
    let most = most_in_a_second(&database, letters);
    assert!(most <= REDRIVE_RATE + 3, "{most} within one second");
    server.stop();
}
