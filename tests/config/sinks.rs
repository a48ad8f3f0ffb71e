//! Queues with several sinks.

use forebay::config::Outlet;
use forebay::limits::SINKS_MAX;

use super::*;

const ANALYTICS: &str = "[queues.orders.sinks.analytics]\n";

fn analytics(keys: &str) -> Outlet {
    accepted(&format!("{ANALYTICS}{keys}")).queues["orders"].sinks["analytics"].clone()
}

#[test]
fn another_sink_has_the_defaults_of_a_queue_of_its_own() {
    let queue = sound(SMALLEST).queues["orders"].clone();
    let table = Target::Created { table: "forebay_orders_analytics".to_owned() };
    let usual = Outlet { sink: forebay::config::Sink { target: table, ..queue.sink.clone() }, ..queue.main_outlet() };
    assert_eq!(analytics(""), usual);
    // Whatever the queue itself has.
    let text = "[[listeners]]\naddress = \"0.0.0.0:8080\"\n[queues.orders]\nrate = \"5/s\"\norder = \"key\"\n";
    let other = sound(&format!("{text}{ANALYTICS}")).queues["orders"].clone();
    assert_eq!((other.sinks["analytics"].clone(), other.shaping.rate.to_string()), (usual, "5/s".to_owned()));
}

#[test]
fn its_keys_stand_side_by_side() {
    let full = analytics(
        "rate = \"5/s\"\nburst = 3\norder = \"none\"\nfair_by = \"pointer:/tenant\"\nconcurrency = 4\ntime_zone = \"UTC\"\n\
         dead_letters_bytes_max = \"1MiB\"\nbatch = { records_max = 7 }\nretry = { failures_max = 9 }\nthrottle = { by = \
         \"key\", limit = 1 }\nwindow = { records_max = 8 }\nadaptive = { mode = \"off\" }\nschedule = [{ from = \"20:00\", to = \
         \"23:00\", rate = \"1/s\" }]\ntype = \"postgres\"\nurl = \"postgres://shop@db/shop\"\ntable = \"orders\"\ncolumns = { \
         body = \"$body\" }\nconnect_timeout_ms = 1\ncommit_timeout_ms = 2",
    );
    assert_eq!((full.shaping.rate.to_string(), full.shaping.burst), ("5/s".to_owned(), Some(3)));
    assert_eq!((full.shaping.batch.records_max, full.shaping.retry.failures_max), (7, 9));
    assert_eq!((full.shaping.concurrency, full.ordering.window.records_max), (4, 8));
    assert_eq!((full.dead_letters_bytes_max, full.sink.kind.name), (1 << 20, "postgres"));
    assert_eq!((full.sink.connect_timeout_ms, full.sink.commit_timeout_ms), (1, 2));
    assert!(matches!(full.sink.target, Target::Table { .. }));
}

#[test]
fn what_is_wrong_with_one_is_said_where_it_stands() {
    for (keys, parts) in [
        ("rate = \"fast\"", ["`queues.orders.sinks.analytics.rate` cannot be", "write records per time"]),
        ("type = \"postgres\"", ["`queues.orders.sinks.analytics.url` is missing", "write"]),
        ("concurrency = 2", ["`queues.orders.sinks.analytics.concurrency` lets records leave", "write"]),
        ("ack = \"memory\"", ["unknown key `ack`", ""]),
        ("max_backlog_bytes = 5", ["unknown key `max_backlog_bytes`", ""]),
        ("tabel = \"x\"", ["unknown key `tabel`; did you mean `table`?", ""]),
    ] {
        one_error(&format!("{ANALYTICS}{keys}"), 2, &parts);
    }
    let delay = format!("{ANALYTICS}order = \"none\"\ndelay_ms_max = 5");
    one_error(&delay, 1, &["says what clients may ask for", "in the queue's own section"]);
    let header = format!("{ANALYTICS}order = \"none\"\nfair_by = \"header:X-Tenant\"");
    one_error(&header, 1, &["`queues.orders.sinks.analytics.fair_by` names a header of which records keep nothing"]);
    let throttled = format!("{ANALYTICS}order = \"none\"\nthrottle = {{ by = \"header:X-Tenant\", limit = 1 }}");
    one_error(&throttled, 1, &["throttle.by` names a header", "write \"key\""]);
    one_error("sinks = 5", 1, &["`queues.orders.sinks` holds sections; write `[queues.orders.sinks.NAME]`"]);
    one_error("sinks = { analytics = 5 }", 1, &["`queues.orders.sinks.analytics` is a section"]);
    one_error("[queues.orders.sinks.\"Big Data\"]", 1, &["cannot be a sink's name", "a-z, 0-9"]);
}

#[test]
fn a_header_that_the_queue_keeps_serves_its_sinks_too() {
    let text =
        "[[listeners]]\naddress = \"0.0.0.0:8080\"\n[queues.orders]\norder = \"none\"\nfair_by = \"header:X-Tenant\"\n";
    let throttle = "order = \"none\"\nthrottle = { by = \"header:x-tenant\", limit = 1 }\n";
    let queue = sound(&format!("{text}{ANALYTICS}{throttle}")).queues["orders"].clone();
    assert_eq!(queue.sinks["analytics"].ordering.throttle_header(), queue.ordering.fair_header());
}

#[test]
fn a_queue_has_so_many_sinks_and_no_more() {
    let sinks = |count: usize| (0..count).map(|n| format!("[queues.orders.sinks.s{n}]\n")).collect::<String>();
    assert_eq!(accepted(&sinks(SINKS_MAX - 1)).queues["orders"].sinks.len(), SINKS_MAX - 1);
    one_error(&sinks(SINKS_MAX), SINKS_MAX, &["`queues.orders.sinks` has more than 7 entries", "8 sinks"]);
}

#[test]
fn two_sinks_never_create_the_same_table() {
    let url = "url = \"shop.db\"\n";
    // Of one queue, and of two.
    let same = format!("[queues.orders.sinks.a-b]\n{url}[queues.orders.sinks.a_b]\n{url}");
    one_error(&same, 3, &["`queues.orders.sinks.a_b` would have the same table as `queues.orders.sinks.a-b`"]);
    let other = format!("[queues.orders.sinks.old]\n{url}[queues.orders_old]\nsink = {{ url = \"shop.db\" }}");
    one_error(&other, 3, &["`queues.orders_old` would have the same table as `queues.orders.sinks.old`"]);
    accepted("[queues.orders.sinks.a-b]\n[queues.orders.sinks.a_b]\n");
    accepted(&format!("[queues.orders.sink]\n{url}[queues.orders.sinks.again]\n{url}"));
}
