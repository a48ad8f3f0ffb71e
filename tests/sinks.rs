//! What every sink has to do, over real databases.

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

#[path = "sinks/beyond.rs"]
mod beyond;
#[path = "sinks/database.rs"]
mod database;
#[path = "sinks/lanes.rs"]
mod lanes;
#[path = "sinks/mapped.rs"]
mod mapped;
#[path = "sinks/mysql_only.rs"]
mod mysql_only;
mod mysql_server;
#[path = "sinks/postgres_only.rs"]
mod postgres_only;
mod postgres_server;
#[path = "sinks/postgres_tls.rs"]
mod postgres_tls;
#[path = "sinks/sqlite_only.rs"]
mod sqlite_only;

use beyond::{
    a_batch_that_leaves_the_position_is_fenced_too, a_table_of_an_earlier_version_gets_the_column,
    position_and_what_is_beyond_it_move_with_the_rows, what_is_beyond_may_take_all_its_bytes,
    what_is_beyond_must_make_sense,
};
use database::{Database, Kind, hex};
use forebay::config::{Conflict, Source, Target};
use forebay::progress::Progress;
use forebay::record::{Attributes, Record, Sequence};
use forebay::sink::{Batch, Delivery, Sink, SinkError};
use futures_lite::future::poll_once;
use lanes::{
    a_queue_that_was_taken_over_is_not_taken_over_once_more, lanes_are_those_that_have_a_row,
    nothing_is_committed_where_another_lane_was_set_back,
};
use mapped::{
    a_default_a_constant_and_what_is_required, a_statement_runs_for_each_element,
    an_array_has_bounds_and_may_be_required, an_ignored_conflict_keeps_the_first,
    an_update_changes_the_row_that_is_there_and_the_last_wins, check_knows_what_a_type_cannot_be,
    check_says_what_a_table_needs_for_a_mapping, each_element_of_an_array_is_a_row,
    rows_with_null_in_their_key_are_all_different, types_convert_what_they_are_given,
    upserts_of_elements_are_fenced_as_any_batch, what_rows_share_has_a_bound,
};

macro_rules! conformance {
    ($($case:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[test] fn $case() { super::$case(&super::Database::new(super::Kind::Sqlite)); })*
        }
        mod on_postgres {
            $(#[test] fn $case() { super::$case(&super::Database::new(super::Kind::Postgres)); })*
        }
        mod on_mysql {
            $(#[test] fn $case() { super::$case(&super::Database::new(super::Kind::Mysql)); })*
        }
    };
}

conformance!(
    a_created_table_holds_what_was_sent,
    columns_get_what_is_mapped_to_them,
    a_statement_runs_for_each_record,
    many_statements_and_large_bodies,
    a_replayed_batch_is_fenced,
    an_older_owner_is_fenced,
    parts_are_apart,
    a_poison_record_takes_its_batch_back,
    a_poison_record_of_a_statement_takes_its_batch_back,
    an_empty_batch_moves_the_position,
    position_and_what_is_beyond_it_move_with_the_rows,
    a_batch_that_leaves_the_position_is_fenced_too,
    what_is_beyond_may_take_all_its_bytes,
    what_is_beyond_must_make_sense,
    lanes_are_those_that_have_a_row,
    nothing_is_committed_where_another_lane_was_set_back,
    a_queue_that_was_taken_over_is_not_taken_over_once_more,
    a_table_of_an_earlier_version_gets_the_column,
    any_text_arrives_as_it_was,
    hostile_names_and_values_stay_data,
    a_missing_table_is_transient_and_check_says_how_to_mend_it,
    check_says_everything_at_once_and_changes_nothing,
    check_finds_nothing_wrong_with_what_works,
    a_commit_needs_a_take_over,
    a_dropped_commit_leaves_nothing_half_done,
    a_deferred_constraint_is_permanent,
    types_convert_what_they_are_given,
    a_default_a_constant_and_what_is_required,
    each_element_of_an_array_is_a_row,
    an_array_has_bounds_and_may_be_required,
    a_statement_runs_for_each_element,
    what_rows_share_has_a_bound,
    an_update_changes_the_row_that_is_there_and_the_last_wins,
    rows_with_null_in_their_key_are_all_different,
    an_ignored_conflict_keeps_the_first,
    upserts_of_elements_are_fenced_as_any_batch,
    check_says_what_a_table_needs_for_a_mapping,
    check_knows_what_a_type_cannot_be,
);

/// A batch behind `after`, with these bodies.
pub async fn commit<B: AsRef<[u8]>>(sink: &mut dyn Sink, after: Sequence, bodies: &[B]) -> Result<(), SinkError> {
    let tickets: Vec<_> = (0..bodies.len()).map(|index| format!("q-{:x}-0", after + 1 + index as u64)).collect();
    let deliveries: Vec<_> = (after + 1..)
        .zip(bodies)
        .zip(&tickets)
        .map(|((sequence, body), ticket)| Delivery { sequence, record: record(body.as_ref()), ticket })
        .collect();
    sink.commit(Batch {
        after,
        through: after + bodies.len() as u64,
        beyond: None,
        deliveries: &deliveries,
        witnesses: &[],
    })
    .await
}

/// What a take-over says of a part that is delivered in order up to here.
pub fn at(position: Sequence) -> Result<Progress, SinkError> {
    Ok(Progress::up_to(position))
}

#[must_use]
pub fn record(body: &[u8]) -> Record<'_> {
    Record {
        received_at_us: 1_700_000_000_000_042,
        idempotency_hash: [0; 16],
        group_count: 1,
        key: b"",
        idempotency_key: b"",
        content_type: b"application/json",
        attributes: Attributes::NONE,
        body,
    }
}

