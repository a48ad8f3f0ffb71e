//! What arrives: values in the columns that they are mapped to, as they were.

use crate::database::{Database, hex};
use crate::{at, commit, created, some, statement, table};

pub fn a_created_table_holds_what_was_sent(database: &Database) {
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

pub fn columns_get_what_is_mapped_to_them(database: &Database) {
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

pub fn a_statement_runs_for_each_record(database: &Database) {
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

pub fn many_statements_and_large_bodies(database: &Database) {
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

pub fn any_text_arrives_as_it_was(database: &Database) {
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

pub fn hostile_names_and_values_stay_data(database: &Database) {
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
