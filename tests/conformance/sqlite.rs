//! SQLite's row, and what can be done to a database without a wire.

use std::path::PathBuf;

use rusqlite::{Connection, ErrorCode};
use tempfile::TempDir;

use crate::server::database::{sqlite_execute, sqlite_rows};
use crate::server::{PATIENCE, eventually};
use crate::stage::{Stage, bodies, copy_of, failures, freeze, post, thaw, until_empty, until_failed, until_halted};
use crate::station::{Arrival, Refusing, Server, Station, Typed};

pub struct Sqlite {
    directory: TempDir,
    lock: Option<Connection>,
}

impl Sqlite {
    fn path(&self) -> PathBuf {
        self.directory.path().join("shop.db")
    }

    fn section(&self, rest: &str) -> String {
        format!("type = \"sqlite\"\nurl = \"sqlite:{}\"\n{rest}\n", self.path().display())
    }

    fn connection(&self) -> Connection {
        let connection = Connection::open(self.path()).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        connection
    }

    /// Takes the lock of whoever writes, and keeps it.
    fn lock(&mut self) {
        let connection = self.connection();
        connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
        self.lock = Some(connection);
    }

    /// Whether somebody else is writing.
    fn is_locked(&self) -> bool {
        let connection = Connection::open(self.path()).unwrap();
        connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        match connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK") {
            Ok(()) => false,
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => true,
            Err(error) => panic!("{error}"),
        }
    }
}

impl Station for Sqlite {
    const KIND: &'static str = "sqlite";
    const EXACTLY_ONCE: bool = true;

    fn start(_: Server) -> Self {
        let directory = tempfile::Builder::new().prefix("forebay-sqlite-").tempdir().unwrap();
        let station = Self { directory, lock: None };
        sqlite_execute(&station.path(), "CREATE TABLE arrivals (ticket TEXT, body)");
        station
    }

    fn sink(&self) -> String {
        self.section("table = \"arrivals\"\ncolumns = { ticket = \"$ticket\", body = \"$body\" }")
    }

    fn arrived(&self) -> Vec<Arrival> {
        let connection = self.connection();
        let mut statement = connection.prepare("SELECT ticket, CAST(body AS BLOB) FROM arrivals").unwrap();
        let rows = statement.query_map([], |row| Ok(Arrival { ticket: row.get(0)?, body: row.get(1)? })).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// There is no server; another process that has locked the file keeps everybody out.
    fn take_away(&mut self) {
        self.lock();
    }

    fn bring_back(&mut self) {
        self.lock = None;
    }
}

impl Refusing for Sqlite {
    fn refuse(&self, body: &str) -> &'static str {
        sqlite_execute(
            &self.path(),
            &format!(
                "CREATE TRIGGER picky BEFORE INSERT ON arrivals WHEN NEW.body = '{body}' \
                 BEGIN SELECT RAISE(ABORT, 'this shop wants no such order'); END"
            ),
        );
        "this shop wants no such order"
    }
}

impl Typed for Sqlite {
    fn sink_typed(&self) -> String {
        let table = "CREATE TABLE typed (id INTEGER NOT NULL, small INTEGER CHECK (small BETWEEN -32768 AND 32767), \
                     note TEXT) STRICT";
        sqlite_execute(&self.path(), table);
        self.section("table = \"typed\"\ncolumns = { id = \"/id\", small = \"/small\", note = \"/note\" }")
    }

    fn sink_text(&self) -> String {
        sqlite_execute(&self.path(), "CREATE TABLE texts (raw TEXT NOT NULL) STRICT");
        self.section("table = \"texts\"\ncolumns = { raw = \"$body\" }")
    }

    fn rows_typed(&self) -> Vec<Vec<String>> {
        sqlite_rows(&self.path(), "SELECT id, small, note FROM typed ORDER BY id")
    }

    fn rows_text(&self) -> Vec<Vec<String>> {
        sqlite_rows(&self.path(), "SELECT raw FROM texts ORDER BY raw")
    }
}

/// Two processes with one identity: the older one waits for the file's lock and is stopped there.
#[test]
fn a_zombie_of_before_its_transaction_commits_nothing() {
    let mut stage = Stage::<Sqlite>::new(Server::Own);
    let older = stage.site.start();
    let next = post(&older, 0..2);
    until_empty(&older);
    stage.station.lock();
    let next = post(&older, next..next + 5);
    eventually("a batch on its way", || {
        (older.metric("forebay_drain_in_flight{queue=\"orders\"}") == 1).then_some(())
    });
    freeze(&older);
    let copy = copy_of(&stage.site, &stage.station.sink());
    stage.station.bring_back();
    let younger = copy.start();
    let next = post(&younger, next..next + 1);
    until_empty(&younger);
    thaw(&older);
    until_halted(&older);
    let next = post(&younger, next..next + 1);
    until_empty(&younger);
    younger.stop();
    older.stop();
    stage.until_arrived(bodies(0..next), 0);
}

/// A row of this body keeps its transaction busy for a while.
const LONG: &str = "CREATE TRIGGER long AFTER INSERT ON arrivals WHEN NEW.body = 'long' BEGIN \
    SELECT count(*) FROM (WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 2000000) SELECT n FROM c); END";

/// The older one is stopped in the middle of its transaction: its lock keeps the younger one out, and what it commits in the end is
/// not delivered again.
#[test]
fn a_zombie_in_its_transaction_keeps_the_other_one_out() {
    let stage = Stage::<Sqlite>::new(Server::Own);
    let older = stage.site.start();
    let first = older.client().accept("orders", "first");
    older.until_delivered(&first);
    sqlite_execute(&stage.station.path(), LONG);
    let mut long = 0;
    eventually("a stop in the middle of a transaction", || {
        if older.metric("forebay_backlog_records{queue=\"orders\"}") == 0 {
            older.client().accept("orders", "long");
            long += 1;
        }
        if !stage.station.is_locked() {
            return None;
        }
        freeze(&older);
        // The look itself may have come between two of its locks.
        let is_within = stage.station.is_locked() && stage.station.arrived().len() == long;
        if !is_within {
            thaw(&older);
        }
        is_within.then_some(())
    });
    let copy = copy_of(&stage.site, &(stage.station.sink() + "commit_timeout_ms = 1000\n"));
    let younger = copy.start();
    until_failed(&younger, 0);
    assert_eq!(stage.station.arrived().len(), long, "something was committed past the lock");
    thaw(&older);
    until_empty(&younger);
    younger.client().accept("orders", "of the younger one");
    until_empty(&younger);
    older.client().accept("orders", "of the older one");
    until_halted(&older);
    let mut arrived: Vec<_> = stage.station.arrived().into_iter().map(|arrival| arrival.body).collect();
    arrived.sort();
    let mut wanted = vec![b"first".to_vec(), b"of the younger one".to_vec()];
    wanted.extend((0..long).map(|_| b"long".to_vec()));
    wanted.sort();
    assert_eq!(arrived, wanted);
    assert!(failures(&younger) > 0);
    younger.stop();
    older.stop();
}