#[must_use]
pub fn created() -> Target {
    Target::Created { table: "forebay_q".to_owned() }
}

#[must_use]
pub fn table(table: &str, columns: &[(&str, &str)]) -> Target {
    let columns = columns.iter().map(|(name, source)| ((*name).to_owned(), source_of(source).into())).collect();
    Target::Table { table: table.to_owned(), columns, rows: None, conflict: Conflict::Error }
}

#[must_use]
pub fn statement(statement: &str, parameters: &[(&str, &str)]) -> Target {
    let parameters = parameters.iter().map(|(name, source)| ((*name).to_owned(), source_of(source).into())).collect();
    Target::Statement { statement: statement.to_owned(), parameters, rows: None }
}

#[must_use]
pub fn source_of(text: &str) -> Source {
    match text {
        "$body" => Source::Body,
        "$ticket" => Source::Ticket,
        "$sequence" => Source::Sequence,
        "$queue" => Source::Queue,
        "$received_at" => Source::ReceivedAt,
        "$key" => Source::Key,
        "$index" => Source::Index,
        element if element.starts_with('@') => Source::Element(element[1..].to_owned()),
        pointer => Source::Pointer(pointer.to_owned()),
    }
}

#[must_use]
pub fn some(row: &[&str]) -> Vec<Option<String>> {
    row.iter().map(|text| Some((*text).to_owned())).collect()
}

#[must_use]
pub fn is_permanent(outcome: &Result<(), SinkError>) -> bool {
    matches!(outcome, Err(SinkError::Permanent { .. }))
}

#[must_use]
pub fn is_transient(outcome: &Result<(), SinkError>) -> bool {
    matches!(outcome, Err(SinkError::Transient(_)))
}

#[must_use]
pub fn is_fenced(outcome: &Result<(), SinkError>) -> bool {
    matches!(outcome, Err(SinkError::Fenced(_)))
}

/// The orders table that most cases write to.
pub const ORDERS: &str = "CREATE TABLE orders (id integer PRIMARY KEY, total numeric CHECK (total >= 0), note text)";

#[must_use]
pub fn orders() -> Target {
    table("orders", &[("id", "/id"), ("total", "/total"), ("note", "/note")])
}

