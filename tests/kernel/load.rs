//! Clients that repeat every order until it is acknowledged, and the account of what became of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::random::Random;
use super::server::database::sqlite_rows;
use super::server::{Client, eventually};

/// Nothing in it keeps a duplicate out, so that one would be seen.
pub const TABLE: &str = "CREATE TABLE orders (id TEXT, ticket TEXT)";
/// What a sink needs to fill it.
pub const COLUMNS: &str = "table = \"orders\"\ncolumns = { id = \"/id\", ticket = \"$ticket\" }\n";

const CLIENTS: u64 = 8;

/// An order and the ticket that it got.
pub type Orders = BTreeMap<String, String>;

#[derive(Default)]
struct Stage {
    /// Where the server is, as long as it is anywhere.
    address: Mutex<Option<SocketAddr>>,
    acknowledged: AtomicU64,
    over: AtomicBool,
    is_abandoned: AtomicBool,
}

/// Clients that send for as long as there is a server.
pub struct Load {
    stage: Arc<Stage>,
    clients: Vec<JoinHandle<Orders>>,
}

impl Load {
    pub fn start(random: &mut Random) -> Self {
        let stage = Arc::new(Stage::default());
        let clients = (0..CLIENTS)
            .map(|name| {
                let (stage, seed) = (Arc::clone(&stage), random.next());
                thread::spawn(move || client(&stage, name, seed))
            })
            .collect();
        Self { stage, clients }
    }

    /// Sends to this server from now on, or to none.
    pub fn aim(&self, address: Option<SocketAddr>) {
        *self.stage.address.lock().unwrap() = address;
    }

    /// Waits until so many more orders are acknowledged.
    pub fn until_more(&self, orders: u64) {
        let goal = self.stage.acknowledged.load(Ordering::Acquire) + orders;
        eventually("acknowledgements", || (self.stage.acknowledged.load(Ordering::Acquire) >= goal).then_some(()));
    }

    /// Ends at once: there will be no server any more.
    pub fn abandon(self) {
        self.stage.is_abandoned.store(true, Ordering::Release);
        self.finish();
    }

    /// Ends when every order that was begun is acknowledged.
    pub fn finish(self) -> Orders {
        self.stage.over.store(true, Ordering::Release);
        self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    }
}

/// Repeats each order with its key, as a client may whom nobody can tell what became of the first one.
fn client(stage: &Stage, name: u64, seed: u64) -> Orders {
    let mut acknowledged = Orders::new();
    let mut connection: Option<Client> = None;
    for number in 0.. {
        if stage.over.load(Ordering::Acquire) {
            break;
        }
        let id = format!("{seed:x}-{name}-{number}");
        let body = format!("{{\"id\":\"{id}\",\"padding\":\"{}\"}}", "x".repeat(number % 700));
        let headers = [("idempotency-key", id.as_str()), ("content-type", "application/json")];
        while !stage.is_abandoned.load(Ordering::Acquire) {
            let address = *stage.address.lock().unwrap();
            if connection.is_none() {
                connection = address.and_then(|address| Client::connect(address).ok());
            }
            match connection.as_mut().map(|connection| connection.try_post("orders", &headers, &body)) {
                Some(Ok(response)) if response.status == 202 => {
                    acknowledged.insert(id, response.text("ticket"));
                    stage.acknowledged.fetch_add(1, Ordering::AcqRel);
                    break;
                }
                Some(Ok(response)) => assert_eq!(response.status, 503, "{response:?}"),
                Some(Err(_)) | None => connection = None,
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
    acknowledged
}

/// What became of orders.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub lost: Vec<String>,
    pub delivered_twice: Vec<String>,
    pub never_sent: Vec<String>,
    pub with_another_ticket: Vec<String>,
}

/// Compares what was acknowledged with the rows of the table.
pub fn account(orders: &Orders, database: &Path) -> Account {
    let mut account = Account::default();
    let mut delivered = BTreeMap::new();
    for mut row in sqlite_rows(database, "SELECT id, ticket FROM orders") {
        let (ticket, id) = (row.pop().unwrap(), row.pop().unwrap());
        match orders.get(&id) {
            None => account.never_sent.push(id.clone()),
            Some(acknowledged) if *acknowledged != ticket => account.with_another_ticket.push(id.clone()),
            Some(_) => {}
        }
        if delivered.insert(id.clone(), ticket).is_some() {
            account.delivered_twice.push(id);
        }
    }
    account.lost = orders.keys().filter(|id| !delivered.contains_key(*id)).cloned().collect();
    account
}
