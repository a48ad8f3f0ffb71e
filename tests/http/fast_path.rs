//! The fast path and hyper answer alike, whatever a client sends and however it is cut into pieces.

#![allow(clippy::disallowed_methods, reason = "a client that takes its time has no bell to wait for")]

use std::io::Write;
use std::thread::sleep;
use std::time::Duration;

use super::*;

/// Sends `bytes` in pieces and reads all answers until the server closes: statuses, and the fields that matter.
fn answers(server: &Server, through_hyper: bool, bytes: &[u8], piece: usize) -> Vec<String> {
    let mut client = server.client();
    if through_hyper {
        // The first request of another kind takes the connection to hyper for good.
        assert_eq!(client.get("/healthz").status, 200);
    }
    for piece in bytes.chunks(piece) {
        // The server may have closed already; what it said before is still to be read.
        if client.send(piece).is_err() {
            break;
        }
        if bytes.len() > piece.len() {
            sleep(Duration::from_micros(200));
        }
    }
    client.finish();
    let mut answers = Vec::new();
    while let Ok(response) = client.read() {
        let fields: Vec<_> = ["content-type", "connection", "retry-after", "allow", "idempotent-replayed"]
            .into_iter()
            .filter_map(|name| response.header(name).map(|value| format!("{name}: {value}")))
            .collect();
        assert!(response.header("date").is_some_and(|date| date.ends_with(" GMT")), "{response:?}");
        let body = if response.status == 202 { String::new() } else { String::from_utf8_lossy(&response.body).into() };
        answers.push(format!("{} {fields:?} {body}", response.status));
    }
    answers
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /v1/queues/orders/records HTTP/1.1\r\ncontent-length: {}\r\n{fields}\r\n{body}", body.len())
}

#[test]
fn both_answer_alike() {
    let site = Site::new(&format!("[ingress]\nrecord_bytes_max = 1000\n{STANDSTILL}"));
    let server = site.start();
    let good = post("", "x");
    let cases = [
        good.clone(),
        good.replace("\r\n", "\n"),
        format!("\r\n\r\n{good}{good}"),
        good.clone() + &post("connection: close\r\n", "y") + &good,
        good.clone() + &post("connection: keep-alive\r\n", "y") + "garbage\r\n\r\n",
        good.clone() + "GET /healthz HTTP/1.1\r\n\r\n" + &good,
        good.clone() + &post("idempotency-key: a\r\n", "y") + &post("idempotency-key: a\r\n", "z"),
        post("forebay-key: \r\n", "x"),
        post("content-type: a\r\ncontent-type: b\r\n", "x"),
        // What is refused by its head comes last: whether its body is there by then decides if the connection is kept.
        good.clone() + &post("forebay-expires: +1h\r\n", "x") + &post("forebay-priority: 5\r\n", "x"),
        post("content-type: application/x-ndjson\r\n", "{}\n{}\n"),
        post("x: y\r\n z: folded\r\n", "x"),
        post("", "") + &good,
        post("", &"x".repeat(1001)),
        post("content-encoding: gzip\r\n", "x"),
        post("expect: 200-ok\r\n", "x"),
        good.replace("content-length: 1", "content-length: 01") + &good,
        good.replace("content-length: 1", "content-length:1 ") + &good,
        good.replace("content-length: 1", "content-length: 1\r\ncontent-length: 1"),
        good.replace("content-length: 1", "content-length: 1\r\ncontent-length: 2"),
        good.replace("content-length: 1", "content-length: 1\r\ntransfer-encoding: chunked"),
        good.replace("HTTP/1.1", "HTTP/1.0"),
        good.replace("/records", "/records?x=y"),
        good.replace("/records", "/records#x"),
        good.replace("/v1/", "http://somewhere/v1/"),
        good.replace("orders", "nobody"),
        good.replace("orders", "%6frders"),
        good.replace("POST", "PUT"),
        good[..good.len() - 1].to_owned(),
        good[..30].to_owned(),
    ];
    for case in &cases {
        let wanted = answers(&server, true, case.as_bytes(), usize::MAX);
        for piece in [usize::MAX, 1, 7, 100] {
            // Keys are remembered, so each run has keys of its own.
            let own = case.replace("-key: a", &format!("-key: {piece}"));
            assert_eq!(answers(&server, false, own.as_bytes(), piece), wanted, "{case:?} in pieces of {piece}");
        }
    }
    server.stop();
}

#[test]
fn many_connections_at_once_each_get_their_own_answers() {
    let site = Site::new(&format!("[ingress]\nexecutors = 2\n{UNLIMITED}"));
    let server = site.start();
    let clients: Vec<_> = (0..64).map(|_| server.client()).collect();
    let threads: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(number, mut client)| {
            std::thread::spawn(move || {
                let mut tickets = Vec::new();
                for n in 0..50 {
                    let body = format!("{number}/{n}");
                    tickets.push((client.post("orders", &[("forebay-key", &body)], &body).text("ticket"), body));
                }
                tickets
            })
        })
        .collect();
    let tickets: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    for (ticket, _) in &tickets {
        server.until_delivered(ticket);
    }
    let sql = "SELECT ticket || ' ' || key || ' ' || CAST(body AS TEXT) FROM forebay_orders";
    let mut rows = until_sqlite_has(&site.database("orders"), tickets.len(), sql);
    let mut wanted: Vec<_> = tickets.iter().map(|(ticket, body)| format!("{ticket} {body} {body}")).collect();
    rows.sort();
    wanted.sort();
    assert_eq!(rows, wanted);
    server.stop();
}

#[test]
fn a_client_that_takes_no_answers_is_closed_and_disturbs_nobody() {
    let site = Site::new(&format!("[ingress]\nbody_timeout_ms = 200\n{UNLIMITED}"));
    let server = site.start();
    let mut deaf = std::net::TcpStream::connect(server.address()).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let request = post("", "x");
    // Until neither side's buffers take anything more.
    let mut stuck = 0;
    while stuck < 50 {
        match deaf.write(request.as_bytes()) {
            Ok(length) if length == request.len() => stuck = 0,
            Ok(_) => break,
            Err(_) => {
                stuck += 1;
                sleep(Duration::from_millis(10));
            }
        }
    }
    server.client().accept("orders", "others are served");
    eventually("the end of the deaf connection", || {
        (server.metric("forebay_connections_timed_out_total") >= 1).then_some(())
    });
    server.stop();
}

#[test]
fn a_flood_of_refusals_on_one_connection_stops_nobody_else() {
    const REQUESTS: usize = 20_000;
    let site = Site::new("[queues.orders]\nrate = \"1/h\"\nmax_backlog_bytes = 1000\n");
    let server = site.start();
    let mut flood = server.client();
    let requests = post("", &"x".repeat(1000)).repeat(REQUESTS);
    let mut reader = flood.reader();
    let sender = std::thread::spawn(move || flood.send(requests).is_ok());
    for _ in 0..20 {
        server.client().get("/healthz");
    }
    for _ in 0..REQUESTS {
        reader.read().unwrap().assert_problem(429, "backlog-full");
    }
    assert!(sender.join().unwrap());
    server.client().accept("orders", "what fits is still taken");
    server.stop();
}
