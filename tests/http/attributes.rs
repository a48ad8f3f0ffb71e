//! What a request asks beyond being stored: refused with what would have to be set, or kept with each of its records.

use jiff::Timestamp;
use serde_json::Value;

use super::*;

const OPEN: &str = "[queues.orders]\nrate = \"1/h\"\norder = \"none\"\nfair_by = \"header:X-Tenant\"\n\
                    delay_ms_max = 86400000\n[queues.orders.throttle]\nby = \"header:X-Shop\"\nlimit = 1\n";

/// The records of the queue, as the export has them.
fn exported(site: &Site) -> Vec<Value> {
    let (code, out, err) = site.tool("export", &["--queue", "orders", "--from", "1"]);
    assert_eq!(code, Some(0), "{err}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Microseconds from the receipt of an exported record to the time in one of its fields.
fn after_receipt_us(record: &Value, field: &str) -> i64 {
    let at = |field: &str| record[field].as_str().unwrap().parse::<Timestamp>().unwrap().as_microsecond();
    at(field) - at("received_at")
}

#[test]
fn each_record_keeps_what_its_request_asked_for() {
    let site = Site::new(OPEN);
    let server = site.start();
    let mut client = server.client();
    let asked = [
        ("forebay-delay", "90s"),
        ("forebay-expires", "+2h"),
        ("Forebay-Priority", "9"),
        ("x-tenant", "tenant \u{fc}"),
        ("X-Shop", "shop-1"),
        ("forebay-key", "k"),
    ];
    assert_eq!(client.post("orders", &asked, "all").status, 202);
    let due = Timestamp::now() + jiff::SignedDuration::from_hours(3);
    let at = [("forebay-deliver-at", &*due.to_string()), ("forebay-expires", "253402300799")];
    assert_eq!(client.post("orders", &at, "calendar").status, 202);
    let ndjson = [("content-type", "application/x-ndjson"), ("forebay-priority", "0"), ("forebay-delay", "500ms")];
    assert_eq!(client.post("orders", &ndjson, "1\n2\n3\n").status, 202);
    client.accept("orders", "plain");
    server.stop();
    let records = exported(&site);
    assert_eq!(records.len(), 6, "{records:#?}");
    let [all, calendar, lines @ .., plain] = &records[..] else { panic!("{records:#?}") };
    assert_eq!((after_receipt_us(all, "deliver_at"), after_receipt_us(all, "expires_at")), (90_000_000, 7_200_000_000));
    assert_eq!((&all["priority"], &all["fair_key"], &all["key"]), (&9.into(), &"tenant \u{fc}".into(), &"k".into()));
    assert_eq!((&all["throttle_key"], &all["body"]), (&"shop-1".into(), &"all".into()));
    let due_us = calendar["deliver_at"].as_str().unwrap().parse::<Timestamp>().unwrap().as_microsecond();
    assert_eq!((due_us, &calendar["expires_at"]), (due.as_microsecond(), &"9999-12-31T23:59:59.000000Z".into()));
    assert!(calendar.get("priority").is_none() && calendar.get("fair_key").is_none(), "{calendar}");
    for (line, body) in lines.iter().zip(["1", "2", "3"]) {
        assert_eq!((&line["body"], &line["priority"]), (&body.into(), &0.into()));
        assert_eq!(after_receipt_us(line, "deliver_at"), 500_000);
    }
    for field in ["deliver_at", "expires_at", "priority", "fair_key", "throttle_key"] {
        assert!(plain.get(field).is_none(), "{plain}");
    }
    let (code, out, err) = site.tool("verify", &[]);
    assert_eq!(code, Some(0), "{out}{err}");
}

#[test]
fn what_is_exported_can_be_submitted_again() {
    let site = Site::new(OPEN);
    let server = site.start();
    let mut client = server.client();
    let tenant = [("x-tenant", "a"), ("x-shop", "s"), ("forebay-delay", "20h"), ("forebay-expires", "+21h")];
    assert_eq!(client.post("orders", &tenant, "one").status, 202);
    assert_eq!(client.post("orders", &[("forebay-priority", "7"), ("forebay-key", "k")], "two").status, 202);
    server.stop();
    let records = exported(&site);
    let other = Site::new(OPEN);
    let server = other.start();
    let mut client = server.client();
    for record in &records {
        let priority = record["priority"].as_u64().map(|priority| priority.to_string());
        let fields: Vec<(&str, &str)> = [
            ("forebay-key", record["key"].as_str()),
            ("forebay-deliver-at", record["deliver_at"].as_str()),
            ("forebay-expires", record["expires_at"].as_str()),
            ("forebay-priority", priority.as_deref()),
            ("x-tenant", record["fair_key"].as_str()),
            ("x-shop", record["throttle_key"].as_str()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
        assert_eq!(client.post("orders", &fields, record["body"].as_str().unwrap()).status, 202, "{record}");
    }
    server.stop();
    let asked = |records: Vec<Value>| -> Vec<Value> {
        let strip = |mut record: Value| {
            for own in ["ticket", "received_at"] {
                record.as_object_mut().unwrap().remove(own).unwrap();
            }
            record
        };
        records.into_iter().map(strip).collect()
    };
    assert_eq!(asked(exported(&other)), asked(records));
}

/// A queue, the fields of a request for it, and what the refusal says.
type Refused<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

#[test]
fn a_queue_takes_only_what_it_is_set_up_for_and_says_what_to_set() {
    let site = Site::new(
        "[queues.strict]\nrate = \"1/h\"\n[queues.undelayed]\nrate = \"1/h\"\norder = \"key\"\n\
         [queues.delayed]\nrate = \"1/h\"\norder = \"none\"\ndelay_ms_max = 60000\n",
    );
    let server = site.start();
    let mut client = server.client();
    let cases: [Refused<'_>; 9] = [
        ("strict", &[("forebay-priority", "5")], "order = \"key\" or order = \"none\""),
        ("strict", &[("forebay-delay", "1s")], "order = \"key\" or order = \"none\" and delay_ms_max"),
        ("strict", &[("forebay-deliver-at", "1")], "order = \"key\" or order = \"none\" and delay_ms_max"),
        ("undelayed", &[("forebay-delay", "0")], "would have to set delay_ms_max"),
        ("undelayed", &[("forebay-deliver-at", "1")], "would have to set delay_ms_max"),
        ("delayed", &[("forebay-delay", "60001ms")], "due in 60001 ms; this queue's delay_ms_max is 60000"),
        ("delayed", &[("forebay-delay", "1"), ("forebay-deliver-at", "1")], "send one of them"),
        ("delayed", &[("forebay-delay", "60"), ("forebay-expires", "+60")], "expire before it is due"),
        ("strict", &[("forebay-expires", "2001-01-01T00:00:00Z")], "expired already"),
    ];
    for (queue, fields, part) in cases {
        for ndjson in [false, true] {
            let mut fields = fields.to_vec();
            fields.extend(ndjson.then_some(("content-type", "application/x-ndjson")));
            let refused = client.post(queue, &fields, "x");
            refused.assert_problem(400, "bad-request");
            assert!(refused.text("detail").contains(part), "{refused:?}");
        }
    }
    assert_eq!(server.metric("forebay_requests_refused_total{reason=\"bad-request\"}"), 2 * cases.len() as u64);
    for queue in ["strict", "undelayed", "delayed"] {
        assert_eq!(server.metric(&format!("forebay_appended_sequence{{queue=\"{queue}\"}}")), 0);
        assert_eq!(client.post(queue, &[("forebay-expires", "+1h")], "x").status, 202);
    }
    assert_eq!(client.post("undelayed", &[("forebay-priority", "5")], "x").status, 202);
    assert_eq!(client.post("delayed", &[("forebay-delay", "60"), ("forebay-expires", "+61")], "x").status, 202);
    server.stop();
}

#[test]
fn the_header_that_says_whose_a_record_is_has_bounds() {
    let site = Site::new(OPEN);
    let server = site.start();
    let mut client = server.client();
    let long = "t".repeat(257);
    for name in ["x-tenant", "x-shop"] {
        for fields in [&[(name, "")][..], &[(name, &long)], &[(name, "a"), (name, "a")]] {
            let refused = client.post("orders", fields, "x");
            refused.assert_problem(400, "bad-request");
            assert!(refused.text("detail").starts_with(name), "{refused:?}");
        }
        assert_eq!(client.post("orders", &[(name, &long[1..])], "x").status, 202);
    }
    // To a queue that does not ask for it, the header says nothing.
    assert_eq!(client.post("orders", &[("x-other", &long)], "x").status, 202);
    server.stop();
    let records = exported(&site);
    assert_eq!((&records[0]["fair_key"], &records[1]["throttle_key"]), (&long[1..].into(), &long[1..].into()));
    assert!(records[2].get("fair_key").is_none(), "{}", records[2]);
}

#[test]
fn a_key_that_was_seen_decides_whatever_else_is_asked_for() {
    let site = Site::new(OPEN);
    let server = site.start();
    let mut client = server.client();
    let key = ("idempotency-key", "once");
    let first = client.post("orders", &[key, ("forebay-priority", "1")], "x");
    let second = client.post("orders", &[key, ("forebay-priority", "2"), ("forebay-delay", "5s")], "x");
    assert_eq!((first.status, second.status), (202, 202));
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    assert_eq!(second.text("ticket"), first.text("ticket"));
    server.stop();
    let records = exported(&site);
    assert_eq!((records.len(), &records[0]["priority"]), (1, &1.into()));
}

#[test]
fn attributes_are_shown_with_the_oldest_record_and_survive_a_kill() {
    let site = Site::new(OPEN);
    let server = site.start();
    // The drain may take one record at once, and the oldest is the one behind it.
    let fields = [("forebay-priority", "7"), ("x-tenant", "a")];
    for _ in 0..2 {
        assert_eq!(server.client().post("orders", &fields, "x").status, 202);
    }
    server.kill9();
    let (code, out, err) = site.tool("inspect", &[]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains(" ago, priority 7, fair key a\n"), "{out}");
    assert!(exported(&site).iter().all(|record| record["priority"] == 7 && record["fair_key"] == "a"));
}
