//! Queues that are changed while they run: by the admin API, the command line, and SIGHUP.

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
#![allow(clippy::disallowed_methods, reason = "a test has no bell to be woken by")]

mod server;

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use server::database::{sqlite_column, until_sqlite_has};
use server::{Client, Server, Site, eventually};

const STANDSTILL: &str = "[queues.orders]\nrate = \"1/h\"\n";
const UNLIMITED: &str = "[queues.orders]\nrate = \"unlimited\"\n";
const BODIES: &str = "SELECT body FROM forebay_orders ORDER BY rowid";

fn admin(server: &Server) -> Client {
    Client::connect(server.admin()).unwrap()
}

fn patch(server: &Server, changes: &Value) -> server::client::Response {
    let body = changes.to_string();
    let headers = [("content-type", "application/json"), ("forebay-actor", "ann@desk")];
    admin(server).request("PATCH", "/v1/queues/orders", &headers, Some(body.as_bytes())).unwrap()
}

fn post(server: &Server, verb: &str) -> Value {
    let path = format!("/v1/queues/orders/{verb}");
    let response = admin(server).request("POST", &path, &[("forebay-actor", "ann@desk")], Some(b"")).unwrap();
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

fn state(server: &Server) -> String {
    admin(server).get("/v1/queues/orders").json()["now"]["state"].as_str().unwrap().to_owned()
}

fn accept(server: &Server, name: &str, count: usize) -> Vec<String> {
    let mut client = server.client();
    (0..count).map(|n| client.accept("orders", format!("{name}-{n}"))).collect()
}

/// Runs a command against a server; returns its exit code and all that it said.
fn command(server: &Server, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(arguments).args(["--admin", &server.admin().to_string()]).env_remove("RUST_LOG");
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn a_rate_is_changed_at_once_and_the_log_says_by_whom() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let tickets = accept(&server, "order", 20);
    assert!(server.client().ticket(&tickets[19])["eta_ms"].as_u64() > Some(3_600_000));
    let response = patch(&server, &json!({ "rate": "unlimited", "batch": { "records_max": 7 } }));
    assert_eq!(response.status, 200, "{response:?}");
    let now = response.json();
    assert_eq!((&now["rate"], &now["batch"]["records_max"]), (&json!("unlimited"), &json!(7)));
    server.until_delivered(&tickets[19]);
    server.until_said("by=\"ann@desk from 127.0.0.1:");
    // Slower is followed as quickly as faster.
    assert_eq!(patch(&server, &json!({ "rate": "1/h" })).status, 200);
    eventually("the new rate", || {
        let now = admin(&server).get("/v1/queues/orders").json()["now"].clone();
        now["ceiling_per_second"].as_f64().is_some_and(|ceiling| ceiling < 1.0).then_some(())
    });
    let waits = accept(&server, "waits", 2);
    assert_eq!(server.client().ticket(&waits[1])["state"], "queued");
    server.stop();
    // The configuration counts again.
    let server = site.start();
    assert_eq!(admin(&server).get("/v1/queues/orders").json()["rate"], "1/h");
    server.stop();
}

#[test]
fn a_pause_delivers_nothing_accepts_everything_and_survives_a_kill() {
    let site = Site::new(UNLIMITED);
    let server = site.start();
    server.until_delivered(&accept(&server, "before", 3)[2]);
    assert_eq!(post(&server, "pause")["paused"], true);
    eventually("the pause", || (state(&server) == "paused").then_some(()));
    let waits = accept(&server, "during", 3);
    assert_eq!(server.client().ticket(&waits[0])["eta_ms"], Value::Null);
    assert_eq!(post(&server, "pause")["paused"], true);
    server.kill9();
    let server = site.start();
    server.until_said("the queue is paused, as it was before");
    let later = accept(&server, "later", 3);
    eventually("the pause", || (state(&server) == "paused").then_some(()));
    assert_eq!(sqlite_column(&site.database("orders"), BODIES).len(), 3);
    assert_eq!(post(&server, "resume")["paused"], false);
    server.until_delivered(&later[2]);
    let wanted: Vec<_> =
        ["before", "during", "later"].iter().flat_map(|name| (0..3).map(move |n| format!("{name}-{n}"))).collect();
    assert_eq!(until_sqlite_has(&site.database("orders"), 9, BODIES), wanted);
    server.stop();
    let server = site.start();
    eventually("delivery", || (state(&server) == "running").then_some(()));
    server.stop();
}

#[test]
fn a_hangup_takes_over_what_it_can_and_names_the_rest() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let tickets = accept(&server, "order", 5);
    site.configure("[queues.orders]\nrate = \"fast\"\n");
    server.signal(Signal::HUP);
    server.until_said("nothing has changed");
    server.until_said("`queues.orders.rate` cannot be \"fast\"");
    assert_eq!(admin(&server).get("/v1/queues/orders").json()["rate"], "1/h");
    site.configure("[queues.orders]\nrate = \"unlimited\"\nack = \"memory\"\n[queues.more]\n");
    server.signal(Signal::HUP);
    server.until_said("takes effect with a restart");
    for key in ["queues.orders", "queues.more (new)"] {
        assert!(server.said(key), "{key} is not in\n{}", server.log());
    }
    server.until_delivered(&tickets[4]);
    server.until_said("by=\"SIGHUP\"");
    // What the API has changed is not kept against the file.
    assert_eq!(patch(&server, &json!({ "rate": "1/h" })).status, 200);
    server.signal(Signal::HUP);
    eventually("the file's rate", || {
        (admin(&server).get("/v1/queues/orders").json()["rate"] == "unlimited").then_some(())
    });
    server.stop();
}

