//! The HTTP service as a sink: what a real one gets, in which order, how often, and what its answers lead to.

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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nginx_server::NginxServer;
use serde_json::Value;
use server::{Server, Site, eventually};
use upstream_server::{Arrival, Reply, UpstreamServer};

const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];
const LIMIT: &str = "forebay_drain_rate_limit{queue=\"orders\"}";
const BATCHES: &str = "forebay_drain_batches_total{queue=\"orders\"}";
const LETTERS: &str = "forebay_dead_letters{queue=\"orders\"}";
/// Pauses that a test can wait for.
const RETRY: &str = "retry = { backoff_ms_min = 1, backoff_ms_max = 50 }\n";

fn site(queue: &str, url: &str, sink: &str) -> Site {
    Site::new(&format!("[queues.orders]\n{queue}\n[queues.orders.sink]\ntype = \"http\"\nurl = \"{url}\"\n{sink}\n"))
}

fn offer(server: &Server, bodies: impl IntoIterator<Item = String>) {
    let lines: String = bodies.into_iter().map(|body| body + "\n").collect();
    assert_eq!(server.client().post("orders", &NDJSON, lines).status, 202);
}

fn numbers(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("{{\"id\":{n}}}"))
}

fn until_arrived(upstream: &UpstreamServer, count: usize) -> Vec<Arrival> {
    eventually(&format!("{count} requests"), || Some(upstream.arrivals()).filter(|all| all.len() >= count))
}

fn until_drained(server: &Server) {
    eventually("an empty backlog", || (server.metric("forebay_backlog_records{queue=\"orders\"}") == 0).then_some(()));
}

/// Whether it is the first of these that is asked about it.
fn is_first(seen: &Mutex<BTreeSet<String>>, key: &str) -> bool {
    seen.lock().unwrap().insert(key.to_owned())
}

fn id(arrival: &Arrival) -> u64 {
    serde_json::from_slice::<Value>(&arrival.body).unwrap()["id"].as_u64().unwrap()
}

#[test]
fn each_record_is_a_request_with_a_key_of_its_own() {
    let upstream = UpstreamServer::willing();
    let site =
        site("", &(upstream.url() + "/api"), "headers = { X-Order = \"no {/id}\", X-Tenant = \"{$header.X-Tenant}\" }");
    let server = site.start();
    let mut client = server.client();
    let headers =
        [("content-type", "text/x-order"), ("idempotency-key", "mine"), ("x-tenant", "acme"), ("x-other", "o")];
    let mine = client.post("orders", &headers, "{\"id\":7}").text("ticket");
    let plain = client.accept("orders", "{}");
    let shared = [("content-type", "application/x-ndjson"), ("idempotency-key", "for both")];
    assert_eq!(client.post("orders", &shared, "{\"id\":1}\n{\"id\":2}\n").status, 202);
    server.until_delivered(&mine);
    until_drained(&server);
    let arrivals = upstream.arrivals();
    let seen: Vec<_> = arrivals
        .iter()
        .map(|a| (a.text(), a.header("content-type"), a.header("x-order"), a.header("x-tenant")))
        .collect();
    let owned = |text: &str| text.to_owned();
    assert_eq!(
        seen,
        [
            (owned("{\"id\":7}"), "text/x-order", "no 7", "acme"),
            (owned("{}"), "", "no", ""),
            (owned("{\"id\":1}"), "application/json", "no 1", ""),
            (owned("{\"id\":2}"), "application/json", "no 2", ""),
        ]
    );
    for arrival in &arrivals {
        assert_eq!((arrival.method.as_str(), arrival.target.as_str()), ("POST", "/api"));
        assert_eq!((arrival.header("host"), arrival.header("x-other")), (upstream.address().to_string().as_str(), ""));
    }
    assert_eq!((arrivals[0].key(), arrivals[1].key()), ("mine", plain.as_str()));
    // A key that stands for two records must not let the service take one for both.
    let keys: BTreeSet<_> = arrivals.iter().map(Arrival::key).collect();
    assert!(keys.len() == 4 && !keys.contains("for both"), "{keys:?}");
    server.stop();
}

