//! What only a server can get into: a crash, a stuck predecessor, a role without privileges.

use std::panic::AssertUnwindSafe;

use forebay::config::{Conflict, Target};
use forebay::sink::{SinkError, Subpart};
use futures_lite::future::poll_once;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio_postgres::Client;

use crate::database::{Database, Kind, connect, part_of, postgres_rows, sink_at, sink_for};
use crate::postgres_server::PostgresServer;
use crate::{at, commit, created, is_fenced, is_permanent, is_transient, statement, table};

#[test]
fn after_a_crash_of_the_server_nothing_is_lost_or_doubled() {
    let mut server = PostgresServer::start();
    let url = server.url("postgres");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut sink = sink_at(&url, Kind::Postgres, "q/1", &created(), 10_000);
    let position = runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &["a", "b"]).await, Ok(()));
        2
    });
    server.kill9();
    runtime.block_on(async {
        assert!(is_transient(&commit(&mut *sink, position, &["c"]).await));
        // The connection is gone, and so it stays until the next take-over.
        assert!(is_transient(&commit(&mut *sink, position, &["c"]).await));
        assert!(matches!(sink.take_over().await, Err(SinkError::Transient(_))));
    });
    server.restart();
    runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(2));
        assert_eq!(commit(&mut *sink, 2, &["c"]).await, Ok(()));
        let rows = postgres_rows(&url, "SELECT convert_from(body, 'UTF8') FROM forebay_q ORDER BY 1").await;
        assert_eq!(rows, ["a", "b", "c"].map(|body| vec![Some(body.to_owned())]));
    });
}

/// A forebay that was stopped between the fence and the COMMIT.
async fn stuck_predecessor(url: &str, application_name: &str) -> Client {
    let zombie = connect(&format!("{url}?application_name={application_name}")).await;
    zombie.batch_execute("BEGIN; UPDATE forebay_position SET position = position + 1").await.unwrap();
    zombie
}

#[test]
fn a_predecessor_that_is_stuck_in_a_copy_is_ended() {
    let database = Database::new(Kind::Postgres);
    // A second of patience for the lock, ten for everything.
    let mut sink = database.sink(&created());
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let zombie = stuck_predecessor(&database.url, "forebay").await;
        let copy = zombie.copy_in::<_, bytes::Bytes>("COPY forebay_q (ticket) FROM STDIN").await.unwrap();
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &["a"]).await, Ok(()));
        drop(copy);
        assert!(zombie.batch_execute("COMMIT").await.is_err());
        assert_eq!(sink.take_over().await, at(1));
    });
}

/// The session that waits for a lock of the table `held`.
async fn waiting(observer: &Client) -> Option<i32> {
    let sql = "SELECT pid FROM pg_locks WHERE relation = 'held'::regclass AND NOT granted";
    observer.query_opt(sql, &[]).await.unwrap().map(|row| row.get(0))
}

/// A take-over is refused in its transaction, and the lock of the row keeps it out of that: it has to look before it ends anybody.
#[test]
fn whoever_is_about_to_be_refused_does_not_end_the_session_of_its_successor() {
    let database = Database::new(Kind::Postgres);
    database.execute("CREATE TABLE held (body text)");
    let target = table("held", &[("body", "$body")]);
    let [older, younger] = [(); 2].map(|()| part_of("q/1", true)).map(|first| {
        let lane = first.subpart(Subpart::Lane(1));
        [first, lane]
    });
    let mut older = older.map(|part| database.sink_for(&part, &target));
    // Far longer than the second that the older ones wait for the lock.
    let mut younger = younger.map(|part| sink_for(&database.url, Kind::Postgres, part, &target, 60_000, &[]));
    database.runtime.block_on(async {
        for sink in older.iter_mut().chain(&mut younger) {
            assert_eq!(sink.take_over().await, at(0));
        }
        let (blocker, observer) = (connect(&database.url).await, connect(&database.url).await);
        for (older, younger) in older.iter_mut().zip(&mut younger) {
            blocker.batch_execute("BEGIN; LOCK TABLE held IN EXCLUSIVE MODE").await.unwrap();
            let mut committing = Box::pin(commit(&mut **younger, 0, &["a"]));
            let session = loop {
                assert_eq!(poll_once(&mut committing).await, None);
                if let Some(session) = waiting(&observer).await {
                    break session;
                }
            };
            let refused = older.take_over().await.map(drop);
            assert!(is_fenced(&refused), "{refused:?}");
            assert_eq!(waiting(&observer).await, Some(session), "another session, or none");
            blocker.batch_execute("COMMIT").await.unwrap();
            assert_eq!(committing.await, Ok(()));
        }
    });
    assert_eq!(database.value("SELECT count(*) FROM held"), "2");
}

