//! A site whose queue `orders` delivers into a table that says when and in which order its rows came.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::postgres_server::PostgresServer;
use crate::server::database::{postgres, sqlite_execute, sqlite_rows};
use crate::server::{Client, Server, Site, eventually};

pub const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
/// SQLite's clock counts whole milliseconds.
pub const CLOCK_GRAIN_S: f64 = 0.002;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

pub struct Stage {
    pub site: Site,
    postgres: Option<(Arc<PostgresServer>, String)>,
}

/// Tests that run at the same time share a server; the last one stops it.
static SERVER: Mutex<Weak<PostgresServer>> = Mutex::new(Weak::new());
static DATABASES: AtomicUsize = AtomicUsize::new(0);

impl Stage {
    /// A site whose queue has these options.
    pub fn new(kind: Kind, options: &str) -> Self {
        let postgres_server = (kind == Kind::Postgres).then(|| {
            let mut shared = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
            let server = shared.upgrade().unwrap_or_else(|| Arc::new(PostgresServer::start()));
            *shared = Arc::downgrade(&server);
            drop(shared);
            let name = format!("ordering{}", DATABASES.fetch_add(1, Ordering::Relaxed));
            postgres(&server.url("postgres"), &format!("CREATE DATABASE {name}"));
            let url = server.url(&name);
            (server, url)
        });
        let stage = Self { site: Site::new(""), postgres: postgres_server };
        stage.configure(options);
        let (number, clock) = match kind {
            Kind::Sqlite => {
                ("INTEGER PRIMARY KEY AUTOINCREMENT", "REAL DEFAULT ((julianday('now') - 2440587.5) * 86400.0)")
            }
            Kind::Postgres => {
                ("bigserial PRIMARY KEY", "double precision DEFAULT extract(epoch FROM clock_timestamp())")
            }
        };
        stage.execute(&format!(
            "CREATE TABLE arrivals (n {number}, body TEXT CHECK (body NOT LIKE 'poison%'), sort_key TEXT, at {clock})"
        ));
        stage
    }

    /// Gives the queue other options.
    pub fn configure(&self, options: &str) {
        let place = self
            .postgres
            .as_ref()
            .map_or_else(String::new, |(_, url)| format!("type = \"postgres\", url = \"{url}\", "));
        self.site.configure(&format!(
            "[queues.orders]\n{options}\nsink = {{ {place}table = \"arrivals\", columns = {{ body = \"$body\", sort_key \
             = \"$key\" }} }}\n"
        ));
    }

    /// Gives the queue other options, and a sink that runs a statement with the record's key.
    pub fn configure_statement(&self, options: &str, sink: &str, statement: &str) {
        let url = self.postgres_url();
        self.site.configure(&format!(
            "[queues.orders]\n{options}\n[queues.orders.sink]\ntype = \"postgres\"\nurl = \"{url}\"\n{sink}\nstatement = \
             \"{statement}\"\nparameters = {{ key = \"$key\" }}\n"
        ));
    }

    /// Where the database is, which must be a PostgreSQL.
    pub fn postgres_url(&self) -> &str {
        &self.postgres.as_ref().unwrap().1
    }

    pub fn execute(&self, sql: &str) {
        match &self.postgres {
            Some((_, url)) => drop(postgres(url, sql)),
            None => sqlite_execute(&self.site.database("orders"), sql),
        }
    }

