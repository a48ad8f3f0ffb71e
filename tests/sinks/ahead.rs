//! Batches of which there is something already, encoded before they were one.
//!
//! What is encoded is often of other bodies than the batch has: which of both is in the table says what was sent.

use forebay::config::{Conflict, Target, Unnest};
use forebay::sink::SinkError;

use crate::database::{Database, Kind, Rows};
use crate::{at, commit, commit_ahead, encode, is_fenced, is_permanent, some, source_of, table};

macro_rules! on_both {
    ($($case:ident),* $(,)?) => {
        mod on_postgres {
            $(#[test] fn $case() { super::$case(&super::Database::new(super::Kind::Postgres)); })*
        }
        mod on_mysql {
            $(#[test] fn $case() { super::$case(&super::Database::new(super::Kind::Mysql)); })*
        }
    };
}

on_both!(
    any_number_of_the_first_records_may_be_there,
    a_lot_may_become_several_batches,
    what_is_there_is_what_is_sent,
    rows_of_elements_are_counted,
    what_another_session_has_encoded_is_not_sent,
    a_record_that_cannot_be_encoded_takes_back_what_was_there,
    an_older_owner_is_fenced,
);

const NOTES: [&str; 6] = ["", "tab\tand\nline", r"\N", r"\\. 'it''s' \", "🦀é", "\u{1}\u{b}\u{7f}\r"];

fn body(note: &str) -> String {
    serde_json::json!({ "note": note }).to_string()
}

fn bodies(notes: &[&str]) -> Vec<String> {
    notes.iter().map(|note| body(note)).collect()
}

/// A table of notes, and the records that go there.
fn notes(database: &Database) -> Target {
    let text = database.either("text", "text", "mediumtext");
    database.execute(&format!("CREATE TABLE notes (n bigint, ticket text, note {text})"));
    table("notes", &[("n", "$sequence"), ("ticket", "$ticket"), ("note", "/note")])
}

/// The rows of notes behind a position.
fn rows_of(after: usize, notes: &[&str]) -> Rows {
    let row = |(n, note): (usize, &&str)| some(&[&n.to_string(), &format!("q-{n:x}-0"), note]);
    (after + 1..).zip(notes).map(row).collect()
}

fn found(database: &Database) -> Rows {
    database.rows("SELECT n, ticket, note FROM notes ORDER BY n")
}

fn any_number_of_the_first_records_may_be_there(database: &Database) {
    // More than one message takes.
    let long = "é".repeat(200_000);
    let notes_sent: Vec<_> = NOTES.into_iter().chain([long.as_str()]).collect();
    let (bodies, count) = (bodies(&notes_sent), notes_sent.len());
    let mut sink = database.sink(&notes(database));
    assert_eq!(database.runtime.block_on(sink.take_over()), at(0));
    for number in 0..=count {
        let after = number * count;
        let committed = database.runtime.block_on(async {
            let encoded = encode(&*sink, after as u64, &bodies);
            let ahead = encoded.part(0, number);
            assert_eq!(ahead.map_or(0, |ahead| ahead.records()), number);
            commit_ahead(&mut *sink, after as u64, &bodies, ahead).await
        });
        assert_eq!(committed, Ok(()), "{number}");
        assert!(found(database) == rows_of(after, &notes_sent), "{number} of {count} ahead");
        database.execute("DELETE FROM notes");
    }
}

fn a_lot_may_become_several_batches(database: &Database) {
    let mut sink = database.sink(&notes(database));
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let (odd, sent) = (bodies(&["a", "b", "c", "d"]), bodies(&["1", "2", "3", "4"]));
        let encoded = encode(&*sink, 0, &odd);
        assert_eq!(commit_ahead(&mut *sink, 0, &sent[..1], encoded.part(0, 1)).await, Ok(()));
        assert_eq!(commit_ahead(&mut *sink, 1, &sent[1..], encoded.part(1, 2)).await, Ok(()));
        assert_eq!(sink.take_over().await, at(4));
    });
    assert_eq!(found(database), rows_of(0, &["a", "b", "c", "4"]));
}

fn what_is_there_is_what_is_sent(database: &Database) {
    let mut sink = database.sink(&notes(database));
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let encoded = encode(&*sink, 0, &bodies(&["odd"]));
        assert_eq!(commit_ahead(&mut *sink, 0, &bodies(&["sent", "rest"]), encoded.part(0, 1)).await, Ok(()));
    });
    assert_eq!(found(database), rows_of(0, &["odd", "rest"]));
}

