//! The databases that the sinks are tested on, looked at without the sinks.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use forebay::config::{self, Options, Target};
use forebay::sink::{KINDS, Part, Sink, open};
use rusqlite::types::ValueRef;
use tempfile::TempDir;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::postgres_server::PostgresServer;

/// Which database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

/// An empty database of one test.
pub struct Database {
    pub kind: Kind,
    pub runtime: tokio::runtime::Runtime,
    pub url: String,
    directory: TempDir,
    server: Option<Arc<PostgresServer>>,
}

/// Rows as text: `None` is NULL, bytes are hexadecimal behind `\x`.
pub type Rows = Vec<Vec<Option<String>>>;

/// Tests that run at the same time share a server; the last one stops it.
static SERVER: Mutex<Weak<PostgresServer>> = Mutex::new(Weak::new());
static DATABASES: AtomicUsize = AtomicUsize::new(0);

impl Database {
    pub fn new(kind: Kind) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let path = directory.path().join("test.db");
        let url = format!("sqlite:{}", path.display());
        let mut database = Self { kind, runtime, url, directory, server: None };
        if kind == Kind::Postgres {
            let mut shared = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
            let server = shared.upgrade().unwrap_or_else(|| Arc::new(PostgresServer::start()));
            *shared = Arc::downgrade(&server);
            drop(shared);
            let name = format!("test{}", DATABASES.fetch_add(1, Ordering::Relaxed));
            database.url = server.url("postgres");
            database.execute(&format!("CREATE DATABASE {name}"));
            database.url = server.url(&name);
            database.server = Some(server);
        }
        database
    }

    pub fn postgres(&self) -> bool {
        self.kind == Kind::Postgres
    }

    /// What the two dialects call differently.
    pub fn either<T>(&self, sqlite: T, postgres: T) -> T {
        if self.postgres() { postgres } else { sqlite }
    }

    /// Runs statements past the sink.
    pub fn execute(&self, sql: &str) {
        if self.postgres() {
            self.rows(sql);
        } else {
            self.sqlite().execute_batch(sql).unwrap();
        }
    }

    /// What a query returns.
    pub fn rows(&self, sql: &str) -> Rows {
        if self.postgres() {
            return self.runtime.block_on(postgres_rows(&self.url, sql));
        }
        let connection = self.sqlite();
        let mut statement = connection.prepare(sql).unwrap();
        let width = statement.column_count();
        let rows = statement.query_map([], |row| (0..width).map(|at| Ok(text(row.get_ref(at)?))).collect()).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// The only value that a query returns.
    pub fn value(&self, sql: &str) -> String {
        let rows = self.rows(sql);
        assert_eq!((rows.len(), rows[0].len()), (1, 1), "{sql}");
        rows[0][0].clone().unwrap()
    }

    /// A sink on this database for the part `q/1`.
    pub fn sink(&self, target: &Target) -> Box<dyn Sink> {
        self.sink_of("q/1", target)
    }

    pub fn sink_of(&self, part: &str, target: &Target) -> Box<dyn Sink> {
        sink_at(&self.url, self.kind, part, target, 10_000)
    }

    /// A sink for the part `q/1` that may deliver out of order.
    pub fn reordering_sink(&self, target: &Target) -> Box<dyn Sink> {
        reordering_sink_at(&self.url, self.kind, target)
    }

    fn sqlite(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.directory.path().join("test.db")).unwrap()
    }
}

/// A sink with this time for a transaction, in milliseconds, and a tenth of it to connect.
pub fn sink_at(url: &str, kind: Kind, part: &str, target: &Target, commit_timeout_ms: u64) -> Box<dyn Sink> {
    let part = Part { queue: "q".to_owned(), sink: None, id: part.to_owned(), reorders: false };
    sink_for(url, kind, part, target, commit_timeout_ms)
}

pub fn reordering_sink_at(url: &str, kind: Kind, target: &Target) -> Box<dyn Sink> {
    let part = Part { queue: "q".to_owned(), sink: None, id: "q/1".to_owned(), reorders: true };
    sink_for(url, kind, part, target, 10_000)
}

fn sink_for(url: &str, kind: Kind, part: Part, target: &Target, commit_timeout_ms: u64) -> Box<dyn Sink> {
    let name = if kind == Kind::Postgres { "postgres" } else { "sqlite" };
    let kind = KINDS.into_iter().find(|kind| kind.name == name).unwrap();
    let sink = config::Sink {
        kind,
        url: url.to_owned(),
        target: target.clone(),
        options: Options::defaults(kind),
        connect_timeout_ms: commit_timeout_ms / 10,
        commit_timeout_ms,
    };
    open(&sink, part, Path::new("/nonexistent"))
}

/// A connection of a test's own.
pub async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub async fn postgres_rows(url: &str, sql: &str) -> Rows {
    let messages = connect(url).await.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let mut rows = Rows::new();
    for message in messages {
        if let SimpleQueryMessage::Row(row) = message {
            rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
        }
    }
    rows
}

fn text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(integer) => Some(integer.to_string()),
        ValueRef::Real(real) => Some(real.to_string()),
        ValueRef::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
        ValueRef::Blob(bytes) => Some(hex(bytes)),
    }
}

/// How PostgreSQL writes a bytea.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
