//! A site whose queue `orders` delivers into a station, clients that post to it, and the account of what has arrived.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::server::{self, Client, Site, copy_directory, eventually};
use crate::station::{Server, Station};

pub const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
/// Records of a batch at most, and so what may be under way in one transaction.
pub const BATCH_RECORDS: usize = 50;
/// Records of one request.
pub const LINES: usize = 20;

/// Without a rate, and soon again at a sink that has failed.
const QUEUE: &str = "rate = \"unlimited\"\nbatch = { records_max = 50 }\nretry = { backoff_ms_max = 100 }\n";
/// A locked file is waited for half of that, which is then the longest that a test waits for a sink to fail.
const SOON: &str = "commit_timeout_ms = 1000\n";

pub struct Stage<S> {
    pub station: S,
    pub site: Site,
}

impl<S: Station> Stage<S> {
    pub fn new(server: Server) -> Self {
        let stage = Self { station: S::start(server), site: Site::new("") };
        stage.configure("", &stage.station.sink());
        stage
    }

    /// One that gives an attempt up soon.
    pub fn impatient(server: Server) -> Self {
        let stage = Self::new(server);
        stage.configure("", &(stage.station.sink() + SOON));
        stage
    }

    /// Gives the queue more options, and this sink.
    pub fn configure(&self, options: &str, sink: &str) {
        configure(&self.site, options, sink);
    }

    /// Waits until just these have arrived, whatever was refused, and asserts that none has twice, but for so many in a sink that may get some again.
    pub fn until_arrived(&self, wanted: impl IntoIterator<Item = String>, again_max: usize) {
        let wanted: Vec<_> = wanted.into_iter().collect();
        let counts = eventually("the arrival of everything", || {
            let counts = count(self.station.arrived().into_iter().map(|arrival| arrival.body));
            wanted.iter().all(|body| counts.contains_key(body.as_bytes())).then_some(counts)
        });
        assert_eq!(counts.len(), wanted.len(), "something arrived that nobody has sent");
        let again = counts.iter().filter(|(_, count)| **count > 1);
        let number: usize = again.clone().map(|(_, count)| count - 1).sum();
        let some: Vec<_> = again.take(5).map(|(body, count)| (String::from_utf8_lossy(body), count)).collect();
        let again_max = if S::EXACTLY_ONCE { 0 } else { again_max };
        assert!(number <= again_max, "{number} came again, where {again_max} may; among them {some:?}");
    }
}

pub fn configure(site: &Site, options: &str, sink: &str) {
    site.configure(&format!("[queues.orders]\n{QUEUE}{options}\n[queues.orders.sink]\n{sink}\n"));
}

fn count(bodies: impl Iterator<Item = Vec<u8>>) -> BTreeMap<Vec<u8>, usize> {
    let mut counts = BTreeMap::new();
    bodies.for_each(|body| *counts.entry(body).or_default() += 1);
    counts
}

/// A copy of a data directory at another site, with this sink. The server of the first must have ended, or be stopped by a signal.
pub fn copy_of(site: &Site, sink: &str) -> Site {
    let copy = Site::new("");
    configure(&copy, "", sink);
    copy_directory(&site.data(), &copy.data());
    copy
}

/// The bodies of requests.
pub fn bodies(requests: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    requests.flat_map(|request| (0..LINES).map(move |line| format!("{{\"n\":\"{request:05}-{line:02}\"}}")))
}

/// Posts requests from this one on, each under a key of its own, or until the server goes away; returns the first that was
/// not acknowledged.
pub fn post(server: &server::Server, requests: std::ops::Range<usize>) -> usize {
    let Ok(mut client) = Client::connect(server.address()) else { return requests.start };
    for request in requests.clone() {
        let lines: String = bodies(request..request + 1).map(|body| body + "\n").collect();
        match client.try_post("orders", &[NDJSON, ("idempotency-key", &format!("request-{request}"))], lines) {
            Ok(response) => assert_eq!(response.status, 202, "{response:?}"),
            Err(_) => return request,
        }
    }
    requests.end
}

/// Attempts of the queue's drain that have failed.
pub fn failures(server: &server::Server) -> u64 {
    server.metric("forebay_drain_retries_total{queue=\"orders\"}")
}

/// Waits until the sink has failed once more.
pub fn until_failed(server: &server::Server, failures_before: u64) {
    eventually("a failure of the sink", || (failures(server) > failures_before).then_some(()));
}

/// Waits until everything is delivered, without a dead letter.
pub fn until_empty(server: &server::Server) {
    until_decided(server);
    assert_eq!(server.metric("forebay_dead_letters{queue=\"orders\"}"), 0, "something became a dead letter");
}

/// Waits until nothing waits for delivery.
pub fn until_decided(server: &server::Server) {
    eventually("an empty backlog", || {
        assert!(!server.said("no longer delivered"), "the drain has halted");
        let [durable, delivered] =
            ["durable", "delivered"].map(|mark| server.metric(&format!("forebay_{mark}_sequence{{queue=\"orders\"}}")));
        (durable == delivered).then_some(())
    });
}

pub fn until_halted(server: &server::Server) {
    eventually("a halt", || (server.metric("forebay_drain_halted{queue=\"orders\"}") == 1).then_some(()));
}

/// Stops a process as it stands.
pub fn freeze(server: &server::Server) {
    server.signal(Signal::STOP);
}

/// Lets it go on as if no time had passed for it.
pub fn thaw(server: &server::Server) {
    server.signal(Signal::CONT);
}

/// The lines of the file of dead letters.
pub fn letters(site: &Site) -> Vec<Value> {
    let text = std::fs::read_to_string(site.queue("orders").join("dead-letters.ndjson")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Random numbers, whose seed is printed and can be given again.
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Self {
        let given = std::env::var("FOREBAY_CONFORMANCE_SEED").ok().map(|seed| seed.parse().unwrap());
        let seed = given.unwrap_or_else(|| getrandom::u64().unwrap());
        println!("repeat with FOREBAY_CONFORMANCE_SEED={seed}");
        Self(seed)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// Lets some time pass, so that what comes next falls anywhere.
    pub fn wait_ms_below(&mut self, ms: u64) {
        thread::sleep(Duration::from_micros(self.below(ms * 1000)));
    }
}
