//! How connections begin, go on and end, and what HTTP/1.1 allows a client to do with one.

use super::*;

fn post(body: &str) -> String {
    format!("POST /v1/queues/orders/records HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let mut client = server.client();
    let mut requests = String::new();
    for n in 0..50 {
        requests += &post(&format!("{n}"));
        if n % 10 == 9 {
            requests += "GET /v1/tickets/none HTTP/1.1\r\n\r\n";
        }
    }
    client.send(requests).unwrap();
    for n in 0..50_u64 {
        let response = client.read().unwrap();
        assert_eq!(response.status, 202, "{response:?}");
        assert!(response.text("ticket").starts_with(&format!("orders-{:x}-", n + 1)), "{response:?}");
        if n % 10 == 9 {
            client.read().unwrap().assert_problem(404, "not-found");
        }
    }
    server.stop();
}

#[test]
fn an_answer_does_not_wait_for_the_rest_of_the_next_request() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let mut client = server.client();
    let second = post("second");
    let (beginning, rest) = second.split_at(20);
    client.send(post("first") + beginning).unwrap();
    assert_eq!(client.read().unwrap().status, 202);
    client.send(rest).unwrap();
    assert_eq!(client.read().unwrap().status, 202);
    server.stop();
}

#[test]
fn what_follows_a_good_request_cannot_take_its_answer_away() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let mut client = server.client();
    client.send(post("good") + "\x16\x03\x01 garbage\r\n\r\n").unwrap();
    assert_eq!(client.read().unwrap().status, 202);
    assert_eq!(client.read().unwrap().status, 400);
    server.stop();
}

#[test]
fn a_connection_is_kept_after_a_refusal_whose_request_was_read() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let mut client = server.client();
    client.post("orders", &[], "").assert_problem(400, "bad-request");
    client.get("/v1/tickets/none").assert_problem(404, "not-found");
    client.request("POST", "/v1/queues/orders/records", &[], None).unwrap().assert_problem(411, "length-required");
    client.accept("orders", "x");
    assert_eq!(server.metric("forebay_connections_open"), 1);
    server.stop();
}

#[test]
fn a_chunked_body_is_put_together() {
    let site = Site::new(UNLIMITED);
    let server = site.start();
    let mut client = server.client();
    let head = "POST /v1/queues/orders/records HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
    client.send(format!("{head}3\r\nabc\r\n")).unwrap();
    client.send("A;extension=1\r\n0123456789\r\n0\r\ntrailer: x\r\n\r\n").unwrap();
    let ticket = client.read().unwrap().text("ticket");
    server.until_delivered(&ticket);
    let rows = until_sqlite_has(&site.database("orders"), 1, "SELECT body FROM forebay_orders");
    assert_eq!(rows, ["abc0123456789"]);
    client.send("POST /v1/queues/orders/records HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").unwrap();
    client.read().unwrap().assert_problem(400, "bad-request");
    server.stop();
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let mut client = server.client();
    let expect = "content-length: 5\r\nexpect: 100-continue\r\n\r\n";
    client.send(format!("POST /v1/queues/orders/records HTTP/1.1\r\n{expect}")).unwrap();
    assert_eq!(client.read().unwrap().status, 100);
    client.send("hello").unwrap();
    assert_eq!(client.read().unwrap().status, 202);
    // And not if it would be sent for nothing.
    client.send(format!("POST /v1/queues/nobody/records HTTP/1.1\r\n{expect}")).unwrap();
    client.read().unwrap().assert_problem(404, "not-found");
    server.stop();
}

