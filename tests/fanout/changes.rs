//! Sinks that come and go, and what the journal keeps for them.

use std::fs;

use serde_json::json;

use crate::server::{Server, eventually};
use crate::stage::{Kind, Stage, Store, analytics, ask, asked, fill, name, names, until_analysed};

const FAST: &str = "rate = \"unlimited\"\nretry = { backoff_ms_min = 10, backoff_ms_max = 50 }";

fn trimmed(server: &Server) -> u64 {
    server.metric("forebay_trimmed_sequence{queue=\"orders\"}")
}

/// Waits until the main sink has a record, whatever has become of the other one.
fn until_delivered_to_main(server: &Server, ticket: &str) {
    let mut client = server.client();
    eventually("delivery to the main sink", || (client.ticket(ticket)["state"] == "delivered").then_some(()));
}

/// Waits until all but the last segment are gone.
fn until_trimmed(stage: &Stage) {
    eventually("the way back to the pool", || (stage.site.files("orders", "seg").len() <= 1).then_some(()));
}

pub fn a_sink_that_is_added_later_begins_with_the_oldest_record_that_there_is(main: Kind) {
    let stage = Stage::new(main);
    stage.configure(FAST, None);
    let server = stage.site.start();
    let (middle, last) = fill(&server, 0, 20);
    server.until_delivered(&last);
    until_trimmed(&stage);
    let first = usize::try_from(trimmed(&server)).unwrap();
    assert!(first > 300, "{first}");
    server.stop();
    // Killed when it has hardly anything, it still begins there.
    stage.configure(FAST, Some("rate = \"1/h\""));
    let server = stage.site.start();
    eventually("the first take-over", || (analytics(&server)["now"]["state"] == "running").then_some(()));
    asked(&server, "POST", "/sinks/analytics/pause", &json!(null));
    let (end, last) = fill(&server, middle, 10);
    server.until_delivered(&last);
    server.kill9();
    let server = stage.site.start();
    assert_eq!(trimmed(&server), first as u64, "the new sink has not got what is behind it");
    asked(&server, "POST", "/sinks/analytics/resume", &json!(null));
    asked(&server, "PATCH", "/sinks/analytics", &json!({ "rate": "unlimited" }));
    until_analysed(&server, &last);
    assert_eq!(stage.other.bodies(), names(first..end));
    assert_eq!(stage.main.bodies(), names(0..end));
    until_trimmed(&stage);
    server.stop();
    // It is no new sink any more, so a database without a position is one that was set back.
    stage.other.execute("DELETE FROM forebay_position");
    let server = stage.site.start();
    server.until_said("the database was set back to an earlier state");
    eventually("the halt", || (analytics(&server)["now"]["state"] == "halted").then_some(()));
    let (_, last) = fill(&server, end, 1);
    until_delivered_to_main(&server, &last);
    server.stop();
}

#[test]
fn a_ticket_says_nothing_of_a_sink_that_its_record_was_never_for() {
    let stage = Stage::new(Kind::Sqlite);
    stage.configure(FAST, None);
    let server = stage.site.start();
    let old = server.client().accept("orders", name(0));
    let (_, last) = fill(&server, 1, 20);
    server.until_delivered(&last);
    assert_eq!(server.client().ticket(&old).get("sinks"), None);
    until_trimmed(&stage);
    server.stop();
    stage.configure(FAST, Some(FAST));
    let server = stage.site.start();
    let new = server.client().accept("orders", "new");
    until_analysed(&server, &new);
    let ticket = server.client().ticket(&old);
    assert_eq!((&ticket["state"], ticket.get("sinks")), (&json!("delivered"), None), "{ticket}");
    server.stop();
}

