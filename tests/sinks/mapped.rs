//! Types, defaults, constants, arrays into rows, and what a conflict does; and what a check finds wrong with them.

use forebay::config::{Assignment, Conflict, Source, Target, Unnest};
use forebay::limits::{ROWS_PER_RECORD_MAX, SHARED_BYTES_PER_RECORD_MAX};
use forebay::sink::SinkError;
use forebay::value::{Value, ValueType};

use crate::database::{Database, Rows};
use crate::{at, commit, is_permanent, some, source_of};

/// A table of the user's.
struct Mapped {
    columns: Vec<(String, Assignment)>,
    rows: Option<Unnest>,
    conflict: Conflict,
}

impl Mapped {
    fn new(columns: &[(&str, &str)]) -> Self {
        let columns = columns.iter().map(|(name, source)| ((*name).to_owned(), source_of(source).into())).collect();
        Self { columns, rows: None, conflict: Conflict::Error }
    }

    fn with(mut self, name: &str, source: &str, change: impl FnOnce(&mut Assignment)) -> Self {
        let mut assignment = Assignment::from(source_of(source));
        change(&mut assignment);
        self.columns.push((name.to_owned(), assignment));
        self
    }

    fn typed(self, name: &str, source: &str, value_type: ValueType) -> Self {
        self.with(name, source, |assignment| assignment.value_type = Some(value_type))
    }

    fn rows(mut self, pointer: &str, is_required: bool) -> Self {
        self.rows = Some(Unnest { pointer: pointer.to_owned(), is_required });
        self
    }

    fn update(mut self, columns: &[&str]) -> Self {
        self.conflict = Conflict::Update(columns.iter().map(|name| (*name).to_owned()).collect());
        self
    }

    fn ignore(mut self, columns: &[&str]) -> Self {
        self.conflict = Conflict::Ignore(columns.iter().map(|name| (*name).to_owned()).collect());
        self
    }

    fn table(self, table: &str) -> Target {
        Target::Table { table: table.to_owned(), columns: self.columns, rows: self.rows, conflict: self.conflict }
    }
}

fn problems(database: &Database, target: &Target) -> Vec<String> {
    database.runtime.block_on(database.sink(target).check()).unwrap()
}

/// Asserts that a check says just one thing, with all of `parts` in it.
fn one_problem(database: &Database, target: &Target, parts: &[&str]) {
    let found = problems(database, target);
    assert_eq!(found.len(), 1, "{found:?}");
    for part in parts.iter().map(|part| database.in_quotes(part)) {
        assert!(found[0].contains(&part), "{part:?} is not in {found:?}");
    }
}

/// Delivers the bodies in one batch.
fn deliver(database: &Database, target: &Target, bodies: &[&str]) -> Result<(), SinkError> {
    let mut sink = database.sink(target);
    database.runtime.block_on(async {
        let after = sink.take_over().await?.through();
        commit(&mut *sink, after, bodies).await
    })
}

fn refusal(outcome: Result<(), SinkError>) -> String {
    match outcome {
        Err(SinkError::Permanent { message }) => message,
        other => panic!("{other:?}"),
    }
}

fn null_or(row: &[Option<&str>]) -> Vec<Option<String>> {
    row.iter().map(|text| text.map(str::to_owned)).collect()
}

