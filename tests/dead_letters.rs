//! Dead letters: listed, read, edited, redriven and purged, by the admin API and the command line; records that are given up, and records that have
//! expired.

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
#![allow(clippy::disallowed_methods, reason = "a kill at a random instant waits for no bell")]

mod postgres_server;
mod server;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use forebay::drain::dead_letters::DeadLetterFile;
use forebay::journal::platform::System;
use postgres_server::PostgresServer;
use serde_json::{Value, json};
use server::client::Response;
use server::database::{postgres, postgres_column, sqlite_column, sqlite_execute, until_sqlite_has};
use server::{Client, Server, Site, eventually};

/// Refuses every order whose amount is below zero.
const STRICT: &str =
    "CREATE TABLE orders (id INTEGER NOT NULL, amount INTEGER NOT NULL CHECK (amount >= 0), ticket TEXT UNIQUE)";
const LENIENT: &str = "ALTER TABLE orders RENAME TO strict_orders; CREATE TABLE orders (id INTEGER NOT NULL, amount INTEGER, ticket TEXT UNIQUE); \
     INSERT INTO orders SELECT * FROM strict_orders; DROP TABLE strict_orders;";
const IDS: &str = "SELECT id FROM orders ORDER BY rowid";
const ORDERS: &str = "[queues.orders]\nrate = \"unlimited\"\nsink = { table = \"orders\", columns = { id = \"/id\", amount = \
                      \"/amount\", ticket = \"$ticket\" } }\n";

fn order(id: usize, amount: i64) -> String {
    json!({ "id": id, "amount": amount }).to_string()
}

fn strict_site() -> Site {
    let site = Site::new(ORDERS);
    sqlite_execute(&site.database("orders"), STRICT);
    site
}

fn request(server: &Server, method: &str, path: &str, body: &[u8]) -> Response {
    let path = format!("/v1/queues/orders/dead-letters{path}");
    let headers = [("forebay-actor", "ann@desk")];
    Client::connect(server.admin()).unwrap().request(method, &path, &headers, Some(body)).unwrap()
}