#[test]
fn a_segment_goes_back_when_all_sinks_have_it() {
    let stage = Stage::new(Kind::Sqlite);
    stage.configure(FAST, Some(FAST));
    let server = stage.site.start();
    asked(&server, "POST", "/sinks/analytics/pause", &json!(null));
    eventually("the pause", || (analytics(&server)["now"]["state"] == "paused").then_some(()));
    let (end, last) = fill(&server, 0, 20);
    server.until_delivered(&last);
    let segments = stage.site.files("orders", "seg");
    assert!(segments.len() > 5, "{segments:?}");
    // The main sink's cursor has come to the end, and nothing has been given back.
    let cursor = stage.site.queue("orders").join("cursor");
    let delivered = || fs::read_to_string(&cursor).ok().is_some_and(|text| text.starts_with("400 "));
    eventually("the cursor", || delivered().then_some(()));
    assert_eq!((trimmed(&server), stage.site.files("orders", "seg")), (0, segments.clone()));
    server.stop();
    let server = stage.site.start();
    assert!(server.said("paused, as it was before"));
    assert_eq!(stage.site.files("orders", "seg").len(), segments.len());
    asked(&server, "POST", "/sinks/analytics/resume", &json!(null));
    until_analysed(&server, &last);
    assert_eq!(stage.other.bodies(), names(0..end));
    until_trimmed(&stage);
    server.stop();
}

#[test]
fn a_sink_that_was_removed_holds_nothing_back_and_is_not_taken_back_in_silence() {
    let stage = Stage::new(Kind::Sqlite);
    stage.configure(FAST, Some("rate = \"1/h\""));
    let server = stage.site.start();
    let (middle, last) = fill(&server, 0, 20);
    server.until_delivered(&last);
    assert!(stage.site.files("orders", "seg").len() > 5);
    server.stop();
    stage.configure(FAST, None);
    let server = stage.site.start();
    server.until_said("this sink is no longer configured");
    until_trimmed(&stage);
    assert_eq!(ask(&server, "GET", "/sinks/analytics", &json!(null)).status, 404);
    assert_eq!(server.client().ticket(&last).get("sinks"), None);
    server.stop();
    // Records that it has not got are gone: a person has to say that this is meant.
    stage.configure(FAST, Some(FAST));
    let server = stage.site.start();
    server.until_said("this sink was out of the configuration for a while");
    let (end, last) = fill(&server, middle, 1);
    until_delivered_to_main(&server, &last);
    let first = usize::try_from(trimmed(&server)).unwrap();
    server.stop();
    // As a new one it begins with what there is.
    let had = stage.other.bodies();
    fs::remove_dir_all(stage.site.queue("orders").join("sinks").join("analytics")).unwrap();
    let server = stage.site.start();
    until_analysed(&server, &last);
    assert_eq!(stage.other.bodies(), [had, names(first..end)].concat());
    server.stop();
}

#[test]
fn two_sinks_of_a_queue_may_share_a_table_of_the_user() {
    let stage = Stage::new(Kind::Sqlite);
    let keys = stage.main.keys();
    stage.site.configure(&format!(
        "[queues.orders]\n{FAST}\n[queues.orders.sink]\n{keys}[queues.orders.sinks.again]\n{FAST}\n{keys}\
         [queues.orders.sinks.lane-1]\n{FAST}\norder = \"none\"\nconcurrency = 2\n{keys}"
    ));
    let server = stage.site.start();
    let tickets: Vec<_> = (0..10).map(|number| server.client().accept("orders", name(number))).collect();
    stage.main.until_bodies(30);
    let shared = stage.main.positions();
    assert_eq!(shared.len(), 4, "{shared:?}");
    let ticket = server.client().ticket(&tickets[9]);
    assert_eq!(
        (&ticket["sinks"]["again"]["state"], &ticket["sinks"]["lane-1"]["state"]),
        (&json!("delivered"), &json!("delivered"))
    );
    server.stop();
}

#[test]
fn sinks_that_forebay_makes_have_files_and_tables_of_their_own() {
    let stage = Stage::new(Kind::Sqlite);
    let options = "rate = \"unlimited\"";
    stage.site.configure(&format!("[queues.orders]\n{options}\n[queues.orders.sinks.far-away]\n{options}\n"));
    let server = stage.site.start();
    server.client().accept("orders", "one");
    for (file, table) in [("orders", "forebay_orders"), ("orders.far-away", "forebay_orders_far_away")] {
        let store = Store::Sqlite(stage.site.database(file));
        let sql = format!("SELECT body FROM {table}");
        let Store::Sqlite(path) = &store else { unreachable!() };
        assert_eq!(crate::server::database::until_sqlite_has(path, 1, &sql), ["one"]);
    }
    server.stop();
}
