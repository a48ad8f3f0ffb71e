//! PostgreSQL's row.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::postgres_server::PostgresServer;
use crate::server::database::postgres;
use crate::stage::{Stage, bodies, post, until_empty, until_halted};
use crate::station::{Arrival, Moment, Refusing, Served, Server, Station, Transactional, Typed};

pub struct Postgres {
    server: Arc<PostgresServer>,
    database: String,
}

/// The last of those who share it stops it.
static SHARED: Mutex<Weak<PostgresServer>> = Mutex::new(Weak::new());
static DATABASES: AtomicUsize = AtomicUsize::new(0);

impl Postgres {
    fn url(&self) -> String {
        self.server.url(&self.database)
    }

    fn section(url: &str, rest: &str) -> String {
        format!("type = \"postgres\"\nurl = \"{url}\"\n{rest}\n")
    }

    fn server(&mut self) -> &mut PostgresServer {
        Arc::get_mut(&mut self.server).expect("a server of this station's own")
    }
}

impl Station for Postgres {
    const KIND: &'static str = "postgres";
    const EXACTLY_ONCE: bool = true;

    fn start(server: Server) -> Self {
        let server = if server == Server::Own {
            Arc::new(PostgresServer::start())
        } else {
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            let server = shared.upgrade().unwrap_or_else(|| Arc::new(PostgresServer::start()));
            *shared = Arc::downgrade(&server);
            server
        };
        let database = format!("station{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        postgres(&server.url("postgres"), &format!("CREATE DATABASE {database}"));
        let station = Self { server, database };
        postgres(&station.url(), "CREATE TABLE arrivals (ticket text, body bytea)");
        station
    }

    fn sink(&self) -> String {
        self.sink_at(self.address())
    }

    fn arrived(&self) -> Vec<Arrival> {
        let rows = postgres(&self.url(), "SELECT ticket, encode(body, 'hex') FROM arrivals");
        rows.into_iter().map(|row| Arrival { ticket: row[0].clone(), body: unhex(&row[1]) }).collect()
    }

    fn take_away(&mut self) {
        self.server().kill9();
    }

    fn bring_back(&mut self) {
        self.server().restart();
    }
}

impl Served for Postgres {
    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn sink_at(&self, address: SocketAddr) -> String {
        let columns = "table = \"arrivals\"\ncolumns = { ticket = \"$ticket\", body = \"$body\" }";
        Self::section(&format!("postgres://forebay@{address}/{}", self.database), columns)
    }

    fn sink_refused(&self, password: &str) -> String {
        Self::section(&format!("postgres://nobody:{password}@{}/{}", self.address(), self.database), "")
    }

    fn sink_unreachable(address: SocketAddr, password: &str) -> String {
        Self::section(&format!("postgres://forebay:{password}@{address}/postgres"), "")
    }
}

impl Transactional for Postgres {
    const BEGIN: Moment = Moment { request: b"BEGIN; UPDATE forebay_position SET position", answer: None };
    const FENCED: Moment = Moment { request: b"UPDATE forebay_position SET position", answer: Some(b"UPDATE 1") };
    const COMMIT: Moment = Moment { request: b"COMMIT", answer: None };
    const COMMITTED: Moment = Moment { request: b"COMMIT", answer: Some(b"COMMIT") };
}

impl Refusing for Postgres {
    fn refuse(&self, body: &str) -> &'static str {
        let check = format!("ALTER TABLE arrivals ADD CONSTRAINT no_poison CHECK (body <> '{body}'::bytea)");
        postgres(&self.url(), &check);
        "violates check constraint \"no_poison\" (SQLSTATE 23514)"
    }
}

impl Typed for Postgres {
    fn sink_typed(&self) -> String {
        postgres(&self.url(), "CREATE TABLE typed (id bigint NOT NULL, small smallint, note text)");
        let columns = "table = \"typed\"\ncolumns = { id = \"/id\", small = \"/small\", note = \"/note\" }";
        Self::section(&self.url(), columns)
    }

    fn sink_text(&self) -> String {
        postgres(&self.url(), "CREATE TABLE texts (raw text NOT NULL)");
        Self::section(&self.url(), "table = \"texts\"\ncolumns = { raw = \"$body\" }")
    }

    fn rows_typed(&self) -> Vec<Vec<String>> {
        postgres(&self.url(), "SELECT id, small, note FROM typed ORDER BY id")
    }

    fn rows_text(&self) -> Vec<Vec<String>> {
        postgres(&self.url(), "SELECT raw FROM texts ORDER BY raw")
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap();
    let byte = |pair: &[u8]| u8::try_from(16 * digit(pair[0]) + digit(pair[1])).unwrap();
    text.as_bytes().chunks_exact(2).map(byte).collect()
}

/// The database goes on as a replica that lacks the last take-over and has everything else, and the connections are gone.
fn fail_over_behind_the_take_over(options: &str) -> (Stage<Postgres>, crate::server::Server, usize) {
    let stage = Stage::<Postgres>::new(Server::Shared);
    stage.configure(options, &stage.station.sink());
    let server = stage.site.start();
    let next = post(&server, 0..2);
    until_empty(&server);
    server.stop();
    let url = stage.station.url();
    postgres(&url, "CREATE TABLE replica AS TABLE forebay_position");
    let server = stage.site.start();
    server.until_said("delivering to the sink from here on");
    postgres(
        &url,
        "UPDATE forebay_position AS row SET epoch = replica.epoch FROM replica WHERE row.part = replica.part; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name = 'forebay'",
    );
    let next = post(&server, next..next + 2);
    (stage, server, next)
}

#[test]
fn a_queue_of_one_row_goes_on_behind_a_failover_that_has_lost_its_take_over() {
    let (stage, server, next) = fail_over_behind_the_take_over("");
    until_empty(&server);
    stage.until_arrived(bodies(0..next), 0);
    server.stop();
}

#[test]
fn a_queue_that_may_have_lanes_halts_behind_a_failover_that_has_lost_its_take_over() {
    let (stage, server, next) = fail_over_behind_the_take_over("order = \"none\"\n");
    until_halted(&server);
    server.until_said("the database was set back");
    stage.until_arrived(bodies(0..2), 0);
    server.stop();
    let server = stage.site.start();
    until_empty(&server);
    stage.until_arrived(bodies(0..next), 0);
    server.stop();
}