fn lanes(server: &Server) -> Value {
    admin(server).get("/v1/queues/orders").json()["now"]["lanes"].clone()
}

fn until_lanes(server: &Server, count: u64) {
    eventually(&format!("{count} lanes"), || (lanes(server) == count).then_some(()));
}

#[test]
fn the_number_of_lanes_follows_a_patch_and_a_hangup() {
    let options = |concurrency: u32| {
        format!("[queues.orders]\nrate = \"unlimited\"\norder = \"key\"\nconcurrency = {concurrency}\n")
    };
    let site = Site::new(&options(1));
    let server = site.start();
    server.until_delivered(&accept(&server, "one", 3)[2]);
    assert_eq!(lanes(&server), 1);
    let response = patch(&server, &json!({ "concurrency": 4 }));
    assert_eq!((response.status, &response.json()["concurrency"]), (200, &json!(4)), "{response:?}");
    until_lanes(&server, 4);
    server.until_said("\"concurrency\":4");
    assert!(server.said("by=\"ann@desk from 127.0.0.1:"), "{}", server.log());
    server.until_delivered(&accept(&server, "four", 3)[2]);
    // The file counts again, as it was and as it is.
    server.signal(Signal::HUP);
    until_lanes(&server, 1);
    server.until_delivered(&accept(&server, "one again", 3)[2]);
    site.configure(&options(2));
    server.signal(Signal::HUP);
    until_lanes(&server, 2);
    assert!(!server.said("takes effect with a restart"), "{}", server.log());
    // A pause is no reason to wait.
    post(&server, "pause");
    eventually("the pause", || (state(&server) == "paused").then_some(()));
    assert_eq!(patch(&server, &json!({ "concurrency": 3 })).status, 200);
    until_lanes(&server, 3);
    assert_eq!(state(&server), "paused");
    post(&server, "resume");
    patch(&server, &json!({ "concurrency": 17 })).assert_problem(422, "not-applicable");
    assert_eq!(patch(&server, &json!({ "concurrency": null })).json()["concurrency"], 1);
    until_lanes(&server, 1);
    server.until_delivered(&accept(&server, "last", 3)[2]);
    server.kill9();
    let server = site.start();
    until_lanes(&server, 2);
    assert_eq!(sqlite_column(&site.database("orders"), BODIES).len(), 12);
    server.stop();
}

/// The file may already say the order that another number of lanes needs, which needs a restart.
#[test]
fn a_queue_that_runs_in_strict_order_keeps_one_lane() {
    let site = Site::new(UNLIMITED);
    let server = site.start();
    let response = patch(&server, &json!({ "concurrency": 2 }));
    response.assert_problem(422, "not-applicable");
    assert!(response.text("detail").contains("order = \"key\""), "{response:?}");
    let open = "[queues.orders]\nrate = \"2000/s\"\norder = \"key\"\nconcurrency = 2\n";
    site.configure(open);
    server.signal(Signal::HUP);
    server.until_said("takes effect with a restart");
    let now = admin(&server).get("/v1/queues/orders").json();
    assert_eq!((&now["rate"], &now["concurrency"], &now["now"]["lanes"]), (&json!("2000/s"), &json!(1), &json!(1)));
    assert_eq!(patch(&server, &json!({ "rate": "3000/s" })).status, 200);
    server.until_delivered(&accept(&server, "order", 3)[2]);
    server.stop();
    let server = site.start();
    until_lanes(&server, 2);
    server.stop();
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let before = admin(&server).get("/v1/queues/orders").json();
    for (changes, status, name, part) in [
        (json!({ "rate": "fast" }), 422, "not-applicable", "`rate` cannot be \"fast\""),
        (json!({ "rate": "2/s", "burst": 0 }), 422, "not-applicable", "`burst` cannot be 0"),
        (json!({ "ack": "memory" }), 422, "not-applicable", "restart"),
        (json!(["rate"]), 422, "not-applicable", "must be a JSON object"),
    ] {
        let response = patch(&server, &changes);
        response.assert_problem(status, name);
        assert!(response.text("detail").contains(part), "{response:?}");
    }
    let request = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
        admin(&server).request(method, path, headers, Some(body)).unwrap()
    };
    request("PATCH", "/v1/queues/orders", &[], b"{").assert_problem(400, "bad-request");
    request("PATCH", "/v1/queues/orders", &[], &vec![b' '; 70_000]).assert_problem(400, "bad-request");
    request("PATCH", "/v1/queues/others", &[], b"{}").assert_problem(404, "not-found");
    request("POST", "/v1/queues/orders/stop", &[], b"").assert_problem(404, "not-found");
    request("POST", "/v1/queues/orders", &[], b"").assert_problem(405, "method-not-allowed");
    // A page in somebody's browser says where it comes from.
    let page = [("origin", "http://evil.example")];
    request("POST", "/v1/queues/orders/pause", &page, b"").assert_problem(403, "forbidden");
    let mut after = admin(&server).get("/v1/queues/orders").json();
    after["now"] = before["now"].clone();
    assert_eq!(after, before);
    assert_eq!(admin(&server).get("/v1/queues").json()["queues"].as_array().unwrap().len(), 1);
    server.stop();
}

