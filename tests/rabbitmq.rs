//! RabbitMQ as a sink: the real broker, and forebay as a user runs it. What every sink has to do is in `tests/conformance.rs`.

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
mod rabbitmq_server;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use broker_certificates::make_certificates;
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeleteOptions, QueuePurgeOptions};
use lapin::types::{AMQPValue, FieldTable};
use rabbitmq_server::{PASSWORD_ENCODED, RabbitMqServer, Stored};
use server::{Client, Server, Site, eventually};

const QUEUE: &str = "[queues.orders]\nrate = \"unlimited\"\nmax_backlog_bytes = \"16MiB\"\nbatch = { records_max = 50 }\n\
                     retry = { backoff_ms_max = 100 }\n";
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

/// The last of the tests that share it stops it.
static SHARED: Mutex<Weak<RabbitMqServer>> = Mutex::new(Weak::new());

fn shared() -> Arc<RabbitMqServer> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let server = shared.upgrade().unwrap_or_else(|| Arc::new(RabbitMqServer::start()));
    *shared = Arc::downgrade(&server);
    server
}

fn sink(url: &str, rest: &str) -> String {
    format!("{QUEUE}[queues.orders.sink]\ntype = \"rabbitmq\"\nurl = \"{url}\"\n{rest}")
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

fn bodies(stored: Vec<Stored>) -> Vec<String> {
    stored.into_iter().map(|message| String::from_utf8(message.body).unwrap()).collect()
}

/// An exchange of topics, and a queue of the same name with what is sent to this pattern.
fn make_exchange(rabbitmq: &RabbitMqServer, name: &str, pattern: &str) {
    rabbitmq.make_queue(name, &FieldTable::default());
    rabbitmq.ask(async |channel| {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default()).await.unwrap();
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(name.into(), name.into(), pattern.into(), options, arguments).await.unwrap();
    });
}

#[test]
fn a_message_has_its_routing_key_its_properties_and_its_headers() {
    let rabbitmq = shared();
    make_exchange(&rabbitmq, "made", "orders.#");
    let rest = "exchange = \"made\"\nrouting_key = \"{$queue}.{/region}\"\n\
                headers = { order = \"no. {/id}\", key = \"{$key}\" }\n";
    let site = Site::new(&sink(&rabbitmq.url(), rest));
    let server = site.start();
    let body = r#"{ "id": 19.90, "region": "north.east" }"#;
    let ticket = server.client().post("orders", &[("content-type", "application/json")], body).text("ticket");
    server.until_delivered(&ticket);
    let stored = rabbitmq.stored("made");
    assert_eq!(stored.len(), 1, "{stored:?}");
    let (message, properties) = (&stored[0], &stored[0].properties);
    assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("made", "orders.north.east"));
    assert_eq!(message.body, body.as_bytes());
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), ticket);
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(*properties.delivery_mode(), Some(2));
    // After the first commit of this file.
    assert!(properties.timestamp().unwrap() > 1_700_000_000);
    // There was no key, so there is no header.
    let headers = properties.headers().as_ref().unwrap().inner();
    let headers: BTreeMap<_, _> = headers.iter().map(|(name, value)| (name.as_str(), value)).collect();
    assert_eq!(headers, BTreeMap::from([("order", &AMQPValue::LongString("no. 19.90".into()))]));
    server.stop();
}

#[test]
fn what_has_no_queue_or_can_be_no_message_is_set_aside_and_its_neighbours_arrive() {
    let rabbitmq = shared();
    make_exchange(&rabbitmq, "picky", "good.*");
    let rest = "exchange = \"picky\"\nrouting_key = \"{/to}\"\n";
    let site = Site::new(&sink(&rabbitmq.url(), rest));
    let server = site.start();
    let mut client = server.client();
    let long = format!("{{\"to\":\"{}\"}}", "x".repeat(256));
    let cases = [
        ("{\"to\":\"nowhere\"}", "312 NO_ROUTE: exchange \"picky\" has no queue for routing key \"nowhere\""),
        ("{}", "312 NO_ROUTE: exchange \"picky\" has no queue for routing key \"\""),
        (&long, "the routing key would be too long"),
        ("no JSON", "the body is not JSON"),
    ];
    for (place, (body, _)) in cases.iter().enumerate() {
        client.accept("orders", format!("{{\"to\":\"good.{place}\"}}"));
        client.accept("orders", body);
    }
    until_decided(&server);
    let arrived: BTreeSet<_> = rabbitmq.stored("picky").into_iter().map(|message| message.routing_key).collect();
    assert_eq!(arrived, (0..cases.len()).map(|place| format!("good.{place}")).collect());
    let reasons = reasons(&server);
    for (_, wanted) in &cases {
        assert!(reasons.iter().any(|reason| reason.contains(wanted)), "{wanted:?} is in none of {reasons:#?}");
    }
    assert_eq!(reasons.len(), cases.len(), "{reasons:#?}");
    assert!(!server.said("Server returned us a message"), "the client logs bodies:\n{}", server.log());
    server.stop();
}

