//! What the drain does to a real database: every record once, in order, at most at the rate.

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

mod postgres_server;
mod server;

use std::collections::BTreeMap;

use postgres_server::PostgresServer;
use server::database::{
    postgres, postgres_column, sqlite_column, sqlite_execute, sqlite_rows, until_postgres_has, until_sqlite_has,
};
use server::{SMALL_JOURNAL, Site, eventually};

const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];
const ORDERS_OF_SQLITE: &str = "SELECT body FROM forebay_orders ORDER BY rowid";
/// Without an order of its own, but a table that was only ever appended to is read from its beginning.
const ORDERS_OF_POSTGRES: &str = "SELECT convert_from(body, 'UTF8') FROM forebay_orders ORDER BY ctid";

fn orders(from: usize, to: usize) -> String {
    (from..to).map(|n| format!("{{\"id\":{n}}}\n")).collect()
}

fn postgres_queue(name: &str, url: &str, rest: &str) -> String {
    format!(
        "[queues.{name}]\n{rest}\nretry = {{ backoff_ms_max = 200 }}\n[queues.{name}.sink]\ntype = \"postgres\"\nurl = \"{url}\"\n"
    )
}

#[test]
fn sqlite_gets_every_record_once_and_in_order() {
    let site = Site::new("[queues.orders]\nrate = \"unlimited\"\nbatch = { records_max = 7 }\n");
    let server = site.start();
    let mut client = server.client();
    for batch in 0..10 {
        let body = orders(batch * 100, (batch + 1) * 100);
        assert_eq!(client.post("orders", &NDJSON, body).status, 202);
    }
    let rows = until_sqlite_has(&site.database("orders"), 1000, ORDERS_OF_SQLITE);
    assert_eq!(rows, orders(0, 1000).lines().collect::<Vec<_>>());
    let tickets = sqlite_column(&site.database("orders"), "SELECT DISTINCT ticket FROM forebay_orders");
    assert_eq!(tickets.len(), 1000);
    assert!(server.metric("forebay_drain_batches_total{queue=\"orders\"}") >= 1000 / 7);
    assert_eq!(client.ticket(&tickets[999])["state"], "delivered");
    server.stop();
}

#[test]
fn postgres_gets_every_record_once_and_in_order() {
    let postgres_server = PostgresServer::start();
    let url = postgres_server.url("postgres");
    let site = Site::new(&postgres_queue("orders", &url, "rate = \"unlimited\""));
    let server = site.start();
    let mut client = server.client();
    for batch in 0..10 {
        let body = orders(batch * 100, (batch + 1) * 100);
        assert_eq!(client.post("orders", &NDJSON, body).status, 202);
    }
    let rows = until_postgres_has(&url, 1000, ORDERS_OF_POSTGRES);
    assert_eq!(rows, orders(0, 1000).lines().collect::<Vec<_>>());
    let ticket =
        client.post("orders", &[("forebay-key", "k\u{fc}"), ("content-type", "x/y")], b"\0\xff").text("ticket");
    server.until_delivered(&ticket);
    let sql = format!("SELECT key, content_type, encode(body, 'hex') FROM forebay_orders WHERE ticket = '{ticket}'");
    assert_eq!(postgres(&url, &sql), [["k\u{fc}", "x/y", "00ff"]]);
    server.stop();
}

#[test]
fn a_drain_that_has_caught_up_follows_into_the_next_segment() {
    // No batch fits the ring to the drain, so each is read from its segment, the last one while that is still open.
    let journal = SMALL_JOURNAL.replace("hot_ring_bytes = \"16KiB\"", "hot_ring_bytes = \"4KiB\"");
    let site = Site::new(&format!("{journal}[queues.orders]\nrate = \"unlimited\"\n"));
    let server = site.start();
    let mut client = server.client();
    for _ in 0..20 {
        let ticket = client.accept("orders", "x".repeat(10_000));
        server.until_delivered(&ticket);
    }
    until_sqlite_has(&site.database("orders"), 20, ORDERS_OF_SQLITE);
    server.stop();
}

