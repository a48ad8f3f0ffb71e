//! What each kind of value may be: names, numbers, sizes, rates, addresses, sources.

use forebay::config::{OptionRule, OptionValues, SinkKind, Takes, UrlRule};

use super::*;

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
        ("type = \"oracle\"", 2, "write `sqlite`, `postgres`"),
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

/// A key that several kinds have is refused to the others once, on its line.
#[test]
fn an_option_of_other_kinds_is_refused_once_and_on_its_line() {
    const fn kind(name: &'static str, options: &'static [OptionRule]) -> SinkKind {
        let url = UrlRule { prefixes: &[], example: "", is_required: false };
        SinkKind { name, title: name, url, takes: Takes::Own, options }
    }
    const DEPTH: OptionRule = OptionRule { key: "depth", values: OptionValues::Integer { default: 1, min: 1, max: 9 } };
    static BARREL: SinkKind = kind("barrel", &[]);
    static WELL: SinkKind = kind("well", &[DEPTH]);
    static POND: SinkKind = kind("pond", &[DEPTH]);
    let said = |sink: &str| {
        let text = format!("{SMALLEST}[queues.orders.sink]\n{sink}\n");
        config::parse(&text, "test.toml", &|_| None, &[&BARREL, &WELL, &POND])
            .map_err(|errors| errors.errors().to_vec())
    };
    let errors = said("type = \"barrel\"\n\ndepth = 2").unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    let wanted = "`queues.orders.sink.depth` belongs to `type = \"well\"` or `type = \"pond\"`, but `type` is `barrel`; remove it";
    assert_eq!((errors[0].line, &*errors[0].message), (7, wanted));
    assert_eq!(said("type = \"pond\"\ndepth = 2").unwrap().queues["orders"].sink.options.integer("depth"), 2);
}