#[test]
fn a_key_stays_over_failures_and_kills() {
    static IS_WELL: AtomicBool = AtomicBool::new(false);
    let upstream = UpstreamServer::start(|_| Reply::status(if IS_WELL.load(Ordering::SeqCst) { 204 } else { 500 }));
    let site = site(RETRY, &upstream.url(), "");
    let server = site.start();
    let ticket = server.client().accept("orders", "once");
    until_arrived(&upstream, 3);
    server.kill9();
    let before = upstream.arrivals().len();
    let server = site.start();
    until_arrived(&upstream, before + 3);
    IS_WELL.store(true, Ordering::SeqCst);
    server.until_delivered(&ticket);
    assert!(upstream.arrivals().iter().all(|arrival| arrival.key() == ticket && arrival.text() == "once"));
    server.stop();
}

#[test]
fn in_a_strict_order_each_request_waits_for_the_one_before() {
    let failed = Mutex::default();
    let upstream = UpstreamServer::start(move |a| {
        Reply::status(if id(a) % 10 == 3 && is_first(&failed, a.key()) { 502 } else { 200 })
    });
    let site = site(&format!("rate = \"unlimited\"\n{RETRY}"), &upstream.url(), "");
    let server = site.start();
    offer(&server, numbers(40));
    until_drained(&server);
    let arrivals = upstream.arrivals();
    assert!(arrivals.iter().all(|arrival| arrival.others == 0));
    let ids: Vec<_> = arrivals.iter().map(id).collect();
    let wanted: Vec<_> = (0..40).flat_map(|id| vec![id; if id % 10 == 3 { 2 } else { 1 }]).collect();
    assert_eq!(ids, wanted, "what failed comes again before anything behind it, and nothing else does");
    server.stop();
}

#[test]
fn out_of_order_as_many_requests_are_under_way_as_are_allowed() {
    let upstream = UpstreamServer::start(|_| Reply::status(200).held());
    let site = site("rate = \"unlimited\"\norder = \"none\"\n", &upstream.url(), "connections_max = 4");
    let server = site.start();
    offer(&server, numbers(20));
    for answered in 0..=16 {
        // Never a fifth one, or more would have come by the time that the last of the four is there.
        assert!(until_arrived(&upstream, answered + 4).len() == answered + 4);
        upstream.let_go(1);
    }
    upstream.let_go(3);
    until_drained(&server);
    let arrivals = upstream.arrivals();
    assert_eq!(arrivals.iter().map(|arrival| arrival.others).max(), Some(3));
    assert_eq!(arrivals.iter().map(id).collect::<BTreeSet<_>>().len(), 20);
    server.stop();
}

#[test]
fn records_of_one_key_keep_their_order_within_a_batch() {
    let failed = Mutex::default();
    let upstream = UpstreamServer::start(move |a| {
        Reply::status(if id(a) % 7 == 2 && is_first(&failed, a.key()) { 500 } else { 200 })
    });
    let site = site(
        &format!("rate = \"unlimited\"\norder = \"key\"\n{RETRY}"),
        &upstream.url(),
        "headers = { X-Key = \"{$key}\" }",
    );
    let server = site.start();
    let mut client = server.client();
    // While the queue is paused, everything comes into one batch.
    let mut admin = server::Client::connect(server.admin()).unwrap();
    assert_eq!(admin.request("POST", "/v1/queues/orders/pause", &[], Some(b"")).unwrap().status, 200);
    for id in 0..60 {
        let key = format!("key-{}", id % 3);
        assert_eq!(client.post("orders", &[("forebay-key", &key)], format!("{{\"id\":{id}}}")).status, 202);
    }
    assert_eq!(admin.request("POST", "/v1/queues/orders/resume", &[], Some(b"")).unwrap().status, 200);
    until_drained(&server);
    assert_eq!(server.metric(BATCHES), 1);
    let mut of_key: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for arrival in upstream.arrivals() {
        of_key.entry(arrival.header("x-key").to_owned()).or_default().push(id(&arrival));
    }
    for (number, ids) in (0..).zip(of_key.values()) {
        let wanted: Vec<u64> =
            (0..20).map(|n| n * 3 + number).flat_map(|id| vec![id; if id % 7 == 2 { 2 } else { 1 }]).collect();
        assert_eq!(*ids, wanted);
    }
    server.stop();
}

#[test]
fn only_what_has_failed_is_sent_again() {
    let failed = Mutex::default();
    let upstream = UpstreamServer::start(move |a| {
        let fails = [3, 20, 49].contains(&id(a)) && is_first(&failed, a.key());
        Reply::status(if fails { 500 } else { 201 })
    });
    let site = site(&format!("rate = \"unlimited\"\norder = \"none\"\n{RETRY}"), &upstream.url(), "");
    let server = site.start();
    offer(&server, numbers(50));
    until_drained(&server);
    let mut times = [0; 50];
    upstream.arrivals().iter().for_each(|arrival| times[id(arrival) as usize] += 1);
    assert_eq!(server.metric(BATCHES), 1);
    for (id, times) in times.into_iter().enumerate() {
        assert_eq!(times, if [3, 20, 49].contains(&id) { 2 } else { 1 }, "record {id}");
    }
    server.stop();
}