/// There are more of them than records. With another number than the server's, MySQL would get the batch's own bodies by INSERT.
fn rows_of_elements_are_counted(database: &Database) {
    database.execute("CREATE TABLE items (n bigint, sku text)");
    let columns = [("n", "$sequence"), ("sku", "@/sku")];
    let columns = columns.map(|(name, source)| (name.to_owned(), source_of(source).into())).to_vec();
    let rows = Some(Unnest { pointer: "/items".to_owned(), is_required: false });
    let mut sink =
        database.sink(&Target::Table { table: "items".to_owned(), columns, rows, conflict: Conflict::Error });
    let odd = [r#"{"items":[{"sku":"a"},{"sku":"b"}]}"#, r#"{"items":[]}"#, r#"{"items":[{"sku":"c"},{"sku":"d"}]}"#];
    let sent = [r#"{"items":[]}"#, r#"{"items":[{"sku":"no"}]}"#, "{}", r#"{"items":[{"sku":"e"},{"sku":"f"}]}"#];
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let encoded = encode(&*sink, 0, &odd);
        assert_eq!(commit_ahead(&mut *sink, 0, &sent, encoded.part(0, 4)).await, Ok(()));
    });
    let wanted = [["1", "a"], ["1", "b"], ["3", "c"], ["3", "d"], ["4", "e"], ["4", "f"]].map(|row| some(&row));
    assert_eq!(database.rows("SELECT n, sku FROM items ORDER BY n, sku"), wanted);
}

/// They go through a table of the session's, and of two with one key the last one stays.
#[test]
fn postgres_merges_what_is_there() {
    let database = Database::new(Kind::Postgres);
    database.execute("CREATE TABLE stock (sku text PRIMARY KEY, note text); INSERT INTO stock VALUES ('a', 'old')");
    let Target::Table { table, columns, rows, .. } = table("stock", &[("sku", "/sku"), ("note", "/note")]) else {
        unreachable!()
    };
    let conflict = Conflict::Update(vec!["sku".to_owned()]);
    let mut sink = database.sink(&Target::Table { table, columns, rows, conflict });
    let body = |sku: &str, note: &str| serde_json::json!({ "sku": sku, "note": note }).to_string();
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let encoded = encode(&*sink, 0, &[body("a", "ahead"), body("b", "ahead")]);
        let sent = [body("a", "sent"), body("b", "sent"), body("b", "rest")];
        assert_eq!(commit_ahead(&mut *sink, 0, &sent, encoded.part(0, 2)).await, Ok(()));
    });
    assert_eq!(
        database.rows("SELECT sku, note FROM stock ORDER BY sku"),
        [some(&["a", "ahead"]), some(&["b", "rest"])]
    );
}

fn what_another_session_has_encoded_is_not_sent(database: &Database) {
    let target = notes(database);
    let (mut sink, mut other) = (database.sink(&target), database.sink_of("q/2", &target));
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(other.take_over().await, at(0));
        let odd = bodies(&["odd", "odd"]);
        let (earlier, of_other) = (encode(&*sink, 0, &odd), encode(&*other, 0, &odd));
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit_ahead(&mut *sink, 0, &bodies(&["1", "2"]), earlier.part(0, 2)).await, Ok(()));
        assert_eq!(commit_ahead(&mut *sink, 2, &bodies(&["3", "4"]), of_other.part(0, 1)).await, Ok(()));
    });
    assert_eq!(found(database), rows_of(0, &["1", "2", "3", "4"]));
}

