//! Configuration files: what they may say, and that every error is found, placed and worded.

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

use std::collections::BTreeSet;

use forebay::config::{
    Ack, Config, ConfigError, Listener, Protocol, SinkKind, Source, Target, known_keys, load, parse,
};
use proptest::prelude::*;
use toml::de::{DeTable, DeValue};

const FULL: &str = include_str!("../config/forebay.toml");
const FLASH_SALE: &str = include_str!("../config/flash-sale.toml");
const SMALLEST: &str = "[[listeners]]\naddress = \"0.0.0.0:8080\"\n[queues.orders]\n";

fn read(text: &str) -> Result<Config, Vec<ConfigError>> {
    parse(text, "test.toml", &|_| None).map_err(|errors| errors.errors().to_vec())
}

fn sound(text: &str) -> Config {
    read(text).unwrap_or_else(|errors| panic!("{errors:#?}\nin\n{text}"))
}

/// The errors of the smallest file with `rest` behind it; line 1 is the first of `rest`.
fn errors(rest: &str) -> Vec<(usize, String)> {
    let errors = read(&format!("{SMALLEST}{rest}")).expect_err(rest);
    errors.into_iter().map(|error| (error.line - 3, error.message)).collect()
}

/// Asserts that there is just one error, and that its message has all of `parts` in it.
fn one_error(rest: &str, line: usize, parts: &[&str]) {
    let errors = errors(rest);
    assert_eq!(errors.len(), 1, "{rest}: {errors:#?}");
    assert_eq!(errors[0].0, line, "{rest}: {errors:#?}");
    for part in parts {
        assert!(errors[0].1.contains(part), "{rest}: {part:?} is not in {:?}", errors[0].1);
    }
}

fn accepted(rest: &str) -> Config {
    sound(&format!("{SMALLEST}{rest}"))
}

/// The reference file with its examples switched on.
fn uncommented() -> String {
    let example = |line: &str| {
        line.starts_with("#[[") || (line.starts_with('#') && !line.starts_with("# ") && line.contains(" = "))
    };
    FULL.lines().map(|line| if example(line) { &line[1..] } else { line }).collect::<Vec<_>>().join("\n")
}

fn leaves(table: &DeTable<'_>, path: &str, found: &mut BTreeSet<String>) {
    for (name, value) in table {
        let name = if path == "queues" { "*" } else { name.get_ref() };
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match value.get_ref() {
            DeValue::Table(_) if name == "columns" || name == "parameters" => {
                found.insert(path);
            }
            DeValue::Table(table) => leaves(table, &path, found),
            DeValue::Array(array) => {
                array.iter().filter_map(|item| item.get_ref().as_table()).for_each(|table| leaves(table, &path, found));
            }
            _ => {
                found.insert(path);
            }
        }
    }
}

#[test]
fn the_reference_file_says_what_the_smallest_file_means() {
    assert_eq!(sound(FULL), sound(SMALLEST));
}

#[test]
fn the_reference_file_shows_every_option_and_no_other() {
    let text = uncommented();
    let mut shown = BTreeSet::new();
    leaves(DeTable::parse(&text).unwrap().get_ref(), "", &mut shown);
    assert_eq!(shown, known_keys());
}

#[test]
fn each_option_of_the_reference_file_has_one_line_of_comment() {
    let lines: Vec<&str> = FULL.lines().collect();
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.contains(" = ") && !line.starts_with("# ")) {
        assert!(lines[index - 1].starts_with("# "), "no comment above {line:?}");
        assert!(!lines[index - 2].starts_with("# "), "more than one line above {line:?}");
    }
}

#[test]
fn the_examples_of_the_reference_file_work() {
    let without = |keys: &[&str]| {
        let text = uncommented().replace("type = \"sqlite\"", "type = \"postgres\"");
        let kept = text.lines().filter(|line| !keys.iter().any(|key| line.starts_with(&format!("{key} = "))));
        sound(&kept.collect::<Vec<_>>().join("\n")).queues["orders"].sink.target.clone()
    };
    assert!(matches!(without(&["statement", "parameters"]), Target::Table { columns, .. } if columns.len() == 4));
    assert!(matches!(without(&["table", "columns"]), Target::Statement { parameters, .. } if parameters.len() == 1));
}

