//! What is refused, with which words, and that nothing of it is stored.

use super::*;

const RECORDS: &str = "/v1/queues/orders/records";

#[test]
fn requests_that_make_no_sense_are_refused_and_leave_nothing_behind() {
    let site = Site::new(&format!("[ingress]\nrecord_bytes_max = 1000\n{STANDSTILL}"));
    let server = site.start();
    let mut client = server.client();
    client.post("orders", &[], "").assert_problem(400, "bad-request");
    let long = "k".repeat(257);
    for name in ["idempotency-key", "forebay-key", "content-type"] {
        client.post("orders", &[(name, "")], "x").assert_problem(400, "bad-request");
        client.post("orders", &[(name, &long)], "x").assert_problem(400, "bad-request");
        let twice = client.post("orders", &[(name, "a"), (name, "a")], "x");
        twice.assert_problem(400, "bad-request");
        assert!(twice.text("detail").contains(name), "{twice:?}");
    }
    let not_text = b"POST /v1/queues/orders/records HTTP/1.1\r\nforebay-key: \xff\r\ncontent-length: 1\r\n\r\nx";
    client.send(not_text).unwrap();
    client.read().unwrap().assert_problem(400, "bad-request");
    for path in ["/", "/v1", "/v1/queues/nobody/records", "/v1/queues/orders", "/v1/queues//records", "/metrics"] {
        server.client().request("POST", path, &[], Some(b"x")).unwrap().assert_problem(404, "not-found");
    }
    for (method, path, allowed) in [
        ("GET", RECORDS, "POST"),
        ("PUT", RECORDS, "POST"),
        ("DELETE", "/v1/tickets/x", "GET"),
        ("POST", "/healthz", "GET"),
        ("POST", "/readyz", "GET"),
    ] {
        let refused = server.client().request(method, path, &[], Some(b"x")).unwrap();
        refused.assert_problem(405, "method-not-allowed");
        assert_eq!(refused.header("allow"), Some(allowed), "{method} {path}");
    }
    client.request("POST", RECORDS, &[], None).unwrap().assert_problem(411, "length-required");
    for encoding in ["gzip", "br", "identity, gzip"] {
        let refused = server.client().post("orders", &[("content-encoding", encoding)], "x");
        refused.assert_problem(415, "unsupported-encoding");
        assert_eq!(refused.header("accept-encoding"), Some("identity"));
    }
    assert_eq!(server.metric("forebay_appended_sequence{queue=\"orders\"}"), 0);
    // What is just within the bounds is taken.
    let edge = [("idempotency-key", &long[1..]), ("forebay-key", &long[1..]), ("content-encoding", "identity")];
    assert_eq!(client.post("orders", &edge, "x").status, 202);
    assert_eq!(client.post("orders", &[], "x".repeat(1000)).status, 202);
    server.stop();
}

#[test]
fn a_body_that_is_too_large_is_refused_before_or_while_it_comes() {
    let site = Site::new(&format!("[ingress]\nrecord_bytes_max = 1000\n{STANDSTILL}"));
    let server = site.start();
    let mut announced = server.client();
    announced.send("POST /v1/queues/orders/records HTTP/1.1\r\ncontent-length: 1001\r\n\r\n").unwrap();
    let refused = announced.read().unwrap();
    refused.assert_problem(413, "too-large");
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(announced.is_closed());
    let mut patient = server.client();
    let expect = "expect: 100-continue\r\n";
    patient
        .send(format!("POST /v1/queues/orders/records HTTP/1.1\r\ncontent-length: 99999999999\r\n{expect}\r\n"))
        .unwrap();
    patient.read().unwrap().assert_problem(413, "too-large");
    let mut chunked = server.client();
    chunked.send("POST /v1/queues/orders/records HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    for _ in 0..4 {
        chunked.send(format!("fa\r\n{}\r\n", "x".repeat(250))).unwrap();
    }
    chunked.send("1\r\nx\r\n").unwrap();
    chunked.read().unwrap().assert_problem(413, "too-large");
    assert!(chunked.is_closed());
    assert_eq!(server.metric("forebay_appended_sequence{queue=\"orders\"}"), 0);
    server.stop();
}