fn a_record_that_cannot_be_encoded_takes_back_what_was_there(database: &Database) {
    let mut sink = database.sink(&notes(database));
    let mut after = 0;
    let bad = [Some("no JSON".to_owned()), (database.kind == Kind::Postgres).then(|| body("zero \0"))];
    for bad in bad.into_iter().flatten() {
        let sent = [body("1"), body("2"), bad, body("3")];
        database.runtime.block_on(async {
            assert_eq!(sink.take_over().await, at(after));
            let encoded = encode(&*sink, after, &sent);
            let ahead = encoded.part(0, sent.len());
            assert_eq!(ahead.map(|ahead| ahead.records()), Some(2), "none behind it is encoded");
            let refused = commit_ahead(&mut *sink, after, &sent, ahead).await;
            assert!(is_permanent(&refused), "{refused:?}");
        });
        assert_eq!(found(database), Rows::new());
        // The session goes on, and what it has encoded is still its own.
        database.runtime.block_on(async {
            let encoded = encode(&*sink, after, &bodies(&["a", "b"]));
            assert_eq!(commit_ahead(&mut *sink, after, &sent[..2], encoded.part(0, 2)).await, Ok(()));
            assert_eq!(commit(&mut *sink, after + 2, &sent[3..]).await, Ok(()));
        });
        assert_eq!(found(database), rows_of(after as usize, &["a", "b", "3"]));
        database.execute("DELETE FROM notes");
        after += 3;
    }
}

fn an_older_owner_is_fenced(database: &Database) {
    let target = notes(database);
    let (mut older, mut younger) = (database.sink(&target), database.sink(&target));
    let sent = bodies(&["1", "2"]);
    database.runtime.block_on(async {
        assert_eq!(older.take_over().await, at(0));
        let encoded = encode(&*older, 0, &sent);
        assert_eq!(younger.take_over().await, at(0));
        for records in 1..=2 {
            let fenced = commit_ahead(&mut *older, 0, &sent, encoded.part(0, records)).await;
            assert!(is_fenced(&fenced), "{fenced:?}");
        }
    });
    assert_eq!(found(database), Rows::new());
    assert_eq!(database.runtime.block_on(commit(&mut *younger, 0, &sent)), Ok(()));
    assert_eq!(found(database), rows_of(0, &["1", "2"]));
}

/// LOAD DATA LOCAL changes these or leaves them out, and warns. INSERT then has the batch's own bodies.
#[test]
fn what_mysql_would_change_is_inserted_whatever_was_there() {
    let database = Database::new(Kind::Mysql);
    database.execute("CREATE TABLE small (id integer PRIMARY KEY, v tinyint NOT NULL)");
    let mut sink = database.sink(&table("small", &[("id", "/id"), ("v", "/v")]));
    let good = [r#"{"id":1,"v":1}"#, r#"{"id":2,"v":2}"#];
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        for changed in [r#"{"id":2,"v":300}"#, r#"{"id":2,"v":"x"}"#, r#"{"id":2}"#, r#"{"id":1,"v":1}"#] {
            let sent = [good[0], changed];
            let without = commit(&mut *sink, 0, &sent).await;
            assert!(matches!(without, Err(SinkError::Permanent { .. })), "{changed}: {without:?}");
            let encoded = encode(&*sink, 0, &sent);
            for records in 1..=2 {
                let ahead = encoded.part(0, records);
                assert_eq!(ahead.map(|ahead| ahead.records()), Some(records), "{changed}");
                let with = commit_ahead(&mut *sink, 0, &sent, ahead).await;
                assert_eq!(with, without, "{changed}, {records} ahead");
            }
        }
    });
    assert_eq!(database.value("SELECT count(*) FROM small"), "0");
    database.runtime.block_on(async {
        let encoded = encode(&*sink, 0, &[r#"{"id":8,"v":8}"#, r#"{"id":9,"v":300}"#]);
        assert_eq!(commit_ahead(&mut *sink, 0, &good, encoded.part(0, 2)).await, Ok(()));
    });
    assert_eq!(database.rows("SELECT id, v FROM small ORDER BY id"), [some(&["1", "1"]), some(&["2", "2"])]);
}