#[test]
fn an_answer_settles_a_record_or_has_it_sent_again() {
    let statuses =
        [200, 202, 204, 301, 307, 400, 404, 409, 410, 413, 422, 401, 403, 407, 408, 425, 429, 500, 501, 502, 503, 504];
    let seen = Mutex::default();
    let elsewhere = UpstreamServer::willing();
    let there = elsewhere.url();
    let upstream = UpstreamServer::start(move |a| {
        let status = id(a) as u16;
        let passes = matches!(status, 401 | 403 | 407 | 408 | 425 | 429 | 500..) && !is_first(&seen, a.key());
        if passes { Reply::status(200) } else { Reply::status(status).with("location", &there).saying("because\n") }
    });
    let site = site(&format!("rate = \"unlimited\"\norder = \"none\"\n{RETRY}"), &upstream.url(), "");
    let server = site.start();
    let mut client = server.client();
    let tickets = statuses.map(|status| (status, client.accept("orders", format!("{{\"id\":{status}}}"))));
    for (status, ticket) in tickets {
        let state = eventually("the record's fate", || Some(client.ticket(&ticket)).filter(|s| s["state"] != "queued"));
        let times = upstream.arrivals().iter().filter(|arrival| arrival.key() == ticket).count();
        match status {
            300..=399 | 400 | 404 | 409 | 410 | 413 | 422 => {
                assert_eq!((&state["state"], times), (&"dead".into(), 1), "{status}");
                let reason = state["reason"].as_str().unwrap();
                assert!(reason.starts_with(&format!("POST {}/: {status} ", upstream.url())), "{reason}");
                assert!(reason.ends_with(": because"), "{reason}");
            }
            _ => {
                let wanted = if status < 300 { 1 } else { 2 };
                assert_eq!((&state["state"], times), (&"delivered".into(), wanted), "{status}");
            }
        }
    }
    assert!(elsewhere.arrivals().is_empty(), "no redirect is followed");
    server.stop();
}

#[test]
fn a_service_that_asks_for_less_is_left_alone_and_costs_no_attempt() {
    const RETRY_AFTER: Duration = Duration::from_secs(1);
    // Twice, since what fails within the drain's first moment does not lower the limit.
    let refusals = AtomicUsize::new(2);
    let upstream = UpstreamServer::start(move |a| {
        let left = |left: usize| left.checked_sub(1);
        if id(a) == 5 && refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
            return Reply::status(429).with("retry-after", &RETRY_AFTER.as_secs().to_string());
        }
        Reply::status(200)
    });
    // A single attempt would do to give a record up.
    let queue = "rate = \"1000/s\"\nretry = { backoff_ms_min = 1, backoff_ms_max = 50, attempts_max = 1 }\n";
    let site = site(queue, &upstream.url(), "");
    let server = site.start();
    offer(&server, numbers(8));
    until_drained(&server);
    server.until_said("429 Too Many Requests");
    // It needs more than the three round trips behind the pause to rise again.
    let limit = server.metric(LIMIT);
    assert!(limit < 1000, "the limit has fallen, and is {limit}");
    let arrivals = upstream.arrivals();
    assert_eq!(arrivals.iter().map(id).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 5, 5, 6, 7]);
    // However busy the machine is, it cannot make this shorter.
    for refused in [5, 6] {
        assert!(arrivals[refused + 1].at.duration_since(arrivals[refused].at) >= RETRY_AFTER);
    }
    assert_eq!(server.metric(LETTERS), 0);
    server.stop();
}

