//! `forebay check`: says everything that is wrong, and touches nothing.

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

use postgres_server::PostgresServer;
use server::Site;
use server::database::{postgres, postgres_column, sqlite_execute};

/// A backlog that fits every disk.
const SMALL: &str = "max_backlog_bytes = \"1MiB\"\n";

fn postgres_sink(url: &str, rest: &str) -> String {
    format!("[queues.orders]\n{SMALL}[queues.orders.sink]\ntype = \"postgres\"\nurl = \"{url}\"\n{rest}")
}

/// Asserts that the check fails with something that has all of `parts` in one line.
fn assert_finds(site: &Site, parts: &[&str]) {
    let (code, output) = site.check();
    assert_eq!(code, Some(1), "{output}");
    let found = output.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(found, "{parts:?} are not in one line of\n{output}");
}

#[test]
fn every_error_is_said_at_once_with_its_line() {
    let site = Site::new("");
    let text = "[[listeners]]\naddress = \"here\"\n\n[ingress]\nrecord_bytes_max = \"large\"\nunknown = 1\n\n\
                [queues.orders]\nrate = \"fast\"\n";
    std::fs::write(site.config(), text).unwrap();
    let (code, output) = site.check();
    assert_eq!(code, Some(1), "{output}");
    for line in [2, 5, 6, 9] {
        let place = format!("{}:{line}: ", site.config().display());
        assert!(output.lines().any(|said| said.starts_with(&place)), "{place} is not in\n{output}");
    }
    assert!(output.contains("4 problems in"), "{output}");
    assert!(!site.data().exists());
}

#[test]
fn a_file_that_is_not_there_is_said() {
    let site = Site::new("");
    std::fs::remove_file(site.config()).unwrap();
    assert_finds(&site, &["forebay.toml", "cannot be read"]);
}

#[test]
fn a_good_configuration_is_good_and_nothing_is_made() {
    let postgres_server = PostgresServer::start();
    let url = postgres_server.url("postgres");
    let site = Site::new(&postgres_sink(&url, ""));
    let (code, output) = site.check();
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("queue orders: the sink is ready"), "{output}");
    let site_files: Vec<_> = std::fs::read_dir(site.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(site_files, ["forebay.toml"]);
    let tables = "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'public'";
    assert!(postgres_column(&url, tables).is_empty());
    // A file of SQLite that does not exist yet will be made by the server, and not by a check.
    let database = site.path().join("shop.db");
    site.configure(&format!("[queues.orders]\n{SMALL}sink = {{ url = \"{}\" }}\n", database.display()));
    let (code, output) = site.check();
    assert_eq!(code, Some(0), "{output}");
    assert!(!database.exists() && !site.data().exists());
}

#[test]
fn it_can_run_beside_a_live_server() {
    let site = Site::new(&format!("[queues.orders]\nrate = \"unlimited\"\n{SMALL}"));
    let server = site.start();
    let ticket = server.client().accept("orders", "x");
    server.until_delivered(&ticket);
    let (code, output) = site.check();
    assert_eq!(code, Some(0), "{output}");
    let ticket = server.client().accept("orders", "y");
    server.until_delivered(&ticket);
    server.stop();
}

#[test]
fn a_default_sqlite_sink_is_good_before_the_first_start() {
    let site = Site::new(&format!("[queues.orders]\n{SMALL}"));
    let (code, output) = site.check();
    assert_eq!(code, Some(0), "{output}");
    assert!(!site.data().exists());
}

#[test]
fn a_postgres_that_cannot_be_reached_is_said() {
    let site = Site::new(&postgres_sink("postgres://shop:secret@127.0.0.1:1/shop", ""));
    assert_finds(&site, &["queue orders", "cannot be reached", "refused"]);
    let (_, output) = site.check();
    assert!(!output.contains("secret"), "{output}");
}

#[test]
fn the_address_that_cannot_be_reached_is_named() {
    let site = Site::new(&postgres_sink("postgres://shop:secret@127.0.0.1:1/shop", ""));
    assert_finds(&site, &["queue orders", "cannot be reached", "127.0.0.1:1"]);
}

#[test]
fn what_a_postgres_table_lacks_is_said_with_what_to_do() {
    let postgres_server = PostgresServer::start();
    let url = postgres_server.url("postgres");
    let target = "table = \"orders\"\ncolumns = { id = \"/id\", total = \"/total\" }\n";
    let site = Site::new(&postgres_sink(&url, target));
    assert_finds(&site, &["does not exist", "CREATE TABLE \"orders\""]);
    postgres(&url, "CREATE TABLE orders (id text, customer text NOT NULL)");
    assert_finds(&site, &["no column \"total\"", "ADD COLUMN \"total\""]);
    assert_finds(&site, &["\"customer\"", "NOT NULL"]);
    let (_, output) = site.check();
    assert!(output.contains("2 problems with"), "{output}");
    postgres(&url, "ALTER TABLE orders ADD COLUMN total text, ALTER COLUMN customer DROP NOT NULL");
    let (code, output) = site.check();
    assert_eq!(code, Some(0), "{output}");
    site.configure(&postgres_sink(&url, "statement = \"INSERT INTO nowhere VALUES (:body)\"\n"));
    assert_finds(&site, &["statement does not prepare", "nowhere"]);
    site.configure(&postgres_sink(&postgres_server.url("nothing"), ""));
    assert_finds(&site, &["queue orders", "nothing"]);
    assert!(!site.data().exists());
}

#[test]
fn what_a_sqlite_table_lacks_is_said_with_what_to_do() {
    let site = Site::new("");
    let database = site.path().join("shop.db");
    let url = database.display();
    site.configure(&format!(
        "[queues.orders]\n{SMALL}sink = {{ url = \"{url}\", table = \"orders\", columns = {{ id = \"/id\" }} }}\n"
    ));
    assert_finds(&site, &["does not exist", "CREATE TABLE \"orders\""]);
    sqlite_execute(&database, "CREATE TABLE orders (number TEXT)");
    let before = std::fs::read(&database).unwrap();
    assert_finds(&site, &["no column \"id\"", "ADD COLUMN \"id\""]);
    assert_eq!(std::fs::read(&database).unwrap(), before);
}

#[test]
fn a_data_dir_that_cannot_be_made_and_a_backlog_that_does_not_fit_are_said() {
    let site = Site::new("");
    let file = site.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let database = site.path().join("shop.db");
    site.configure(&format!(
        "data_dir = \"{}\"\n[queues.orders]\nmax_backlog_bytes = \"1000000GiB\"\nsink = {{ url = \"{}\" }}\n",
        file.join("data").display(),
        database.display()
    ));
    assert_finds(&site, &["data_dir", "a-file", "not a directory"]);
}
