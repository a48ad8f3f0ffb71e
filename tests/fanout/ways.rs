//! Every sink on its own way: rates, outages, and what the queue's backlog is.

use serde_json::json;

use crate::server::{Server, eventually};
use crate::stage::{Kind, Stage, analytics, asked, fill, names, until_analysed};

const FAST: &str = "rate = \"unlimited\"\nretry = { backoff_ms_min = 10, backoff_ms_max = 50 }";
const STANDSTILL: &str = "rate = \"1/h\"";

fn metric(server: &Server, name: &str) -> (u64, u64) {
    let main = server.metric(&format!("forebay_{name}{{queue=\"orders\"}}"));
    (main, server.metric(&format!("forebay_{name}{{queue=\"orders\",sink=\"analytics\"}}")))
}

pub fn each_sink_gets_everything_at_a_rate_of_its_own(main: Kind) {
    let stage = Stage::new(main);
    stage.configure(FAST, Some(STANDSTILL));
    let server = stage.site.start();
    let (end, last) = fill(&server, 0, 10);
    server.until_delivered(&last);
    assert_eq!(stage.main.bodies(), names(0..end));
    let ticket = server.client().ticket(&last);
    let other = &ticket["sinks"]["analytics"];
    assert_eq!((&ticket["state"], &other["state"]), (&json!("delivered"), &json!("queued")), "{ticket}");
    // The first of an hour may have left.
    assert!(other["position"].as_u64() >= Some(199) && other["eta_ms"].as_u64() > Some(3_600_000), "{ticket}");
    let (main_backlog, backlog) = metric(&server, "backlog_records");
    assert!(main_backlog == 0 && backlog >= 199, "{main_backlog}, {backlog}");
    assert_eq!(analytics(&server)["rate"], "1/h");
    // What one sink is told is not told the other.
    asked(&server, "PATCH", "/sinks/analytics", &json!({ "rate": "unlimited" }));
    until_analysed(&server, &last);
    assert_eq!(stage.other.bodies(), names(0..end));
    let (main_batches, batches) = metric(&server, "drain_batches_total");
    assert!(main_batches > 0 && batches > 0);
    assert_eq!(metric(&server, "delivered_sequence"), (200, 200));
    server.stop();
    // The parts are told apart, also where the databases are one.
    let [(main_part, 200)] = &stage.main.positions()[..] else { panic!("{:?}", stage.main.positions()) };
    assert_eq!(stage.other.positions(), [(format!("{main_part}/sink-analytics"), 200)]);
}

/// Ends PostgreSQL, delivers into SQLite, and starts it again.
fn without_postgres(main: Kind, mut while_down: impl FnMut(&Server, &str)) {
    let mut stage = Stage::new(main);
    stage.configure(FAST, Some(FAST));
    let server = stage.site.start();
    let (middle, last) = fill(&server, 0, 2);
    server.until_delivered(&last);
    until_analysed(&server, &last);
    stage.postgres.kill9();
    let (end, last) = fill(&server, middle, 30);
    while_down(&server, &last);
    // What it has not got is kept for it.
    assert!(stage.site.files("orders", "seg").len() > 5);
    stage.postgres.restart();
    server.until_delivered(&last);
    until_analysed(&server, &last);
    assert_eq!(stage.main.bodies(), names(0..end));
    assert_eq!(stage.other.bodies(), names(0..end));
    eventually("the way back to the pool", || (stage.site.files("orders", "seg").len() <= 1).then_some(()));
    assert!(!server.said("no longer delivered"));
    server.stop();
}

pub fn a_main_sink_that_is_down_stops_no_other(main: Kind) {
    without_postgres(main, |server, last| match main {
        Kind::Postgres => {
            until_analysed(server, last);
            let ticket = server.client().ticket(last);
            assert_eq!(ticket["state"], "queued");
            eventually("a retry", || {
                (asked(server, "GET", "", &json!(null))["now"]["state"] == "retrying").then_some(())
            });
        }
        Kind::Sqlite => {
            server.until_delivered(last);
            assert_eq!(server.client().ticket(last)["sinks"]["analytics"]["state"], "queued");
            eventually("a retry", || (analytics(server)["now"]["state"] == "retrying").then_some(()));
        }
    });
}

/// The bound of the backlog counts what the slowest sink has not got.
pub fn another_sink_that_is_down_stops_neither_the_main_one_nor_the_door(main: Kind) {
    let stage = Stage::new(main);
    stage.configure(&format!("{FAST}\nmax_backlog_bytes = \"100KiB\""), Some(STANDSTILL));
    let server = stage.site.start();
    let (_, last) = fill(&server, 0, 4);
    server.until_delivered(&last);
    let lines = "x".repeat(15_000) + "\n" + &"y".repeat(15_000);
    let refused = server.client().post("orders", &[crate::stage::NDJSON], &lines);
    refused.assert_problem(429, "backlog-full");
    // At the rate of the sink that is behind, not of the one that is not.
    assert_eq!(refused.header("retry-after"), Some("3600"));
    asked(&server, "PATCH", "/sinks/analytics", &json!({ "rate": "unlimited" }));
    until_analysed(&server, &last);
    let accepted = server.client().post("orders", &[crate::stage::NDJSON], &lines);
    assert_eq!(accepted.status, 202, "{accepted:?}");
    server.stop();
}
