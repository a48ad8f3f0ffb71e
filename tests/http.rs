//! The front door of a real server: what it takes, what it answers, and what stands in the database then.

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

#[path = "http/attributes.rs"]
mod attributes;
#[path = "http/connections.rs"]
mod connections;
#[path = "http/executors.rs"]
mod executors;
#[path = "http/fast_path.rs"]
mod fast_path;
#[path = "http/idempotency.rs"]
mod idempotency;
#[path = "http/ndjson.rs"]
mod ndjson;
#[path = "http/refusals.rs"]
mod refusals;

use std::net::SocketAddr;

use server::database::{sqlite_bytes, sqlite_execute, sqlite_rows, until_sqlite_has};
use server::{Client, Server, Site, eventually};

/// Nothing leaves this queue within the time of a test, so positions stay what they are.
const STANDSTILL: &str = "[queues.orders]\nrate = \"1/h\"\n";
const UNLIMITED: &str = "[queues.orders]\nrate = \"unlimited\"\n";
const HOUR_MS: u64 = 3_600_000;

/// Positions have an ETA once the drain knows where it stands.
fn until_drain_runs(server: &Server) {
    eventually("the drain's start", || (server.metric("forebay_drain_running{queue=\"orders\"}") == 1).then_some(()));
}

#[test]
fn a_record_is_accepted_with_a_ticket_its_place_and_its_time() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    until_drain_runs(&server);
    let mut client = server.client();
    for position in 1..=3_u64 {
        let response = client.post("orders", &[], "an order");
        assert_eq!(response.status, 202, "{response:?}");
        assert_eq!(response.header("content-type"), Some("application/json"));
        let ticket = response.text("ticket");
        assert_eq!(response.header("location"), Some(format!("/v1/tickets/{ticket}").as_str()));
        assert_eq!(response.header("idempotent-replayed"), None);
        let wanted = serde_json::json!({ "ticket": ticket, "position": position, "eta_ms": position * HOUR_MS });
        assert_eq!(response.json(), wanted);
        let status = client.get(response.header("location").unwrap());
        assert_eq!(status.header("cache-control"), Some("no-store"));
        let wanted = serde_json::json!({
            "ticket": ticket, "state": "queued", "position": position, "eta_ms": position * HOUR_MS
        });
        assert_eq!(status.json(), wanted);
    }
    server.stop();
}

