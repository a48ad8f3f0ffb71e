//! NATS JetStream as a sink: the real server, and forebay as a user runs it. What every sink has to do is in
//! `tests/conformance.rs`.

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

mod broker_certificates;
mod nats_server;
mod server;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use broker_certificates::make_certificates;
use nats_server::{NatsServer, RESTRICTED_PASSWORD};
use server::{Client, Server, Site, eventually};

const QUEUE: &str = "[queues.orders]\nrate = \"unlimited\"\nmax_backlog_bytes = \"16MiB\"\nbatch = { records_max = 50 }\n\
                     retry = { backoff_ms_max = 100 }\n";
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

/// The last of the tests that share it stops it.
static SHARED: Mutex<Weak<NatsServer>> = Mutex::new(Weak::new());

fn shared() -> Arc<NatsServer> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let server = shared.upgrade().unwrap_or_else(|| Arc::new(NatsServer::start()));
    *shared = Arc::downgrade(&server);
    server
}

/// A stream that takes everything below its name.
fn stream(name: &str) -> Config {
    Config { name: name.to_owned(), subjects: vec![format!("{name}.>")], ..Config::default() }
}

fn sink(url: &str, rest: &str) -> String {
    format!("{QUEUE}[queues.orders.sink]\ntype = \"nats\"\nurl = \"{url}\"\n{rest}")
}

/// Waits until nothing waits for delivery.
fn until_decided(server: &Server) {
    eventually("an empty backlog", || {
        let [durable, delivered] =
            ["durable", "delivered"].map(|mark| server.metric(&format!("forebay_{mark}_sequence{{queue=\"orders\"}}")));
        (durable == delivered).then_some(())
    });
}