fn a_created_table_holds_what_was_sent(database: &Database) {
    let mut sink = database.sink(&created());
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let odd: &[u8] = b"\0\xff\\x\t\n\r'\"";
        assert_eq!(commit(&mut *sink, 0, &[b"{}".as_slice(), odd, b""]).await, Ok(()));
        assert_eq!(sink.take_over().await, at(3));
    });
    let received_at = database.either(
        "received_at",
        "to_char(received_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        "date_format(received_at, '%Y-%m-%dT%H:%i:%s.%fZ')",
    );
    let rows = database
        .rows(&format!("SELECT ticket, {received_at}, \"key\", content_type, body FROM forebay_q ORDER BY ticket"));
    assert_eq!(rows.len(), 3);
    for (row, (ticket, body)) in
        rows.iter().zip([("q-1-0", hex(b"{}")), ("q-2-0", hex(b"\0\xff\\x\t\n\r'\"")), ("q-3-0", hex(b""))])
    {
        let mut wanted = some(&[ticket, "2023-11-14T22:13:20.000042Z", "", "application/json", &body]);
        wanted[2] = None;
        assert_eq!(*row, wanted);
    }
}

fn columns_get_what_is_mapped_to_them(database: &Database) {
    database.execute(database.either("", "CREATE SCHEMA shop", "CREATE SCHEMA shop"));
    let name = database.either("main.mixed", "shop.mixed", "shop.mixed");
    database.execute(&format!(
        "CREATE TABLE {name} (n integer, big {}, money text, t {}, doc {}, s text, q text, raw text, missing text, nul text)",
        database.either("numeric", "numeric", "bigint"),
        database.either("integer", "boolean", "boolean"),
        database.either("text", "jsonb", "json"),
    ));
    let columns = [
        ("n", "/n"),
        ("big", "/big"),
        ("money", "/money"),
        ("t", "/t"),
        ("doc", "/doc"),
        ("s", "/s/0/x~1y"),
        ("q", "$queue"),
        ("raw", "$body"),
        ("missing", "/not/there"),
        ("nul", "/nul"),
    ];
    let mut sink = database.sink(&table(name, &columns));
    let body =
        r#"{"n":-5,"big":12345678901234567,"money":19.90,"t":true,"doc":{"a":[1,2.50]},"s":[{"x/y":"é"}],"nul":null}"#;
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[body]).await, Ok(()));
    });
    let document = database.either(r#"{"a":[1,2.50]}"#, r#"{"a": [1, 2.50]}"#, r#"{"a":[1,2.50]}"#);
    let truth = database.either("1", "t", "1");
    let mut wanted = some(&["-5", "12345678901234567", "19.90", truth, document, "é", "q", body]);
    wanted.extend([None, None]);
    assert_eq!(database.rows(&format!("SELECT * FROM {name}")), [wanted]);
}

fn a_statement_runs_for_each_record(database: &Database) {
    database.execute("CREATE TABLE stock (item text PRIMARY KEY, sold integer NOT NULL, last text)");
    database.execute("INSERT INTO stock VALUES ('apple', 0, NULL), ('pear', 0, NULL)");
    // An UPDATE of MySQL returns nothing.
    let returning = database.either("RETURNING item", "RETURNING item", "# none");
    let sql = format!(
        "UPDATE stock SET sold = sold + :n, last = :ticket -- not :this\n WHERE item = :item AND ':n' <> '' {returning}"
    );
    let mut sink = database.sink(&statement(&sql, &[("item", "/item"), ("n", "/n")]));
    database.runtime.block_on(async {
        assert_eq!(sink.check().await, Ok(vec![]));
        assert_eq!(sink.take_over().await, at(0));
        let bodies = [r#"{"item":"apple","n":2}"#, r#"{"item":"pear","n":1}"#, r#"{"item":"apple","n":3}"#];
        assert_eq!(commit(&mut *sink, 0, &bodies).await, Ok(()));
        assert_eq!(commit(&mut *sink, 3, &bodies[..1]).await, Ok(()));
    });
    let rows = database.rows("SELECT * FROM stock ORDER BY item");
    assert_eq!(rows, [some(&["apple", "7", "q-4-0"]), some(&["pear", "1", "q-2-0"])]);
}

fn many_statements_and_large_bodies(database: &Database) {
    let bytes = database.either("blob", "bytea", "mediumblob");
    database.execute(&format!("CREATE TABLE bodies (n integer PRIMARY KEY, body {bytes})"));
    let target = statement("INSERT INTO bodies VALUES (:sequence, :body)", &[]);
    let mut sink = database.sink(&target);
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &vec![vec![0xfe; 100]; 1_000]).await, Ok(()));
        assert_eq!(commit(&mut *sink, 1_000, &[vec![0xfe; 1 << 20], vec![b'\\'; 1 << 20]]).await, Ok(()));
    });
    let mut sink = database.sink_of("q/2", &created());
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &vec![vec![b'\\'; 1 << 20]; 4]).await, Ok(()));
    });
    assert_eq!(database.value("SELECT sum(length(body)) FROM bodies"), (100_000 + (2 << 20)).to_string());
    assert_eq!(database.value("SELECT sum(length(body)) FROM forebay_q"), (4 << 20).to_string());
}

