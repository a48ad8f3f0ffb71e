//! Kills at random instants, under load: whatever was acknowledged arrives, and nothing arrives twice.
//!
//! `FOREBAY_CRASH_SEED` repeats the choices of a run (not the scheduler's), `FOREBAY_CRASH_KILLS` makes
//! it longer.

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
#![allow(clippy::disallowed_methods, reason = "a test has no bell to be woken by")]

mod postgres_server;
mod server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use postgres_server::PostgresServer;
use server::database::{postgres, sqlite_rows, until_postgres_has, until_sqlite_has};
use server::{Client, SMALL_JOURNAL, Site};

const CLIENTS: u64 = 4;

/// `SplitMix64`: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What the clients and the killer share.
#[derive(Default)]
struct Stage {
    /// Where the server is, as long as it is anywhere.
    address: Mutex<Option<SocketAddr>>,
    over: AtomicBool,
}

/// An order and the ticket that it got; the orders of one NDJSON body have one ticket, that of the first.
type Orders = BTreeMap<String, String>;

/// Sends orders and repeats each until it is acknowledged, as a client with idempotency keys may.
fn client(stage: &Stage, name: u64, mut random: Random) -> Orders {
    let mut acknowledged = Orders::new();
    let mut connection: Option<Client> = None;
    let mut number = 0;
    while !stage.over.load(Ordering::Acquire) {
        let key = format!("{name}-{number}");
        number += 1;
        let lines = if random.below(4) == 0 { 1 + random.below(20) } else { 0 };
        let padding = "x".repeat(usize::try_from(random.below(700)).unwrap());
        let ids: Vec<_> =
            if lines == 0 { vec![key.clone()] } else { (0..lines).map(|l| format!("{key}-{l}")).collect() };
        let body: String = ids.iter().map(|id| format!("{{\"id\":\"{id}\",\"padding\":\"{padding}\"}}\n")).collect();
        let content_type = if lines == 0 { "application/json" } else { "application/x-ndjson" };
        let headers = [("idempotency-key", key.as_str()), ("content-type", content_type)];
        loop {
            let address = *stage.address.lock().unwrap();
            if connection.is_none() {
                connection = address.and_then(|address| Client::connect(address).ok());
            }
            match connection.as_mut().map(|connection| connection.try_post("orders", &headers, &body)) {
                Some(Ok(response)) if response.status == 202 => {
                    let ticket = response.text(if lines == 0 { "ticket" } else { "first_ticket" });
                    acknowledged.extend(ids.into_iter().map(|id| (id, ticket.clone())));
                    break;
                }
                Some(Ok(response)) => panic!("a request was refused: {response:?}"),
                // Killed in the middle, or not up again.
                Some(Err(_)) | None => {
                    connection = None;
                    thread::sleep(Duration::from_millis(2));
                }
            }
        }
    }
    acknowledged
}

fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// Kills the site's server again and again while clients send orders; returns all orders, every one of
/// them acknowledged, and the server, which runs.
fn storm(site: &Site, kills: u64) -> (Orders, server::Server) {
    let seed = number_from_environment("FOREBAY_CRASH_SEED").unwrap_or_else(|| {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    });
    let kills = number_from_environment("FOREBAY_CRASH_KILLS").unwrap_or(kills);
    eprintln!("FOREBAY_CRASH_SEED={seed} FOREBAY_CRASH_KILLS={kills}");
    let mut random = Random(seed);
    let stage = Arc::new(Stage::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|name| {
            let (stage, random) = (Arc::clone(&stage), Random(random.next()));
            thread::spawn(move || client(&stage, name, random))
        })
        .collect();
    for _ in 0..kills {
        if random.below(4) == 0 {
            // Recovery must bear a kill as well; it comes on top of those under load.
            let server = site.spawn();
            thread::sleep(Duration::from_millis(random.below(40)));
            server.kill9();
        }
        let server = site.start();
        *stage.address.lock().unwrap() = Some(server.address());
        thread::sleep(Duration::from_micros(random.below(400_000)));
        server.kill9();
        // What a kill leaves behind is no damage.
        let (code, found, _) = site.tool("verify", &[]);
        assert_eq!(code, Some(0), "{found}");
        *stage.address.lock().unwrap() = None;
    }
    let server = site.start();
    *stage.address.lock().unwrap() = Some(server.address());
    stage.over.store(true, Ordering::Release);
    let orders: Orders = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert!(orders.len() as u64 >= kills, "the clients got hardly anything through: {}", orders.len());
    eprintln!("{} orders were acknowledged", orders.len());
    (orders, server)
}

/// Compares what was acknowledged with the rows, each an id and a ticket.
fn assert_exactly_once(orders: &Orders, rows: Vec<Vec<String>>) {
    let mut delivered = BTreeMap::new();
    for mut row in rows {
        let (ticket, id) = (row.pop().unwrap(), row.pop().unwrap());
        assert!(delivered.insert(id.clone(), ticket).is_none(), "{id} was delivered twice");
    }
    let lost: Vec<_> = orders.keys().filter(|id| !delivered.contains_key(*id)).collect();
    assert!(lost.is_empty(), "acknowledged and not delivered: {lost:?}");
    assert_eq!(delivered.len(), orders.len());
    for (id, ticket) in orders {
        // The others of a body have tickets of their own.
        if id.matches('-').count() == 1 || id.ends_with("-0") {
            assert_eq!(&delivered[id], ticket, "{id} was acknowledged with another record's ticket");
        }
    }
}

fn config(sink: &str) -> String {
    // Below what the clients send, so that the kills meet a backlog in several segments.
    let journal = SMALL_JOURNAL.replace("[ingress]\n", "[ingress]\nexecutors = 2\n");
    format!("{journal}[queues.orders]\nrate = \"3000/s\"\nretry = {{ backoff_ms_max = 200 }}\n{sink}\n")
}

#[test]
fn sqlite_has_every_order_once_whenever_the_server_is_killed() {
    let site = Site::new(&config("sink = { table = \"orders\", columns = { id = \"/id\", ticket = \"$ticket\" } }"));
    // Nothing here keeps a duplicate out, so that one would be seen.
    server::database::sqlite_execute(&site.database("orders"), "CREATE TABLE orders (id TEXT, ticket TEXT)");
    let (orders, server) = storm(&site, 24);
    let database = site.database("orders");
    until_sqlite_has(&database, orders.len(), "SELECT id FROM orders");
    assert_exactly_once(&orders, sqlite_rows(&database, "SELECT id, ticket FROM orders"));
    assert_eq!(server.metric("forebay_dead_letters{queue=\"orders\"}"), 0);
    assert!(server.metric("forebay_trimmed_sequence{queue=\"orders\"}") > 0, "no segment was recycled");
    server.stop();
}

#[test]
fn postgres_has_every_order_once_whenever_the_server_is_killed() {
    let postgres_server = PostgresServer::start();
    let url = postgres_server.url("postgres");
    postgres(&url, "CREATE TABLE orders (id text, ticket text)");
    let target = "table = \"orders\"\ncolumns = { id = \"/id\", ticket = \"$ticket\" }";
    let site = Site::new(&config(&format!("[queues.orders.sink]\ntype = \"postgres\"\nurl = \"{url}\"\n{target}")));
    let (orders, server) = storm(&site, 10);
    until_postgres_has(&url, orders.len(), "SELECT id FROM orders");
    assert_exactly_once(&orders, postgres(&url, "SELECT id, ticket FROM orders"));
    assert_eq!(server.metric("forebay_dead_letters{queue=\"orders\"}"), 0);
    server.stop();
}