#[test]
fn the_flash_sale_file_works_with_and_without_its_variable() {
    let sink = &sound(FLASH_SALE).queues["orders"].sink;
    assert_eq!((sink.kind, sink.url.as_str()), (SinkKind::Postgres, "postgres://shop@127.0.0.1/shop"));
    let Target::Table { table, columns } = &sink.target else { panic!("{:?}", sink.target) };
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(table, "orders");
    let order = ["order_id", "customer_id", "first_sku", "total_cents", "ticket", "placed_at", "document"];
    assert_eq!(names, order, "the order is that of the file");
    assert_eq!(columns[4].1, Source::Ticket);
    let config =
        parse(FLASH_SALE, "f", &|name| (name == "DATABASE_URL").then(|| "postgres://db/x".to_owned())).unwrap();
    assert_eq!(config.queues["orders"].sink.url, "postgres://db/x");
    assert_eq!(config.queues["orders"].shaping.rate.to_string(), "5000/s");
}

#[test]
fn the_smallest_file_has_every_default() {
    let config = sound(SMALLEST);
    assert_eq!(config.listeners, [Listener { protocol: Protocol::Http, address: "0.0.0.0:8080".parse().unwrap() }]);
    assert_eq!(config.admin.address, "127.0.0.1:8081".parse().unwrap());
    assert_eq!(config.data_dir.to_str(), Some("./data"));
    assert_eq!(config.ingress.executors, 0);
    let queue = &config.queues["orders"];
    assert_eq!((queue.ack, queue.shaping.rate.to_string().as_str()), (Ack::Durable, "1000/s"));
    assert_eq!((queue.sink.kind, queue.sink.url.as_str()), (SinkKind::Sqlite, ""));
    assert_eq!(queue.sink.target, Target::Created { table: "forebay_orders".to_owned() });
    let dashed = accepted("[queues.a-b]").queues["a-b"].sink.target.clone();
    assert_eq!(dashed, Target::Created { table: "forebay_a_b".to_owned() });
}

#[test]
fn all_errors_are_reported_at_once_with_their_lines() {
    let text = "data_dir = 7\nlistners = 1\n\n[[listeners]]\naddress = \"localhost:80\"\n[[listeners]]\n[ingress]\nexecutors = -1\n\
                record_bytes_max = \"much\"\n[journal]\nring_bytes = 1.5\n[queues.Orders]\nrat = \"1/s\"\nrate = \"1/day\"\n\
                ack = \"durible\"\n[queues.Orders.sink]\ntype = \"postgres\"\ntable = \"a.b.c\"\n";
    let errors = parse(text, "my.toml", &|_| None).unwrap_err();
    let lines: Vec<usize> = errors.errors().iter().map(|error| error.line).collect();
    assert_eq!(lines, [1, 2, 5, 6, 8, 9, 11, 12, 13, 14, 15, 17, 18, 18], "{errors}");
    let shown = errors.to_string();
    assert_eq!(shown.lines().count(), 14);
    assert!(
        shown.starts_with("my.toml:1: `data_dir` must be a string, not an integer; write `data_dir = \"./data\"`\n")
    );
    assert!(shown.contains("\nmy.toml:13: unknown key `rat`; did you mean `rate`?\n"), "{shown}");
    assert_eq!(errors.errors()[2].key, "listeners.address");
    assert_eq!(errors.errors()[9].key, "queues.Orders.rate");
}

