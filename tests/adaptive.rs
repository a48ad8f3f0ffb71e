//! A database in trouble gets less, and all of it again when the trouble is over.

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

mod postgres_server;
mod server;

use std::collections::BTreeSet;

use postgres_server::PostgresServer;
use server::database::{postgres, postgres_column, until_postgres_has};
use server::{Server, Site, eventually};

const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];
const CEILING: &str = "forebay_drain_ceiling{queue=\"orders\"}";
const LIMIT: &str = "forebay_drain_rate_limit{queue=\"orders\"}";
/// A table whose insertions take as long as another table says.
const SLOW_TABLE: &str = "CREATE TABLE orders (id integer, inserted xid8 DEFAULT pg_current_xact_id());
    CREATE TABLE trouble (seconds real); INSERT INTO trouble VALUES (0);
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep((SELECT seconds FROM trouble)); RETURN NULL; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON orders FOR EACH STATEMENT EXECUTE FUNCTION slow()";

fn site(url: &str, adaptive: &str) -> Site {
    Site::new(&format!(
        "[queues.orders]\nrate = \"1000/s\"\nretry = {{ backoff_ms_max = 200, failures_max = 3 }}\nadaptive = {adaptive}\n\
         [queues.orders.sink]\ntype = \"postgres\"\nurl = \"{url}\"\ntable = \"orders\"\ncolumns = {{ id = \"/id\" }}\n"
    ))
}

fn offer(server: &Server, from: usize, to: usize) {
    let lines: String = (from..to).map(|n| format!("{{\"id\":{n}}}\n")).collect();
    assert_eq!(server.client().post("orders", &NDJSON, lines).status, 202);
}

#[test]
fn a_slow_database_gets_less_and_all_of_it_again_when_it_is_well() {
    let postgres_server = PostgresServer::start();
    let url = postgres_server.url("postgres");
    postgres(&url, SLOW_TABLE);
    for mode in ["aimd", "gradient2"] {
        postgres(&url, "TRUNCATE orders");
        let site = site(&url, &format!("{{ mode = \"{mode}\" }}"));
        let server = site.start();
        offer(&server, 0, 20_000);
        eventually("some normal trips", || {
            (server.metric("forebay_drain_batches_total{queue=\"orders\"}") > 100).then_some(())
        });
        assert_eq!(server.metric(CEILING), 1000);
        postgres(&url, "UPDATE trouble SET seconds = 0.3");
        eventually("a lower rate", || (server.metric(LIMIT) <= 500).then_some(()));
        assert_eq!(server.metric(CEILING), 1000, "the ceiling is what the configuration says");
        postgres(&url, "UPDATE trouble SET seconds = 0");
        eventually("the whole rate", || (server.metric(LIMIT) == 1000).then_some(()));
        // The backlog is more than that takes.
        assert!(server.metric("forebay_backlog_records{queue=\"orders\"}") > 0);
        server.stop();
    }
}

#[test]
fn without_the_adaptive_limit_a_slow_database_gets_the_ceiling() {
    let postgres_server = PostgresServer::start();
    let url = postgres_server.url("postgres");
    postgres(&url, SLOW_TABLE);
    let site = site(&url, "{ mode = \"off\" }");
    let server = site.start();
    offer(&server, 0, 400);
    until_postgres_has(&url, 400, "SELECT id FROM orders");
    postgres(&url, "UPDATE trouble SET seconds = 0.2");
    offer(&server, 400, 500);
    until_postgres_has(&url, 500, "SELECT id FROM orders");
    assert_eq!(server.metric(LIMIT), 1000);
    server.stop();
}

#[test]
fn a_database_that_comes_up_is_first_sent_a_single_record() {
    let mut postgres_server = PostgresServer::start();
    let url = postgres_server.url("postgres");
    postgres(&url, SLOW_TABLE);
    let site = site(&url, "{ mode = \"aimd\" }");
    let server = site.start();
    offer(&server, 0, 100);
    until_postgres_has(&url, 100, "SELECT id FROM orders");
    postgres_server.kill9();
    offer(&server, 100, 400);
    server.until_said("single records will be tried until one goes through");
    postgres_server.restart();
    until_postgres_has(&url, 400, "SELECT id FROM orders");
    let mut transactions: Vec<u64> = Vec::new();
    for row in postgres(&url, "SELECT inserted, count(*) FROM orders WHERE id >= 100 GROUP BY 1 ORDER BY 1") {
        transactions.push(row[1].parse().unwrap());
    }
    assert_eq!(transactions[0], 1, "{transactions:?}");
    let ids: BTreeSet<String> = postgres_column(&url, "SELECT id FROM orders").into_iter().collect();
    assert_eq!(ids.len(), 400);
    server.stop();
}