#[test]
fn http_1_0_and_head_get_what_they_should() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let mut old = server.client();
    old.send("POST /v1/queues/orders/records HTTP/1.0\r\ncontent-length: 2\r\n\r\nhi").unwrap();
    assert_eq!(old.read().unwrap().status, 202);
    assert!(old.is_closed());
    let mut client = server.client();
    client.send("HEAD /healthz HTTP/1.1\r\n\r\nGET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n").unwrap();
    let head = client.read_head().unwrap();
    assert_eq!((head.status, head.header("allow")), (405, Some("GET")));
    // Had the first answer a body, it would be taken for the second's head.
    let second = client.read().unwrap();
    assert_eq!((second.status, second.body.as_slice()), (200, b"ok\n".as_slice()));
    assert!(client.is_closed());
    server.stop();
}

#[test]
fn what_is_not_http_is_refused_and_the_rest_goes_on() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let mut bystander = server.client();
    bystander.accept("orders", "before");
    let header = |bytes: usize| format!("GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(bytes));
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(65));
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000));
    let large_head = header(20_000);
    let cases: [(&[u8], &[u16]); 8] = [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", &[400]),
        (b"hello\r\n\r\n", &[400]),
        (b"GET /healthz HTTP/9.9\r\n\r\n", &[400, 505]),
        (b"POST /v1/queues/orders/records HTTP/1.1\r\ncontent-length: x\r\n\r\n", &[400]),
        (b"POST /v1/queues/orders/records HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx", &[400]),
        (large_head.as_bytes(), &[431]),
        (many.as_bytes(), &[431]),
        (long_path.as_bytes(), &[414, 431]),
    ];
    for (bytes, statuses) in cases {
        let mut client = server.client();
        client.send(bytes).unwrap();
        let response = client.read().unwrap();
        assert!(statuses.contains(&response.status), "{response:?} to {}", String::from_utf8_lossy(bytes));
        assert!(client.is_closed());
    }
    let mut client = server.client();
    client.send(header(15_000)).unwrap();
    assert_eq!(client.read().unwrap().status, 200);
    bystander.accept("orders", "after");
    assert_eq!(server.metric("forebay_appended_sequence{queue=\"orders\"}"), 2);
    server.stop();
}

#[test]
fn a_length_and_chunks_together_cannot_smuggle_a_request() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let mut client = server.client();
    let smuggled = post("smuggled");
    let both = "transfer-encoding: chunked\r\ncontent-length: 5";
    client.send(format!("POST /v1/queues/orders/records HTTP/1.1\r\n{both}\r\n\r\n0\r\n\r\n{smuggled}")).unwrap();
    // Whether it is refused as malformed or the chunks (an empty body) win, the first answer is a 400.
    assert_eq!(client.read().unwrap().status, 400);
    server.stop();
}

#[test]
fn slow_heads_and_silent_connections_are_closed() {
    let site = Site::new(&format!("[ingress]\nhead_timeout_ms = 200\n{STANDSTILL}"));
    let server = site.start();
    for beginning in ["", "P", "POST /v1/queues/orders/records HTTP/1.1\r\ncontent-le"] {
        let mut client = server.client();
        client.send(beginning).unwrap();
        assert!(client.is_closed(), "{beginning:?}");
    }
    server.stop();
    let site = Site::new(&format!("[ingress]\nidle_timeout_ms = 100\n{STANDSTILL}"));
    let server = site.start();
    let mut client = server.client();
    client.accept("orders", "x");
    assert!(client.is_closed());
    assert_eq!(server.metric("forebay_connections_timed_out_total"), 1);
    server.stop();
}

#[test]
fn one_connection_too_many_is_told_so() {
    let site = Site::new(&format!("[ingress]\nconnections_max = 2\n{STANDSTILL}"));
    let server = site.start();
    let mut clients = [server.client(), server.client()];
    for client in &mut clients {
        client.accept("orders", "x");
    }
    let mut third = server.client();
    let refused = third.read().unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused:?}");
    assert!(third.is_closed());
    let [first, mut second] = clients;
    second.accept("orders", "x");
    drop(first);
    eventually("a free connection", || {
        let response = server.client().try_post("orders", &[], "x").ok()?;
        (response.status == 202).then_some(())
    });
    server.stop();
}
