//! The databases that the sinks are tested on, looked at without the sinks.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use forebay::config::{self, OptionValue, Options, Target};
use forebay::sink::{KINDS, Part, Sink, open};
use mysql_async::consts::ColumnType;
use mysql_async::prelude::Queryable;
use rusqlite::types::ValueRef;
use tempfile::TempDir;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::mysql_server::MysqlServer;
use crate::postgres_server::PostgresServer;

/// Which database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
    /// A MariaDB.
    Mysql,
}

/// An empty database of one test.
pub struct Database {
    pub kind: Kind,
    pub runtime: tokio::runtime::Runtime,
    pub url: String,
    directory: TempDir,
    server: Option<Server>,
}

/// Whoever runs the database, as long as a test needs it.
enum Server {
    Postgres { _shared: Arc<PostgresServer> },
    Mysql { _shared: Arc<MysqlServer> },
}

/// Rows as text: `None` is NULL, bytes are hexadecimal behind `\x`.
pub type Rows = Vec<Vec<Option<String>>>;

/// Tests that run at the same time share a server; the last one stops it.
static POSTGRES: Mutex<Weak<PostgresServer>> = Mutex::new(Weak::new());
static MYSQL: Mutex<Weak<MysqlServer>> = Mutex::new(Weak::new());
static DATABASES: AtomicUsize = AtomicUsize::new(0);

impl Database {
    pub fn new(kind: Kind) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let path = directory.path().join("test.db");
        let url = format!("sqlite:{}", path.display());
        let mut database = Self { kind, runtime, url, directory, server: None };
        let name = format!("test{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        match kind {
            Kind::Sqlite => {}
            Kind::Postgres => {
                let server = shared(&POSTGRES, PostgresServer::start);
                database.url = server.url("postgres");
                database.execute(&format!("CREATE DATABASE {name}"));
                database.url = server.url(&name);
                database.server = Some(Server::Postgres { _shared: server });
            }
            Kind::Mysql => {
                let server = shared(&MYSQL, MysqlServer::start);
                database.url = server.url("forebay");
                database.execute(&format!("CREATE DATABASE {name} CHARACTER SET utf8mb4"));
                database.url = server.url(&name);
                database.server = Some(Server::Mysql { _shared: server });
            }
        }
        database
    }

    /// What the dialects call differently.
    pub fn either<T>(&self, sqlite: T, postgres: T, mysql: T) -> T {
        match self.kind {
            Kind::Sqlite => sqlite,
            Kind::Postgres => postgres,
            Kind::Mysql => mysql,
        }
    }

    /// A message whose names are quoted as the database quotes them.
    pub fn in_quotes(&self, message: &str) -> String {
        message.replace('"', self.either("\"", "\"", "`"))
    }

    /// Runs statements past the sink.
    pub fn execute(&self, sql: &str) {
        match self.kind {
            Kind::Sqlite => self.sqlite().execute_batch(sql).unwrap(),
            Kind::Postgres => drop(self.rows(sql)),
            Kind::Mysql => drop(self.rows(&mysql_types(sql))),
        }
    }

    /// What a query returns.
    pub fn rows(&self, sql: &str) -> Rows {
        match self.kind {
            Kind::Sqlite => {}
            Kind::Postgres => return self.runtime.block_on(postgres_rows(&self.url, sql)),
            Kind::Mysql => return self.runtime.block_on(mysql_rows(&self.url, sql)),
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

    /// A sink for a part that somebody else has made.
    pub fn sink_for(&self, part: &Part, target: &Target) -> Box<dyn Sink> {
        sink_for(&self.url, self.kind, part.clone(), target, 10_000, &[])
    }

    fn sqlite(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.directory.path().join("test.db")).unwrap()
    }
}

/// A sink with this time for a transaction, in milliseconds, and a tenth of it to connect.
pub fn sink_at(url: &str, kind: Kind, part: &str, target: &Target, commit_timeout_ms: u64) -> Box<dyn Sink> {
    sink_for(url, kind, part_of(part, false), target, commit_timeout_ms, &[])
}