#[test]
fn a_poison_record_is_set_aside_and_all_others_are_delivered() {
    let sink = "sink = { table = \"orders\", columns = { id = \"/id\", ticket = \"$ticket\" } }";
    let site = Site::new(&format!("[queues.orders]\nrate = \"unlimited\"\n{sink}\n"));
    let database = site.database("orders");
    sqlite_execute(&database, "CREATE TABLE orders (id INTEGER NOT NULL CHECK (id <> 321), ticket TEXT UNIQUE)");
    let server = site.start();
    let mut client = server.client();
    let response = client.post("orders", &NDJSON, orders(0, 500));
    let extra = client.accept("orders", "{\"id\":500}");
    server.until_delivered(&extra);
    let ids = sqlite_column(&database, "SELECT id FROM orders ORDER BY rowid");
    assert_eq!(ids, (0..=500).filter(|n| *n != 321).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(server.metric("forebay_dead_letters{queue=\"orders\"}"), 1);
    assert_eq!(client.ticket(&response.text("first_ticket"))["state"], "delivered");
    let letters = std::fs::read_to_string(site.queue("orders").join("dead-letters.ndjson")).unwrap();
    assert_eq!(letters.lines().count(), 1, "{letters}");
    let letter: serde_json::Value = serde_json::from_str(&letters).unwrap();
    assert_eq!((&letter["body"], &letter["sequence"]), (&"{\"id\":321}".into(), &322.into()), "{letter}");
    let reason = letter["reason"].as_str().unwrap();
    assert!(reason.contains("CHECK constraint failed") && reason.contains("id <> 321"), "{reason}");
    let ticket = letter["ticket"].as_str().unwrap();
    let status = client.ticket(ticket);
    assert_eq!((&status["state"], status["reason"].as_str()), (&"dead".into(), Some(reason)), "{status}");
    server.stop();

    // The table would take it now, but nobody has asked for it again.
    sqlite_execute(&database, "ALTER TABLE orders RENAME TO old; CREATE TABLE orders (id, ticket);");
    let server = site.start();
    let last = server.client().accept("orders", "{\"id\":501}");
    server.until_delivered(&last);
    assert_eq!(sqlite_column(&database, "SELECT id FROM orders"), ["501"]);
    assert_eq!(server.client().ticket(ticket)["state"], "dead");
    assert_eq!(server.metric("forebay_dead_letters{queue=\"orders\"}"), 1);
    server.stop();
}

#[test]
fn postgres_poison_is_set_aside_with_its_own_words() {
    let postgres_server = PostgresServer::start();
    let url = postgres_server.url("postgres");
    postgres(&url, "CREATE TABLE orders (id integer PRIMARY KEY)");
    let target = "table = \"orders\"\ncolumns = { id = \"/id\" }\n";
    let site = Site::new(&(postgres_queue("orders", &url, "rate = \"unlimited\"") + target));
    let server = site.start();
    let mut client = server.client();
    // A duplicate, something that is no integer, one too large, and one without an id.
    let poison = "{\"id\":7}\n{\"id\":\"x\"}\n{\"id\":99999999999}\n{}\nnot JSON\n";
    assert_eq!(client.post("orders", &NDJSON, orders(0, 50) + poison + &orders(50, 100)).status, 202);
    let last = client.accept("orders", "{\"id\":100}");
    server.until_delivered(&last);
    let ids = postgres_column(&url, "SELECT id FROM orders ORDER BY id");
    assert_eq!(ids, (0..=100).map(|n| n.to_string()).collect::<Vec<_>>());
    let letters = std::fs::read_to_string(site.queue("orders").join("dead-letters.ndjson")).unwrap();
    let letters: Vec<serde_json::Value> = letters.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sequences: Vec<_> = letters.iter().map(|letter| letter["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, [51, 52, 53, 54, 55], "{letters:?}");
    let reason = letters[0]["reason"].as_str().unwrap();
    assert!(reason.contains("orders_pkey"), "{reason}");
    assert_eq!(server.metric("forebay_dead_letters{queue=\"orders\"}"), 5);
    server.stop();
}

#[test]
fn a_database_that_is_away_keeps_nobody_out_and_gets_everything_in_the_end() {
    let mut postgres_server = PostgresServer::start();
    let url = postgres_server.url("postgres");
    postgres_server.kill9();
    let site = Site::new(&postgres_queue("orders", &url, "rate = \"unlimited\""));
    let server = site.start();
    let mut client = server.client();
    let ticket = client.accept("orders", "{\"id\":0}");
    assert_eq!(client.ticket(&ticket)["state"], "queued");
    assert!(client.ticket(&ticket)["eta_ms"].is_null());
    eventually("an attempt", || (server.metric("forebay_drain_retries_total{queue=\"orders\"}") > 0).then_some(()));
    postgres_server.restart();
    until_postgres_has(&url, 1, ORDERS_OF_POSTGRES);
    for round in 0..2 {
        postgres_server.kill9();
        for n in 0..50 {
            client.accept("orders", format!("{{\"id\":{}}}", round * 50 + n + 1));
        }
        let retries = server.metric("forebay_drain_retries_total{queue=\"orders\"}");
        eventually("another attempt", || {
            (server.metric("forebay_drain_retries_total{queue=\"orders\"}") > retries).then_some(())
        });
        assert_eq!(server.metric("forebay_drain_running{queue=\"orders\"}"), 0);
        postgres_server.restart();
        until_postgres_has(&url, round * 50 + 51, ORDERS_OF_POSTGRES);
    }
    assert_eq!(postgres_column(&url, ORDERS_OF_POSTGRES), orders(0, 101).lines().collect::<Vec<_>>());
    assert_eq!(server.metric("forebay_dead_letters{queue=\"orders\"}"), 0);
    eventually("running", || (server.metric("forebay_drain_running{queue=\"orders\"}") == 1).then_some(()));
    server.stop();
}

#[test]
fn a_queue_whose_sink_is_away_does_not_hold_up_another() {
    let nowhere = "postgres://nobody@127.0.0.1:1/nothing";
    let away = postgres_queue("away", nowhere, "");
    let site = Site::new(&format!("{away}[queues.here]\nrate = \"500/s\"\n[queues.there]\nrate = \"unlimited\"\n"));
    let server = site.start();
    let mut client = server.client();
    for n in 0..100 {
        for queue in ["away", "here", "there"] {
            client.accept(queue, format!("{queue} {n}"));
        }
    }
    for queue in ["here", "there"] {
        let sql = format!("SELECT body FROM forebay_{queue} ORDER BY rowid");
        let rows = until_sqlite_has(&site.database(queue), 100, &sql);
        assert_eq!(rows, (0..100).map(|n| format!("{queue} {n}")).collect::<Vec<_>>());
    }
    assert_eq!(server.metric("forebay_backlog_records{queue=\"away\"}"), 100);
    let ready = server::Client::connect(server.admin()).unwrap().get("/readyz");
    assert_eq!(ready.status, 200);
    assert!(String::from_utf8_lossy(&ready.body).contains("queue away: connecting to the sink"));
    server.stop();
}

#[test]
fn no_second_of_the_database_sees_more_than_the_rate() {
    const RATE: usize = 200;
    let postgres_server = PostgresServer::start();
    let url = postgres_server.url("postgres");
    // Rows that a statement has not committed yet have arrived all the same: the clock is read for each.
    postgres(&url, "CREATE TABLE orders (id integer, arrived timestamptz DEFAULT clock_timestamp())");
    let target = "table = \"orders\"\ncolumns = { id = \"/id\" }\n";
    let site = Site::new(&(postgres_queue("orders", &url, &format!("rate = \"{RATE}/s\"")) + target));
    let server = site.start();
    assert_eq!(server.client().post("orders", &NDJSON, orders(0, 600)).status, 202);
    until_postgres_has(&url, 600, "SELECT id FROM orders");
    // A pause must not save up for a burst.
    let last = server.client().accept("orders", "{\"id\":600}");
    server.until_delivered(&last);
    assert_eq!(server.client().post("orders", &NDJSON, orders(601, 900)).status, 202);
    until_postgres_has(&url, 900, "SELECT id FROM orders");
    server.stop();
    let arrived =
        postgres_column(&url, "SELECT (extract(epoch FROM arrived) * 1000000)::bigint FROM orders ORDER BY 1");
    let arrived_us: Vec<u64> = arrived.iter().map(|us| us.parse().unwrap()).collect();
    let most = (0..arrived_us.len())
        .map(|first| arrived_us[first..].iter().take_while(|us| **us < arrived_us[first] + 1_000_000).count())
        .max();
    // What may leave at once, and the hundredth at which a stall is made good.
    let allowed = RATE * 102 / 100 + 2;
    assert!(most <= Some(allowed), "{most:?} within one second, where {allowed} may arrive");
}

#[test]
fn a_statement_of_the_users_own_is_run_for_each_record() {
    let sink = "[queues.orders.sink]\n\
         statement = \"INSERT INTO stock VALUES (:sku, :count) ON CONFLICT (sku) DO UPDATE SET n = n + :count\"\n\
         parameters = { sku = \"/sku\", count = \"/n\" }\n";
    let site = Site::new(&format!("[queues.orders]\nrate = \"unlimited\"\n{sink}"));
    let database = site.database("orders");
    sqlite_execute(&database, "CREATE TABLE stock (sku TEXT PRIMARY KEY, n INTEGER NOT NULL)");
    let server = site.start();
    let mut wanted = BTreeMap::new();
    let mut body = String::new();
    for n in 1..=100_u64 {
        let sku = format!("sku {}", n % 3);
        body += &format!("{{\"sku\":\"{sku}\",\"n\":{n}}}\n");
        *wanted.entry(sku).or_insert(0) += n;
    }
    let response = server.client().post("orders", &NDJSON, body);
    server.until_delivered(&response.text("last_ticket"));
    let rows: Vec<_> = wanted.into_iter().map(|(sku, n)| vec![sku, n.to_string()]).collect();
    assert_eq!(sqlite_rows(&database, "SELECT sku, n FROM stock ORDER BY sku"), rows);
    server.stop();
}

#[test]
fn memory_acknowledges_without_the_disk_and_delivers_all_the_same() {
    let site = Site::new("[queues.orders]\nrate = \"unlimited\"\nack = \"memory\"\n");
    let server = site.start();
    let mut client = server.client();
    for n in 0..200 {
        client.accept("orders", format!("{{\"id\":{n}}}"));
    }
    // Two requests with one key are one record here as well.
    let again = [(); 2].map(|()| client.accept_with_key("orders", "k", "{\"id\":200}"));
    assert_eq!(again[0], again[1]);
    let rows = until_sqlite_has(&site.database("orders"), 201, ORDERS_OF_SQLITE);
    assert_eq!(rows, orders(0, 201).lines().collect::<Vec<_>>());
    server.stop();
}

#[test]
fn a_table_that_comes_later_gets_what_was_kept_for_it() {
    let postgres_server = PostgresServer::start();
    let url = postgres_server.url("postgres");
    let target = "table = \"orders\"\ncolumns = { id = \"/id\" }\n";
    let lite = "[queues.lite]\nrate = \"unlimited\"\nretry = { backoff_ms_max = 200 }\n\
         sink = { table = \"orders\", columns = { id = \"/id\" } }\n";
    let site = Site::new(&format!("{lite}{}{target}", postgres_queue("orders", &url, "rate = \"unlimited\"")));
    let server = site.start();
    let mut client = server.client();
    for queue in ["lite", "orders"] {
        assert_eq!(client.post(queue, &NDJSON, orders(0, 20)).status, 202);
        let retries = format!("forebay_drain_retries_total{{queue=\"{queue}\"}}");
        eventually("an attempt", || (server.metric(&retries) > 0).then_some(()));
        // A missing table says nothing about the records, so none of them is dead.
        assert_eq!(server.metric(&format!("forebay_dead_letters{{queue=\"{queue}\"}}")), 0);
    }
    sqlite_execute(&site.database("lite"), "CREATE TABLE orders (id INTEGER)");
    postgres(&url, "CREATE TABLE orders (id integer)");
    let wanted: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(until_postgres_has(&url, 20, "SELECT id FROM orders ORDER BY id"), wanted);
    assert_eq!(until_sqlite_has(&site.database("lite"), 20, "SELECT id FROM orders ORDER BY id"), wanted);
    server.stop();
}