fn asked(server: &Server, method: &str, path: &str, body: &Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let response = request(server, method, path, body.as_bytes());
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

fn list(server: &Server) -> Value {
    asked(server, "GET", "?limit=1000", &Value::Null)
}

/// Sends orders, every one of which is refused; returns their tickets.
fn dead(server: &Server, ids: std::ops::Range<usize>) -> Vec<String> {
    let mut client = server.client();
    let tickets: Vec<_> = ids.map(|id| client.accept("orders", order(id, -1))).collect();
    eventually("the last dead letter", || (client.ticket(tickets.last()?)["state"] == "dead").then_some(()));
    tickets
}

/// Drops records of a server that has ended, as its drain does.
fn expire(site: &Site, sequences: &[u64]) {
    let file = DeadLetterFile::open(&System, &site.queue("orders"), 1 << 20, &Arc::default()).unwrap();
    file.expire(sequences, 1_700_000_000_000_000).unwrap();
}

fn until_redriven(server: &Server) -> Value {
    eventually("the end of the redrive", || Some(list(server)).filter(|list| list["redriving"] == 0))
}

fn queue_request(server: &Server, method: &str, path: &str, body: &str) {
    let path = format!("/v1/queues/orders{path}");
    let answer = Client::connect(server.admin()).unwrap().request(method, &path, &[], Some(body.as_bytes())).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}

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

/// Runs `forebay dead-letters` against a server; returns its exit code and all that it said.
fn command(server: &Server, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.arg("dead-letters").args(arguments).args(["--admin", &server.admin().to_string()]).env_remove("RUST_LOG");
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn letters_are_listed_read_edited_redriven_and_purged() {
    let site = strict_site();
    let server = site.start();
    let tickets = dead(&server, 1..6);
    let page = asked(&server, "GET", "?limit=2", &Value::Null);
    assert_eq!((&page["dead"], &page["next_after"]), (&json!(5), &json!(2)), "{page:#}");
    let page = asked(&server, "GET", "?after=2&limit=3", &Value::Null);
    let sequences: Vec<_> =
        page["dead_letters"].as_array().unwrap().iter().map(|l| l["sequence"].as_u64().unwrap()).collect();
    assert_eq!((sequences, &page["next_after"]), (vec![3, 4, 5], &Value::Null));
    assert!(page["dead_letters"][0]["reason"].as_str().unwrap().contains("CHECK constraint failed"), "{page:#}");
    let shown = asked(&server, "GET", "/3", &Value::Null);
    assert_eq!((&shown["ticket"], &shown["body"]), (&json!(tickets[2]), &json!(order(3, -1))));

    // An edit counts for the redrive, and the original stays in the file.
    assert_eq!(request(&server, "PUT", "/3", order(3, 30).as_bytes()).status, 200);
    let shown = asked(&server, "GET", "/3", &Value::Null);
    assert_eq!((&shown["body"], &shown["is_edited"]), (&json!(order(3, 30)), &json!(true)));
    let file = fs::read_to_string(site.queue("orders").join("dead-letters.ndjson")).unwrap();
    assert!(file.contains(&json!(order(3, -1)).to_string()) && file.contains("ann@desk"), "{file}");
    let (code, exported, _) = site.tool("export", &["--queue", "orders", "--dead"]);
    assert!(code == Some(0) && exported.contains(&json!(order(3, 30)).to_string()), "{exported}");

    // Letter 4 is refused again and stays, with the reason of now.
    let answer = asked(&server, "POST", "/redrive", &json!({ "sequences": [4, 3], "rate": "unlimited" }));
    assert_eq!((&answer["count"], &answer["rate"]), (&json!(2), &json!("unlimited")));
    let after = until_redriven(&server);
    assert_eq!((&after["dead"], &after["redriven"]), (&json!(4), &json!(1)), "{after:#}");
    assert_eq!(server.client().ticket(&tickets[2])["state"], "delivered");
    assert_eq!(server.client().ticket(&tickets[3])["state"], "dead");
    let rows = sqlite_column(&site.database("orders"), "SELECT id || ' ' || amount || ' ' || ticket FROM orders");
    assert_eq!(rows, [format!("3 30 {}", tickets[2])]);

    // What is purged says so.
    assert_eq!(asked(&server, "DELETE", "/4", &Value::Null)["count"], 1);
    assert_eq!(server.client().ticket(&tickets[3])["state"], "purged");
    assert_eq!(asked(&server, "POST", "/purge", &json!({ "all": true }))["count"], 3);
    for (metric, value) in
        [("", 0), ("_redriving", 0), ("_redriven_total", 1), ("_purged_total", 4), ("_edited_total", 1)]
    {
        assert_eq!(server.metric(&format!("forebay_dead_letters{metric}{{queue=\"orders\"}}")), value, "{metric}");
    }
    for said in ["a dead letter has another body", "dead letters are to be redriven", "dead letters were purged"] {
        assert!(server.said(said), "{said} is not in\n{}", server.log());
    }
    server.stop();

    let server = site.start();
    let states: Vec<_> =
        tickets.iter().map(|t| server.client().ticket(t)["state"].as_str().unwrap().to_owned()).collect();
    assert_eq!(states, ["purged", "purged", "delivered", "purged", "purged"]);
    assert_eq!(list(&server)["dead_letters"], json!([]));
    server.stop();
    let (code, said, _) = site.tool("verify", &[]);
    assert_eq!(code, Some(0), "{said}");
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

/// Each letter is delivered once or still a dead letter, whenever the process is killed.
#[test]
fn kills_at_any_instant_neither_lose_nor_double_a_letter() {
    const LETTERS: usize = 300;
    let site = strict_site();
    let server = site.start();
    let tickets = dead(&server, 0..LETTERS);
    server.stop();
    sqlite_execute(&site.database("orders"), LENIENT);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut kills_within = 0;
    for _ in 0..12 {
        let server = site.start();
        let before = list(&server);
        let gone = before["redriven"].as_u64().unwrap();
        if before["dead"] != 0 {
            asked(&server, "POST", "/redrive", &json!({ "all": true, "rate": "1000/s" }));
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_micros(seed >> 47));
        server.kill9();
        let rows = sqlite_column(&site.database("orders"), IDS).len() as u64;
        kills_within += u64::from(rows > gone && rows < LETTERS as u64);
    }
    let server = site.start();
    if list(&server)["dead"] != 0 {
        asked(&server, "POST", "/redrive", &json!({ "all": true, "rate": "unlimited" }));
    }
    assert_eq!(until_redriven(&server)["redriven"], LETTERS);
    let mut ids: Vec<usize> =
        sqlite_column(&site.database("orders"), IDS).iter().map(|id| id.parse().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..LETTERS).collect::<Vec<_>>());
    assert!(tickets.iter().all(|ticket| server.client().ticket(ticket)["state"] == "delivered"));
    assert!(kills_within > 0, "no kill fell into a redrive, so nothing was shown");
    server.stop();
}

/// A database that was set back has lost what was redriven since, and gets it again.
#[test]
fn a_restored_database_gets_again_what_was_redriven() {
    let site = strict_site();
    let server = site.start();
    dead(&server, 1..4);
    server.stop();
    let database = site.database("orders");
    sqlite_execute(&database, LENIENT);
    let server = site.start();
    asked(&server, "POST", "/redrive", &json!({ "sequences": [1] }));
    until_redriven(&server);
    server.stop();
    let backup = site.path().join("backup.db");
    sqlite_execute(&database, "PRAGMA wal_checkpoint(TRUNCATE)");
    fs::copy(&database, &backup).unwrap();
    let server = site.start();
    asked(&server, "POST", "/redrive", &json!({ "sequences": [2, 3] }));
    until_redriven(&server);
    server.stop();
    for ending in ["db-wal", "db-shm"] {
        let _ = fs::remove_file(database.with_extension(ending));
    }
    fs::copy(&backup, &database).unwrap();
    let server = site.start();
    until_sqlite_has(&database, 3, IDS);
    eventually("the end", || (list(&server)["redriven"] == 3).then_some(()));
    server.stop();
}

#[test]
fn a_full_file_holds_the_drain_up_until_letters_leave() {
    let site = Site::new(&ORDERS.replace(
        "rate =",
        "dead_letters_bytes_max = 1200\nretry = { backoff_ms_max = 50, backoff_ms_min = 10 }\nrate =",
    ));
    sqlite_execute(&site.database("orders"), STRICT);
    let server = site.start();
    let mut client = server.client();
    let tickets: Vec<_> = (0..10).map(|id| client.accept("orders", order(id, -1))).collect();
    server.until_said("has reached dead_letters_bytes_max = 1200");
    let first = list(&server)["dead"].as_u64().unwrap();
    assert!((1..10).contains(&first), "{first}");
    // Nothing was lost meanwhile, and what is purged makes room.
    let mut purged = 0;
    while purged < 10 {
        purged += asked(&server, "POST", "/purge", &json!({ "all": true }))["count"].as_u64().unwrap();
    }
    eventually("the end", || (server.metric("forebay_backlog_records{queue=\"orders\"}") == 0).then_some(()));
    assert!(server.said("the dead-letter file was rewritten"), "{}", server.log());
    assert!(tickets.iter().all(|ticket| client.ticket(ticket)["state"] == "purged"));
    server.kill9();
    let server = site.start();
    assert!(tickets.iter().all(|ticket| server.client().ticket(ticket)["state"] == "purged"));
    assert_eq!(sqlite_column(&site.database("orders"), IDS), Vec::<String>::new());
    server.stop();
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

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let site = strict_site();
    let server = site.start();
    dead(&server, 1..3);
    let before = list(&server);
    for (method, path, body, status, name) in [
        ("GET", "/7", "", 404, "not-found"),
        ("GET", "?limit=many", "", 400, "bad-request"),
        ("GET", "/first", "", 404, "not-found"),
        ("PUT", "/1", "", 422, "not-applicable"),
        ("PUT", "/7", "x", 404, "not-found"),
        ("DELETE", "/7", "", 404, "not-found"),
        ("POST", "/redrive", "{", 400, "bad-request"),
        ("POST", "/redrive", "{}", 422, "not-applicable"),
        ("POST", "/redrive", r#"{"all":true,"sequences":[1]}"#, 422, "not-applicable"),
        ("POST", "/redrive", r#"{"sequences":[1,7]}"#, 404, "not-found"),
        ("POST", "/redrive", r#"{"all":true,"rate":"fast"}"#, 422, "not-applicable"),
        ("POST", "/redrive", r#"{"al":true}"#, 422, "not-applicable"),
        ("POST", "/purge", r#"{"sequences":[]}"#, 422, "not-applicable"),
        ("PATCH", "/1", "", 405, "method-not-allowed"),
    ] {
        request(&server, method, path, body.as_bytes()).assert_problem(status, name);
    }
    assert_eq!(list(&server), before);
    server.stop();
}

#[test]
fn the_command_line_does_the_same() {
    let site = strict_site();
    let server = site.start();
    let tickets = dead(&server, 1..4);
    let (code, said) = command(&server, &["list", "orders", "--limit", "2"]);
    assert!(code == Some(0) && said.contains("3 dead, 0 being redriven") && said.contains("--after 2"), "{said}");
    let (_, said) = command(&server, &["show", "orders", "2", "--body"]);
    assert_eq!(said, order(2, -1));
    let body = site.path().join("body.json");
    fs::write(&body, order(2, 20)).unwrap();
    let (code, said) = command(&server, &["edit", "orders", "2", "--body", body.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = command(&server, &["redrive", "orders", "2", "--rate", "50/s"]);
    assert!(code == Some(0) && said.contains("1 letters are redriven at 50/s"), "{said}");
    server.until_delivered(&tickets[1]);
    let (code, said) = command(&server, &["cancel", "orders"]);
    assert!(code == Some(0) && said.contains("0 letters"), "{said}");
    let (code, said) = command(&server, &["purge", "orders", "--all"]);
    assert!(code == Some(1) && said.contains("--yes"), "{said}");
    let (code, said) = command(&server, &["purge", "orders", "--all", "--yes"]);
    assert!(code == Some(0) && said.contains("2 letters are purged"), "{said}");
    let (code, said) = command(&server, &["show", "orders", "2"]);
    assert!(code == Some(1) && said.contains("is gone"), "{said}");
    server.stop();
}

/// On PostgreSQL: a serialisation failure is transient by its code, whatever the record; here one record always has it.
#[test]
fn a_record_is_given_up_after_attempts_of_its_own_and_one_that_is_too_old_is_not_sent() {
    let postgres_server = PostgresServer::start();
    let url = postgres_server.url("postgres");
    postgres(
        &url,
        "CREATE TABLE orders (id integer);
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF NEW.id = 7 THEN RAISE EXCEPTION 'not now' USING ERRCODE = '40001'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER fail BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION fail()",
    );
    let queue = |retry: &str| {
        format!(
            "[queues.orders]\nrate = \"unlimited\"\nretry = {{ backoff_ms_min = 1, backoff_ms_max = 5, failures_max = 2{retry} }}\n\
             [queues.orders.sink]\ntype = \"postgres\"\nurl = \"{url}\"\ntable = \"orders\"\ncolumns = {{ id = \"/id\" }}\n"
        )
    };
    let site = Site::new(&queue(", attempts_max = 3"));
    let server = site.start();
    let lines: String = (0..20).map(|id| format!("{{\"id\":{id}}}\n")).collect();
    let ndjson = [("content-type", "application/x-ndjson")];
    let last = server.client().post("orders", &ndjson, lines).text("last_ticket");
    server.until_delivered(&last);
    let expected: Vec<_> = (0..20).filter(|id| *id != 7).map(|id| id.to_string()).collect();
    assert_eq!(postgres_column(&url, "SELECT id FROM orders ORDER BY id"), expected);
    let letters = list(&server)["dead_letters"].clone();
    assert_eq!((letters.as_array().unwrap().len(), &letters[0]["sequence"]), (1, &json!(8)), "{letters:#}");
    let reason = letters[0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("given up after 3 attempts") && reason.contains("not now"), "{reason}");
    // A redrive gives up after as many.
    asked(&server, "POST", "/redrive", &json!({ "all": true }));
    assert_eq!(until_redriven(&server)["dead"], 1);
    server.stop();

    // While it is paused it gets too old.
    let site = Site::new(&queue(", age_ms_max = 1"));
    let server = site.start();
    queue_request(&server, "POST", "/pause", "");
    eventually("the pause", || (server.metric("forebay_drain_paused{queue=\"orders\"}") == 1).then_some(()));
    let ticket = server.client().accept("orders", "{\"id\":100}");
    std::thread::sleep(Duration::from_millis(10));
    queue_request(&server, "POST", "/resume", "");
    eventually("the dead letter", || (server.client().ticket(&ticket)["state"] == "dead").then_some(()));
    let reason = list(&server)["dead_letters"][0]["reason"].clone();
    assert_eq!(reason, "given up undelivered: older than retry.age_ms_max = 1");
    assert_eq!(postgres_column(&url, "SELECT id FROM orders WHERE id = 100"), Vec::<String>::new());
    server.stop();
}