#[test]
fn a_ticket_is_queued_then_delivered_or_dead() {
    let site =
        Site::new("[queues.orders]\nrate = \"unlimited\"\nsink = { table = \"orders\", columns = { id = \"/id\" } }\n");
    sqlite_execute(&site.database("orders"), "CREATE TABLE orders (id INTEGER CHECK (id < 100))");
    let server = site.start();
    let mut client = server.client();
    let (good, bad) = (client.accept("orders", r#"{"id":1}"#), client.accept("orders", r#"{"id":100}"#));
    server.until_delivered(&good);
    assert_eq!(client.ticket(&good), serde_json::json!({ "ticket": good, "state": "delivered" }));
    let dead = eventually("a dead letter", || {
        let status = client.ticket(&bad);
        (status["state"] != "queued").then_some(status)
    });
    assert_eq!(dead["state"], "dead", "{dead}");
    assert!(dead["reason"].as_str().is_some_and(|reason| reason.contains("id < 100")), "{dead}");
    server.stop();
}

#[test]
fn tickets_that_were_not_issued_lead_nowhere() {
    let config = format!("{STANDSTILL}[queues.other]\nrate = \"1/h\"\n");
    let (site, foreign_site) = (Site::new(&config), Site::new(&config));
    let (server, foreign_server) = (site.start(), foreign_site.start());
    let mut client = server.client();
    let ticket = client.accept("orders", "first");
    client.accept("orders", "second");
    let (rest, check) = ticket.rsplit_once('-').unwrap();
    let flipped = if check.ends_with('0') { "1" } else { "0" };
    let foreign = foreign_server.client().accept("orders", "first");
    assert_ne!(foreign, ticket);
    for wrong in [
        foreign,
        format!("orders-2-{check}"),
        format!("other-1-{check}"),
        format!("{rest}-{}{flipped}", &check[..check.len() - 1]),
        format!("{rest}-{}", check.to_uppercase() + "0"),
        format!("orders-0-{check}"),
        format!("orders-ffffffffffffffff-{check}"),
        format!("nobody-1-{check}"),
        "orders".to_owned(),
        "-".to_owned(),
        String::new(),
        "%00".to_owned(),
        format!("{ticket}/"),
    ] {
        client.get(&format!("/v1/tickets/{wrong}")).assert_problem(404, "not-found");
    }
    assert_eq!(client.ticket(&ticket)["position"], 1);
    server.stop();
}

#[test]
fn a_record_reaches_the_database_byte_for_byte() {
    let site = Site::new(UNLIMITED);
    let server = site.start();
    let mut client = server.client();
    let large: Vec<u8> = (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let every_byte: Vec<u8> = (0..=255).collect();
    let bodies: [(&[u8], &str); 4] =
        [(&large, "application/octet-stream"), (&every_byte, "image/png"), (b"\0", "text/plain"), (b" \r\n ", "x/y")];
    for (body, content_type) in bodies {
        let headers = [("content-type", content_type), ("forebay-key", "customer 7 \u{fc}")];
        let ticket = client.post("orders", &headers, body).text("ticket");
        server.until_delivered(&ticket);
        let database = site.database("orders");
        let sql = format!("SELECT body FROM forebay_orders WHERE ticket = '{ticket}'");
        assert!(sqlite_bytes(&database, &sql).as_deref() == Some(body), "{content_type}");
        let sql = format!("SELECT key, content_type FROM forebay_orders WHERE ticket = '{ticket}'");
        assert_eq!(sqlite_rows(&database, &sql), [["customer 7 \u{fc}", content_type]]);
    }
    let ticket = client.accept("orders", "bare");
    server.until_delivered(&ticket);
    let sql = format!("SELECT key, content_type, body FROM forebay_orders WHERE ticket = '{ticket}'");
    assert_eq!(sqlite_rows(&site.database("orders"), &sql), [["NULL", "NULL", "bare"]]);
    let sql = "SELECT received_at FROM forebay_orders WHERE received_at NOT GLOB '20[0-9][0-9]-[01]*T*Z'";
    assert!(sqlite_rows(&site.database("orders"), sql).is_empty());
    server.stop();
}

#[test]
fn every_listener_is_served() {
    let second: SocketAddr = match std::net::TcpListener::bind("[::1]:0") {
        Ok(_) => "[::1]:0".parse().unwrap(),
        // A machine without IPv6 still proves that there can be two.
        Err(_) => "127.0.0.1:0".parse().unwrap(),
    };
    let listeners = format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n[[listeners]]\naddress = \"{second}\"\n");
    let site = Site::new(&format!("{listeners}[ingress]\nexecutors = 2\n{UNLIMITED}"));
    let server = site.start();
    assert_eq!(server.addresses().len(), 2, "{}", server.log());
    assert_eq!(server.addresses()[1].ip(), second.ip());
    for (number, address) in server.addresses().iter().enumerate() {
        Client::connect(*address).unwrap().accept("orders", format!("{number}"));
    }
    let bodies = until_sqlite_has(&site.database("orders"), 2, "SELECT body FROM forebay_orders ORDER BY body");
    assert_eq!(bodies, ["0", "1"]);
    server.stop();
}

#[test]
fn health_and_readiness_are_told_on_both_sides() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    until_drain_runs(&server);
    let mut client = server.client();
    let mut admin = Client::connect(server.admin()).unwrap();
    for path in ["/healthz", "/readyz"] {
        assert_eq!((client.get(path).status, client.get(path).body), (200, b"ok\n".to_vec()));
        assert_eq!(admin.get(path).status, 200);
    }
    client.accept("orders", "one");
    let ready = String::from_utf8(admin.get("/readyz").body).unwrap();
    assert_eq!(ready, "ready\nqueue orders: delivering, backlog 1 records\n");
    assert_eq!(admin.get("/nothing").status, 404);
    let refused = admin.request("POST", "/healthz", &[], Some(b"")).unwrap();
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET")));
    server.stop();
}

#[test]
fn metrics_count_what_happened() {
    let site = Site::new(
        "[queues.orders]\nrate = \"unlimited\"\nsink = { table = \"orders\", columns = { id = \"/id\" } }\n\
         [queues.slow]\nrate = \"1/h\"\n",
    );
    sqlite_execute(&site.database("orders"), "CREATE TABLE orders (id INTEGER CHECK (id < 100))");
    let server = site.start();
    let mut client = server.client();
    client.accept("orders", r#"{"id":1}"#);
    let ndjson = [("content-type", "application/x-ndjson"), ("idempotency-key", "batch")];
    for _ in 0..2 {
        assert_eq!(client.post("orders", &ndjson, "{\"id\":2}\n{\"id\":100}\n{\"id\":3}").status, 202);
    }
    client.accept("slow", "12345");
    client.post("orders", &[], "").assert_problem(400, "bad-request");
    client.post("nobody", &[], "x").assert_problem(404, "not-found");
    client.get("/v1/tickets/x").assert_problem(404, "not-found");
    eventually("delivery", || (server.metric("forebay_delivered_sequence{queue=\"orders\"}") == 4).then_some(()));
    for (name, value) in [
        // A request that is replayed is answered 202 as well.
        ("forebay_requests_accepted_total", 4),
        ("forebay_records_accepted_total", 1 + 3 + 3 + 1),
        ("forebay_body_bytes_accepted_total", 8 + 2 * 28 + 5),
        ("forebay_ticket_requests_total", 1),
        ("forebay_connections_open", 1),
        ("forebay_requests_refused_total{reason=\"bad-request\"}", 1),
        ("forebay_requests_refused_total{reason=\"not-found\"}", 2),
        ("forebay_requests_refused_total{reason=\"internal\"}", 0),
        ("forebay_requests_replayed_total{queue=\"orders\"}", 1),
        ("forebay_requests_replayed_total{queue=\"slow\"}", 0),
        ("forebay_appended_sequence{queue=\"orders\"}", 4),
        ("forebay_durable_sequence{queue=\"orders\"}", 4),
        ("forebay_released_sequence{queue=\"orders\"}", 4),
        ("forebay_backlog_records{queue=\"orders\"}", 0),
        ("forebay_backlog_bytes{queue=\"orders\"}", 0),
        ("forebay_dead_letters{queue=\"orders\"}", 1),
        ("forebay_backlog_records{queue=\"slow\"}", 1),
        // The record's header and its body.
        ("forebay_backlog_bytes{queue=\"slow\"}", 48 + 5),
        ("forebay_dead_letters{queue=\"slow\"}", 0),
        ("forebay_journal_failed", 0),
        ("forebay_disk_full", 0),
        ("forebay_drain_halted{queue=\"orders\"}", 0),
    ] {
        assert_eq!(server.metric(name), value, "{name} in\n{}", server.metrics());
    }
    let metrics = server.metrics();
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("forebay_") && value.parse::<f64>().is_ok(), "{line}");
    }
    eventually("latencies", || {
        let text = server.metrics();
        let line = text.lines().find(|line| line.starts_with("forebay_ack_latency_seconds{quantile=\"1\"}"))?;
        (line.rsplit_once(' ')?.1.parse::<f64>().ok()? > 0.0).then_some(())
    });
    server.stop();
}
