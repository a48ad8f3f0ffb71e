//! Verification against a real SQLite file.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test that cannot go on should panic, and is its own documentation"
)]

use forebay_loadtest::order::RunId;
use forebay_loadtest::verify::{OrdersTable, Sink, VerifyError, compare, count, count_rows, create_orders_table};
use rusqlite::Connection;
use std::path::PathBuf;
use tempfile::TempDir;

fn database() -> (TempDir, PathBuf, Sink, OrdersTable) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.db");
    let sink = Sink::parse(&format!("sqlite:{}", path.display())).unwrap();
    (directory, path, sink, OrdersTable::new("orders").unwrap())
}

#[test]
fn rows_are_stamped_by_the_database_and_counted() {
    let (_directory, path, sink, table) = database();
    create_orders_table(&sink, &table).unwrap();
    create_orders_table(&sink, &table).unwrap();
    let run = RunId::new("r_1").unwrap();
    let connection = Connection::open(&path).unwrap();
    // The underscore must not work as a wildcard, and neither NULL nor a longer id may be counted.
    for id in ["r_1-000000000", "r_1-000000002", "r_1-000000002", "rx1-000000007", "r_1-0000000003"] {
        connection.execute("INSERT INTO orders (order_id, body) VALUES (?1, '{}')", [id]).unwrap();
    }
    connection.execute("INSERT INTO orders (body) VALUES ('{}')", []).unwrap();
    let delivered = count(&sink, &table, &run).unwrap();
    assert_eq!((delivered.rows, delivered.distinct, delivered.duplicated), (3, 2, 1));
    assert!(delivered.first_unix_us.unwrap() > 1_600_000_000_000_000);
    assert_eq!(delivered.per_second.iter().sum::<u64>(), 3);
    assert_eq!(count_rows(&sink, &table).unwrap(), 6);
    let verdict = compare(&(0..3).collect(), &delivered);
    assert_eq!((verdict.lost, verdict.duplicated), (vec![1], 1));
}

#[test]
fn stamps_give_the_rate() {
    let (_directory, path, sink, _) = database();
    let table = OrdersTable::with_columns("sales", "id", "at").unwrap();
    create_orders_table(&sink, &table).unwrap();
    let connection = Connection::open(&path).unwrap();
    for index in 0..100 {
        let stamp = 1_700_000_000.0 + f64::from(index / 5) * 0.05;
        connection.execute("INSERT INTO sales (id, at) VALUES (?1, ?2)", (format!("a-{index:09}"), stamp)).unwrap();
    }
    let delivered = count(&sink, &table, &RunId::new("a").unwrap()).unwrap();
    assert!((delivered.measured_rate.unwrap() - 100.0).abs() < 0.01);
    assert_eq!((delivered.per_second_max, delivered.per_second_max_sliding), (100, 100));
    assert_eq!(delivered.per_100ms, [10; 10]);
}

#[test]
fn what_is_missing_or_wrong_is_an_error() {
    let (_directory, path, sink, table) = database();
    let run = RunId::new("a").unwrap();
    assert!(matches!(count(&sink, &table, &run), Err(VerifyError::Sqlite(_))));
    assert!(!path.exists(), "counting must not create the file");
    create_orders_table(&sink, &table).unwrap();
    assert_eq!(count(&sink, &table, &run).unwrap().rows, 0);
    let connection = Connection::open(&path).unwrap();
    connection.execute("INSERT INTO orders VALUES ('a-000000001', '', 1, 1, '', '', 'yesterday')", []).unwrap();
    assert!(matches!(count(&sink, &table, &run), Err(VerifyError::BadStamp { .. })));
}

#[test]
fn an_unreachable_postgres_says_why() {
    // Nothing listens on port 1.
    let sink = Sink::parse("postgres://nobody@127.0.0.1:1/orders").unwrap();
    let table = OrdersTable::new("orders").unwrap();
    let message = count(&sink, &table, &RunId::new("a").unwrap()).unwrap_err().to_string();
    assert!(message.contains("refused"), "{message}");
}
