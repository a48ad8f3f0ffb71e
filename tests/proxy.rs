//! A listener with a queue: every request is a record, and a service behind forebay gets it as it came.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "a test that cannot go on should panic, and is its own documentation"
)]

mod nginx_server;
mod server;
mod upstream_server;

use std::sync::atomic::{AtomicUsize, Ordering};

use nginx_server::NginxServer;
use serde_json::Value;
use server::client::Response;
use server::database::{sqlite_execute, sqlite_rows, until_sqlite_has};
use server::{Client, Server, Site, eventually};
use upstream_server::{Arrival, Reply, UpstreamServer};

const LISTENER: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nqueue = \"orders\"\n";

/// A listener that feeds a queue whose records stay in the journal.
fn idle(queue: &str) -> Site {
    Site::new(&format!("{LISTENER}[queues.orders]\nrate = \"1/h\"\n{queue}\n"))
}

/// A listener that feeds a queue in front of a service.
fn in_front_of(url: &str, sink: &str) -> Site {
    Site::new(&format!("{LISTENER}[queues.orders]\n[queues.orders.sink]\ntype = \"http\"\nurl = \"{url}\"\n{sink}\n"))
}

fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Response {
    server.client().request(method, path, headers, body).unwrap()
}

fn exported(site: &Site) -> Vec<Value> {
    let (code, out, err) = site.tool("export", &["--queue", "orders", "--from", "1"]);
    assert_eq!(code, Some(0), "{err}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn until_arrived(upstream: &UpstreamServer, count: usize) -> Vec<Arrival> {
    eventually(&format!("{count} requests"), || Some(upstream.arrivals()).filter(|all| all.len() >= count))
}

#[test]
fn every_request_is_a_record_with_all_that_it_said() {
    let site = idle("order = \"key\"");
    let server = site.start();
    let headers = [
        ("accept", "a"),
        ("Accept", "b"),
        ("authorization", "Bearer x"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("x-empty", ""),
        ("content-type", "text/plain; charset=utf-8"),
        ("idempotency-key", "i"),
        ("forebay-key", "k"),
        ("forebay-priority", "7"),
    ];
    let response = ask(&server, "PUT", "/orders/7%2F8?a=b&c", &headers, Some(b"body"));
    assert_eq!(response.status, 202);
    let ticket = response.text("ticket");
    assert_eq!(response.header("location"), Some(&*format!("/v1/tickets/{ticket}")));
    // The submission of another listener is a request like any other here.
    assert_eq!(ask(&server, "POST", "/v1/queues/orders/records", &[], Some(b"x")).status, 202);
    let mut client = server.client();
    assert_eq!(client.ticket(&ticket)["state"], "queued");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(client.get(path).body, b"ok\n");
    }
    assert_eq!(client.get("/healthz/of-the-service").status, 202);
    server.stop();
    let records = exported(&site);
    assert_eq!(records.len(), 3, "{records:#?}");
    let host = ("host".to_owned(), "forebay.test".to_owned());
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let kept = |record: &Value| serde_json::from_value::<Vec<(String, String)>>(record["headers"].clone()).unwrap();
    let record = &records[0];
    assert_eq!((&record["method"], &record["path"]), (&"PUT".into(), &"/orders/7%2F8?a=b&c".into()));
    assert_eq!((&record["body"], &record["key"], &record["priority"]), (&"body".into(), &"k".into(), &7.into()));
    assert_eq!(
        (&record["idempotency_key"], &record["content_type"]),
        (&"i".into(), &"text/plain; charset=utf-8".into())
    );
    let all = [
        host.clone(),
        pair("accept", "a"),
        pair("accept", "b"),
        pair("authorization", "Bearer x"),
        pair("x-empty", ""),
    ];
    assert_eq!(kept(record), all);
    assert_eq!((&records[1]["path"], kept(&records[1])), (&"/v1/queues/orders/records".into(), vec![host]));
    assert_eq!((&records[2]["method"], &records[2]["path"]), (&"GET".into(), &"/healthz/of-the-service".into()));
}

#[test]
fn a_request_need_not_have_a_body_and_its_body_is_not_looked_into() {
    let site = idle("");
    let server = site.start();
    for method in ["GET", "DELETE", "POST", "OPTIONS", "PURGE"] {
        assert_eq!(ask(&server, method, "/x", &[], None).status, 202, "{method}");
    }
    assert_eq!(ask(&server, "POST", "/x", &[], Some(b"")).status, 202);
    // The answer to HEAD has no body.
    let mut client = server.client();
    client.send("HEAD /x HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    assert_eq!(client.read_head().unwrap().status, 202);
    client.send("POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").unwrap();
    assert_eq!(client.read().unwrap().status, 202);
    let lines = [("content-type", "application/x-ndjson"), ("content-encoding", "gzip")];
    let response = ask(&server, "POST", "/x", &lines, Some(b"1\n2\n"));
    assert!(response.json().get("count").is_none(), "{response:?}");
    server.stop();
    let records = exported(&site);
    let bodies: Vec<_> = records.iter().map(|record| record["body"].as_str().unwrap()).collect();
    assert_eq!(bodies, ["", "", "", "", "", "", "", "abc", "1\n2\n"]);
    assert_eq!(records[8]["headers"][1], serde_json::json!(["content-encoding", "gzip"]));
    assert_eq!(records[8]["content_type"], "application/x-ndjson");
    assert_eq!(site.tool("verify", &[]).0, Some(0));
}

#[test]
fn the_bounds_of_a_submission_hold() {
    let site = idle("max_backlog_bytes = \"60KiB\"\n");
    let server = site.start();
    let long = format!("/{}", "x".repeat(8192));
    ask(&server, "GET", &long, &[], None).assert_problem(414, "uri-too-long");
    assert_eq!(ask(&server, "GET", &long[..8192], &[], None).status, 202);
    let value = "v".repeat(8000);
    // A head of more than head_bytes_max is hyper's to refuse, so the headers alone cannot be too many with its default.
    assert_eq!(ask(&server, "GET", "/", &[("x-a", &value)], None).status, 202);
    for line in ["OPTIONS * HTTP/1.1", "CONNECT shop.example:443 HTTP/1.1"] {
        let mut client = server.client();
        client.send(format!("{line}\r\nhost: a\r\n\r\n")).unwrap();
        client.read().unwrap().assert_problem(400, "bad-request");
    }
    let mut client = server.client();
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\nx-a: \xe4\r\n\r\n").unwrap();
    client.read().unwrap().assert_problem(400, "bad-request");
    ask(&server, "GET", "/", &[("forebay-priority", "1")], None).assert_problem(400, "bad-request");
    ask(&server, "GET", "/", &[("content-length", "1048577")], None).assert_problem(413, "too-large");
    let key = [("idempotency-key", "k")];
    let first = ask(&server, "DELETE", "/a", &key, None);
    let again = ask(&server, "DELETE", "/a", &key, None);
    assert_eq!((first.text("ticket"), again.header("idempotent-replayed")), (again.text("ticket"), Some("true")));
    // What is kept of the head counts towards the backlog.
    let full = eventually("a full backlog", || {
        Some(ask(&server, "GET", &long[..8000], &[], None)).filter(|response| response.status != 202)
    });
    full.assert_problem(429, "backlog-full");
    server.stop();
}

#[test]
fn headers_beyond_what_a_record_keeps_are_refused() {
    let site = Site::new(&format!("{LISTENER}[ingress]\nhead_bytes_max = \"64KiB\"\n[queues.orders]\n"));
    let server = site.start();
    let value = "v".repeat(8200);
    let response = ask(&server, "GET", "/", &[("x-a", &value), ("x-b", &value)], None);
    response.assert_problem(431, "headers-too-large");
    server.stop();
}

#[test]
fn other_listeners_serve_the_api_and_all_values_reach_a_database() {
    let site = Site::new(&format!(
        "[[listeners]]\naddress = \"127.0.0.1:0\"\n{LISTENER}[queues.orders]\n[queues.orders.sink]\ntable = \"requests\"\n\
         columns = {{ method = \"$method\", path = \"$path\", tenant = \"$header.X-Tenant\", body = \"$body\" }}\n"
    ));
    sqlite_execute(&site.database("orders"), "CREATE TABLE requests (method TEXT, path TEXT, tenant TEXT, body TEXT)");
    let server = site.start();
    let mut api = server.client();
    let mut front = Client::connect(server.addresses()[1]).unwrap();
    let tenants = [("x-tenant", "a"), ("x-other", "o"), ("x-tenant", "b")];
    assert_eq!(api.post("orders", &tenants, "1").status, 202);
    assert_eq!(api.post("orders", &[("content-type", "application/x-ndjson"), ("x-tenant", "")], "2\n3\n").status, 202);
    assert_eq!(api.post("orders", &[], "4").status, 202);
    api.get("/orders").assert_problem(404, "not-found");
    assert_eq!(front.request("PATCH", "/a?b", &[("X-TENANT", "c")], Some(b"5")).unwrap().status, 202);
    until_sqlite_has(&site.database("orders"), 5, "SELECT body FROM requests");
    let rows = sqlite_rows(&site.database("orders"), "SELECT method, path, tenant, body FROM requests ORDER BY rowid");
    let wanted = [
        ["NULL", "NULL", "a, b", "1"],
        ["NULL", "NULL", "", "2"],
        ["NULL", "NULL", "", "3"],
        ["NULL", "NULL", "NULL", "4"],
        ["PATCH", "/a?b", "c", "5"],
    ];
    assert_eq!(rows, wanted);
    server.stop();
}

#[test]
fn the_sidecar_of_the_example_hands_on_what_came_at_the_rate() {
    let service = UpstreamServer::willing();
    let nginx = NginxServer::start(false, "", &format!("location / {{ proxy_pass {}; }}", service.url()));
    let example = include_str!("../config/sidecar.toml").replace("0.0.0.0:8080", "127.0.0.1:0");
    let mut site = Site::new(&example);
    site.set_environment("SERVICE_URL", &format!("http://{}/shop", nginx.address()));
    let server = site.start();
    let headers = [("accept", "text/html"), ("cookie", "a=b"), ("te", "trailers"), ("content-type", "text/x")];
    let requests =
        [("GET", "/cart?a=b", None), ("DELETE", "/cart/7", None), ("PUT", "/cart/8%20", Some(&b"eight"[..]))];
    let tickets: Vec<_> = requests
        .iter()
        .map(|(method, path, body)| ask(&server, method, path, &headers, *body).text("ticket"))
        .collect();
    for ticket in &tickets {
        server.until_delivered(ticket);
    }
    let mut arrivals = service.arrivals();
    arrivals.sort_by_key(|arrival| tickets.iter().position(|ticket| ticket == arrival.key()));
    assert_eq!(arrivals.len(), 3);
    for ((arrival, ticket), (method, path, body)) in arrivals.iter().zip(&tickets).zip(requests) {
        assert_eq!((arrival.method.as_str(), arrival.target.as_str()), (method, &*format!("/shop{path}")));
        assert_eq!((arrival.key(), arrival.body.as_slice()), (ticket.as_str(), body.unwrap_or_default()));
        assert_eq!(
            (arrival.header("accept"), arrival.header("cookie"), arrival.header("te")),
            ("text/html", "a=b", "")
        );
        assert_eq!(arrival.header("content-type"), "text/x");
    }
    server.stop();
}

#[test]
fn what_was_accepted_outlives_a_kill_and_what_was_refused_is_redriven_as_it_came() {
    let refusals = AtomicUsize::new(1);
    let service = UpstreamServer::start(move |_| {
        let is_refused = refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        Reply::status(if is_refused { 422 } else { 200 })
    });
    let site = in_front_of(&service.url(), "");
    let server = site.start();
    let ticket = ask(&server, "DELETE", "/cart/7?x", &[("x-a", "1"), ("idempotency-key", "mine")], None).text("ticket");
    let mut client = server.client();
    eventually("a dead letter", || (client.ticket(&ticket)["state"] == "dead").then_some(()));
    server.kill9();
    let server = site.start();
    let mut admin = Client::connect(server.admin()).unwrap();
    let letter = admin.get("/v1/queues/orders/dead-letters/1").json();
    assert_eq!((&letter["method"], &letter["path"]), (&"DELETE".into(), &"/cart/7?x".into()));
    let redrive = admin.request("POST", "/v1/queues/orders/dead-letters/redrive", &[], Some(br#"{"all": true}"#));
    assert_eq!(redrive.unwrap().json()["count"], 1);
    server.until_delivered(&ticket);
    let arrivals = until_arrived(&service, 2);
    for arrival in &arrivals {
        assert_eq!((arrival.method.as_str(), arrival.target.as_str()), ("DELETE", "/cart/7?x"));
        assert_eq!((arrival.header("x-a"), arrival.key()), ("1", "mine"));
    }
    assert_eq!(arrivals.len(), 2);
    server.stop();
}
