//! Values that MySQL or MariaDB would bend, and how they get there whole.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::database::{Database, Kind, mysql_rows, sink_at};
use crate::mysql_server::MysqlServer;
use crate::{at, commit, commit_ahead, encode, is_permanent, statement, table};

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

/// What is encoded for LOAD DATA is other than what the batch has, so that rows of an INSERT would show.
#[test]
fn every_byte_gets_through_load_data_wherever_it_is() {
    let database = Database::new(Kind::Mysql);
    database.execute("CREATE TABLE bytes (n integer PRIMARY KEY, b varbinary(400))");
    let all: Vec<u8> = (0..=u8::MAX).collect();
    let bodies: Vec<_> = (0..32).map(|shift| [&vec![b'x'; shift], all.as_slice()].concat()).collect();
    let mut sink = database.sink(&table("bytes", &[("n", "$sequence"), ("b", "$body")]));
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let encoded = encode(&*sink, 0, &bodies);
        let ahead = encoded.part(0, bodies.len());
        assert_eq!(commit_ahead(&mut *sink, 0, &[""; 32], ahead).await, Ok(()));
    });
    let hex = |body: &Vec<u8>| vec![Some(body.iter().map(|byte| format!("{byte:02X}")).collect::<String>())];
    let wanted: Vec<_> = bodies.iter().map(hex).collect();
    assert_eq!(database.rows("SELECT HEX(b) FROM bytes ORDER BY n"), wanted);
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
