//! What only a server of MySQL or MariaDB can get into: a crash, a stuck predecessor, values that it would bend.

use std::cell::RefCell;

use forebay::config::{Conflict, Target};
use forebay::sink::{Batch, Claim, SinkError};
use futures_lite::future::poll_once;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::database::{Database, Kind, mysql, mysql_rows, sink_at, sink_with};
use crate::mysql_server::MysqlServer;
use crate::{at, commit, created, is_fenced, is_permanent, is_transient, statement, table};

#[test]
fn after_a_crash_of_the_server_nothing_is_lost_or_doubled() {
    let mut server = MysqlServer::start();
    let url = server.url("forebay");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut sink = sink_at(&url, Kind::Mysql, "q/1", &created(), 10_000);
    runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &["a", "b"]).await, Ok(()));
    });
    server.kill9();
    runtime.block_on(async {
        assert!(is_transient(&commit(&mut *sink, 2, &["c"]).await));
        // The connection is gone, and so it stays until the next take-over.
        assert!(is_transient(&commit(&mut *sink, 2, &["c"]).await));
        assert!(matches!(sink.take_over().await, Err(SinkError::Transient(_))));
    });
    server.restart();
    runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(2));
        assert_eq!(commit(&mut *sink, 2, &["c"]).await, Ok(()));
        let rows = mysql_rows(&url, "SELECT CONVERT(body USING utf8mb4) FROM forebay_q ORDER BY 1").await;
        assert_eq!(rows, ["a", "b", "c"].map(|body| vec![Some(body.to_owned())]));
    });
}

/// Whether somebody has locked the row of the part `q/1`.
async fn is_locked(observer: &mut Conn) -> bool {
    match observer.query_drop("SELECT 1 FROM forebay_position WHERE part = 'q/1' FOR UPDATE NOWAIT").await {
        Ok(()) => false,
        Err(mysql_async::Error::Server(error)) if error.code == 1205 => true,
        Err(error) => panic!("{error}"),
    }
}

/// Lets a commit go on until the server has its fence, and no further.
async fn until_it_locks(committing: &mut (impl Future<Output = Result<(), SinkError>> + Unpin), observer: &mut Conn) {
    while !is_locked(observer).await {
        assert_eq!(poll_once(&mut *committing).await, None);
    }
}

#[test]
fn a_predecessor_that_is_stuck_in_a_transaction_is_ended() {
    let database = Database::new(Kind::Mysql);
    let (mut older, mut younger) = (database.sink(&created()), database.sink(&created()));
    database.runtime.block_on(async {
        assert_eq!(older.take_over().await, at(0));
        let mut observer = mysql(&database.url).await;
        let mut stuck = Box::pin(commit(&mut *older, 0, &["a"]));
        until_it_locks(&mut stuck, &mut observer).await;
        // A second of patience for the lock, ten for everything.
        assert_eq!(younger.take_over().await, at(0));
        assert_eq!(commit(&mut *younger, 0, &["b"]).await, Ok(()));
        assert!(is_transient(&stuck.await));
        assert_eq!(younger.take_over().await, at(1));
    });
    assert_eq!(database.value("SELECT CONVERT(body USING utf8mb4) FROM forebay_q"), "b");
}

#[test]
fn what_a_silent_predecessor_holds_ends_by_itself() {
    let database = Database::new(Kind::Mysql);
    let mut sink = sink_at(&database.url, Kind::Mysql, "q/1", &created(), 2_000);
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let mut observer = mysql(&database.url).await;
        let mut stuck = Box::pin(commit(&mut *sink, 0, &["a"]));
        until_it_locks(&mut stuck, &mut observer).await;
        while is_locked(&mut observer).await {}
        drop(stuck);
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &["a"]).await, Ok(()));
    });
}

