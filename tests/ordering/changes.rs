//! Poison, another order than before, tables of before, and a window that is full.

use serde_json::json;

use crate::server::eventually;
use crate::stage::{
    Kind, Stage, letters, metric, now, pause, redrive_all, resume, send, send_all, ticket, until_waiting,
};

const OPEN: &str = "rate = \"unlimited\"\norder = \"none\"\nfair_by = \"header:X-Tenant\"\ndelay_ms_max = 86400000";
const STRICT: &str = "rate = \"unlimited\"\nbatch = { records_max = 1 }";
const HOUR: (&str, &str) = ("forebay-delay", "1h");

/// Asserts that each of these bodies is there once, in whatever order.
fn assert_once(mut found: Vec<String>, mut wanted: Vec<String>) {
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

pub fn poison_between_others_is_set_aside_and_redriven(kind: Kind) {
    let stage = Stage::new(kind, OPEN);
    let server = stage.site.start();
    pause(&server);
    // The first record holds the position back, so all others are beyond it.
    send(&server, &[HOUR], "held back");
    send_all(&server, &[("x-tenant", "a")], numbers(0..50));
    let early = send(&server, &[("x-tenant", "a")], "poison 1");
    send_all(&server, &[("x-tenant", "a")], numbers(50..100));
    // This one is found first.
    let late = send(&server, &[("x-tenant", "b"), ("forebay-priority", "9")], "poison 2");
    send_all(&server, &[("x-tenant", "b")], numbers(100..200));
    resume(&server);
    assert_once(stage.until_bodies(200), numbers(0..200));
    for ticket in [&early, &late] {
        eventually("the dead letter", || (server.client().ticket(ticket)["state"] == "dead").then_some(()));
    }
    until_waiting(&server, 1, 202);
    server.kill9();
    let server = stage.site.start();
    server.until_delivered(&send(&server, &[], "after the kill"));
    let listed = letters(&server);
    let sequences: Vec<_> = listed["dead_letters"].as_array().unwrap().iter().map(|l| l["sequence"].clone()).collect();
    assert_eq!(sequences, [json!(52), json!(103)], "{listed:#}");
    // Mended, they are delivered while the position still stands before them.
    for (sequence, body) in [(52, "mended 1"), (103, "mended 2")] {
        let path = format!("/v1/queues/orders/dead-letters/{sequence}");
        let mut client = crate::server::Client::connect(server.admin()).unwrap();
        assert_eq!(client.request("PUT", &path, &[], Some(body.as_bytes())).unwrap().status, 200);
    }
    redrive_all(&server);
    for ticket in [&early, &late] {
        server.until_delivered(ticket);
    }
    let more = ["after the kill", "mended 1", "mended 2"].map(str::to_owned);
    assert_once(stage.until_bodies(203), [numbers(0..200), more.to_vec()].concat());
    assert_eq!(stage.position(), 0);
    server.stop();
}

pub fn a_queue_that_is_strict_again_delivers_the_rest_once_and_in_order(kind: Kind) {
    let stage = Stage::new(kind, OPEN);
    let server = stage.site.start();
    for number in 1..=9 {
        send(&server, if number % 4 == 1 { &[HOUR] } else { &[] }, &number.to_string());
    }
    let overtook = ["2", "3", "4", "6", "7", "8"];
    assert_eq!(stage.until_bodies(6), overtook);
    server.kill9();
    // In transactions of one record each, some of which have nothing left to send.
    stage.configure(STRICT);
    let server = stage.site.start();
    assert_eq!(stage.until_bodies(9), [&overtook[..], &["1", "5", "9"]].concat());
    let all = || (metric(&server, "backlog_records"), metric(&server, "backlog_bytes"));
    eventually("the end of the backlog", || (all() == (0, 0)).then_some(()));
    stage.assert_all_in_order(9);
    until_waiting(&server, 0, 0);
    server.stop();

    // The same with a poison record, the last one beyond the position, and a rate, at which nothing is read ahead.
    stage.configure(OPEN);
    let server = stage.site.start();
    send(&server, &[HOUR], "10");
    send(&server, &[HOUR], "poison");
    send(&server, &[], "12");
    stage.until_bodies(10);
    server.kill9();
    stage.configure(&STRICT.replace("unlimited", "1000/s"));
    let server = stage.site.start();
    assert_eq!(stage.until_bodies(11)[9..], ["12", "10"]);
    eventually("the end of the backlog", || {
        (metric(&server, "delivered_sequence") == 12 && metric(&server, "backlog_bytes") == 0).then_some(())
    });
    assert_eq!(metric(&server, "dead_letters"), 1);
    server.until_delivered(&send(&server, &[], "13"));
    stage.assert_all_in_order(13);
    server.stop();
}

pub fn a_table_without_the_column_and_its_queue_go_on_out_of_order(kind: Kind) {
    let stage = Stage::new(kind, STRICT);
    let server = stage.site.start();
    server.until_delivered(&send_all(&server, &[], numbers(0..20)));
    pause(&server);
    send_all(&server, &[], numbers(20..30));
    server.kill9();
    // What a version left behind that did not know of it.
    stage.execute("ALTER TABLE forebay_position DROP COLUMN beyond");
    stage.configure(OPEN);
    let server = stage.site.start();
    send(&server, &[HOUR], "held back");
    let first = send(&server, &[("forebay-priority", "9")], "first");
    resume(&server);
    server.until_delivered(&first);
    let mut wanted = numbers(0..20);
    wanted.push("first".to_owned());
    assert_eq!(stage.until_bodies(31), [wanted, numbers(20..30)].concat());
    eventually("the column", || stage.has_beyond().then_some(()));
    assert_eq!(stage.position(), 30);
    server.stop();
}

pub fn a_full_window_holds_up_what_is_behind_it_and_loses_nothing(kind: Kind) {
    const SMALL: &str = "window = { records_max = 10 }";
    let stage = Stage::new(kind, &format!("{OPEN}\n{SMALL}"));
    let server = stage.site.start();
    // Ten that are due at the same time, and what comes later although it could leave.
    send_all(&server, &[("forebay-delay", "1s")], numbers(0..10));
    let last = send_all(&server, &[], numbers(10..15));
    server.until_delivered(&last);
    assert_eq!(stage.until_bodies(15), numbers(0..15));

    send_all(&server, &[HOUR], numbers(15..25));
    let last = send_all(&server, &[], numbers(25..30));
    until_waiting(&server, 10, 0);
    // Once more around.
    pause(&server);
    resume(&server);
    eventually("running", || (now(&server)["state"] == "running").then_some(()));
    let figures = now(&server);
    assert_eq!((&figures["window_records"], &figures["beyond_records"]), (&json!(10), &json!(0)), "{figures:#}");
    assert_eq!((&figures["backlog_records"], ticket(&server, &last)), (&json!(15), ("queued".to_owned(), Some(15))));
    assert!(metric(&server, "drain_window_bytes") > 0 && metric(&server, "drain_window_bytes") < 1000);
    assert_eq!(stage.bodies().len(), 15);
    server.kill9();

    // A larger window lets them pass, and a strict order takes no account of delays.
    stage.configure(OPEN);
    let server = stage.site.start();
    assert_eq!(stage.until_bodies(20)[15..], numbers(25..30));
    until_waiting(&server, 10, 5);
    server.stop();
    stage.configure(STRICT);
    let server = stage.site.start();
    assert_eq!(stage.until_bodies(30)[20..], numbers(15..25));
    eventually("the position", || (stage.position() == 30).then_some(()));
    until_waiting(&server, 0, 0);
    stage.assert_all_in_order(30);
    server.stop();
}