/// The broker closes the channel over it, and does not say over which message.
#[test]
fn a_message_that_is_too_large_is_found_and_set_aside() {
    let rabbitmq = RabbitMqServer::start_with(|_, _| "max_message_size = 100000".to_owned());
    rabbitmq.make_queue("orders", &FieldTable::default());
    let site = Site::new(&sink(&rabbitmq.url(), ""));
    let server = site.start();
    let lines: Vec<_> = (0..60).map(|line| format!("{{\"n\":{line},\"filling\":\"{}\"}}", filling(line))).collect();
    assert_eq!(server.client().post("orders", &[NDJSON], lines.join("\n")).status, 202);
    until_decided(&server);
    let reasons = reasons(&server);
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons.iter().all(|reason| reason.contains("larger than configured max size 100000")), "{reasons:?}");
    let arrived: BTreeSet<_> = bodies(rabbitmq.stored("orders")).into_iter().collect();
    let wanted: BTreeSet<_> = lines.into_iter().filter(|line| line.len() < 100_000).collect();
    assert_eq!(wanted.len(), 58);
    assert!(arrived == wanted, "{} of {} arrived", arrived.len(), wanted.len());
    server.stop();
}

fn filling(line: usize) -> String {
    "x".repeat(if line % 30 == 17 { 110_000 } else { 10 })
}

#[test]
fn a_queue_that_rejects_what_is_published_is_waited_for() {
    let rabbitmq = shared();
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(10));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    rabbitmq.make_queue("full", &arguments);
    let site = Site::new(&sink(&rabbitmq.url(), "routing_key = \"full\"\nin_flight_max = 1\n"));
    let server = site.start();
    let lines: Vec<_> = (0..25).map(|line| format!("{{\"n\":{line}}}")).collect();
    assert_eq!(server.client().post("orders", &[NDJSON], lines.join("\n")).status, 202);
    let mut arrived = BTreeSet::new();
    eventually("the arrival of everything", || {
        server.until_said("(nack)");
        arrived.extend(bodies(rabbitmq.stored("full")));
        rabbitmq.ask(async |channel| {
            channel.queue_purge("full".into(), QueuePurgeOptions::default()).await.unwrap();
        });
        let [durable, delivered] =
            ["durable", "delivered"].map(|mark| server.metric(&format!("forebay_{mark}_sequence{{queue=\"orders\"}}")));
        (durable == delivered).then_some(())
    });
    assert_eq!(reasons(&server), Vec::<String>::new());
    server.stop();
}

#[test]
fn records_wait_for_an_exchange_that_is_not_there_yet() {
    let rabbitmq = shared();
    let site = Site::new(&sink(&rabbitmq.url(), "exchange = \"later\"\nrouting_key = \"a\"\n"));
    let server = site.start();
    let ticket = server.client().accept("orders", "{}");
    server.until_said("no exchange 'later' in vhost '/'");
    make_exchange(&rabbitmq, "later", "a");
    server.until_delivered(&ticket);
    assert_eq!(rabbitmq.stored("later").len(), 1);
    server.stop();
}

/// Whatever is published meanwhile comes back, and the broker confirms it all the same.
#[test]
fn a_queue_that_is_deleted_under_way_is_waited_for_and_nothing_goes_nowhere() {
    let rabbitmq = shared();
    rabbitmq.make_queue("gone", &FieldTable::default());
    let site = Site::new(&sink(&rabbitmq.url(), "routing_key = \"gone\"\n"));
    let server = site.start();
    let mut client = server.client();
    server.until_delivered(&client.accept("orders", "{\"n\":0}"));
    assert_eq!(bodies(rabbitmq.stored("gone")), ["{\"n\":0}"]);
    rabbitmq.ask(async |channel| {
        channel.queue_delete("gone".into(), QueueDeleteOptions::default()).await.unwrap();
    });
    // Several batches.
    let lines: Vec<_> = (1..=150).map(|line| format!("{{\"n\":{line}}}")).collect();
    assert_eq!(client.post("orders", &[NDJSON], lines.join("\n")).status, 202);
    let retries = || server.metric("forebay_drain_retries_total{queue=\"orders\"}");
    eventually("several attempts", || (retries() >= 3).then_some(()));
    server.until_said("312 NO_ROUTE: exchange \"\" has no queue for routing key \"gone\"");
    assert_eq!(server.metric("forebay_delivered_sequence{queue=\"orders\"}"), 1);
    assert_eq!(reasons(&server), Vec::<String>::new());
    rabbitmq.make_queue("gone", &FieldTable::default());
    until_decided(&server);
    // The queue may have come in the middle of a batch, so that the rest of it came first.
    let mut arrived = bodies(rabbitmq.stored("gone"));
    let mut wanted = lines;
    arrived.sort();
    wanted.sort();
    assert_eq!(arrived, wanted, "each once");
    assert_eq!(reasons(&server), Vec::<String>::new());
    server.stop();
}