/// Four requests are under way when the first of them is refused. The others are answered once forebay has noted that.
#[test]
fn a_service_that_asks_one_lane_for_a_pause_is_left_alone_by_all_of_them() {
    const RETRY_AFTER: Duration = Duration::from_secs(1);
    const LANES: usize = 4;
    const RECORDS: usize = 20;
    for rate in ["unlimited", "1000/s"] {
        let count = AtomicUsize::new(0);
        let upstream = UpstreamServer::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::status(429).with("retry-after", &RETRY_AFTER.as_secs().to_string()).held(),
            1..LANES => Reply::status(200).held(),
            _ => Reply::status(200),
        });
        // A single attempt would do to give a record up.
        let queue = format!(
            "rate = \"{rate}\"\norder = \"none\"\nconcurrency = {LANES}\nbatch = {{ records_max = 1 }}\n\
             retry = {{ backoff_ms_min = 1, backoff_ms_max = 50, attempts_max = 1 }}\n"
        );
        let site = site(&queue, &upstream.url(), "");
        let server = site.start();
        offer(&server, numbers(RECORDS));
        assert_eq!(until_arrived(&upstream, LANES).len(), LANES);
        upstream.let_go(1);
        server.until_said("429 Too Many Requests");
        upstream.let_go(LANES - 1);
        until_drained(&server);
        let arrivals = upstream.arrivals();
        // However busy the machine is, it cannot make this shorter: the pause begins behind the refused request.
        let early = arrivals[LANES..].iter().filter(|arrival| arrival.at.duration_since(arrivals[0].at) < RETRY_AFTER);
        assert_eq!(early.map(id).collect::<Vec<_>>(), Vec::<u64>::new(), "{rate}: they came too early");
        let mut ids: Vec<_> = arrivals.iter().map(id).collect();
        ids.sort_unstable();
        let refused = id(&arrivals[0]);
        let wanted: Vec<_> = (0..RECORDS as u64).flat_map(|id| vec![id; if id == refused { 2 } else { 1 }]).collect();
        assert_eq!(ids, wanted, "{rate}: only what was refused comes again");
        assert_eq!(server.metric(LETTERS), 0);
        server.stop();
    }
}

#[test]
fn nginx_that_limits_requests_gets_all_of_them_in_the_end() {
    let upstream = UpstreamServer::willing();
    let nginx = NginxServer::start(
        false,
        "limit_req_zone $binary_remote_addr zone=all:1m rate=5r/s;\nlimit_req_status 429;",
        &format!(
            "location / {{\nlimit_req zone=all burst=4 nodelay;\nadd_header Retry-After 1 always;\nproxy_pass {};\n}}",
            upstream.url()
        ),
    );
    let queue = "rate = \"500/s\"\norder = \"none\"\nretry = { attempts_max = 1 }\n";
    let site = site(queue, &format!("http://{}", nginx.address()), "");
    let server = site.start();
    offer(&server, numbers(20));
    server.until_said("429 Too Many Requests");
    until_drained(&server);
    assert_eq!(server.metric(LETTERS), 0);
    let ids: Vec<_> = upstream.arrivals().iter().map(id).collect();
    assert_eq!(
        (ids.len(), ids.iter().collect::<BTreeSet<_>>().len()),
        (20, 20),
        "each once: what was taken is not sent again"
    );
    let answered = nginx.answered();
    let taken: BTreeSet<_> = answered.iter().filter(|(status, _)| *status == 200).map(|(_, key)| key).collect();
    let refused: BTreeSet<_> = answered.iter().filter(|(status, _)| *status == 429).map(|(_, key)| key).collect();
    assert_eq!(taken.len(), 20);
    assert!(!refused.is_empty() && refused.is_subset(&taken));
    server.stop();
}

#[test]
fn each_request_that_is_sent_again_is_paid_for() {
    const INTERVAL: Duration = Duration::from_millis(200);
    let seen = Mutex::default();
    let upstream = UpstreamServer::start(move |a| Reply::status(if is_first(&seen, a.key()) { 500 } else { 200 }));
    let queue = "rate = \"5/s\"\nburst = 1\nadaptive = { mode = \"off\" }\n";
    let site = site(&format!("{queue}{RETRY}"), &upstream.url(), "");
    let server = site.start();
    offer(&server, numbers(4));
    until_drained(&server);
    let arrivals = upstream.arrivals();
    assert_eq!(arrivals.iter().map(id).collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2, 3, 3]);
    // The second request leaves behind the first one's arrival, and six intervals follow, less the lateness that is made good: load
    // makes that longer and never shorter. If repeated requests were free, there would be three.
    let took = arrivals[7].at.duration_since(arrivals[0].at);
    assert!(took >= INTERVAL * 5, "{took:?}");
    server.stop();
}