#[test]
fn a_stranger_that_holds_our_row_is_left_alone() {
    let database = Database::new(Kind::Postgres);
    let mut sink = database.sink(&created());
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let stranger = stuck_predecessor(&database.url, "psql").await;
        let refused = sink.take_over().await.unwrap_err();
        assert!(matches!(&refused, SinkError::Transient(why) if why.contains("forebay_position")), "{refused:?}");
        stranger.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(sink.take_over().await, at(0));
    });
}

#[test]
fn a_commit_that_takes_too_long_is_transient_and_undone() {
    let database = Database::new(Kind::Postgres);
    database.execute("CREATE TABLE slow (n integer)");
    let target = statement("INSERT INTO slow SELECT :sequence FROM pg_sleep(600)", &[]);
    let mut sink = sink_at(&database.url, Kind::Postgres, "q/1", &target, 3_000);
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert!(is_transient(&commit(&mut *sink, 0, &["a"]).await));
        assert_eq!(sink.take_over().await, at(0));
    });
    assert_eq!(database.value("SELECT count(*) FROM slow"), "0");
}

#[test]
fn what_text_cannot_hold_is_permanent_and_numbers_have_bounds() {
    let database = Database::new(Kind::Postgres);
    database.execute("CREATE TABLE texts (n integer, t text, j jsonb)");
    let mut whole = database.sink(&table("texts", &[("t", "$body")]));
    let mut parts = database.sink_of("q/2", &table("texts", &[("n", "/n"), ("t", "/t"), ("j", "/j")]));
    database.runtime.block_on(async {
        assert_eq!(whole.take_over().await, at(0));
        for (body, why) in [(&b"\xff\xfe"[..], "not UTF-8"), (b"a\0b", "zero byte")] {
            let outcome = commit(&mut *whole, 0, &[b"good".as_slice(), body]).await;
            assert!(matches!(&outcome, Err(SinkError::Permanent { message }) if message.contains(why)), "{outcome:?}");
        }
        assert_eq!(parts.take_over().await, at(0));
        for (body, code) in [
            (r#"{"n":3000000000}"#, "22003"),
            (r#"{"n":1.5}"#, "22P02"),
            (r#"{"n":"x\ty"}"#, "22P02"),
            (r#"{"j":"{"}"#, "22P02"),
        ] {
            let outcome = commit(&mut *parts, 0, &[body]).await;
            assert!(matches!(&outcome, Err(SinkError::Permanent { message }) if message.contains(code)), "{outcome:?}");
        }
        assert!(is_permanent(&commit(&mut *parts, 0, &[r#"{"t":"\u0000"}"#]).await));
        assert_eq!(commit(&mut *parts, 0, &[r#"{"n":2147483647}"#]).await, Ok(()));
    });
    assert_eq!(database.rows("SELECT n, t FROM texts"), [vec![Some("2147483647".to_owned()), None]]);
}

#[test]
fn domains_over_bytea_and_quoted_names_work() {
    let database = Database::new(Kind::Postgres);
    database.execute("CREATE DOMAIN raw AS bytea; CREATE DOMAIN raw2 AS raw; CREATE TABLE \"Odd Name\" (\"B\" raw2)");
    let mut sink = database.sink(&table("Odd Name", &[("B", "$body")]));
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[b"\0\xff"]).await, Ok(()));
    });
    assert_eq!(database.value("SELECT \"B\" FROM \"Odd Name\""), "\\x00ff");
}

#[test]
fn check_knows_privileges_and_a_role_without_create_can_work() {
    let database = Database::new(Kind::Postgres);
    let role = format!("clerk_{}", database.value("SELECT current_database()"));
    database.execute(&format!(
        "CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM public; CREATE TABLE orders (id integer, total numeric)"
    ));
    let url = database.url.replace("//forebay@", &format!("//{role}@"));
    let targets = [
        table("orders", &[("id", "/id"), ("total", "/total")]),
        statement("INSERT INTO orders VALUES (:id, :total)", &[("id", "/id"), ("total", "/total")]),
    ];
    for (part, target) in ["q/1", "q/2"].into_iter().zip(targets) {
        let mut sink = sink_at(&url, Kind::Postgres, part, &target, 10_000);
        let problems = database.runtime.block_on(sink.check()).unwrap().join("\n");
        for wanted in ["CREATE TABLE IF NOT EXISTS forebay_position", "GRANT", "orders"] {
            assert!(problems.contains(wanted), "{problems}");
        }
        let refused = database.runtime.block_on(sink.take_over()).unwrap_err();
        assert!(refused.to_string().contains("CREATE TABLE IF NOT EXISTS forebay_position"), "{refused}");
        // What check() says to run is enough.
        database.execute(&format!(
            "CREATE TABLE forebay_position (part text PRIMARY KEY, epoch bigint NOT NULL, position bigint NOT NULL, \
             beyond bytea); \
             GRANT SELECT, INSERT, UPDATE ON forebay_position TO {role}; GRANT INSERT ON orders TO {role}"
        ));
        database.runtime.block_on(async {
            assert_eq!(sink.check().await, Ok(vec![]));
            assert_eq!(sink.take_over().await, at(0));
            assert_eq!(commit(&mut *sink, 0, &[r#"{"id":1,"total":0.10}"#]).await, Ok(()));
        });
        database.execute(&format!("DROP TABLE forebay_position; REVOKE ALL ON orders FROM {role}"));
    }
    assert_eq!(database.value("SELECT string_agg(total::text, ' ') FROM orders"), "0.10 0.10");
    database.execute(&format!("DROP ROLE {role}"));
}

#[test]
fn check_knows_what_an_upsert_may_not_do() {
    let database = Database::new(Kind::Postgres);
    let name = database.value("SELECT current_database()");
    let role = format!("clerk_{name}");
    database.execute(&format!(
        "CREATE ROLE {role} LOGIN; REVOKE TEMPORARY ON DATABASE {name} FROM public; \
         CREATE TABLE orders (n serial, id integer PRIMARY KEY, total numeric); \
         CREATE TABLE forebay_position (part text PRIMARY KEY, epoch bigint NOT NULL, position bigint NOT NULL, beyond bytea); \
         GRANT SELECT, INSERT ON forebay_position TO {role}"
    ));
    let Target::Table { table, columns, rows, .. } = table("orders", &[("id", "/id"), ("total", "/total")]) else {
        panic!("a table")
    };
    let target = Target::Table { table, columns, rows, conflict: Conflict::Update(vec!["id".to_owned()]) };
    let url = database.url.replace("//forebay@", &format!("//{role}@"));
    let mut sink = sink_at(&url, Kind::Postgres, "q/1", &target, 10_000);
    // Each of these mends what the check before it has found.
    let mut seen = 0;
    loop {
        let problems = database.runtime.block_on(sink.check()).unwrap();
        let Some(advice) = problems.first() else { break };
        let wanted: &[&str] = match seen {
            0 => &[
                "may not UPDATE on forebay_position",
                "may not use the sequence public.orders_n_seq",
                "may not INSERT \"id\", \"total\" of \"orders\"",
                "may not UPDATE \"total\" of \"orders\"",
                "may not SELECT \"id\", \"total\" of \"orders\"",
            ],
            _ => &["may not make temporary tables"],
        };
        assert_eq!(problems.len(), wanted.len(), "{problems:?}");
        for part in wanted {
            assert!(problems.iter().any(|problem| problem.contains(part)), "{part} is not in {problems:?}");
        }
        assert!(advice.contains("GRANT") && seen < 2, "{problems:?}");
        for problem in &problems {
            database.execute(&problem[problem.find("GRANT").unwrap()..]);
        }
        seen += 1;
    }
    assert_eq!(seen, 2);
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"id":1,"total":1}"#, r#"{"id":1,"total":2}"#]).await, Ok(()));
    });
    assert_eq!(database.rows("SELECT n, id, total FROM orders")[0][1..], crate::some(&["1", "2"]));
    database.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn nobody_to_talk_to_is_said_without_the_password() {
    let database = Database::new(Kind::Postgres);
    for url in [
        "postgres://u:secret@127.0.0.1:1/x".to_owned(),
        "postgres://u:secret@127.0.0.1:1/x?sslmode=require".to_owned(),
        database.url.replace("//forebay@", "//nobody:secret@"),
    ] {
        let mut sink = sink_at(&url, Kind::Postgres, "q/1", &created(), 10_000);
        let problems = database.runtime.block_on(sink.check()).unwrap();
        assert!(problems.len() == 1 && !problems[0].contains("secret"), "{problems:?}");
        let refused = database.runtime.block_on(sink.take_over()).unwrap_err();
        assert!(matches!(&refused, SinkError::Transient(why) if !why.contains("secret")), "{refused:?}");
    }
}

#[test]
fn a_fenced_sink_holds_no_lock() {
    let database = Database::new(Kind::Postgres);
    let (mut older, mut younger) = (database.sink(&created()), database.sink(&created()));
    database.runtime.block_on(async {
        assert_eq!(older.take_over().await, at(0));
        assert_eq!(younger.take_over().await, at(0));
        assert!(is_fenced(&commit(&mut *older, 0, &["a"]).await));
        let rows = postgres_rows(&database.url, "SELECT state FROM pg_stat_activity WHERE state LIKE 'idle in%'").await;
        assert!(rows.is_empty(), "{rows:?}");
        assert_eq!(commit(&mut *younger, 0, &["a"]).await, Ok(()));
    });
}

#[test]
fn arbitrary_strings_get_through_copy_and_parameters() {
    let database = Database::new(Kind::Postgres);
    database.execute("CREATE TABLE texts (n integer, t text)");
    let mut sinks = [
        database.sink_of("q/1", &table("texts", &[("n", "$sequence"), ("t", "$body")])),
        database.sink_of("q/2", &statement("INSERT INTO texts VALUES (:sequence, :body)", &[])),
    ];
    let position = database.runtime.block_on(async {
        for sink in &mut sinks {
            assert_eq!(sink.take_over().await, at(0));
        }
        AssertUnwindSafe(std::cell::Cell::new(0_u64))
    });
    let text = prop_oneof![any::<String>(), "[\\\\nNrtx0-9.\u{1}-\u{1f}\u{7f}\t\n\r'é🦀]{0,20}"];
    let text = text.prop_map(|text| text.replace('\0', ""));
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(20) });
    let strategy = prop::collection::vec(text, 1..50);
    let sinks = std::cell::RefCell::new(&mut sinks);
    let outcome = runner.run(&strategy, |texts| {
        let after = position.get();
        for sink in sinks.borrow_mut().iter_mut() {
            let committed = database.runtime.block_on(commit(&mut **sink, after, &texts));
            prop_assert_eq!(committed, Ok(()));
            let wanted: Vec<_> = texts.iter().map(|text| vec![Some(text.clone())]).collect();
            prop_assert_eq!(database.rows("SELECT t FROM texts ORDER BY n"), wanted);
            database.execute("TRUNCATE texts");
        }
        position.set(after + texts.len() as u64);
        Ok(())
    });
    outcome.unwrap();
}