/// A sink for the part `q/1` with options of its kind's own.
pub fn sink_with(url: &str, kind: Kind, target: &Target, options: &[(&'static str, &str)]) -> Box<dyn Sink> {
    sink_for(url, kind, part_of("q/1", false), target, 10_000, options)
}

pub fn reordering_sink_at(url: &str, kind: Kind, target: &Target) -> Box<dyn Sink> {
    sink_for(url, kind, part_of("q/1", true), target, 10_000, &[])
}

/// A part as another process has it each time.
pub fn part_of(id: &str, reorders: bool) -> Part {
    Part::new("q".to_owned(), None, id.to_owned(), reorders, getrandom::u64().unwrap())
}

/// A sink for a part that somebody else has made, with this time for a transaction and options of its kind's own.
pub fn sink_for(
    url: &str,
    kind: Kind,
    part: Part,
    target: &Target,
    commit_timeout_ms: u64,
    texts: &[(&'static str, &str)],
) -> Box<dyn Sink> {
    let name = match kind {
        Kind::Sqlite => "sqlite",
        Kind::Postgres => "postgres",
        Kind::Mysql => "mysql",
    };
    let kind = KINDS.into_iter().find(|kind| kind.name == name).unwrap();
    let mut options = Options::defaults(kind);
    for (key, text) in texts {
        options.set(key, OptionValue::Text((*text).to_owned()));
    }
    let sink = config::Sink {
        kind,
        url: url.to_owned(),
        target: target.clone(),
        options,
        connect_timeout_ms: commit_timeout_ms / 10,
        commit_timeout_ms,
    };
    open(&sink, part, Path::new("/nonexistent"))
}

/// The server that tests share, started by the first of them.
fn shared<T>(server: &Mutex<Weak<T>>, start: fn() -> T) -> Arc<T> {
    let mut shared = server.lock().unwrap_or_else(PoisonError::into_inner);
    let server = shared.upgrade().unwrap_or_else(|| Arc::new(start()));
    *shared = Arc::downgrade(&server);
    server
}

/// Types as MySQL has them: a key needs a length, `numeric` alone has no decimals, and no constraint waits for the COMMIT.
fn mysql_types(sql: &str) -> String {
    sql.replace("text PRIMARY KEY", "varchar(255) PRIMARY KEY")
        .replace("numeric", "numeric(20, 2)")
        .replace(" DEFERRABLE INITIALLY DEFERRED", "")
}

/// A connection of a test's own, to which double quotes are names as they are to the others.
pub async fn mysql(url: &str) -> mysql_async::Conn {
    let mut connection = mysql_async::Conn::from_url(url).await.unwrap();
    connection.query_drop("SET sql_mode = 'ANSI_QUOTES,TRADITIONAL'").await.unwrap();
    connection
}

/// The rows of the last statement that has some.
pub async fn mysql_rows(url: &str, sql: &str) -> Rows {
    let mut rows = Rows::new();
    if sql.is_empty() {
        return rows;
    }
    let mut connection = mysql(url).await;
    let mut result = connection.query_iter(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    while !result.is_empty() {
        let found: Vec<mysql_async::Row> = result.collect().await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        rows.extend(found.iter().map(|row| (0..row.len()).map(|at| mysql_text(row, at)).collect()));
    }
    drop(result);
    connection.disconnect().await.unwrap();
    rows
}

fn mysql_text(row: &mysql_async::Row, at: usize) -> Option<String> {
    const BINARY: u16 = 63;
    let column = &row.columns_ref()[at];
    let is_bytes = matches!(
        column.column_type(),
        ColumnType::MYSQL_TYPE_BLOB | ColumnType::MYSQL_TYPE_STRING | ColumnType::MYSQL_TYPE_VAR_STRING
    );
    match row.as_ref(at).unwrap() {
        mysql_async::Value::NULL => None,
        mysql_async::Value::Bytes(bytes) if is_bytes && column.character_set() == BINARY => Some(hex(bytes)),
        mysql_async::Value::Bytes(bytes) => Some(String::from_utf8(bytes.clone()).unwrap()),
        other => panic!("{other:?} in the text protocol"),
    }
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
