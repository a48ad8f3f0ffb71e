//! Stops, starts and damage: what was acknowledged is there, or the server says why it won't start.

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

#[path = "recovery/damage.rs"]
mod damage;
#[path = "recovery/recycling.rs"]
mod recycling;
#[path = "recovery/restored.rs"]
mod restored;

use std::net::TcpListener;
use std::thread;

use rustix::process::Signal;
use server::database::until_sqlite_has;
use server::{Client, Site};

const STANDSTILL: &str = "[queues.orders]\nrate = \"1/h\"\n";
const UNLIMITED: &str = "[queues.orders]\nrate = \"unlimited\"\n";
const BODIES: &str = "SELECT body FROM forebay_orders ORDER BY rowid";

/// Asserts that the server refuses to start with exit code 1 and says all of `parts`; returns what it said.
fn assert_refused(site: &Site, parts: &[&str]) -> String {
    let (code, log) = site.start_refused();
    assert_eq!(code, Some(1), "{log}");
    for part in parts {
        assert!(log.contains(part), "{part:?} is not in\n{log}");
    }
    assert!(!log.contains("panicked"), "{log}");
    log
}

/// Posts records one after the other until the server goes away; returns what was acknowledged.
fn post_until_gone(address: std::net::SocketAddr, name: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let Ok(mut client) = Client::connect(address) else { return acknowledged };
    loop {
        let body = format!("{name}-{}", acknowledged.len());
        match client.try_post("orders", &[], &body) {
            Ok(response) if response.status == 202 => acknowledged.push(body),
            Ok(response) => {
                response.assert_problem(503, "stopping");
                return acknowledged;
            }
            Err(_) => return acknowledged,
        }
    }
}

#[test]
fn a_stop_under_load_ends_well_and_loses_nothing() {
    let site = Site::new(&format!("[ingress]\nexecutors = 2\n{UNLIMITED}"));
    let server = site.start();
    let address = server.address();
    let clients: Vec<_> = (0..4).map(|name| thread::spawn(move || post_until_gone(address, name))).collect();
    server::eventually("some load", || (server.metric("forebay_records_accepted_total") > 300).then_some(()));
    server.stop();
    let mut acknowledged: Vec<_> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert!(acknowledged.len() >= 300);
    let server = site.start();
    // A request whose answer was lost on the way may be there as well, so only the last can be waited for.
    let last = server.client().accept("orders", "last");
    server.until_delivered(&last);
    let mut delivered = server::database::sqlite_column(&site.database("orders"), BODIES);
    let count = delivered.len();
    delivered.sort();
    delivered.dedup();
    assert_eq!(delivered.len(), count, "a record was delivered twice");
    acknowledged.retain(|body| delivered.binary_search(body).is_err());
    assert!(acknowledged.is_empty(), "acknowledged and not delivered: {acknowledged:?}");
    server.stop();
}

#[test]
fn a_stop_answers_what_is_on_its_way() {
    let site = Site::new(STANDSTILL);
    let mut server = site.start();
    let (mut client, mut idle) = (server.client(), server.client());
    idle.accept("orders", "one");
    client.send("POST /v1/queues/orders/records HTTP/1.1\r\ncontent-length: 10\r\n\r\n12345").unwrap();
    // The other side has the head once it has answered somebody who came later.
    idle.accept("orders", "two");
    server.signal(Signal::TERM);
    server.until_said("stopping");
    assert!(idle.is_closed());
    client.send("67890").unwrap();
    let response = client.read().unwrap();
    assert_eq!(response.status, 202, "{response:?}");
    assert!(client.is_closed());
    let status = server.wait();
    assert_eq!(status.code(), Some(0), "{}", server.log());
    let server = site.start();
    assert_eq!(server.client().ticket(&response.text("ticket"))["position"], 3);
    server.stop();
}