/// The reason of each dead letter, in order.
fn reasons(server: &Server) -> Vec<String> {
    let answer = Client::connect(server.admin()).unwrap().get("/v1/queues/orders/dead-letters");
    assert_eq!(answer.status, 200, "{answer:?}");
    let page: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let letters = page["dead_letters"].as_array().unwrap_or_else(|| panic!("{page}"));
    letters.iter().map(|letter| letter["reason"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_message_has_its_subject_its_headers_and_the_ticket() {
    let nats = shared();
    nats.set_stream(&stream("made"));
    let rest = "subject = \"made.{$queue}.{/region}\"\n\
                headers = { Content-Type = \"{$content_type}\", Order = \"no. {/id}\", Key = \"{$key}\" }\n";
    let site = Site::new(&sink(&nats.url(), rest));
    let server = site.start();
    let mut client = server.client();
    let body = r#"{ "id": 19.90, "region": "north.east" }"#;
    let answer = client.post("orders", &[("content-type", "application/json")], body);
    let ticket = answer.text("ticket");
    server.until_delivered(&ticket);
    let stored = nats.stored("made");
    assert_eq!(stored.len(), 1, "{stored:?}");
    let message = &stored[0];
    assert_eq!((message.subject.as_str(), message.body.as_slice()), ("made.orders.north.east", body.as_bytes()));
    let headers: BTreeSet<_> = message.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    // There was no key, so there is no header.
    let wanted = [("Content-Type", "application/json"), ("Nats-Msg-Id", ticket.as_str()), ("Order", "no. 19.90")];
    assert_eq!(headers, BTreeSet::from(wanted));
    server.stop();
}

#[test]
fn what_can_be_no_message_is_set_aside_and_its_neighbours_arrive() {
    // Its messages may have 1 MiB, with their headers.
    let nats = NatsServer::start_with(|_| String::new());
    nats.set_stream(&Config { max_message_size: 100_000, ..stream("picky") });
    let rest = "subject = \"picky.{/to}\"\nheaders = { Note = \"{/note}\" }\n";
    let site = Site::new(&sink(&nats.url(), rest));
    let server = site.start();
    let mut client = server.client();
    let filling = |bytes: usize| format!("{{\"to\":\"a\",\"filling\":\"{}\"}}", "x".repeat(bytes));
    let long = format!("{{\"to\":\"{}\"}}", "x".repeat(1100));
    let cases = [
        (filling(120_000), "message size exceeds maximum allowed (code 400, error code 10054)"),
        (filling(1_048_540), "max payload size exceeded"),
        ("{\"to\":\"a b\"}".to_owned(), "has a blank"),
        ("{\"to\":\"a..b\"}".to_owned(), "has a token that is empty"),
        ("{\"to\":\"*\"}".to_owned(), "has a token that is empty, `*` or `>`"),
        ("{}".to_owned(), "has a token that is empty"),
        (long, "the subject would have 1106 bytes; 1024 are allowed"),
        ("{\"to\":\"a\",\"note\":\"b\\r\\nNats-Rollup: all\"}".to_owned(), "the header Note would not be one line"),
        ("no JSON".to_owned(), "the body is not JSON"),
    ];
    for (place, (body, _)) in cases.iter().enumerate() {
        client.accept("orders", format!("{{\"to\":\"good.{place}\"}}"));
        client.accept("orders", body);
    }
    until_decided(&server);
    let arrived: BTreeSet<_> = nats.stored("picky").into_iter().map(|message| message.subject).collect();
    assert_eq!(arrived, (0..cases.len()).map(|place| format!("picky.good.{place}")).collect());
    let reasons = reasons(&server);
    for (_, wanted) in &cases {
        assert!(reasons.iter().any(|reason| reason.contains(wanted)), "{wanted:?} is in none of {reasons:#?}");
    }
    assert_eq!(reasons.len(), cases.len(), "{reasons:#?}");
    server.stop();
}

#[test]
fn a_value_cannot_name_a_subject_of_the_servers_own() {
    let nats = shared();
    nats.set_stream(&stream("kept"));
    let site = Site::new(&sink(&nats.url(), "subject = \"{/to}\"\n"));
    let server = site.start();
    let mut client = server.client();
    client.accept("orders", "{\"to\":\"$JS.API.STREAM.DELETE.kept\"}");
    let ticket = client.accept("orders", "{\"to\":\"kept.a\"}");
    server.until_delivered(&ticket);
    assert_eq!(nats.stored("kept").len(), 1);
    assert!(reasons(&server)[0].contains("begins with `$`"));
    server.stop();
}

#[test]
fn within_the_duplicate_window_kills_of_forebay_double_nothing() {
    let nats = shared();
    nats.set_stream(&stream("once"));
    let site = Site::new(&sink(&nats.url(), "subject = \"once.{$queue}\"\n"));
    let mut wanted = Vec::new();
    for life in 0..5 {
        let server = site.start();
        let mut client = server.client();
        let bodies: Vec<_> = (0..400).map(|line| format!("{{\"n\":\"{life}-{line}\"}}")).collect();
        let answer = client.post("orders", &[NDJSON], bodies.join("\n"));
        assert_eq!(answer.status, 202, "{answer:?}");
        wanted.extend(bodies);
        // The more lives, the further it comes.
        let delivered = || server.metric("forebay_delivered_sequence{queue=\"orders\"}");
        eventually("some deliveries", || (delivered() >= life * 80).then_some(()));
        server.kill9();
    }
    let server = site.start();
    until_decided(&server);
    let arrived: Vec<_> = nats.stored("once").into_iter().map(|m| String::from_utf8(m.body).unwrap()).collect();
    assert_eq!(arrived, wanted, "each once, and in order");
    server.stop();
}

/// The stream drops what has an id that it knows, and a ticket is the same in every sink of its queue.
#[test]
fn two_sinks_of_a_queue_may_publish_into_one_stream() {
    let nats = shared();
    nats.set_stream(&stream("both"));
    let rest = "subject = \"both.{$queue}\"\n";
    let other =
        format!("[queues.orders.sinks.copy]\nrate = \"unlimited\"\ntype = \"nats\"\nurl = \"{}\"\n{rest}", nats.url());
    let site = Site::new(&(sink(&nats.url(), rest) + &other));
    let server = site.start();
    let bodies: Vec<_> = (0..120).map(|line| format!("{{\"n\":{line}}}")).collect();
    assert_eq!(server.client().post("orders", &[NDJSON], bodies.join("\n")).status, 202);
    until_decided(&server);
    let delivered = || server.metric("forebay_delivered_sequence{queue=\"orders\",sink=\"copy\"}");
    eventually("the other sink's deliveries", || (delivered() == bodies.len() as u64).then_some(()));
    let stored = nats.stored("both");
    let of = |is_of_copy: bool| -> Vec<_> {
        let is_of =
            |message: &&nats_server::Stored| message.header("Nats-Msg-Id").unwrap().ends_with("/copy") == is_of_copy;
        stored.iter().filter(is_of).map(|message| String::from_utf8(message.body.clone()).unwrap()).collect()
    };
    assert_eq!((of(false), of(true)), (bodies.clone(), bodies), "each once from each sink, and in order");
    server.stop();
}

/// A client that connected again by itself would send what had waited behind what was lost.
#[test]
fn a_server_that_is_killed_has_each_message_once_and_in_order() {
    let mut nats = NatsServer::start();
    nats.set_stream(&stream("broken"));
    let site = Site::new(&sink(&nats.url(), "subject = \"broken.{$queue}\"\nin_flight_max = 20\n"));
    let server = site.start();
    let mut client = server.client();
    let mut wanted = Vec::new();
    for life in 0..4 {
        let bodies: Vec<_> = (0..2000).map(|line| format!("{{\"n\":\"{life}-{line}\"}}")).collect();
        let answer = client.post("orders", &[NDJSON], bodies.join("\n"));
        assert_eq!(answer.status, 202, "{answer:?}");
        let before = wanted.len() as u64;
        wanted.extend(bodies);
        let delivered = || server.metric("forebay_delivered_sequence{queue=\"orders\"}");
        eventually("some deliveries", || (delivered() > before).then_some(()));
        nats.kill9();
        nats.restart();
    }
    until_decided(&server);
    let arrived: Vec<_> = nats.stored("broken").into_iter().map(|m| String::from_utf8(m.body).unwrap()).collect();
    assert!(arrived == wanted, "{} of {} arrived, or not in order", arrived.len(), wanted.len());
    server.stop();
}

#[test]
fn a_stream_that_is_full_is_waited_for() {
    let nats = shared();
    nats.set_stream(&Config { max_messages: 10, discard: DiscardPolicy::New, ..stream("full") });
    let site = Site::new(&sink(&nats.url(), "subject = \"full.{$queue}\"\nin_flight_max = 1\n"));
    let server = site.start();
    let bodies: Vec<_> = (0..25).map(|line| format!("{{\"n\":{line}}}")).collect();
    assert_eq!(server.client().post("orders", &[NDJSON], bodies.join("\n")).status, 202);
    let mut arrived = Vec::new();
    while arrived.len() < bodies.len() {
        let left = bodies.len() - arrived.len();
        let stored = eventually("as many as there is room for", || {
            let stored = nats.stored("full");
            (stored.len() == left.min(10)).then_some(stored)
        });
        if left > 10 {
            server.until_said("maximum messages exceeded");
        }
        arrived.extend(stored.into_iter().map(|message| String::from_utf8(message.body).unwrap()));
        nats.purge("full");
    }
    assert_eq!(arrived, bodies, "each once, and in order");
    until_decided(&server);
    assert_eq!(reasons(&server), Vec::<String>::new());
    server.stop();
}

#[test]
fn records_wait_for_a_stream_that_is_not_there_yet() {
    let nats = shared();
    let site = Site::new(&sink(&nats.url(), "subject = \"later.{$queue}\"\n"));
    let server = site.start();
    let ticket = server.client().accept("orders", "{}");
    server.until_said("subject later.orders: no stream has taken it");
    nats.set_stream(&stream("later"));
    server.until_delivered(&ticket);
    assert_eq!(nats.stored("later").len(), 1);
    server.stop();
}

#[test]
fn a_user_who_may_not_publish_is_told_so() {
    let nats = shared();
    nats.set_stream(&stream("allowed"));
    let url = format!("nats://restricted:{RESTRICTED_PASSWORD}@{}", nats.address());
    let site = Site::new(&sink(&url, "subject = \"forbidden.{$queue}\"\n"));
    let server = site.start();
    let ticket = server.client().accept("orders", "{}");
    server.until_said("Permissions Violation for Publish to \"forbidden.orders\"");
    let (code, log) = server.terminate();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains(RESTRICTED_PASSWORD), "{log}");
    site.configure(&sink(&url, "subject = \"allowed.{$queue}\"\n"));
    let server = site.start();
    server.until_delivered(&ticket);
    server.stop();
}

#[test]
fn a_check_looks_for_the_stream_and_says_its_window() {
    let nats = shared();
    nats.set_stream(&stream("sound"));
    let short = std::time::Duration::from_millis(500);
    nats.set_stream(&Config { duplicate_window: short, ..stream("short") });
    nats.set_stream(&Config { no_ack: true, ..stream("silent") });
    let site = Site::new("");
    let restricted = format!("nats://restricted:{RESTRICTED_PASSWORD}@{}", nats.address());
    for (url, rest, wanted) in [
        (nats.url(), "subject = \"sound.{$queue}\"\n", None),
        (nats.url(), "subject = \"sound.{/region}.{$queue}\"\n", None),
        (nats.url(), "subject = \"none.{/region}\"\n", Some("no stream of JetStream has the subject none.>")),
        (nats.url(), "", Some("no stream of JetStream has the subject forebay.orders")),
        (nats.url(), "subject = \"short.a\"\n", Some("drops duplicates for 500 ms")),
        (nats.url(), "subject = \"silent.a\"\n", Some("acknowledges nothing")),
        (nats.url(), "subject = \"a b\"\n", Some("has a blank")),
        (nats.url(), "headers = { \"a b\" = \"c\" }\n", Some("is not the name of a header")),
        (nats.url(), "headers = { Nats-Msg-Id = \"c\" }\n", Some("is for forebay to set")),
        (restricted.clone(), "connect_timeout_ms = 500\ncommit_timeout_ms = 500\n", Some("JetStream: ")),
        ("nats://forebay:wrong@".to_owned() + &nats.address().to_string(), "", Some("authorization violation")),
        ("nats://user:p@ss@/".to_owned(), "", Some("the URL is not one of NATS")),
        ("nats://".to_owned(), "", Some("the URL is not one of NATS")),
        ("nats://user:4711/s@localhost".to_owned(), "", Some("the URL is not one of NATS")),
        ("nats://user:4711,s@localhost".to_owned(), "", Some("the URL is not one of NATS")),
    ] {
        site.configure(&sink(&url, rest));
        let (code, output) = site.check();
        let found = wanted.is_none_or(|wanted| output.contains(wanted));
        assert!(found && code == Some(i32::from(wanted.is_some())), "{rest}: {wanted:?} is not in\n{output}");
        assert!(!output.contains("4711"), "{output}");
    }
}

fn tls(directory: &Path) -> String {
    make_certificates(directory);
    let directory = directory.display();
    format!("tls {{ cert_file: \"{directory}/certificate.pem\", key_file: \"{directory}/key.pem\" }}")
}

#[test]
fn tls_is_spoken_with_those_who_are_trusted() {
    let nats = NatsServer::start_with(tls);
    let url = format!("tls://forebay:{}@localhost:{}", nats_server::PASSWORD_ENCODED, nats.address().port());
    let site = Site::new(&sink(&url, ""));
    let (_, output) = site.check();
    assert!(output.contains("TLS") || output.contains("certificate"), "{output}");
    let trusted = format!("tls_ca_file = \"{}\"\n", nats.directory().join("ca.pem").display());
    site.configure(&sink(&url, &trusted));
    let (_, output) = site.check();
    // Connected, and asked.
    assert!(output.contains("no stream of JetStream has the subject forebay.orders"), "{output}");
}