    pub fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        match &self.postgres {
            Some((_, url)) => postgres(url, sql),
            None => sqlite_rows(&self.site.database("orders"), sql),
        }
    }

    /// Bodies in the order in which they came.
    pub fn bodies(&self) -> Vec<String> {
        self.rows("SELECT body FROM arrivals ORDER BY n").into_iter().map(|mut row| row.remove(0)).collect()
    }

    /// Waits until there are just this many rows, and returns their bodies in the order in which they came.
    pub fn until_bodies(&self, count: usize) -> Vec<String> {
        let rows = || self.rows("SELECT count(*) FROM arrivals")[0][0].parse::<usize>().unwrap();
        eventually(&format!("{count} rows"), || {
            let found = rows();
            assert!(found <= count, "{found} rows, where {count} were expected");
            (found == count).then(|| self.bodies())
        })
    }

    /// Seconds since the Unix epoch at which each row of a body came, by the database's clock.
    pub fn arrivals_s(&self, body: &str) -> Vec<f64> {
        let rows = self.rows(&format!("SELECT at FROM arrivals WHERE body = '{body}' ORDER BY n"));
        rows.iter().map(|row| row[0].parse().unwrap()).collect()
    }

    /// Whether the database has noted records beyond the position.
    pub fn has_beyond(&self) -> bool {
        self.rows("SELECT count(*) FROM forebay_position WHERE beyond IS NOT NULL")[0][0] != "0"
    }

    /// The queue's position in the database.
    pub fn position(&self) -> u64 {
        self.rows(
            "SELECT position FROM forebay_position WHERE part NOT LIKE '%/redrive-%' AND part NOT LIKE '%/lane-%'",
        )[0][0]
            .parse()
            .unwrap()
    }

    /// Whether another lane than the first has delivered anything.
    pub fn has_used_lanes(&self) -> bool {
        self.rows("SELECT count(*) FROM forebay_position WHERE part LIKE '%/lane-%' AND epoch > 1 AND position > 0")[0]
            [0]
            != "0"
    }

    /// Asserts that everything up to this sequence is delivered and nothing is noted beyond it.
    pub fn assert_all_in_order(&self, position: u64) {
        // The first lane's row says it; those of others are as they were when they delivered for the last time.
        let is_first = "part NOT LIKE '%/redrive-%' AND part NOT LIKE '%/lane-%'";
        let rows = self.rows(&format!("SELECT position, beyond IS NULL FROM forebay_position WHERE {is_first}"));
        assert!(rows.len() == 1 && rows[0][0] == position.to_string(), "{rows:?}, not {position}");
        assert!(["1", "t"].contains(&&*rows[0][1]), "{rows:?} is beyond {position}");
    }
}

pub fn admin(server: &Server, method: &str, path: &str, body: &Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let path = format!("/v1/queues/orders{path}");
    let response = Client::connect(server.admin()).unwrap().request(method, &path, &[], Some(body.as_bytes())).unwrap();
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

/// What the queue does now.
pub fn now(server: &Server) -> Value {
    admin(server, "GET", "", &Value::Null)["now"].clone()
}

/// Pauses the queue, and waits until nothing leaves any more.
pub fn pause(server: &Server) {
    admin(server, "POST", "/pause", &Value::Null);
    eventually("the pause", || (now(server)["state"] == "paused").then_some(()));
}

pub fn resume(server: &Server) {
    admin(server, "POST", "/resume", &Value::Null);
}

/// Posts a record, which must be accepted, and returns its ticket.
pub fn send(server: &Server, headers: &[(&str, &str)], body: &str) -> String {
    let response = server.client().post("orders", headers, body);
    assert_eq!(response.status, 202, "{response:?}");
    response.text("ticket")
}

/// Posts many records, which must be accepted; returns the last ticket.
pub fn send_all(server: &Server, headers: &[(&str, &str)], bodies: impl IntoIterator<Item = String>) -> String {
    let lines: String = bodies.into_iter().map(|body| body + "\n").collect();
    let response = server.client().post("orders", &[&[NDJSON], headers].concat(), lines);
    assert_eq!(response.status, 202, "{response:?}");
    response.text("last_ticket")
}

pub fn metric(server: &Server, name: &str) -> u64 {
    server.metric(&format!("forebay_{name}{{queue=\"orders\"}}"))
}

/// Waits until so many records wait in the window, and so many are delivered beyond the position.
pub fn until_waiting(server: &Server, in_window: u64, beyond: u64) {
    eventually(&format!("{in_window} records in the window and {beyond} beyond the position"), || {
        let found = (metric(server, "drain_window_records"), metric(server, "drain_beyond_records"));
        (found == (in_window, beyond)).then_some(())
    });
}

/// The state of a ticket, and its position if it has one.
pub fn ticket(server: &Server, ticket: &str) -> (String, Option<u64>) {
    let value = server.client().ticket(ticket);
    (value["state"].as_str().unwrap().to_owned(), value["position"].as_u64())
}

/// All dead letters.
pub fn letters(server: &Server) -> Value {
    admin(server, "GET", "/dead-letters?limit=1000", &Value::Null)
}

/// Redrives all dead letters at once.
pub fn redrive_all(server: &Server) {
    admin(server, "POST", "/dead-letters/redrive", &json!({ "all": true, "rate": "unlimited" }));
}

/// Seconds since the Unix epoch.
pub fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}
