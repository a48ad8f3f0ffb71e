//! What is SQLite's own: types that follow the value, and a file that others lock.

use forebay::sink::SinkError;

use crate::database::{Database, Kind, hex, sink_at};
use crate::{at, commit, created, is_permanent, is_transient, statement, table};

#[test]
fn values_are_stored_as_literals_would_be_and_text_columns_keep_the_notation() {
    let database = Database::new(Kind::Sqlite);
    database.execute("CREATE TABLE t (a, b TEXT, c NUMERIC)");
    let mut sink = database.sink(&table("t", &[("a", "/v"), ("b", "/v"), ("c", "/v")]));
    let values = ["7", "19.90", "true", "9223372036854775808", "1e400", r#""x\u0000y""#];
    let bodies: Vec<_> = values.iter().map(|value| format!(r#"{{"v":{value}}}"#)).collect();
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &bodies).await, Ok(()));
    });
    let rows = database.rows("SELECT typeof(a), b, typeof(c) FROM t ORDER BY rowid");
    let wanted = [
        ["integer", "7", "integer"],
        ["real", "19.90", "real"],
        ["integer", "true", "integer"],
        ["real", "9223372036854775808", "real"],
        ["real", "1e400", "real"],
        ["text", "x\0y", "text"],
    ];
    assert_eq!(rows, wanted.map(|row| row.map(|text| Some(text.to_owned())).to_vec()));
}

#[test]
fn a_body_is_text_if_it_can_be() {
    let database = Database::new(Kind::Sqlite);
    database.execute("CREATE TABLE t (body TEXT)");
    let mut sink = database.sink(&table("t", &[("body", "$body")]));
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[&b"\xff\0"[..], b"text"]).await, Ok(()));
    });
    let rows = database.rows("SELECT body FROM t ORDER BY rowid");
    assert_eq!(rows, [vec![Some(hex(b"\xff\0"))], vec![Some("text".to_owned())]]);
}

#[test]
fn what_is_committed_is_on_the_disk() {
    let database = Database::new(Kind::Sqlite);
    assert_eq!(database.runtime.block_on(database.sink(&created()).take_over()), at(0));
    assert_eq!(database.value("PRAGMA journal_mode"), "wal");
}

#[test]
fn a_locked_file_is_transient() {
    let database = Database::new(Kind::Sqlite);
    let mut sink = sink_at(&database.url, Kind::Sqlite, "q/1", &created(), 500);
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
    });
    let other = rusqlite::Connection::open(database.url.trim_start_matches("sqlite:")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    database.runtime.block_on(async {
        assert!(is_transient(&commit(&mut *sink, 0, &["a"]).await));
        assert!(matches!(sink.take_over().await, Err(SinkError::Transient(_))));
    });
    other.execute_batch("COMMIT").unwrap();
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &["a"]).await, Ok(()));
    });
}

#[test]
fn a_statement_that_rolls_everything_back_takes_the_position_with_it() {
    let database = Database::new(Kind::Sqlite);
    database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    let mut sink = database.sink(&statement("INSERT OR ROLLBACK INTO t VALUES (:id)", &[("id", "/id")]));
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert!(is_permanent(&commit(&mut *sink, 0, &[r#"{"id":1}"#, r#"{"id":1}"#, r#"{"id":2}"#]).await));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"id":1}"#]).await, Ok(()));
    });
    assert_eq!(database.value("SELECT count(*) FROM t"), "1");
}

#[test]
fn a_file_that_cannot_be_is_said() {
    let database = Database::new(Kind::Sqlite);
    let path = format!("{}.missing/test.db", database.url);
    let mut sink = sink_at(&path, Kind::Sqlite, "q/1", &created(), 10_000);
    database.runtime.block_on(async {
        let problems = sink.check().await.unwrap();
        assert!(problems.len() == 1 && problems[0].contains("does not exist"), "{problems:?}");
        assert!(matches!(sink.take_over().await, Err(SinkError::Transient(_))));
    });
    // Looking has made no file.
    let fresh = Database::new(Kind::Sqlite);
    assert_eq!(fresh.runtime.block_on(fresh.sink(&created()).check()), Ok(vec![]));
    assert!(!std::path::Path::new(fresh.url.trim_start_matches("sqlite:")).exists());
}