#[test]
fn an_alarm_of_the_broker_is_waited_for_and_nothing_is_sent_twice() {
    let rabbitmq = RabbitMqServer::start();
    rabbitmq.make_queue("orders", &FieldTable::default());
    let site = Site::new(&sink(&rabbitmq.url(), "commit_timeout_ms = 2000\n"));
    let server = site.start();
    let mut client = server.client();
    let first = client.accept("orders", "{\"n\":0}");
    server.until_delivered(&first);
    rabbitmq.control(&["set_vm_memory_high_watermark", "absolute", "1"]);
    let lines: Vec<_> = (1..100).map(|line| format!("{{\"n\":{line}}}")).collect();
    assert_eq!(client.post("orders", &[NDJSON], lines.join("\n")).status, 202);
    let retries = || server.metric("forebay_drain_retries_total{queue=\"orders\"}");
    eventually("several attempts", || (retries() >= 3).then_some(()));
    assert!(server.said("takes nothing"), "{}", server.log());
    rabbitmq.control(&["set_vm_memory_high_watermark", "0.9"]);
    until_decided(&server);
    let wanted: Vec<_> = (0..100).map(|line| format!("{{\"n\":{line}}}")).collect();
    assert_eq!(bodies(rabbitmq.stored("orders")), wanted, "each once, and in order");
    server.stop();
}

#[test]
fn a_check_looks_for_the_queue_or_the_exchange() {
    let rabbitmq = shared();
    make_exchange(&rabbitmq, "sound", "#");
    let site = Site::new("");
    let long = format!("exchange = \"{}\"\n", "x".repeat(256));
    let wrong = format!("amqp://forebay:wrong@{}", rabbitmq.address());
    for (url, rest, wanted) in [
        (rabbitmq.url(), "routing_key = \"sound\"\n", None),
        (rabbitmq.url(), "exchange = \"sound\"\n", None),
        (rabbitmq.url(), "routing_key = \"{/to}\"\n", None),
        (rabbitmq.url(), "routing_key = \"none\"\n", Some("queue none: ")),
        (rabbitmq.url(), "exchange = \"none\"\n", Some("exchange none: ")),
        (rabbitmq.url() + "/none", "", Some("none")),
        (rabbitmq.url(), long.as_str(), Some("`exchange` would be too long")),
        (wrong, "", Some("ACCESS_REFUSED")),
        ("amqp://".to_owned(), "", Some("")),
        ("amqp://user:4711/s@localhost".to_owned(), "", Some("the URL is not one of RabbitMQ")),
        ("amqp://user:p@ss:word@/".to_owned(), "", Some("")),
    ] {
        site.configure(&sink(&url, rest));
        let (code, output) = site.check();
        let found = wanted.is_none_or(|wanted| output.contains(wanted));
        assert!(found && code == Some(i32::from(wanted.is_some())), "{url} {rest}: {wanted:?} is not in\n{output}");
        assert!(!["wrong", "p@ss", "4711"].iter().any(|password| output.contains(password)), "{output}");
    }
}

fn tls(directory: &Path, port: u16) -> String {
    make_certificates(directory);
    let directory = directory.display();
    format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {directory}/ca.pem\n\
         ssl_options.certfile = {directory}/certificate.pem\nssl_options.keyfile = {directory}/key.pem\n"
    )
}

#[test]
fn tls_is_spoken_with_those_who_are_trusted() {
    let rabbitmq = RabbitMqServer::start_with(tls);
    rabbitmq.make_queue("orders", &FieldTable::default());
    let url = format!("amqps://forebay:{PASSWORD_ENCODED}@localhost:{}", rabbitmq.other_port());
    let site = Site::new(&sink(&url, ""));
    let (code, output) = site.check();
    assert!(code == Some(1) && output.contains("certificate"), "{output}");
    let trusted = format!("tls_ca_file = \"{}\"\n", rabbitmq.directory().join("ca.pem").display());
    site.configure(&sink(&url, &trusted));
    let (code, output) = site.check();
    assert_eq!(code, Some(0), "{output}");
    let server = site.start();
    let ticket = server.client().accept("orders", "{}");
    server.until_delivered(&ticket);
    server.stop();
}
