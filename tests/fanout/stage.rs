//! A site whose queue `orders` delivers into two databases, each into a table that says in which order its rows came.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::postgres_server::PostgresServer;
use crate::server::client::Response;
use crate::server::database::{postgres, sqlite_execute, sqlite_rows, try_postgres};
use crate::server::{Client, SMALL_JOURNAL, Server, Site, eventually};

pub const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
/// Pads a record so that twenty of them fill a third of a segment.
const PADDING: usize = 1000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

/// One of the two databases.
pub enum Store {
    Sqlite(PathBuf),
    Postgres(String),
}

impl Store {
    /// Where it is, and that the rows go into the table `arrivals`: keys of a sink's section.
    pub fn keys(&self) -> String {
        let place = match self {
            Self::Sqlite(path) => format!("type = \"sqlite\"\nurl = \"{}\"", path.display()),
            Self::Postgres(url) => format!("type = \"postgres\"\nurl = \"{url}\""),
        };
        format!("{place}\ntable = \"arrivals\"\ncolumns = {{ body = \"$body\", ticket = \"$ticket\" }}\n")
    }

    /// Runs a statement; what it returns, if it can be run now.
    fn rows(&self, sql: &str) -> Option<Vec<Vec<String>>> {
        match self {
            Self::Sqlite(path) => Some(sqlite_rows(path, sql)),
            Self::Postgres(url) => try_postgres(url, sql).ok(),
        }
    }

    pub fn execute(&self, sql: &str) {
        match self {
            Self::Sqlite(path) => sqlite_execute(path, sql),
            Self::Postgres(url) => drop(postgres(url, sql)),
        }
    }

    /// Makes the table, which refuses bodies that begin with this.
    fn prepare(&self, refused: &str) {
        let number = match self {
            Self::Sqlite(_) => "INTEGER PRIMARY KEY AUTOINCREMENT",
            Self::Postgres(_) => "bigserial PRIMARY KEY",
        };
        self.execute(&format!(
            "CREATE TABLE arrivals (n {number}, body TEXT CHECK (body NOT LIKE '{refused}%'), ticket TEXT)"
        ));
    }

    /// What has come, in its order and without the padding.
    pub fn bodies(&self) -> Vec<String> {
        let rows = self.rows("SELECT body FROM arrivals ORDER BY n").unwrap();
        rows.into_iter().map(|row| row[0].trim_end_matches('.').to_owned()).collect()
    }

    /// Waits until so much has come, and no more, and returns it.
    pub fn until_bodies(&self, count: usize) -> Vec<String> {
        eventually(&format!("{count} rows"), || {
            let rows = self.rows("SELECT count(*) FROM arrivals")?;
            let found: usize = rows[0][0].parse().unwrap();
            assert!(found <= count, "{found} rows, where {count} were expected");
            (found == count).then_some(())
        });
        self.bodies()
    }

    /// The parts that have a position here, with what they say.
    pub fn positions(&self) -> Vec<(String, u64)> {
        let rows = self.rows("SELECT part, position FROM forebay_position ORDER BY part").unwrap();
        rows.into_iter().map(|row| (row[0].clone(), row[1].parse().unwrap())).collect()
    }
}

pub struct Stage {
    pub site: Site,
    pub postgres: PostgresServer,
    pub main: Store,
    pub other: Store,
}

impl Stage {
    /// Two databases, of which one is of this kind and the queue's main sink. The other one refuses poison.
    pub fn new(main: Kind) -> Self {
        let (site, server) = (Site::new(""), PostgresServer::start());
        let sqlite = Store::Sqlite(site.path().join("shop.db"));
        let url = server.url("postgres");
        let (main, other) = match main {
            Kind::Sqlite => (sqlite, Store::Postgres(url)),
            Kind::Postgres => (Store::Postgres(url), sqlite),
        };
        main.prepare("never");
        other.prepare("poison");
        Self { site, postgres: server, main, other }
    }

    /// Gives the queue these options, and another sink `analytics` with these, if any are given.
    pub fn configure(&self, options: &str, analytics: Option<&str>) {
        let other = analytics.map_or_else(String::new, |options| {
            format!("[queues.orders.sinks.analytics]\n{options}\n{}", self.other.keys())
        });
        let main = self.main.keys();
        self.site.configure(&format!("{SMALL_JOURNAL}[queues.orders]\n{options}\n[queues.orders.sink]\n{main}{other}"));
    }
}

/// Posts `batches` times twenty records of a kibibyte, the first with this number; returns the number behind the last one, and
/// its ticket.
pub fn fill(server: &Server, first: usize, batches: usize) -> (usize, String) {
    let (mut client, mut last) = (server.client(), String::new());
    let end = first + batches * 20;
    for batch in (first..end).step_by(20) {
        let lines: String = (batch..batch + 20).map(padded).collect();
        let response = client.post("orders", &[NDJSON], lines);
        assert_eq!(response.status, 202, "{response:?}");
        last = response.text("last_ticket");
    }
    (end, last)
}

fn padded(number: usize) -> String {
    format!("{:.<PADDING$}\n", name(number))
}

pub fn name(number: usize) -> String {
    format!("order-{number:05}")
}

/// The names of these orders.
pub fn names(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(name).collect()
}

/// Asks the admin address about the queue, or what is below it.
pub fn ask(server: &Server, method: &str, below: &str, body: &Value) -> Response {
    let headers = [("content-type", "application/json"), ("forebay-actor", "ann@desk")];
    let body = (method != "GET").then(|| body.to_string());
    let mut client = Client::connect(server.admin()).unwrap();
    let body = body.as_ref().map(String::as_bytes);
    client.request(method, &format!("/v1/queues/orders{below}"), &headers, body).unwrap()
}

/// As [`ask`], of which something must come.
pub fn asked(server: &Server, method: &str, below: &str, body: &Value) -> Value {
    let response = ask(server, method, below, body);
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

/// What the analytics sink does.
pub fn analytics(server: &Server) -> Value {
    asked(server, "GET", "/sinks/analytics", &json!(null))
}

/// Waits until a ticket's record has come to the analytics sink.
pub fn until_analysed(server: &Server, ticket: &str) {
    let mut client = server.client();
    eventually("delivery to analytics", || {
        assert!(!server.said("no longer delivered"), "a drain has halted");
        (client.ticket(ticket)["sinks"]["analytics"]["state"] == "delivered").then_some(())
    });
}