#[test]
fn a_stranger_that_holds_our_row_is_left_alone() {
    let database = Database::new(Kind::Mysql);
    let mut sink = database.sink(&created());
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let mut stranger = mysql(&database.url).await;
        stranger.query_drop("START TRANSACTION; UPDATE forebay_position SET position = position + 1").await.unwrap();
        let refused = sink.take_over().await.unwrap_err();
        assert!(matches!(&refused, SinkError::Transient(why) if why.contains("forebay_position")), "{refused:?}");
        stranger.query_drop("ROLLBACK").await.unwrap();
        assert_eq!(sink.take_over().await, at(0));
    });
}

#[test]
fn a_commit_that_takes_too_long_is_transient_and_undone() {
    let database = Database::new(Kind::Mysql);
    database.execute("CREATE TABLE slow (n integer)");
    let target = statement("INSERT INTO slow SELECT :sequence FROM (SELECT sleep(600)) s", &[]);
    let mut sink = sink_at(&database.url, Kind::Mysql, "q/1", &target, 3_000);
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert!(is_transient(&commit(&mut *sink, 0, &["a"]).await));
        assert_eq!(sink.take_over().await, at(0));
    });
    assert_eq!(database.value("SELECT count(*) FROM slow"), "0");
}

/// A column, what it refuses, and what it keeps.
type Case = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

const CASES: [Case; 13] = [
    ("tinyint", &["300", "-129", "\"x\"", "\"1x\"", "\"\"", "1e400"], &[("127", "127"), ("\"5\"", "5"), ("true", "1")]),
    ("int unsigned", &["-1", "4294967296", "1.5", "\"1.5\""], &[("4294967295", "4294967295")]),
    ("decimal(6,2)", &["10000", "1.005", "\"1,5\""], &[("9999.99", "9999.99"), ("1e2", "100.00")]),
    ("double", &["\"x\"", "1e999"], &[("1e-3", "0.001")]),
    ("bit(3)", &["8", "\"12\""], &[("5", "5"), ("true", "1")]),
    (
        "varchar(5)",
        &["\"abcdef\"", "\"🦀🦀🦀🦀🦀🦀\"", "123456"],
        &[("\"🦀é\\u0000\"", "🦀é\0"), ("false", "false"), ("1.50", "1.50")],
    ),
    ("varchar(9) character set latin1", &["\"🦀\""], &[("\"é\"", "é")]),
    ("varchar(9) character set utf8mb3", &["\"🦀\""], &[("\"é\"", "é")]),
    ("enum('a','b')", &["\"c\"", "\"\""], &[("\"b\"", "b")]),
    ("json", &["\"{\"", "\"x\""], &[("{\"a\": [1.50, null]}", "{\"a\":[1.50,null]}"), ("true", "true")]),
    (
        "datetime(3)",
        &["\"yesterday\"", "\"2023-02-30 00:00:00\"", "\"0000-00-00 00:00:00\"", "\"10000-01-01T00:00:00Z\""],
        &[
            ("\"2024-01-01T01:00:00.1239+02:00\"", "2023-12-31 23:00:00.123"),
            ("\"2024-01-01 01:00:00\"", "2024-01-01 01:00:00.000"),
        ],
    ),
    ("date", &["\"2023-02-30\""], &[("\"2024-01-01T01:00:00+02:00\"", "2023-12-31")]),
    ("varbinary(4)", &["\"abcde\""], &[("\"é\\\\\"", "\\xc3a95c")]),
];

