//! The row of MySQL and MariaDB, on a MariaDB.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

use crate::mysql_server::MysqlServer;
use crate::station::{Arrival, Moment, Refusing, Served, Server, Station, Transactional, Typed};

pub struct Mysql {
    server: Arc<MysqlServer>,
    database: String,
}

/// The last of those who share it stops it.
static SHARED: Mutex<Weak<MysqlServer>> = Mutex::new(Weak::new());
static DATABASES: AtomicUsize = AtomicUsize::new(0);

impl Mysql {
    fn url(&self) -> String {
        self.server.url(&self.database)
    }

    fn section(url: &str, rest: &str) -> String {
        format!("type = \"mysql\"\nurl = \"{url}\"\n{rest}\n")
    }

    fn server(&mut self) -> &mut MysqlServer {
        Arc::get_mut(&mut self.server).expect("a server of this station's own")
    }

    /// The rows as text.
    fn texts(&self, sql: &str) -> Vec<Vec<String>> {
        let text = |value: Vec<u8>| String::from_utf8(value).unwrap();
        query(&self.url(), sql).into_iter().map(|row| row.into_iter().map(text).collect()).collect()
    }
}

/// Runs statements; returns the rows of the last that has any, NULL as `NULL`.
fn query(url: &str, sql: &str) -> Vec<Vec<Vec<u8>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rows: Vec<Row> = runtime.block_on(async {
        let mut connection = Conn::from_url(url).await.unwrap();
        let rows = connection.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        connection.disconnect().await.unwrap();
        rows
    });
    let bytes = |value: Value| match value {
        Value::NULL => b"NULL".to_vec(),
        Value::Bytes(bytes) => bytes,
        other => panic!("{other:?} in the text protocol"),
    };
    rows.into_iter().map(|row| row.unwrap().into_iter().map(bytes).collect()).collect()
}

impl Station for Mysql {
    const KIND: &'static str = "mysql";
    const EXACTLY_ONCE: bool = true;

    fn start(server: Server) -> Self {
        let server = if server == Server::Own {
            Arc::new(MysqlServer::start())
        } else {
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            let server = shared.upgrade().unwrap_or_else(|| Arc::new(MysqlServer::start()));
            *shared = Arc::downgrade(&server);
            server
        };
        let database = format!("station{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        query(&server.url("forebay"), &format!("CREATE DATABASE {database} CHARACTER SET utf8mb4"));
        let station = Self { server, database };
        query(&station.url(), "CREATE TABLE arrivals (ticket text, body longblob)");
        station
    }

    fn sink(&self) -> String {
        self.sink_at(self.address())
    }

    fn arrived(&self) -> Vec<Arrival> {
        let arrival = |mut row: Vec<Vec<u8>>| {
            let body = row.remove(1);
            Arrival { ticket: String::from_utf8(row.remove(0)).unwrap(), body }
        };
        query(&self.url(), "SELECT ticket, body FROM arrivals").into_iter().map(arrival).collect()
    }

    fn take_away(&mut self) {
        self.server().kill9();
    }

    fn bring_back(&mut self) {
        self.server().restart();
    }
}

impl Served for Mysql {
    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn sink_at(&self, address: SocketAddr) -> String {
        let columns = "table = \"arrivals\"\ncolumns = { ticket = \"$ticket\", body = \"$body\" }";
        Self::section(&format!("mysql://forebay@{address}/{}", self.database), columns)
    }

    fn sink_refused(&self, password: &str) -> String {
        Self::section(&format!("mysql://nobody:{password}@{}/{}", self.address(), self.database), "")
    }

    fn sink_unreachable(address: SocketAddr, password: &str) -> String {
        Self::section(&format!("mysql://forebay:{password}@{address}/forebay"), "")
    }
}

impl Transactional for Mysql {
    const BEGIN: Moment = Moment { request: b"START TRANSACTION; UPDATE forebay_position SET position", answer: None };
    /// One row was hit, and a transaction is open: the packet that says so.
    const FENCED: Moment =
        Moment { request: b"UPDATE forebay_position SET position", answer: Some(b"\x00\x01\x00\x03\x00\x00\x00") };
    const COMMIT: Moment = Moment { request: b"COMMIT; SET wait_timeout", answer: None };
    /// The COMMIT has gone well, and there is another answer behind it.
    const COMMITTED: Moment =
        Moment { request: b"COMMIT; SET wait_timeout", answer: Some(b"\x00\x00\x00\x0a\x00\x00\x00") };
}

impl Refusing for Mysql {
    fn refuse(&self, body: &str) -> &'static str {
        query(&self.url(), &format!("ALTER TABLE arrivals ADD CONSTRAINT no_poison CHECK (body <> '{body}')"));
        "ERROR 4025 (23000): CONSTRAINT `no_poison` failed"
    }
}

impl Typed for Mysql {
    fn sink_typed(&self) -> String {
        query(&self.url(), "CREATE TABLE typed (id bigint NOT NULL, small smallint, note text)");
        let columns = "table = \"typed\"\ncolumns = { id = \"/id\", small = \"/small\", note = \"/note\" }";
        Self::section(&self.url(), columns)
    }

    fn sink_text(&self) -> String {
        query(&self.url(), "CREATE TABLE texts (raw text NOT NULL)");
        Self::section(&self.url(), "table = \"texts\"\ncolumns = { raw = \"$body\" }")
    }

    fn rows_typed(&self) -> Vec<Vec<String>> {
        self.texts("SELECT id, small, note FROM typed ORDER BY id")
    }

    fn rows_text(&self) -> Vec<Vec<String>> {
        self.texts("SELECT raw FROM texts ORDER BY raw")
    }
}