fn a_replayed_batch_is_fenced(database: &Database) {
    database.execute(ORDERS);
    let mut sink = database.sink(&orders());
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let bodies = [r#"{"id":1}"#, r#"{"id":2}"#];
        assert_eq!(commit(&mut *sink, 0, &bodies).await, Ok(()));
        let replayed = commit(&mut *sink, 0, &bodies).await;
        assert!(is_fenced(&replayed), "{replayed:?}");
        assert!(is_fenced(&commit(&mut *sink, 5, &[r#"{"id":3}"#]).await));
        assert_eq!(sink.take_over().await, at(2));
        assert_eq!(commit(&mut *sink, 2, &[r#"{"id":3}"#]).await, Ok(()));
    });
    assert_eq!(database.value("SELECT count(*) FROM orders"), "3");
}

fn an_older_owner_is_fenced(database: &Database) {
    database.execute(ORDERS);
    for target in [orders(), statement("INSERT INTO orders VALUES (:id, 0, '')", &[("id", "/id")])] {
        let (mut older, mut younger) = (database.sink(&target), database.sink(&target));
        database.runtime.block_on(async {
            let position = older.take_over().await.unwrap().through();
            assert_eq!(younger.take_over().await, at(position));
            let body = format!(r#"{{"id":{}}}"#, position + 1);
            let fenced = commit(&mut *older, position, &[&body]).await;
            assert!(is_fenced(&fenced), "{fenced:?}");
            assert_eq!(commit(&mut *younger, position, &[&body]).await, Ok(()));
            assert!(is_fenced(&commit::<&str>(&mut *older, position + 1, &[]).await));
        });
    }
    assert_eq!(database.value("SELECT count(*) FROM orders"), "2");
}

fn parts_are_apart(database: &Database) {
    let (mut one, mut two) = (database.sink_of("it's/1", &created()), database.sink_of("q/2", &created()));
    database.runtime.block_on(async {
        assert_eq!((one.take_over().await, two.take_over().await), (at(0), at(0)));
        assert_eq!(commit(&mut *one, 0, &["a", "b"]).await, Ok(()));
        assert_eq!(two.take_over().await, at(0));
        assert_eq!(one.take_over().await, at(2));
    });
}

fn a_poison_record_takes_its_batch_back(database: &Database) {
    database.execute(ORDERS);
    let mut sink = database.sink(&orders());
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"id":1}"#]).await, Ok(()));
        let good = r#"{"id":2,"total":19.90,"note":"x"}"#;
        for poison in [r#"{"id":1}"#, r#"{"id":3,"total":-1}"#, r#"{"id":"three"}"#, "no json", "\u{1}"] {
            let outcome = commit(&mut *sink, 1, &[good, poison]).await;
            assert!(is_permanent(&outcome), "{poison}: {outcome:?}");
        }
        // The sink goes on without a new take-over.
        assert_eq!(commit(&mut *sink, 1, &[good]).await, Ok(()));
        assert_eq!(sink.take_over().await, at(2));
    });
    let total = database.either("19.9", "19.90", "19.90");
    assert_eq!(database.rows("SELECT id, total FROM orders WHERE id > 1"), [some(&["2", total])]);
}

fn a_poison_record_of_a_statement_takes_its_batch_back(database: &Database) {
    database.execute(ORDERS);
    let target = statement("INSERT INTO orders VALUES (:id, :total, NULL)", &[("id", "/id"), ("total", "/total")]);
    let mut sink = database.sink(&target);
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let mut bodies: Vec<_> = (1..=600).map(|id| format!(r#"{{"id":{id},"total":1}}"#)).collect();
        bodies[300] = String::from(r#"{"id":301,"total":-1}"#);
        let outcome = commit(&mut *sink, 0, &bodies).await;
        let named = database.either("check", "check", "constraint");
        assert!(
            matches!(&outcome, Err(SinkError::Permanent { message }) if message.to_lowercase().contains(named)),
            "{outcome:?}"
        );
        assert_eq!(commit(&mut *sink, 0, &bodies[..300]).await, Ok(()));
    });
    assert_eq!(database.value("SELECT count(*) FROM orders"), "300");
    assert_eq!(database.value("SELECT position FROM forebay_position"), "300");
}

fn an_empty_batch_moves_the_position(database: &Database) {
    let mut sink = database.sink(&created());
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(
            sink.commit(Batch { after: 0, through: 9, beyond: None, deliveries: &[], witnesses: &[] }).await,
            Ok(())
        );
        assert!(is_fenced(
            &sink.commit(Batch { after: 0, through: 9, beyond: None, deliveries: &[], witnesses: &[] }).await
        ));
        assert_eq!(sink.take_over().await, at(9));
    });
}

fn any_text_arrives_as_it_was(database: &Database) {
    let control: String = (1..=0x9f_u8).map(char::from).collect();
    let texts = [
        "",
        "\\N",
        "\\.",
        "NULL",
        "a\tb\nc\rd\\e",
        "\\x41",
        "'; --",
        "\"",
        "🦀é\u{301}",
        "\u{feff}",
        "{}",
        control.as_str(),
    ];
    database.execute("CREATE TABLE texts (n integer, copied text)");
    let targets = [
        table("texts", &[("n", "$sequence"), ("copied", "/0")]),
        statement("INSERT INTO texts VALUES (:sequence, :text)", &[("text", "/0")]),
        table("texts", &[("n", "$sequence"), ("copied", "$body")]),
    ];
    for (target, as_json) in targets.iter().zip([true, true, false]) {
        let bodies: Vec<_> = texts
            .iter()
            .map(|text| if as_json { serde_json::to_string(&[text]).unwrap() } else { (*text).to_owned() })
            .collect();
        let mut sink = database.sink(target);
        database.runtime.block_on(async {
            let after = sink.take_over().await.unwrap().through();
            assert_eq!(commit(&mut *sink, after, &bodies).await, Ok(()));
        });
        let rows = database.rows("SELECT copied FROM texts ORDER BY n");
        assert_eq!(rows, texts.map(|text| some(&[text])));
        database.execute("DELETE FROM texts");
    }
}

fn hostile_names_and_values_stay_data(database: &Database) {
    let column = r#"x"); DROP TABLE victim; --"#;
    let quoted = column.replace('"', "\"\"");
    database.execute(&format!("CREATE TABLE victim (note text); CREATE TABLE \"odd ; table\" (\"{quoted}\" text)"));
    let value = r#"'); DROP TABLE victim; -- " $1 \"#;
    let body = serde_json::json!({ "note": value }).to_string();
    let targets = [
        table("odd ; table", &[(column, "/note")]),
        statement("INSERT INTO victim VALUES (:note)", &[("note", "/note")]),
    ];
    for target in &targets {
        let mut sink = database.sink_of("'; DROP TABLE victim; --", target);
        database.runtime.block_on(async {
            assert_eq!(sink.check().await, Ok(vec![]));
            let after = sink.take_over().await.unwrap().through();
            assert_eq!(commit(&mut *sink, after, &[&body]).await, Ok(()));
        });
    }
    assert_eq!(database.value("SELECT note FROM victim"), value);
    assert_eq!(database.value("SELECT * FROM \"odd ; table\""), value);
}

fn a_missing_table_is_transient_and_check_says_how_to_mend_it(database: &Database) {
    let mut sink = database.sink(&orders());
    database.runtime.block_on(async {
        let problems = sink.check().await.unwrap();
        assert_eq!(problems.len(), 1, "{problems:?}");
        let wanted = database.in_quotes("CREATE TABLE \"orders\" (\"id\"");
        assert!(problems[0].contains(&wanted), "{problems:?}");
        let outcome = match sink.take_over().await {
            Ok(progress) => commit(&mut *sink, progress.through(), &[r#"{"id":1}"#]).await,
            Err(error) => Err(error),
        };
        assert!(is_transient(&outcome), "{outcome:?}");
    });
    database.execute(ORDERS);
    database.runtime.block_on(async {
        let after = sink.take_over().await.unwrap().through();
        assert_eq!(commit(&mut *sink, after, &[r#"{"id":1}"#]).await, Ok(()));
    });
}

fn check_says_everything_at_once_and_changes_nothing(database: &Database) {
    database.execute(
        "CREATE TABLE orders (id integer PRIMARY KEY, must text NOT NULL, may text NOT NULL DEFAULT '', \
         twice integer GENERATED ALWAYS AS (2 * id) STORED)",
    );
    let columns = [("id", "/id"), ("twice", "/twice"), ("absent", "/absent")];
    let mut sink = database.sink(&table("orders", &columns));
    let problems = database.runtime.block_on(sink.check()).unwrap();
    assert_eq!(problems.len(), 3, "{problems:?}");
    let said = problems.join("\n");
    for wanted in
        ["\"twice\" of \"orders\" is generated", "ADD COLUMN \"absent\"", "\"must\" of \"orders\" is NOT NULL"]
    {
        assert!(said.contains(&database.in_quotes(wanted)), "{said}");
    }
    for (sql, wanted) in [
        ("INSERT INTO nowhere VALUES (:body)", "nowhere"),
        ("INSERT INTO orders VALUES (:nobody)", ":nobody"),
        ("SELECT 1; DROP TABLE orders", "more than one statement"),
    ] {
        let problems = database.runtime.block_on(database.sink(&statement(sql, &[])).check()).unwrap();
        assert!(problems.len() == 1 && problems[0].contains(wanted), "{problems:?}");
    }
    let tables = database.either(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table'",
        "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
        "SELECT count(*) FROM information_schema.tables WHERE table_schema = database()",
    );
    assert_eq!(database.value(tables), "1");
}

fn check_finds_nothing_wrong_with_what_works(database: &Database) {
    let mut sink = database.sink(&created());
    database.runtime.block_on(async {
        assert_eq!(sink.check().await, Ok(vec![]));
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(sink.check().await, Ok(vec![]));
        assert_eq!(commit(&mut *sink, 0, &["a"]).await, Ok(()));
    });
}

fn a_commit_needs_a_take_over(database: &Database) {
    let mut sink = database.sink(&created());
    assert!(is_transient(&database.runtime.block_on(commit(&mut *sink, 0, &["a"]))));
}

fn a_dropped_commit_leaves_nothing_half_done(database: &Database) {
    let mut sink = database.sink(&created());
    database.runtime.block_on(async {
        let mut position = sink.take_over().await.unwrap().through();
        for polls in 0..12 {
            {
                let bodies = ["a", "b"];
                let mut committing = Box::pin(commit(&mut *sink, position, &bodies));
                for _ in 0..polls {
                    if poll_once(&mut committing).await.is_some() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            let after = sink.take_over().await.unwrap().through();
            assert!(after == position || after == position + 2, "{position} became {after}");
            position = after;
        }
        assert_eq!(commit(&mut *sink, position, &["c"]).await, Ok(()));
    });
    // What is in the table is what the position says, whichever of the commits went through.
    assert_eq!(
        database.value("SELECT count(*) FROM forebay_q"),
        database.value("SELECT position FROM forebay_position")
    );
}

fn a_deferred_constraint_is_permanent(database: &Database) {
    database.execute("CREATE TABLE customers (id integer PRIMARY KEY)");
    database.execute(
        "CREATE TABLE orders (id integer PRIMARY KEY, \
         customer integer REFERENCES customers (id) DEFERRABLE INITIALLY DEFERRED)",
    );
    let mut sink = database.sink(&table("orders", &[("id", "/id"), ("customer", "/customer")]));
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert!(is_permanent(&commit(&mut *sink, 0, &[r#"{"id":1,"customer":7}"#]).await));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"id":1}"#]).await, Ok(()));
        assert_eq!(sink.take_over().await, at(1));
    });
    assert_eq!(database.value("SELECT count(*) FROM orders"), "1");
}