#[test]
fn what_is_not_toml_is_placed_too() {
    let errors = read("a = 1\nb = \nc = 2\nd = 'x\n").unwrap_err();
    assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [2, 4], "{errors:#?}");
    assert!(errors[0].message.starts_with("this is not TOML ("));
    one_error("rate = \"1/s\"\nrate = \"2/s\"", 2, &["twice"]);
    one_error("[queues.orders]", 1, &["twice"]);
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("forebay.toml");
    let missing = load(&path).unwrap_err();
    assert_eq!(missing.errors()[0].line, 0);
    assert!(missing.to_string().starts_with(&format!("{}: cannot be read (", path.display())), "{missing}");
    std::fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
    assert_eq!(load(&path).unwrap_err().errors()[0].line, 2);
    std::fs::write(&path, vec![b'\n'; 2 << 20]).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("larger than 1MiB"));
    std::fs::write(&path, SMALLEST).unwrap();
    assert_eq!(load(&path).unwrap(), sound(SMALLEST));
}

#[test]
fn an_unknown_key_names_the_nearest_or_all() {
    one_error("rat = \"1/s\"", 1, &["unknown key `rat`; did you mean `rate`?"]);
    one_error("[queues.orders.sink]\nurll = \"postgres://u:hunter2@h/d\"", 2, &["did you mean `url`?"]);
    one_error("[shutdown]\nzzz = 1", 2, &["unknown key `zzz`; the keys here are `grace_ms`"]);
    one_error("[ingres]\n", 1, &["did you mean `ingress`?"]);
    one_error("\"a\\nb\" = 1", 1, &["unknown key `\"a\\nb\"`; the keys here are `rate`, `burst`"]);
    one_error(&format!("{} = 1", "k".repeat(5000)), 1, &["unknown key `kkk"]);
}