pub fn types_convert_what_they_are_given(database: &Database) {
    database.execute(&format!(
        "CREATE TABLE typed (n integer, d numeric, s text, b {}, at {}, sec {1}, doc {}, raw {}, part integer)",
        database.either("integer", "boolean", "boolean"),
        database.either("text", "timestamptz", "datetime(6)"),
        database.either("text", "jsonb", "json"),
        database.either("blob", "bytea", "longblob"),
    ));
    let mapped = Mapped::new(&[])
        .typed("n", "/n", ValueType::Integer)
        .typed("d", "/d", ValueType::Number)
        .typed("s", "/s", ValueType::Text)
        .typed("b", "/b", ValueType::Boolean)
        .typed("at", "/at", ValueType::Timestamp)
        .typed("sec", "/sec", ValueType::UnixS)
        .typed("doc", "/doc", ValueType::Json)
        .typed("raw", "/raw", ValueType::Bytes)
        .typed("part", "$sequence", ValueType::Integer);
    let target = mapped.table("typed");
    assert_eq!(problems(database, &target), Vec::<String>::new());
    let body = r#"{"n":"12.0","d":"19.90","s":7,"b":"true","at":"2023-11-14T23:13:20.5+01:00","sec":1700000000.25,
        "doc":"a \"word\"","raw":"AP8="}"#;
    assert_eq!(deliver(database, &target, &[body, "{}"]), Ok(()));
    let time = |column: &str| {
        database.either(
            column.to_owned(),
            format!("to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"),
            format!("date_format({column}, '%Y-%m-%dT%H:%i:%s.%fZ')"),
        )
    };
    let sql = format!("SELECT n, d, s, b, {}, {}, doc, raw, part FROM typed ORDER BY part", time("at"), time("sec"));
    let rows = database.rows(&sql);
    let wanted = [
        "12",
        database.either("19.9", "19.90", "19.90"),
        "7",
        database.either("1", "t", "1"),
        "2023-11-14T22:13:20.500000Z",
        "2023-11-14T22:13:20.250000Z",
        r#""a \"word\"""#,
        "\\x00ff",
        "1",
    ];
    let mut nothing = vec![None; 8];
    nothing.push(Some("2".to_owned()));
    assert_eq!(rows, [some(&wanted), nothing]);
    let refused = refusal(deliver(database, &target, &[r#"{"n":{"a":1}}"#]));
    assert!(
        refused.contains(r#"record 3: column "n" from "/n" wants an integer of 64 bits, not an object"#),
        "{refused}"
    );
}

pub fn a_default_a_constant_and_what_is_required(database: &Database) {
    database.execute("CREATE TABLE t (id integer PRIMARY KEY, status text, source text, n integer)");
    let text = |text: &'static str| Value::Text(text.into());
    let target = Mapped::new(&[])
        .with("id", "/id", |id| id.is_required = true)
        .with("status", "/status", |status| status.default = Some(text("new")))
        .with("source", "", |source| source.source = Source::Constant(text("shop")))
        .with("n", "$key", |n| n.default = Some(Value::Number("7".into())))
        .table("t");
    assert_eq!(problems(database, &target), Vec::<String>::new());
    let bodies = [r#"{"id":1}"#, r#"{"id":2,"status":null}"#, r#"{"id":3,"status":"paid"}"#];
    assert_eq!(deliver(database, &target, &bodies), Ok(()));
    let wanted = [["1", "new", "shop", "7"], ["2", "new", "shop", "7"], ["3", "paid", "shop", "7"]];
    assert_eq!(database.rows("SELECT * FROM t ORDER BY id"), wanted.map(|row| some(&row)));
    for body in ["{}", r#"{"id":null}"#] {
        let refused = refusal(deliver(database, &target, &[r#"{"id":4}"#, body]));
        assert!(refused.contains(r#"record 5: column "id" from "/id" is required, and there is nothing"#), "{refused}");
    }
    assert_eq!(database.value("SELECT count(*) FROM t"), "3");
}

pub fn each_element_of_an_array_is_a_row(database: &Database) {
    database.execute("CREATE TABLE items (ord text, line integer, sku text, n integer CHECK (n > 0))");
    let target = Mapped::new(&[("ord", "/id"), ("line", "$index"), ("sku", "@/sku"), ("n", "@/n")]);
    let target = target.rows("/items", false).table("items");
    assert_eq!(problems(database, &target), Vec::<String>::new());
    let bodies = [
        r#"{"id":"a","items":[{"sku":"x","n":1},{"n":2,"id":"other"}]}"#,
        r#"{"id":"b","items":[]}"#,
        r#"{"id":"c"}"#,
        r#"{"id":"d","items":null}"#,
        r#"{"id":"e","items":[{"sku":"y","n":3}]}"#,
    ];
    let mut sink = database.sink(&target);
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &bodies).await, Ok(()));
        // A row that the database refuses takes its record with it, and a record without rows goes on.
        let poison = r#"{"id":"f","items":[{"n":1},{"n":0}]}"#;
        assert!(is_permanent(&commit(&mut *sink, 5, &[poison]).await));
        assert_eq!(commit(&mut *sink, 5, &bodies[1..3]).await, Ok(()));
        assert_eq!(sink.take_over().await, at(7));
    });
    let all: Rows = database.rows("SELECT * FROM items ORDER BY ord, line");
    let wanted =
        [["a", "0", "x", "1"].map(Some), [Some("a"), Some("1"), None, Some("2")], ["e", "0", "y", "3"].map(Some)];
    assert_eq!(all, wanted.map(|row| null_or(&row)));
    for (items, why) in [("{}", "is no array"), ("7", "is no array"), ("\"[]\"", "is no array")] {
        let refused = refusal(deliver(database, &target, &[&format!(r#"{{"items":{items}}}"#)]));
        assert!(refused.contains(why) && refused.contains("/items"), "{refused}");
    }
}

pub fn an_array_has_bounds_and_may_be_required(database: &Database) {
    database.execute("CREATE TABLE items (n integer, sku text)");
    let required = Mapped::new(&[("n", "$index")]).with("sku", "@", |sku| sku.is_required = true);
    let target = required.rows("", true).table("items");
    let full = format!("[{}]", vec!["7"; ROWS_PER_RECORD_MAX].join(", "));
    assert_eq!(deliver(database, &target, &[&full]), Ok(()));
    let wanted = (ROWS_PER_RECORD_MAX * (ROWS_PER_RECORD_MAX - 1) / 2).to_string();
    assert_eq!(database.value("SELECT sum(n) FROM items"), wanted);
    let too_many = format!("[{}]", vec!["7"; ROWS_PER_RECORD_MAX + 1].join(","));
    for (body, why) in [
        (too_many.as_str(), "more than 10000 elements"),
        ("[]", "is required, and has no element"),
        (r#"["a",null]"#, r#"element 1: column "sku" from "@" is required"#),
    ] {
        let refused = refusal(deliver(database, &target, &[body]));
        assert!(refused.contains(why), "{refused}");
    }
}

pub fn what_rows_share_has_a_bound(database: &Database) {
    let note = database.either("text", "text", "longtext");
    database.execute(&format!("CREATE TABLE items (n integer, note {note})"));
    let target = Mapped::new(&[("n", "@"), ("note", "/note")]).rows("/items", false).table("items");
    let note = "\\u0078".repeat(100_000);
    let body = |rows: usize| format!(r#"{{"note":"{note}","items":[{}]}}"#, vec!["1"; rows].join(","));
    let most = SHARED_BYTES_PER_RECORD_MAX / 100_000;
    let refused = refusal(deliver(database, &target, &[&body(most + 1)]));
    assert!(refused.contains("the same in each of them"), "{refused}");
    assert_eq!(deliver(database, &target, &[&body(3)]), Ok(()));
    assert_eq!(database.value("SELECT sum(length(note)) FROM items"), "300000");
}

pub fn a_statement_runs_for_each_element(database: &Database) {
    database.execute("CREATE TABLE stock (item text PRIMARY KEY, sold integer NOT NULL, note text)");
    database.execute("INSERT INTO stock VALUES ('apple', 0, NULL), ('pear', 0, NULL)");
    let parameters = [("item", "@/item"), ("n", "@/n"), ("note", "/note")];
    let parameters = parameters.map(|(name, source)| (name.to_owned(), source_of(source).into())).to_vec();
    let statement = "UPDATE stock SET sold = sold + :n, note = :note WHERE item = :item".to_owned();
    let rows = Some(Unnest { pointer: "/items".to_owned(), is_required: false });
    let target = Target::Statement { statement, parameters, rows };
    assert_eq!(problems(database, &target), Vec::<String>::new());
    let bodies = [
        r#"{"note":"one","items":[{"item":"apple","n":2},{"item":"pear","n":1}]}"#,
        r#"{"note":"none","items":[]}"#,
        r#"{"note":"two","items":[{"item":"apple","n":3}]}"#,
    ];
    assert_eq!(deliver(database, &target, &bodies), Ok(()));
    let rows = database.rows("SELECT * FROM stock ORDER BY item");
    assert_eq!(rows, [some(&["apple", "5", "two"]), some(&["pear", "1", "one"])]);
}

pub fn an_update_changes_the_row_that_is_there_and_the_last_wins(database: &Database) {
    database.execute(
        "CREATE TABLE orders (id integer, shop varchar(40), total integer CHECK (total < 10), note text DEFAULT 'mine', PRIMARY KEY (id, shop))",
    );
    let target =
        Mapped::new(&[("id", "/id"), ("shop", "/shop"), ("total", "/total")]).update(&["shop", "id"]).table("orders");
    assert_eq!(problems(database, &target), Vec::<String>::new());
    let mut sink = database.sink(&target);
    let order = |id: u32, total: u32| format!(r#"{{"id":{id},"shop":"a","total":{total}}}"#);
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let batch = [order(1, 1), order(2, 2), order(1, 3), order(1, 4), order(3, 5)];
        assert_eq!(commit(&mut *sink, 0, &batch).await, Ok(()));
        assert_eq!(commit(&mut *sink, 5, &[order(2, 6), order(4, 7)]).await, Ok(()));
        // The rest of a transaction is as it was without a conflict: one poison record takes all of it back.
        assert!(is_permanent(&commit(&mut *sink, 7, &[order(1, 9), order(2, 10)]).await));
        assert_eq!(commit(&mut *sink, 7, &[order(3, 8)]).await, Ok(()));
        assert_eq!(sink.take_over().await, at(8));
    });
    let wanted = [["1", "4"], ["2", "6"], ["3", "8"], ["4", "7"]];
    assert_eq!(database.rows("SELECT id, total FROM orders ORDER BY id"), wanted.map(|row| some(&row)));
    assert_eq!(database.value("SELECT count(*) FROM orders WHERE note = 'mine'"), "4");
}

pub fn rows_with_null_in_their_key_are_all_different(database: &Database) {
    database.execute("CREATE TABLE t (a integer, b integer, n integer, UNIQUE (a, b))");
    let target = Mapped::new(&[("a", "/a"), ("b", "/b"), ("n", "$sequence")]).update(&["a", "b"]).table("t");
    let bodies = [r#"{"a":1}"#, r#"{"a":1}"#, r#"{"b":1}"#, "{}", r#"{"a":1,"b":1}"#, r#"{"a":1,"b":1}"#];
    assert_eq!(deliver(database, &target, &bodies), Ok(()));
    let numbers: Vec<_> = database.rows("SELECT n FROM t ORDER BY n").into_iter().flatten().flatten().collect();
    assert_eq!(numbers, ["1", "2", "3", "4", "6"]);
}

pub fn an_ignored_conflict_keeps_the_first(database: &Database) {
    database.execute("CREATE TABLE orders (id integer PRIMARY KEY, total integer CHECK (total < 100))");
    let target = Mapped::new(&[("id", "/id"), ("total", "/total")]).ignore(&["id"]).table("orders");
    assert_eq!(problems(database, &target), Vec::<String>::new());
    let order = |id: u32, total: u32| format!(r#"{{"id":{id},"total":{total}}}"#);
    let bodies = [order(1, 1), order(1, 2), order(2, 3)];
    let bodies: Vec<_> = bodies.iter().map(String::as_str).collect();
    for _ in 0..2 {
        assert_eq!(deliver(database, &target, &bodies), Ok(()));
    }
    assert_eq!(database.rows("SELECT * FROM orders ORDER BY id"), [some(&["1", "1"]), some(&["2", "3"])]);
    // Only what conflict_columns say is ignored.
    assert!(is_permanent(&deliver(database, &target, &[&order(3, 100)])));
}

pub fn upserts_of_elements_are_fenced_as_any_batch(database: &Database) {
    database.execute("CREATE TABLE stock (sku text PRIMARY KEY, n integer)");
    let target = Mapped::new(&[("sku", "@/sku"), ("n", "@/n")]).rows("/items", false).update(&["sku"]).table("stock");
    let (mut older, mut younger) = (database.sink(&target), database.sink(&target));
    let body = r#"{"items":[{"sku":"a","n":1},{"sku":"b","n":2},{"sku":"a","n":3}]}"#;
    database.runtime.block_on(async {
        assert_eq!(older.take_over().await, at(0));
        assert_eq!(younger.take_over().await, at(0));
        assert!(crate::is_fenced(&commit(&mut *older, 0, &[body]).await));
        assert_eq!(commit(&mut *younger, 0, &[body]).await, Ok(()));
        assert!(crate::is_fenced(&commit(&mut *younger, 0, &[body]).await));
        assert_eq!(younger.take_over().await, at(1));
    });
    assert_eq!(database.rows("SELECT * FROM stock ORDER BY sku"), [some(&["a", "3"]), some(&["b", "2"])]);
}

pub fn check_says_what_a_table_needs_for_a_mapping(database: &Database) {
    let orders = || {
        Mapped::new(&[("note", "/note")])
            .with("id", "/id", |id| (id.is_required, id.value_type) = (true, Some(ValueType::Integer)))
            .typed("total", "/total", ValueType::Number)
            .update(&["id"])
            .table("orders")
    };
    let ddl = database.either(
        r#"CREATE TABLE "orders" ("note", "id" INTEGER NOT NULL, "total" NUMERIC, PRIMARY KEY ("id"));"#,
        r#"CREATE TABLE "orders" ("note" text, "id" bigint NOT NULL, "total" numeric, PRIMARY KEY ("id"));"#,
        "CREATE TABLE `orders` (`note` text, `id` bigint NOT NULL, `total` decimal(38,10), PRIMARY KEY (`id`)) CHARACTER SET utf8mb4;",
    );
    one_problem(database, &orders(), &["does not exist", ddl]);
    database.execute("CREATE TABLE orders (id integer, totall numeric, note text)");
    one_problem(database, &orders(), &["no column \"total\"", "Did you mean \"totall\"?", "ADD COLUMN \"total\""]);
    database.execute("ALTER TABLE orders RENAME COLUMN totall TO total");
    one_problem(
        database,
        &orders(),
        &["no primary key or unique index of just \"id\"", "CREATE UNIQUE INDEX", "ON \"orders\" (\"id\");"],
    );
    // What it says is enough.
    database.execute("CREATE UNIQUE INDEX one ON orders (id)");
    assert_eq!(problems(database, &orders()), Vec::<String>::new());
    assert_eq!(deliver(database, &orders(), &[r#"{"id":1,"total":2}"#, r#"{"id":1,"total":3}"#]), Ok(()));
    assert_eq!(database.value("SELECT total FROM orders"), database.either("3", "3", "3.00"));
}

pub fn check_knows_what_a_type_cannot_be(database: &Database) {
    let strict = database.either(" STRICT", "", "");
    database.execute(&format!(
        "CREATE TABLE t (i integer, t text, b {}, x {}){strict}",
        database.either("blob", "bytea", "longblob"),
        database.either("any", "json", "json")
    ));
    for (column, value_type, is_fit) in [
        ("i", ValueType::Integer, true),
        ("i", ValueType::Number, false),
        ("i", ValueType::Text, false),
        ("i", ValueType::UnixMs, false),
        ("i", ValueType::Json, false),
        ("t", ValueType::Text, true),
        ("t", ValueType::Timestamp, true),
        ("t", ValueType::Bytes, false),
        ("b", ValueType::Bytes, true),
        ("b", ValueType::Text, true),
        ("x", ValueType::Json, true),
        ("x", ValueType::Integer, true),
    ] {
        let target = Mapped::new(&[]).typed(column, "/v", value_type).table("t");
        if is_fit {
            assert_eq!(problems(database, &target), Vec::<String>::new(), "{column} {value_type:?}");
        } else {
            let mapped = format!("cannot take what is mapped to it as {};", value_type.word());
            let mapped = database.either(mapped.clone(), mapped.replace(';', "."), mapped.clone());
            one_problem(database, &target, &[&format!("The column \"{column}\" of \"t\" is "), &mapped]);
        }
    }
    // What fits goes in.
    let fit = Mapped::new(&[])
        .typed("i", "/i", ValueType::Integer)
        .typed("t", "/t", ValueType::Text)
        .typed("b", "/b", ValueType::Bytes)
        .typed("x", "/x", ValueType::Json);
    let fit = fit.table("t");
    assert_eq!(deliver(database, &fit, &[r#"{"i":1,"t":"a","b":"aGk=","x":[1]}"#]), Ok(()));
    assert_eq!(database.rows("SELECT * FROM t"), [some(&["1", "a", "\\x6869", "[1]"])]);
    // A constant is looked at too, and so is a value whose type nobody has to say.
    let constant = |text: &'static str| {
        let value = Source::Constant(Value::Text(text.into()));
        Mapped::new(&[]).with("i", "", |assignment| assignment.source = value).table("t")
    };
    let wanted = ["cannot take what is mapped to it as text", "cannot take the constant or default of the mapping"];
    one_problem(database, &constant("new"), &[database.either(wanted[0], wanted[1], wanted[0])]);
    assert_eq!(problems(database, &constant("7")), Vec::<String>::new());
    one_problem(database, &Mapped::new(&[("i", "$received_at")]).table("t"), &["as timestamp"]);
}