#[test]
fn a_second_signal_ends_at_once_and_loses_nothing() {
    // One request without an end would keep the first stop for an hour.
    let site =
        Site::new(&format!("[ingress]\nbody_timeout_ms = 3600000\n[shutdown]\ngrace_ms = 3600000\n{STANDSTILL}"));
    let mut server = site.start();
    let mut client = server.client();
    let ticket = client.accept("orders", "one");
    client.send("POST /v1/queues/orders/records HTTP/1.1\r\ncontent-length: 10\r\n\r\n12345").unwrap();
    server.client().accept("orders", "two");
    server.signal(Signal::TERM);
    server.until_said("stopping");
    server.signal(Signal::INT);
    assert_eq!(server.wait().code(), Some(130), "{}", server.log());
    let server = site.start();
    assert_eq!(server.client().ticket(&ticket)["position"], 1);
    assert_eq!(server.metric("forebay_backlog_records{queue=\"orders\"}"), 2);
    server.stop();
}

#[test]
fn a_stop_ends_although_a_client_never_finishes_its_request() {
    let site = Site::new(&format!("[ingress]\nbody_timeout_ms = 3600000\n[shutdown]\ngrace_ms = 100\n{STANDSTILL}"));
    let server = site.start();
    let mut client = server.client();
    client.accept("orders", "one");
    client.send("POST /v1/queues/orders/records HTTP/1.1\r\ncontent-length: 10\r\n\r\n12345").unwrap();
    server.client().accept("orders", "two");
    let (code, log) = server.terminate();
    assert_eq!(code, Some(0), "{log}");
    let server = site.start();
    assert_eq!(server.metric("forebay_backlog_records{queue=\"orders\"}"), 2);
    server.stop();
}

#[test]
fn a_backlog_and_its_sequences_survive_stops_and_kills() {
    let site = Site::new(STANDSTILL);
    let mut tickets: Vec<String> = Vec::new();
    for start in 0..6_u64 {
        let server = site.start();
        let mut client = server.client();
        for (index, ticket) in tickets.iter().enumerate() {
            let status = client.ticket(ticket);
            assert_eq!((&status["state"], &status["position"]), (&"queued".into(), &(index as u64 + 1).into()));
        }
        for n in 0..10 {
            let response = client.post("orders", &[], format!("{start}-{n}"));
            tickets.push(response.text("ticket"));
            assert_eq!(response.json()["position"], tickets.len() as u64, "{response:?}");
        }
        if start % 2 == 0 { server.kill9() } else { server.stop() }
    }
    site.configure(UNLIMITED);
    let server = site.start();
    let wanted: Vec<_> = (0..6).flat_map(|start| (0..10).map(move |n| format!("{start}-{n}"))).collect();
    assert_eq!(until_sqlite_has(&site.database("orders"), 60, BODIES), wanted);
    for ticket in &tickets {
        server.until_delivered(ticket);
    }
    server.stop();
}

#[test]
fn one_process_at_a_time_has_a_data_directory() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let ticket = server.client().accept("orders", "one");
    assert_refused(&site, &["in use by another forebay", &site.data().display().to_string(), "data_dir"]);
    server.client().accept("orders", "two");
    server.kill9();
    let server = site.start();
    assert_eq!(server.client().ticket(&ticket)["position"], 1);
    server.stop();
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named() {
    let site = Site::new("");
    let file = site.path().join("a-file");
    std::fs::write(&file, "mine").unwrap();
    for wrong in [file.clone(), file.join("below")] {
        site.configure(&format!("data_dir = \"{}\"\n{STANDSTILL}", wrong.display()));
        assert_refused(&site, &[&file.display().to_string()]);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn configuration_errors_are_all_said_with_their_lines() {
    let site = Site::new("");
    std::fs::write(site.config(), "[queues.orders]\nrate = \"fast\"\n[[listeners]]\naddress = \"1\"\n").unwrap();
    let path = site.config().display().to_string();
    assert_refused(&site, &[&format!("{path}:2: "), &format!("{path}:4: ")]);
    assert!(!site.data().exists());
}

#[test]
fn an_address_that_is_taken_is_named_with_a_hint() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for section in ["[[listeners]]", "[admin]"] {
        let site = Site::new(&format!("{section}\naddress = \"{address}\"\n{STANDSTILL}"));
        assert_refused(&site, &[&address.to_string(), "another process has it"]);
    }
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let other = Site::new(&format!("[[listeners]]\naddress = \"{}\"\n{STANDSTILL}", server.address()));
    assert_refused(&other, &[&server.address().to_string(), "another process has it"]);
    server.stop();
}