/// What each kind of column refuses and keeps is the same however rows get there.
fn no_value_is_bent(url: &str, runtime: &tokio::runtime::Runtime) {
    for (number, (kind, refused, kept)) in CASES.iter().enumerate() {
        let create =
            format!("DROP TABLE IF EXISTS v; CREATE TABLE v (id bigint PRIMARY KEY, v {kind}) CHARACTER SET utf8mb4");
        runtime.block_on(mysql_rows(url, &create));
        let targets = [
            table("v", &[("id", "$sequence"), ("v", "/v")]),
            statement("INSERT INTO v VALUES (:sequence, :v)", &[("v", "/v")]),
        ];
        for (way, target) in targets.iter().enumerate() {
            let part = format!("q/{number}-{way}");
            let mut sink = sink_at(url, Kind::Mysql, &part, target, 10_000);
            runtime.block_on(async {
                assert_eq!(sink.take_over().await, at(0));
                for value in *refused {
                    // What SQL makes of a literal is its author's wish: text is bits, and 1.5 is an integer.
                    if way == 1 && (*kind == "bit(3)" || value.contains("1.5")) {
                        continue;
                    }
                    let bodies = [format!(r#"{{"v":{}}}"#, kept[0].0), format!(r#"{{"v":{value}}}"#)];
                    let outcome = commit(&mut *sink, 0, &bodies).await;
                    assert!(is_permanent(&outcome), "{kind} {value} {way}: {outcome:?}");
                }
                // A statement knows no column: true is 1 for it, and a moment stays as it is written.
                let of_columns = |value: &str| value.contains('T') || value == "true" || value == "false";
                let kept = kept.iter().filter(|(value, _)| way == 0 || !of_columns(value));
                let (values, wanted): (Vec<_>, Vec<_>) = kept.copied().unzip();
                let bodies: Vec<_> = values.iter().map(|value| format!(r#"{{"v":{value}}}"#)).collect();
                assert_eq!(commit(&mut *sink, 0, &bodies).await, Ok(()), "{kind}");
                let shown = if *kind == "bit(3)" { "v + 0" } else { "v" };
                let rows = mysql_rows(url, &format!("SELECT {shown} FROM v ORDER BY id")).await;
                let wanted: Vec<_> = wanted.iter().map(|text| vec![Some((*text).to_owned())]).collect();
                assert_eq!(rows, wanted, "{kind} {way}");
                mysql_rows(url, "DELETE FROM v").await;
            });
        }
    }
}

#[test]
fn no_value_is_bent_by_load_data_by_insert_or_by_a_statement() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (option, loads) in [("--local-infile=1", true), ("--local-infile=0", false)] {
        let server = MysqlServer::start_with(&[option]);
        let url = server.url("forebay");
        no_value_is_bent(&url, &runtime);
        let rows = runtime.block_on(mysql_rows(&url, "SHOW GLOBAL STATUS LIKE 'Com_load'"));
        let count: u64 = rows[0][1].as_ref().unwrap().parse().unwrap();
        assert_eq!(count > 0, loads, "{option}: {count} times LOAD DATA");
    }
}

#[test]
fn a_server_that_takes_no_load_data_any_more_gets_inserts() {
    let server = MysqlServer::start();
    let url = server.url("forebay");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut sink = sink_at(&url, Kind::Mysql, "q/1", &created(), 10_000);
    runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &["a"]).await, Ok(()));
        mysql_rows(&url, "SET GLOBAL local_infile = 0").await;
        assert_eq!(commit(&mut *sink, 1, &["b", "c"]).await, Ok(()));
        let rows = mysql_rows(&url, "SELECT count(*) FROM forebay_q").await;
        assert_eq!(rows, [vec![Some("3".to_owned())]]);
    });
}

#[test]
fn what_is_not_utf8_goes_into_binary_columns_only() {
    let database = Database::new(Kind::Mysql);
    database.execute("CREATE TABLE texts (t text, b varbinary(9), l varchar(9) character set latin1)");
    let targets = [
        table("texts", &[("t", "$body")]),
        table("texts", &[("l", "$body")]),
        statement("INSERT INTO texts (t) VALUES (:body)", &[]),
    ];
    let mut binary = database.sink_of("q/b", &table("texts", &[("b", "$body")]));
    database.runtime.block_on(async {
        for (part, target) in ["q/1", "q/2", "q/3"].into_iter().zip(&targets) {
            let mut sink = database.sink_of(part, target);
            assert_eq!(sink.take_over().await, at(0));
            let outcome = commit(&mut *sink, 0, &[b"good".as_slice(), b"\xff\xfe"]).await;
            assert!(is_permanent(&outcome), "{outcome:?}");
        }
        assert_eq!(binary.take_over().await, at(0));
        assert_eq!(commit(&mut *binary, 0, &[b"\xff\0\n\\N"]).await, Ok(()));
    });
    assert_eq!(database.rows("SELECT b FROM texts"), [vec![Some("\\xff000a5c4e".to_owned())]]);
}