#[test]
fn variables_are_replaced_in_values_only() {
    let env = |name: &str| match name {
        "INJECT" => Some("x\"\nack = \"memory\"\n[queues.evil]\n# ${NAME} $${A}".to_owned()),
        "NAME" => Some("n".to_owned()),
        "EMPTY" => Some(String::new()),
        "SIZE" => Some("2MiB".to_owned()),
        _ => None,
    };
    let data_dir = |value: &str| {
        let config = parse(&format!("data_dir = '{value}'\n{SMALLEST}"), "f", &env).unwrap();
        assert_eq!((config.queues.len(), config.queues["orders"].ack), (1, Ack::Durable));
        config.data_dir.to_str().unwrap().to_owned()
    };
    assert_eq!(data_dir("${INJECT}"), env("INJECT").unwrap(), "nothing in a variable is read again");
    for (given, meant) in [
        ("/a/${NAME}/${NAME}", "/a/n/n"),
        ("${MISSING:-d}", "d"),
        ("${MISSING:-}x", "x"),
        ("${EMPTY:-d}", "d"),
        ("a${EMPTY}", "a"),
        ("${NAME:-d}", "n"),
        ("$${NAME}", "${NAME}"),
        ("$$${NAME}", "$${NAME}"),
        ("$NAME $$ $$x $ {a} $", "$NAME $$ $$x $ {a} $"),
    ] {
        assert_eq!(data_dir(given), meant, "{given}");
    }
    let sized = parse(&format!("{SMALLEST}max_backlog_bytes = \"${{SIZE}}\""), "f", &env).unwrap();
    assert_eq!(sized.queues["orders"].max_backlog_bytes, 2 << 20);
    let errors =
        errors("rate = \"${A}${B}\"\nack = \"${A\"\n[queues.orders.sink]\nurl = \"${a b}\"\ntable = \"${A:-${B}}\"");
    let parts = ["variable `A`", "variable `B`", "without its `}`", "names no variable", "another `${`"];
    assert_eq!(errors.len(), 5, "{errors:#?}");
    for (error, part) in errors.iter().zip(parts) {
        assert!(error.1.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn credentials_are_never_shown() {
    let url = "postgres://u:hunter2@h/d";
    for rest in [
        "[queues.orders.sink]\nurl = \"mysql://u:hunter2@h/d\"\ntype = \"postgres\"",
        "[queues.orders.sink]\nurl = \"u:hunter2@h/d\"\ntype = \"postgres\"",
        "[queues.orders.sink]\nurl = \"postgres://u:hunter2@h/d\"",
        "[queues.orders.sink]\nurl = [\"postgres://u:hunter2@h/d\"]",
        "[queues.orders.sink]\nurl = \"postgres://u:hunter2${x y}@h/d\"",
        "[queues.orders.sink]\nurl = \"postgres://u:hunter2@h/${MISSING}\"",
        "[queues.orders.sink]\nurl = \"postgres://u:hunter2@h/d",
        "[queues.orders.sink]\nurl = postgres://u:hunter2@h/d",
        "[queues.orders.sink]\nurl = \"postgres://u:hunter2\\q@h/d\"",
        "[queues.orders]\nsink = \"postgres://u:hunter2@h/d\"",
        "ack = \"${SECRET}\"\nrate = \"${SECRET}\"\nmax_backlog_bytes = \"${SECRET}\"",
        "[queues.orders.sink]\ntype = \"${SECRET}\"\ntable = \"${SECRET}\"\ncolumns = { a = \"${SECRET}\" }",
        "[admin]\naddress = \"${SECRET}\"",
        "[admin]\naddress = \"${SECRET:-hunter2}:x\"",
        "[journal]\nring_bytes = \"${NUMBER}\"",
        "[journal]\ncommit_bytes_max = \"${NUMBER}\"",
    ] {
        let env = |name: &str| match name {
            "SECRET" => Some(url.to_owned()),
            "NUMBER" => Some("12289".to_owned()),
            _ => None,
        };
        let errors = parse(&format!("{SMALLEST}{rest}"), "f", &env).expect_err(rest);
        let shown = format!("{errors} {errors:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("12289") && !shown.contains("12KiB"), "{shown}");
    }
}

#[test]
fn listeners_have_addresses_of_their_own() {
    let listener = |address: &str| format!("[[listeners]]\naddress = \"{address}\"\n");
    let said = |rest: &str| read(&format!("{rest}[queues.a]\n")).map_err(|errors| errors[0].to_string());
    assert!(said(&listener("[::1]:80")).is_ok());
    assert!(said(&[listener("0.0.0.0:0"), listener("0.0.0.0:0")].concat()).is_ok());
    for (rest, part) in [
        (listener(":8080"), "write `0.0.0.0:8080`"),
        (listener("localhost:8080"), "write `127.0.0.1:8080`"),
        (listener("shop.example:8080"), "write an IP address"),
        (listener("::1:8080"), "write `[::1]:8080`"),
        (listener("10.0.0.1"), "the port is missing"),
        (listener("10.0.0.1:70000"), "write an IP address"),
        (listener("127.0.0.1:8081"), "takes the default of `admin.address`"),
        (listener("0.0.0.0:8081"), "takes the default of `admin.address`"),
        (
            [listener("1.1.1.1:80"), listener("1.1.1.1:80")].concat(),
            "test.toml:4: `listeners.address` takes the address of line 2",
        ),
        (listener("1.1.1.1:80") + "[admin]\naddress = \"1.1.1.1:80\"\n", "test.toml:4: `admin.address` takes"),
        ("[[listeners]]\nprotocol = \"http\"\n".to_owned(), "test.toml:1: `listeners.address` is missing"),
        (listener("1.1.1.1:80") + "protocol = \"htp\"\n", "did you mean `http`?"),
        (String::new(), "write `[[listeners]]`"),
        ("listeners = []\n".to_owned(), "write `[[listeners]]`"),
        ("listeners = [1]\n".to_owned(), "holds something"),
        ("[listeners]\naddress = \"1.1.1.1:80\"\n".to_owned(), "two brackets"),
        (
            (0..65).map(|n| listener(&format!("1.1.1.1:{}", 100 + n))).collect(),
            "test.toml:129: `listeners` has more than 64",
        ),
    ] {
        let error = said(&rest).unwrap_err();
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn queues_have_names_that_are_directories() {
    for name in ["a", "0", "orders_2-b", &"q".repeat(64)] {
        accepted(&format!("[queues.{name}]"));
    }
    for name in ["\"\"", "Orders", "_a", "-a", "\"a/b\"", "\"..\"", "\"ä\"", "\"a\\nb\"", &"q".repeat(65)] {
        one_error(&format!("[queues.{name}]"), 1, &["cannot be a queue's name", "a-z"]);
    }
    let many: String = (0..256).map(|n| format!("[queues.q{n}]\n")).collect();
    one_error(&many, 256, &["more than 256"]);
    one_error("[queues]\nx = 1", 2, &["write `[queues.x]`"]);
    let none = read("[[listeners]]\naddress = \"1.1.1.1:1\"").unwrap_err();
    assert!(none.len() == 1 && none[0].message.contains("write `[queues.orders]`"), "{none:?}");
    let same = "[queues.a_b.sink]\nurl = \"x.db\"\n[queues.a-b.sink]\nurl = \"x.db\"";
    one_error(same, 3, &["same table as `queues.a_b`"]);
}

#[test]
fn numbers_have_ranges() {
    let hour = 3_600_000_i64;
    let (mib, gib) = (1_i64 << 20, 1_i64 << 30);
    for (section, key, min, max) in [
        ("ingress", "executors", 0, 256),
        ("ingress", "connections_max", 1, 1_000_000),
        ("ingress", "head_bytes_max", 8192, mib),
        ("ingress", "head_timeout_ms", 1, hour),
        ("ingress", "body_timeout_ms", 1, hour),
        ("ingress", "idle_timeout_ms", 1, 24 * hour),
        ("ingress", "record_bytes_max", 1, 4 * mib),
        ("ingress", "batch_request_bytes_max", 1, 8 * mib - 1),
        ("ingress", "batch_request_records_max", 1, 1_000_000),
        ("ingress", "in_flight_max", 1, 1_000_000),
        ("ingress", "body_bytes_in_flight_max", 1, 64 * gib),
        ("journal", "ring_bytes", 8 * mib, gib),
        ("journal", "segment_bytes", 8 * mib + 8192, 4 * gib),
        ("journal", "spare_segments", 0, 64),
        ("journal", "hot_ring_bytes", 4096, gib),
        ("shutdown", "grace_ms", 0, hour),
        ("queues.q", "max_backlog_bytes", 1, 1 << 50),
        ("queues.q", "idempotency_window_ms", 0, 7 * 24 * hour),
        ("queues.q", "idempotency_keys_max", 1, 100_000_000),
        ("queues.q", "dead_letters_bytes_max", 1, 1 << 40),
        ("queues.q.batch", "records_max", 1, 1_000_000),
        ("queues.q.batch", "bytes_max", 1, gib),
        ("queues.q.batch", "linger_ms_max", 0, 60_000),
        ("queues.q.retry", "backoff_ms_min", 1, 10_000),
        ("queues.q.retry", "backoff_ms_max", 100, hour),
        ("queues.q.retry", "attempts_max", 1, 1_000_000),
        ("queues.q.retry", "age_ms_max", 1, 3660 * 24 * hour),
        ("queues.q.sink", "connect_timeout_ms", 1, hour),
        ("queues.q.sink", "commit_timeout_ms", 1, hour),
    ] {
        let with = |value: String| format!("[{section}]\n{key} = {value}");
        accepted(&with(min.to_string()));
        accepted(&with(max.to_string()));
        one_error(&with((min - 1).to_string()), 2, &[key, "write"]);
        one_error(&with((max + 1).to_string()), 2, &[key, "write"]);
        one_error(&with("1.5".to_owned()), 2, &[key, "write"]);
        one_error(&with("99999999999999999999999".to_owned()), 2, &[key, "write"]);
        if !key.contains("bytes") {
            one_error(&with("\"1\"".to_owned()), 2, &["must be an integer, not a string", "without quotes"]);
        }
    }
}

#[test]
fn sizes_have_units() {
    for (given, bytes) in [
        ("\"10GiB\"", 10 << 30),
        ("\"1GB\"", 1_000_000_000),
        ("\"64 MiB\"", 64 << 20),
        ("0x10", 16),
        ("1_000", 1000),
        ("\"7\"", 7),
    ] {
        let config = accepted(&format!("max_backlog_bytes = {given}"));
        assert_eq!(config.queues["orders"].max_backlog_bytes, bytes, "{given}");
    }
    for given in ["\"\"", "\"ten\"", "\"-1KiB\"", "\"10 parsec\"", "\"99999EiB\"", "true", "0"] {
        one_error(
            &format!("max_backlog_bytes = {given}"),
            1,
            &["`queues.orders.max_backlog_bytes` cannot be", "from 1 to 1PiB"],
        );
    }
}

#[test]
fn sizes_agree_with_each_other() {
    let tiny = "[ingress]\nrecord_bytes_max = 1\nbatch_request_bytes_max = 8191\n[journal]\nring_bytes = 8192\n\
                commit_bytes_max = 8192\nsegment_bytes = 65536";
    assert_eq!(accepted(tiny).journal.segment_bytes, 65_536);
    let (ring, commit, segment) = ("`journal.ring_bytes`", "`journal.commit_bytes_max`", "`journal.segment_bytes`");
    for (rest, parts) in [
        (
            "[ingress]\nrecord_bytes_max = \"5MiB\"",
            [commit, "(8MiB) must be at least twice", "\"10MiB\"` in `[journal]`"],
        ),
        ("[ingress]\nbatch_request_bytes_max = \"8MiB\"", [commit, "more than", "`ingress.batch_request_bytes_max`"]),
        ("[journal]\nring_bytes = \"4MiB\"", [ring, "(4MiB) must be at least", "`journal.commit_bytes_max` (8MiB)"]),
        ("[journal]\nsegment_bytes = \"8MiB\"", [segment, "8KiB more than", "`segment_bytes = \"8200KiB\"`"]),
        ("[journal]\nsegment_bytes = 67108865", [segment, "a multiple of 4096", "67112960"]),
        ("[journal]\ncommit_bytes_max = \"9MB\"", [commit, "a multiple of 4096", "9003008"]),
        (
            "[queues.q.retry]\nbackoff_ms_min = 20000",
            ["`queues.q.retry.backoff_ms_max` (10000)", "backoff_ms_min", "20000"],
        ),
    ] {
        one_error(rest, 2, &parts);
    }
    one_error("[journal]\ncommit_bytes_max = true\nring_bytes = \"8KiB\"", 2, &["commit_bytes_max"]);
}

#[test]
fn rates_and_choices_are_read() {
    assert_eq!(accepted("rate = \"unlimited\"\nack = \"memory\"").queues["orders"].ack, Ack::Memory);
    one_error("rate = 5000", 1, &["`queues.orders.rate` must be a string, not an integer", "rate = \"1000/s\""]);
    one_error("rate = \"5000\"", 1, &["cannot be \"5000\"", "\"5000/s\""]);
    one_error("ack = \"durble\"", 1, &["did you mean `durable`?"]);
    one_error("ack = \"never\"", 1, &["write `durable` or `memory`"]);
    one_error("sink = 5", 1, &["`queues.orders.sink` is a section; write `[queues.orders.sink]`"]);
}

#[test]
fn sinks_have_one_kind_of_target() {
    let sink = |keys: &str| format!("[queues.orders.sink]\n{keys}");
    for (keys, line, part) in [
        ("table = \"t\"", 2, "needs `columns`"),
        ("columns = { a = \"$body\" }", 2, "needs `queues.orders.sink.table`"),
        ("statement = \"SELECT 1\"\ntable = \"t\"\ncolumns = { a = \"$body\" }", 2, "cannot stand beside `table`"),
        ("statement = \"SELECT 1\"\ncolumns = { a = \"$body\" }", 2, "cannot stand beside `columns`"),
        ("parameters = { a = \"/a\" }", 2, "needs `queues.orders.sink.statement`"),
        ("table = \"t\"\ncolumns = {}", 3, "is empty"),
        ("table = \"t\"\ncolumns = 5", 3, "must be a table"),
        ("table = \"t\"\ncolumns = { a = 5 }", 3, "must be a string, not an integer"),
        ("statement = \" \"", 2, "must be one SQL statement"),
        ("statement = \"SELECT :a\"\nparameters = { \":a\" = \"/a\" }", 3, "without a colon"),
        ("table = \"1t\"\ncolumns = { a = \"$body\" }", 2, "cannot be \"1t\""),
        ("table = \"a.b.c\"\ncolumns = { a = \"$body\" }", 2, "`schema.name`"),
        ("table = \"a b\"\ncolumns = { a = \"$body\" }", 2, "`schema.name`"),
        ("table = \"t\"\n[queues.orders.sink.columns]\n\n\"\" = \"$body\"", 5, "cannot be a column's name"),
        ("type = \"postgres\"", 2, "`queues.orders.sink.url` is missing"),
        ("type = \"postgres\"\nurl = \"db\"", 3, "must start with `postgres://`"),
        ("url = \"postgresql://db\"", 2, "write `type = \"postgres\"`"),
        ("type = \"mysql\"", 2, "write `sqlite` or `postgres`"),
    ] {
        one_error(&sink(keys), line, &[part]);
    }
    let long = format!("[queues.{}.sink]\ntype = \"postgres\"\nurl = \"postgres://h\"", "q".repeat(56));
    one_error(&long, 1, &["too long to name a table"]);
    let statement = sink("statement = \"DO $$x$$\"\n[queues.orders.sink.parameters]\nz = \"/z\"\na = \"$key\"");
    let parameters = vec![("z".to_owned(), Source::Pointer("/z".to_owned())), ("a".to_owned(), Source::Key)];
    let target = Target::Statement { statement: "DO $$x$$".to_owned(), parameters };
    assert_eq!(accepted(&statement).queues["orders"].sink.target, target);
}

#[test]
fn sources_are_pointers_or_known_names() {
    let column = |value: &str| format!("[queues.orders.sink]\ntable = \"s.t$1\"\ncolumns = {{ \"a b\" = '{value}' }}");
    let pointers = ["/", "/a/0", "/a~0b~1c"];
    let names =
        ["$ticket", "$sequence", "$queue", "$received_at", "$key", "$idempotency_key", "$content_type", "$body"];
    pointers.iter().chain(&names).for_each(|value| drop(accepted(&column(value))));
    for (value, part) in [
        ("", "write `$body` for the whole body"),
        ("/a~2", "write `~0` for `~`"),
        ("/a~", "write `~0` for `~`"),
        ("$tickt", "did you mean `$ticket`?"),
        ("body", "did you mean `$body`?"),
        ("order_id", "a JSON pointer such as \"/order_id\", or `$ticket`, `$sequence`"),
    ] {
        one_error(&column(value), 3, &["`queues.orders.sink.columns.\"a b\"`", part]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_makes_it_panic(text in any::<String>(), toml_like in "([a-z\\[\\]{}=\"'.,#$\n ]|queues|= 1\n|\\[\\[listeners\\]\\]){0,60}") {
        let _ = parse(&text, "f", &|_| None);
        let _ = parse(&toml_like, "f", &|_| None);
    }

    #[test]
    fn no_change_to_a_sound_file_makes_it_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<(prop::sample::Index, prop::sample::Index)>(),
        swaps in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..8),
    ) {
        let text = uncommented();
        let mut lines: Vec<&str> = text.lines().collect();
        for (a, b) in swaps {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            lines.swap(a, b);
        }
        let mut bytes = lines.join("\n").into_bytes();
        for (index, value) in flips {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        let start = cut.0.index(bytes.len());
        bytes.drain(start..(start + cut.1.index(60)).min(bytes.len()));
        let changed = String::from_utf8_lossy(&bytes);
        if let Err(errors) = parse(&changed, "f", &|_| None) {
            prop_assert!(!errors.errors().is_empty());
            prop_assert!(errors.errors().iter().all(|error| (1..=changed.lines().count() + 1).contains(&error.line)));
            prop_assert_eq!(errors.to_string().lines().count(), errors.errors().len());
        }
    }
}