#[test]
fn a_client_that_sends_all_of_a_large_body_still_reads_the_refusal() {
    let site = Site::new(&format!("[ingress]\nrecord_bytes_max = 1000\n{STANDSTILL}"));
    let server = site.start();
    for _ in 0..20 {
        let mut client = server.client();
        let head = format!("POST {RECORDS} HTTP/1.1\r\ncontent-length: 300000\r\n\r\n");
        // The server may close before it has taken everything, which the client sees as a broken pipe.
        let _ = client.send(head.into_bytes().into_iter().chain(vec![b'x'; 300_000]).collect::<Vec<_>>());
        client.read().unwrap().assert_problem(413, "too-large");
    }
    server.stop();
}

#[test]
fn a_body_that_comes_too_slowly_is_refused() {
    let site = Site::new(&format!("[ingress]\nbody_timeout_ms = 100\n{STANDSTILL}"));
    let server = site.start();
    let mut client = server.client();
    client.send(format!("POST {RECORDS} HTTP/1.1\r\ncontent-length: 10\r\n\r\n12345")).unwrap();
    let refused = client.read().unwrap();
    refused.assert_problem(408, "body-timeout");
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(client.is_closed());
    assert_eq!(server.metric("forebay_connections_timed_out_total"), 1);
    assert_eq!(server.metric("forebay_appended_sequence{queue=\"orders\"}"), 0);
    server.stop();
}

#[test]
fn a_body_that_breaks_off_is_not_stored() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    for rest in ["content-length: 10\r\n\r\n12345", "transfer-encoding: chunked\r\n\r\n5\r\n12345\r\n"] {
        let mut client = server.client();
        client.send(format!("POST {RECORDS} HTTP/1.1\r\n{rest}")).unwrap();
        drop(client);
    }
    let mut client = server.client();
    client.send(format!("POST {RECORDS} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\nzz\r\n")).unwrap();
    client.read().unwrap().assert_problem(400, "bad-request");
    eventually("the end of the connections", || (server.metric("forebay_connections_open") == 0).then_some(()));
    assert_eq!(server.metric("forebay_appended_sequence{queue=\"orders\"}"), 0);
    server.stop();
}

#[test]
fn a_full_backlog_is_refused_until_it_has_drained() {
    let backlog = "max_backlog_bytes = 2048\n";
    let site = Site::new(&format!("[queues.orders]\nrate = \"1/min\"\n{backlog}"));
    let server = site.start();
    until_drain_runs(&server);
    let mut client = server.client();
    // With its header each is 448 bytes, so the fifth does not fit.
    for _ in 0..4 {
        client.accept("orders", "x".repeat(400));
    }
    let refused = client.post("orders", &[], "x".repeat(400));
    refused.assert_problem(429, "backlog-full");
    // One record has to leave, and that takes a minute.
    assert_eq!(refused.header("retry-after"), Some("60"), "{refused:?}");
    assert!(refused.text("detail").contains("4 records (1792 bytes)"), "{refused:?}");
    let chunked = format!("190\r\n{}\r\n0\r\n\r\n", "x".repeat(400));
    client.send(format!("POST {RECORDS} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{chunked}")).unwrap();
    client.read().unwrap().assert_problem(429, "backlog-full");
    // What still fits is taken.
    client.accept("orders", "small");
    server.stop();
    site.configure(&format!("{UNLIMITED}{backlog}"));
    let server = site.start();
    let mut client = server.client();
    let ticket = eventually("room", || {
        let response = client.post("orders", &[], "y".repeat(400));
        (response.status == 202).then(|| response.text("ticket"))
    });
    server.until_delivered(&ticket);
    let rows = until_sqlite_has(&site.database("orders"), 6, "SELECT length(body) FROM forebay_orders ORDER BY rowid");
    assert_eq!(rows, ["400", "400", "400", "400", "5", "400"]);
    server.stop();
}

#[test]
fn bodies_beyond_the_memory_for_them_are_refused() {
    let site = Site::new(&format!("[ingress]\nbody_bytes_in_flight_max = 1000\n{STANDSTILL}"));
    let server = site.start();
    let refused = server.client().post("orders", &[], "x".repeat(1001));
    refused.assert_problem(503, "busy");
    assert_eq!(refused.header("retry-after"), Some("1"));
    // The room that it had taken is given back.
    server.client().accept("orders", "x".repeat(1000));
    server.stop();
}