#[test]
fn moments_arrive_in_utc_whatever_the_column_and_the_server_s_time_zone() {
    let database = Database::new(Kind::Mysql);
    database
        .execute("CREATE TABLE times (a datetime(6), b datetime, c timestamp(3) NULL, d date, e time, f varchar(40))");
    let mut sinks = [
        database.sink_of("q/1", &table("times", &["a", "b", "c", "d", "e", "f"].map(|name| (name, "$received_at")))),
        database.sink_of("q/2", &statement("INSERT INTO times (a, c) VALUES (:received_at, :received_at)", &[])),
    ];
    database.runtime.block_on(async {
        for sink in &mut sinks {
            assert_eq!(sink.take_over().await, at(0));
            assert_eq!(commit(&mut **sink, 0, &["x"]).await, Ok(()));
        }
    });
    let select = "SET time_zone = '+00:00'; SELECT a, b, c, d, e, f FROM times ORDER BY b DESC";
    let rows: Vec<Vec<String>> =
        database.rows(select).into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect();
    assert_eq!(
        rows,
        [
            [
                "2023-11-14 22:13:20.000042",
                "2023-11-14 22:13:20",
                "2023-11-14 22:13:20.000",
                "2023-11-14",
                "22:13:20",
                "2023-11-14T22:13:20.000042Z"
            ],
            ["2023-11-14 22:13:20.000042", "", "2023-11-14 22:13:20.000", "", "", ""],
        ]
    );
}

#[test]
fn a_table_without_transactions_is_refused() {
    let database = Database::new(Kind::Mysql);
    database.execute("CREATE TABLE log (n bigint) ENGINE = MyISAM; CREATE TABLE `Odd log` (n bigint) ENGINE = Aria");
    let targets = [
        table("log", &[("n", "$sequence")]),
        table("Odd log", &[("n", "$sequence")]),
        statement("INSERT INTO LOG VALUES (:sequence)", &[]),
        statement("UPDATE `odd log` SET n = :sequence", &[]),
    ];
    let refused = |target| {
        let mut sink = database.sink(target);
        database.runtime.block_on(async {
            let problems = sink.check().await.unwrap().join("\n");
            assert!(problems.contains("has no transactions") && problems.contains("ENGINE = InnoDB"), "{problems}");
            let refused = sink.take_over().await.unwrap_err().to_string();
            assert!(refused.contains("has no transactions"), "{refused}");
        });
    };
    for target in &targets[..2] {
        refused(target);
    }
    // Whether case counts in a table's name is the server's own matter; a name that may be meant is enough.
    database.execute("CREATE TABLE `LOG` (n bigint); CREATE TABLE `odd log` (n bigint)");
    for target in &targets[2..] {
        refused(target);
    }
    database.execute("DROP TABLE log, `Odd log`; DROP TABLE IF EXISTS forebay_position");
    database.execute(
        "CREATE TABLE forebay_position (part varchar(100) PRIMARY KEY, epoch bigint, position bigint, beyond blob) \
         ENGINE = MyISAM",
    );
    refused(&created());
}

#[test]
fn a_statement_that_may_commit_is_refused() {
    let database = Database::new(Kind::Mysql);
    database.execute("CREATE TABLE t (n bigint); CREATE PROCEDURE p() COMMIT");
    for sql in ["CALL p()", "TRUNCATE t", "CREATE TABLE u (n bigint)", "INSERT INTO t VALUES (1) /*! ; COMMIT */"] {
        let mut sink = database.sink(&statement(sql, &[]));
        database.runtime.block_on(async {
            let problems = sink.check().await.unwrap();
            assert!(problems.len() == 1 && problems[0].contains("cannot be used"), "{problems:?}");
            assert!(matches!(sink.take_over().await, Err(SinkError::Transient(_))));
        });
    }
    // The server does not let a trigger or a function commit, not by a procedure either.
    database.execute("CREATE TRIGGER commits BEFORE INSERT ON t FOR EACH ROW CALL p()");
    let mut sink = database.sink(&statement("INSERT INTO t VALUES (:sequence)", &[]));
    let outcome = database.runtime.block_on(async {
        let after = sink.take_over().await.unwrap().through();
        commit(&mut *sink, after, &["a"]).await
    });
    assert!(outcome.is_err(), "{outcome:?}");
    assert_eq!(database.value("SELECT count(*) FROM t"), "0");
    assert_eq!(database.value("SELECT position FROM forebay_position"), "0");
}