#[test]
fn the_command_line_does_the_same() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let tickets = accept(&server, "order", 5);
    let (code, said) = command(&server, &["queues"]);
    assert!(code == Some(0) && said.contains("orders") && said.contains("1/h") && said.contains("running"), "{said}");
    let (code, said) = command(&server, &["pause", "orders"]);
    assert!(code == Some(0) && said.contains("Nothing is delivered"), "{said}");
    let (code, said) = command(&server, &["rate", "orders", "unlimited", "--burst", "3", "--batch-records-max", "2"]);
    assert!(code == Some(0) && said.contains("unlimited"), "{said}");
    eventually("the pause", || (state(&server) == "paused").then_some(()));
    let (code, said) = command(&server, &["resume", "orders"]);
    assert_eq!(code, Some(0), "{said}");
    server.until_delivered(&tickets[4]);
    let (code, said) = command(&server, &["rate", "orders", "--concurrency", "2"]);
    assert!(code == Some(1) && said.contains("`concurrency` lets records leave before others"), "{said}");
    let (code, said) = command(&server, &["rate", "orders", "--concurrency", "1"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = command(&server, &["queues", "orders", "--json"]);
    let value: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &value["burst"], &value["batch"]["records_max"]), (Some(0), &json!(3), &json!(2)));
    for (arguments, part) in [
        (&["rate", "orders", "fast"][..], "`rate` cannot be \"fast\""),
        (&["rate", "orders"], "nothing to change"),
        (&["rate", "orders", "--set", "{"], "--set is not JSON"),
        (&["pause", "others"], "there is no queue `others`; the queues are orders"),
    ] {
        let (code, said) = command(&server, arguments);
        assert!(code == Some(1) && said.contains(part), "{said}");
    }
    let nobody = server.admin();
    server.stop();
    let output = Command::new(env!("CARGO_BIN_EXE_forebay")).args(["queues", "--admin", &nobody.to_string()]).output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(said.contains(&format!("no forebay answers on {nobody}; --admin or --config say where")), "{said}");
}

/// Whatever is changed, and when: the database never sees more than the highest rate of a window and a burst.
#[test]
fn no_change_lets_more_through_than_the_rates_of_its_time() {
    const BURST: usize = 5;
    let site = Site::new(&format!(
        "[queues.orders]\nrate = \"100/s\"\nburst = {BURST}\nsink = {{ statement = \"INSERT INTO arrivals VALUES \
         ((julianday('now') - 2440587.5) * 86400.0)\" }}\n"
    ));
    server::database::sqlite_execute(&site.database("orders"), "CREATE TABLE arrivals (at REAL)");
    let server = site.start();
    let lines: String = (0..5000).map(|n| format!("{n}\n")).collect();
    let ndjson = [("content-type", "application/x-ndjson")];
    assert_eq!(server.client().post("orders", &ndjson, lines).status, 202);
    for rate in ["400/s", "50/s", "pause", "300/s", "resume", "100/s", "400/s"] {
        std::thread::sleep(Duration::from_millis(400));
        match rate {
            "pause" | "resume" => drop(post(&server, rate)),
            rate => assert_eq!(patch(&server, &json!({ "rate": rate })).status, 200),
        }
    }
    std::thread::sleep(Duration::from_millis(400));
    server.stop();
    let at: Vec<f64> = sqlite_column(&site.database("orders"), "SELECT at FROM arrivals ORDER BY at")
        .iter()
        .map(|at| at.parse().unwrap())
        .collect();
    assert!(at.len() > 200, "hardly anything was delivered: {}", at.len());
    let most = (0..at.len()).map(|first| at[first..].iter().take_while(|time| **time < at[first] + 1.0).count()).max();
    assert!(most <= Some(400 + BURST + 1), "{most:?} within one second");
}
