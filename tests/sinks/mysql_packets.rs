//! How much MySQL or MariaDB takes at a time: in a packet, and in a batch.

use forebay::config::{Target, Unnest};
use forebay::sink::SinkError;

use crate::database::{Database, Kind, mysql_rows, sink_at};
use crate::mysql_server::MysqlServer;
use crate::{at, commit, is_permanent, statement, table};

/// Less than a piece of LOAD DATA may have, and then more.
const PACKET_BYTES: [usize; 2] = [16 * 1024, 80 * 1024];
const RECORDS: usize = 60;
const BODY_BYTES: usize = 4 * 1024;

/// A body that begins with a number, so that no two are the same.
fn body(number: usize, bytes: usize) -> String {
    format!("{number:04}{}", "x".repeat(bytes - 4))
}

#[test]
fn a_batch_may_be_larger_than_a_packet_and_a_record_that_is_becomes_no_part_of_one() {
    let server = MysqlServer::start();
    let url = server.url("forebay");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rows = |sql: &str| runtime.block_on(mysql_rows(&url, sql));
    rows("CREATE TABLE bodies (n integer PRIMARY KEY, body mediumblob)");
    let rows_of = table("bodies", &[("n", "$sequence"), ("body", "$body")]);
    let statements = statement("INSERT INTO bodies VALUES (:sequence, :body)", &[]);
    let bodies: Vec<_> = (1..=RECORDS).map(|number| body(number, BODY_BYTES)).collect();
    for (turn, packet_bytes) in PACKET_BYTES.into_iter().enumerate() {
        // Of sessions that begin from here on.
        rows(&format!("SET GLOBAL max_allowed_packet = {packet_bytes}"));
        for (way, target, loads) in [("load", &rows_of, 1), ("insert", &rows_of, 0), ("statement", &statements, 0)] {
            rows(&format!("SET GLOBAL local_infile = {loads}"));
            let mut sink = sink_at(&url, Kind::Mysql, &format!("q/{way}-{turn}"), target, 10_000);
            let large = body(RECORDS + 1, packet_bytes + BODY_BYTES);
            let with_large = [bodies[0].as_str(), &large, &bodies[1]];
            runtime.block_on(async {
                assert_eq!(sink.take_over().await, at(0));
                if loads == 1 {
                    // It is sent in pieces, so that no record is too large for it.
                    assert_eq!(commit(&mut *sink, 0, &with_large).await, Ok(()), "{packet_bytes}");
                    mysql_rows(&url, "DELETE FROM bodies").await;
                    assert_eq!(commit(&mut *sink, 3, &bodies).await, Ok(()), "{packet_bytes}");
                } else {
                    let outcome = commit(&mut *sink, 0, &with_large).await;
                    let Err(SinkError::Permanent { message }) = &outcome else { panic!("{way}: {outcome:?}") };
                    assert!(
                        message.starts_with("record 2: it takes ") && message.contains("max_allowed_packet leaves")
                    );
                    assert!(is_permanent(&commit(&mut *sink, 0, &[&large]).await), "{way}: it is no better alone");
                    assert_eq!(commit(&mut *sink, 0, &bodies).await, Ok(()), "{way} {packet_bytes}");
                }
            });
            let sums = "SELECT count(*), sum(length(body)), sum(n - CAST(left(body, 4) AS integer)) FROM bodies";
            let after = if loads == 1 { 3 } else { 0 };
            let wanted = [RECORDS, RECORDS * BODY_BYTES, RECORDS * after].map(|number| Some(number.to_string()));
            assert_eq!(rows(sums), [wanted.to_vec()], "{way} {packet_bytes}");
            rows("DELETE FROM bodies");
        }
    }
}

/// Rows that share a large value can be far more than the bodies that they are made of.
#[test]
fn a_batch_whose_rows_are_too_much_at_once_is_refused_as_a_whole_and_its_parts_are_not() {
    const NOTE_BYTES: usize = 100_000;
    const ROWS: usize = 40;
    let database = Database::new(Kind::Mysql);
    database.execute("CREATE TABLE items (note longtext, x bit)");
    let rows = Some(Unnest { pointer: "/items".to_owned(), is_required: false });
    let of_elements = |columns: &[(&str, &str)]| match table("items", columns) {
        Target::Table { table, columns, conflict, .. } => {
            Target::Table { table, columns, rows: rows.clone(), conflict }
        }
        other => other,
    };
    let Target::Statement { statement, parameters, .. } =
        statement("INSERT INTO items (note) VALUES (:note)", &[("note", "/note")])
    else {
        unreachable!()
    };
    let note = "x".repeat(NOTE_BYTES);
    let elements = vec!["1"; ROWS].join(",");
    let bodies = vec![format!(r#"{{"note":"{note}","items":[{elements}]}}"#); 17];
    let targets = [
        ("load", of_elements(&[("note", "/note")])),
        // A BIT among the columns keeps a row out of LOAD DATA.
        ("insert", of_elements(&[("note", "/note"), ("x", "/x")])),
        ("statement", Target::Statement { statement, parameters, rows: rows.clone() }),
    ];
    for (way, target) in targets {
        let mut sink = database.sink_of(&format!("q/{way}"), &target);
        database.runtime.block_on(async {
            assert_eq!(sink.take_over().await, at(0));
            let outcome = commit(&mut *sink, 0, &bodies).await;
            let Err(SinkError::Permanent { message }) = &outcome else { panic!("{way}: {outcome:?}") };
            assert_eq!(message, "the rows of these records take more than 67108864 bytes", "{way}");
            assert_eq!(commit(&mut *sink, 0, &bodies[..1]).await, Ok(()), "{way}");
        });
    }
    let sums = "SELECT count(*), sum(length(note)) FROM items";
    let wanted = [3 * ROWS, 3 * ROWS * NOTE_BYTES].map(|number| Some(number.to_string()));
    assert_eq!(database.rows(sums), [wanted.to_vec()]);
}