#[test]
fn what_a_trigger_raises_is_permanent_and_ignore_is_its_author_s_wish() {
    let database = Database::new(Kind::Mysql);
    database.execute(
        "CREATE TABLE orders (id bigint PRIMARY KEY, small tinyint); CREATE TRIGGER refuse BEFORE INSERT ON orders \
         FOR EACH ROW IF NEW.id = 13 THEN SIGNAL SQLSTATE '45000' SET message_text = 'unlucky'; END IF",
    );
    let mut rows = database.sink(&table("orders", &[("id", "/id")]));
    let sql = "INSERT IGNORE INTO orders VALUES (:id, :small)";
    let mut ignoring = database.sink_of("q/2", &statement(sql, &[("id", "/id"), ("small", "/small")]));
    database.runtime.block_on(async {
        assert_eq!(rows.take_over().await, at(0));
        let outcome = commit(&mut *rows, 0, &[r#"{"id":1}"#, r#"{"id":13}"#]).await;
        assert!(
            matches!(&outcome, Err(SinkError::Permanent { message }) if message.contains("unlucky")),
            "{outcome:?}"
        );
        assert_eq!(commit(&mut *rows, 0, &[r#"{"id":1}"#]).await, Ok(()));
        assert_eq!(ignoring.take_over().await, at(0));
        assert_eq!(commit(&mut *ignoring, 0, &[r#"{"id":1}"#, r#"{"id":2}"#]).await, Ok(()));
        let outcome = commit(&mut *ignoring, 2, &[r#"{"id":3}"#, r#"{"id":4,"small":999}"#]).await;
        assert!(matches!(&outcome, Err(SinkError::Permanent { message }) if message.contains("1264")), "{outcome:?}");
    });
    assert_eq!(database.value("SELECT group_concat(id ORDER BY id) FROM orders"), "1,2");
}

#[test]
fn check_knows_privileges_and_an_account_without_create_can_work() {
    let database = Database::new(Kind::Mysql);
    let name = database.value("SELECT database()");
    let clerk = format!("clerk_{name}");
    database.execute(&format!(
        "CREATE USER {clerk}@'%'; CREATE TABLE orders (id integer, total numeric); CREATE TABLE other (n integer); \
         GRANT SELECT ON {name}.other TO {clerk}@'%'"
    ));
    let url = database.url.replace("//forebay@", &format!("//{clerk}@"));
    let targets = [
        table("orders", &[("id", "/id"), ("total", "/total")]),
        statement("INSERT INTO orders VALUES (:id, :total)", &[("id", "/id"), ("total", "/total")]),
    ];
    for (part, target) in ["q/1", "q/2"].into_iter().zip(targets) {
        let mut sink = sink_at(&url, Kind::Mysql, part, &target, 10_000);
        let problems = database.runtime.block_on(sink.check()).unwrap().join("\n");
        for wanted in ["CREATE TABLE IF NOT EXISTS forebay_position", "GRANT", "orders"] {
            assert!(problems.contains(wanted), "{problems}");
        }
        let refused = database.runtime.block_on(sink.take_over()).unwrap_err();
        assert!(refused.to_string().contains("CREATE TABLE IF NOT EXISTS forebay_position"), "{refused}");
        // What check() says to run is enough.
        database.execute(&format!(
            "CREATE TABLE forebay_position (part text PRIMARY KEY, epoch bigint NOT NULL, position bigint NOT NULL, \
             beyond mediumblob); GRANT SELECT, INSERT, UPDATE ON forebay_position TO {clerk}@'%'; \
             GRANT INSERT ON orders TO {clerk}@'%'"
        ));
        database.runtime.block_on(async {
            assert_eq!(sink.check().await, Ok(vec![]));
            assert_eq!(sink.take_over().await, at(0));
            assert_eq!(commit(&mut *sink, 0, &[r#"{"id":1,"total":0.10}"#]).await, Ok(()));
        });
        database.execute(&format!("DROP TABLE forebay_position; REVOKE INSERT ON orders FROM {clerk}@'%'"));
        database.execute(&format!("REVOKE SELECT, INSERT, UPDATE ON forebay_position FROM {clerk}@'%'"));
    }
    assert_eq!(database.value("SELECT group_concat(total) FROM orders"), "0.10,0.10");
    database.execute(&format!("DROP USER {clerk}@'%'"));
}

#[test]
fn nobody_to_talk_to_is_said_without_the_password() {
    let database = Database::new(Kind::Mysql);
    for url in [
        "mysql://u:secret@127.0.0.1:1/x".to_owned(),
        "mysql://u:secret@127.0.0.1:1".to_owned(),
        database.url.replace("//forebay@", "//nobody:secret@"),
    ] {
        let mut sink = sink_at(&url, Kind::Mysql, "q/1", &created(), 10_000);
        let problems = database.runtime.block_on(sink.check()).unwrap();
        assert!(problems.len() == 1 && !problems[0].contains("secret"), "{problems:?}");
        let refused = database.runtime.block_on(sink.take_over()).unwrap_err();
        assert!(matches!(&refused, SinkError::Transient(why) if !why.contains("secret")), "{refused:?}");
    }
}

#[test]
fn a_fenced_sink_holds_no_lock() {
    let database = Database::new(Kind::Mysql);
    let (mut older, mut younger) = (database.sink(&created()), database.sink(&created()));
    database.runtime.block_on(async {
        assert_eq!(older.take_over().await, at(0));
        assert_eq!(younger.take_over().await, at(0));
        assert!(is_fenced(&commit(&mut *older, 0, &["a"]).await));
        assert!(!is_locked(&mut mysql(&database.url).await).await);
        assert_eq!(commit(&mut *younger, 0, &["a"]).await, Ok(()));
    });
}

#[test]
fn a_lane_does_not_wait_for_the_row_of_another() {
    let database = Database::new(Kind::Mysql);
    let [mut first, mut second] = ["q/1", "q/1/lane-1"].map(|part| database.sink_of(part, &created()));
    database.runtime.block_on(async {
        first.take_over().await.unwrap();
        second.take_over().await.unwrap();
        let claims: [Claim; 2] = [first.claim().unwrap(), second.claim().unwrap()];
        let mut observer = mysql(&database.url).await;
        let step = |witness| Batch { after: 0, through: 1, beyond: Some(&[]), deliveries: &[], witnesses: witness };
        let mut on_its_way = first.commit(step(&claims[1..]));
        until_it_locks(&mut on_its_way, &mut observer).await;
        assert_eq!(second.commit(step(&claims[..1])).await, Ok(()));
        assert_eq!(on_its_way.await, Ok(()));
    });
}

#[test]
fn arbitrary_strings_get_through_load_data_insert_and_statements() {
    let database = Database::new(Kind::Mysql);
    database.execute("CREATE TABLE texts (n integer, t text, x bit)");
    // A BIT among the columns keeps a row out of LOAD DATA.
    let mut sinks = [
        database.sink_of("q/1", &table("texts", &[("n", "$sequence"), ("t", "$body")])),
        database.sink_of("q/2", &table("texts", &[("n", "$sequence"), ("t", "$body"), ("x", "$key")])),
        database.sink_of("q/3", &statement("INSERT INTO texts (n, t) VALUES (:sequence, :body)", &[])),
    ];
    database.runtime.block_on(async {
        for sink in &mut sinks {
            assert_eq!(sink.take_over().await, at(0));
        }
    });
    let text = prop_oneof![any::<String>(), "[\\\\nNrtx0-9'\"`%_.\u{0}-\u{1f}\u{7f}\t\n\r'é🦀]{0,20}"];
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(20) });
    let state = RefCell::new((0_u64, &mut sinks));
    let outcome = runner.run(&prop::collection::vec(text, 1..50), |texts| {
        let (after, sinks) = &mut *state.borrow_mut();
        for sink in sinks.iter_mut() {
            let committed = database.runtime.block_on(commit(&mut **sink, *after, &texts));
            prop_assert_eq!(committed, Ok(()));
            let wanted: Vec<_> = texts.iter().map(|text| vec![Some(text.clone())]).collect();
            prop_assert_eq!(database.rows("SELECT t FROM texts ORDER BY n"), wanted);
            database.execute("DELETE FROM texts");
        }
        *after += texts.len() as u64;
        Ok(())
    });
    outcome.unwrap();
}

/// Has openssl make a certificate for 127.0.0.1, signed by itself; gives its path and that of its key.
fn certificate(directory: &std::path::Path) -> (String, String) {
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| directory.join(name).display().to_string());
    let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"];
    let output = std::process::Command::new("openssl")
        .args(request)
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-keyout", &key, "-out", &certificate])
        .output()
        .expect("install openssl: apt-get install openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The server is another account.
    for file in [&certificate, &key] {
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    }
    (certificate, key)
}

#[test]
fn tls_is_used_where_the_url_asks_for_it_and_the_server_is_who_it_should_be() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (certificate, key) = certificate(directory.path());
    let server = MysqlServer::start_with(&[
        &format!("--ssl-cert={certificate}"),
        &format!("--ssl-key={key}"),
        "--require-secure-transport=ON",
    ]);
    let plain = server.url("forebay");
    let asking = format!("{plain}?require_ssl=true");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let take_over = |url: &str, tls_ca_file: &str| {
        runtime.block_on(sink_with(url, Kind::Mysql, &created(), &[("tls_ca_file", tls_ca_file)]).take_over())
    };
    assert_eq!(take_over(&asking, &certificate), at(0));
    assert_eq!(take_over(&format!("{asking}&verify_ca=false"), ""), at(0));
    for (url, tls_ca_file, why) in [
        (&plain, "", "denied"),
        (&plain, certificate.as_str(), "require_ssl=true"),
        // Nobody that everybody trusts has signed it.
        (&asking, "", "certificate"),
        (&asking.replace("127.0.0.1", "localhost"), certificate.as_str(), "certificate"),
        (&asking, "/nonexistent.pem", "No such file"),
    ] {
        let refused = take_over(url, tls_ca_file).unwrap_err().to_string();
        assert!(refused.contains(why), "{url} {tls_ca_file}: {refused}");
    }
}

/// ON DUPLICATE KEY takes any key for what was meant.
#[test]
fn a_table_with_another_unique_key_takes_no_conflicts() {
    let database = Database::new(Kind::Mysql);
    database
        .execute("CREATE TABLE orders (id integer PRIMARY KEY, email varchar(40), n integer AUTO_INCREMENT UNIQUE)");
    let target = |columns: &[(&str, &str)]| match table("orders", columns) {
        Target::Table { table, columns, rows, .. } => {
            let conflict = Conflict::Update(vec!["id".to_owned()]);
            Target::Table { table, columns, rows, conflict }
        }
        other => other,
    };
    let columns = [("id", "/id"), ("email", "/email")];
    let mut sink = database.sink(&target(&columns));
    // The server numbers the rows, and no record says its number.
    assert!(database.runtime.block_on(sink.take_over()).is_ok());
    database.execute("CREATE UNIQUE INDEX mail ON orders (email)");
    let (taken, found) = database.runtime.block_on(async { (sink.take_over().await, sink.check().await) });
    let said = taken.unwrap_err().to_string();
    assert!(said.contains("has another unique key, of `email`"), "{said}");
    assert!(found.unwrap().iter().any(|problem| problem.contains("another unique key")));
}