#[test]
fn tls_is_spoken_with_those_alone_whose_certificate_is_known() {
    let upstream = UpstreamServer::willing();
    let nginx = NginxServer::start(true, "", &format!("location / {{ proxy_pass {}; }}", upstream.url()));
    let url = format!("https://localhost:{}", nginx.address().port());
    let stranger = site(RETRY, &url, "");
    let (code, said) = stranger.check();
    assert!(code == Some(1) && said.contains("invalid peer certificate"), "{said}");
    let server = stranger.start();
    server.client().accept("orders", "secret");
    server.until_said("invalid peer certificate");
    server.stop();
    assert!(upstream.arrivals().is_empty());
    let known = site(RETRY, &url, &format!("tls_ca_file = \"{}\"", nginx.certificate().display()));
    assert_eq!(known.check().0, Some(0), "{}", known.check().1);
    let server = known.start();
    let ticket = server.client().accept("orders", "secret");
    server.until_delivered(&ticket);
    assert_eq!(upstream.arrivals().len(), 1);
    server.stop();
}

#[test]
fn a_service_that_is_away_gets_everything_when_it_is_back() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let site = site(&format!("rate = \"unlimited\"\norder = \"none\"\n{RETRY}"), &format!("http://{address}"), "");
    let server = site.start();
    offer(&server, numbers(30));
    server.until_said("Connection refused");
    let upstream = UpstreamServer::start_at(address, |_| Reply::status(200));
    until_drained(&server);
    let ids: BTreeSet<_> = upstream.arrivals().iter().map(id).collect();
    assert_eq!(ids.len(), 30);
    server.stop();
}

#[test]
fn who_does_not_answer_in_time_is_asked_again() {
    let seen = Mutex::default();
    let upstream =
        UpstreamServer::start(
            move |a| if is_first(&seen, a.key()) { Reply::status(200).held() } else { Reply::status(200) },
        );
    let site = site(RETRY, &upstream.url(), "commit_timeout_ms = 300");
    let server = site.start();
    let ticket = server.client().accept("orders", "slow");
    server.until_delivered(&ticket);
    assert!(server.said("not all was answered within 300 ms"));
    let keys: Vec<_> = upstream.arrivals().iter().map(|arrival| arrival.key().to_owned()).collect();
    assert_eq!(keys, [ticket.as_str(), ticket.as_str()]);
    server.stop();
}

#[test]
fn a_body_that_nobody_reads_changes_nothing() {
    let upstream = UpstreamServer::start(|a| match id(a) {
        0 => Reply::status(200).saying(vec![b'x'; 1 << 20]),
        1 => Reply { is_endless: true, ..Reply::status(200) },
        2 => Reply { is_endless: true, ..Reply::status(422) },
        _ => Reply::status(200),
    });
    let site = site("", &upstream.url(), "");
    let server = site.start();
    let mut client = server.client();
    let tickets: Vec<_> = numbers(4).map(|body| client.accept("orders", body)).collect();
    server.until_delivered(&tickets[3]);
    let states: Vec<_> =
        tickets.iter().map(|ticket| client.ticket(ticket)["state"].as_str().unwrap().to_owned()).collect();
    assert_eq!(states, ["delivered", "delivered", "dead", "delivered"]);
    assert_eq!(upstream.arrivals().len(), 4);
    server.stop();
}

#[test]
fn what_keeps_a_service_from_working_is_found_beforehand() {
    let upstream = UpstreamServer::willing();
    let fine = site("", &upstream.url(), "");
    assert!(fine.check().1.contains("queue orders: the sink is ready"), "{}", fine.check().1);
    assert!(upstream.arrivals().is_empty(), "a check sends no request");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, sink, part) in [
        (format!("http://{nobody}"), "", "Connection refused"),
        (upstream.url(), "method = \"A B\"", "`method` is none"),
        ("http://ann:hunter2@127.0.0.1/".to_owned(), "", "`url` holds credentials"),
        ("https://localhost".to_owned(), "tls_ca_file = \"/nowhere.pem\"", "`tls_ca_file` /nowhere.pem"),
    ] {
        let (code, said) = site("", &url, sink).check();
        assert!(code == Some(1) && said.contains(part), "{part} is not in {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    // What is wrong with the configuration is nothing that a record should pay for.
    let wrong = site(
        "retry = { backoff_ms_min = 1, backoff_ms_max = 50, attempts_max = 1 }",
        &upstream.url(),
        "headers = { Connection = \"close\" }",
    );
    let server = wrong.start();
    let ticket = server.client().accept("orders", "x");
    server.until_said("`headers.connection` says how a request is framed");
    assert_eq!(server.client().ticket(&ticket)["state"], "queued");
    server.stop();
}
