//! Sinks that are changed while they run, and what the tools say of them.

use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::server::{Server, eventually};
use crate::stage::{Kind, Stage, analytics, ask, asked, fill, until_analysed};

const FAST: &str = "rate = \"unlimited\"";

/// Runs a command against a server; returns its exit code and all that it said.
fn command(server: &Server, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(arguments).args(["--admin", &server.admin().to_string()]).env_remove("RUST_LOG");
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

fn state(server: &Server, below: &str) -> Value {
    asked(server, "GET", below, &json!(null))["now"]["state"].clone()
}

#[test]
fn one_sink_is_paused_and_the_others_go_on_across_a_kill() {
    let stage = Stage::new(Kind::Sqlite);
    stage.configure(FAST, Some(FAST));
    let server = stage.site.start();
    for (address, paused, running) in [("orders", "", "/sinks/analytics"), ("orders/analytics", "/sinks/analytics", "")]
    {
        let (code, said) = command(&server, &["pause", address]);
        assert!(code == Some(0) && said.contains(&format!("forebay resume {address}")), "{said}");
        eventually("the pause", || (state(&server, paused) == "paused").then_some(()));
        eventually("the other one's start", || (state(&server, running) == "running").then_some(()));
        assert_eq!(command(&server, &["resume", address]).0, Some(0));
        eventually("the end of the pause", || (state(&server, paused) == "running").then_some(()));
    }
    assert_eq!(command(&server, &["pause", "orders/analytics"]).0, Some(0));
    server.kill9();
    let server = stage.site.start();
    server.until_said("the queue is paused, as it was before");
    let (_, last) = fill(&server, 0, 1);
    server.until_delivered(&last);
    eventually("the pause", || (state(&server, "/sinks/analytics") == "paused").then_some(()));
    assert_eq!(stage.other.bodies().len(), 0);
    assert_eq!(command(&server, &["resume", "orders/analytics"]).0, Some(0));
    until_analysed(&server, &last);
    server.stop();
}

#[test]
fn rates_are_those_of_one_sink_and_a_hangup_takes_each_over() {
    let stage = Stage::new(Kind::Sqlite);
    stage.configure("rate = \"10/h\"", Some("rate = \"20/h\""));
    let server = stage.site.start();
    let rates = |server: &Server| {
        let queue = asked(server, "GET", "", &json!(null));
        [queue["rate"].clone(), queue["sinks"]["analytics"]["rate"].clone(), analytics(server)["rate"].clone()]
    };
    assert_eq!(rates(&server), ["10/h", "20/h", "20/h"]);
    let (code, said) = command(&server, &["rate", "orders/analytics", "30/h"]);
    assert!(code == Some(0) && said.contains("orders/analytics"), "{said}");
    assert_eq!(rates(&server), ["10/h", "30/h", "30/h"]);
    server.until_said("sink=\"analytics\"");
    let (code, said) = command(&server, &["queues"]);
    let row =
        |name: &str, rate: &str| said.lines().any(|line| line.starts_with(&format!("{name} ")) && line.contains(rate));
    assert!(code == Some(0) && row("orders", "10/h") && row("orders/analytics", "30/h"), "{said}");
    let (_, said) = command(&server, &["dead-letters", "list", "orders/analytics"]);
    assert!(said.contains("0 dead"), "{said}");
    stage.configure("rate = \"10/h\"", Some("rate = \"40/h\""));
    server.signal(Signal::HUP);
    eventually("the hangup", || (rates(&server) == ["10/h", "40/h", "40/h"]).then_some(()));
    assert!(!server.said("restart"), "{}", server.log());
    stage.configure("rate = \"10/h\"", None);
    server.signal(Signal::HUP);
    server.until_said("queues.orders");
    server.stop();
}

#[test]
fn what_there_is_not_is_refused_by_name() {
    let stage = Stage::new(Kind::Sqlite);
    stage.configure(FAST, Some(FAST));
    let server = stage.site.start();
    for (method, below, part) in [
        ("GET", "/sinks/archive", "no sink `archive` beside its main one; it has analytics"),
        ("POST", "/sinks/archive/pause", "no sink `archive`"),
        ("PATCH", "/sinks/archive", "no sink `archive`"),
        ("GET", "/sinks/archive/dead-letters", "no sink `archive`"),
        ("GET", "/sinks", "the paths are"),
        ("GET", "/sinks/analytics/elsewhere", "the paths are"),
    ] {
        let response = ask(&server, method, below, &json!({}));
        response.assert_problem(404, "not-found");
        assert!(response.text("detail").contains(part), "{below}: {response:?}");
    }
    let fixed = ask(&server, "PATCH", "/sinks/analytics", &json!({ "order": "none" }));
    fixed.assert_problem(422, "not-applicable");
    let (code, said) = command(&server, &["rate", "orders/archive", "5/s"]);
    assert!(code == Some(1) && said.contains("no sink `archive`"), "{said}");
    server.stop();
}

#[test]
fn the_tools_go_over_all_sinks() {
    let stage = Stage::new(Kind::Postgres);
    stage.configure(FAST, Some(FAST));
    let (code, said) = stage.site.check();
    assert!(code == Some(0) && said.contains("queue orders, sink analytics: the sink is ready"), "{said}");
    let server = stage.site.start();
    asked(&server, "POST", "/sinks/analytics/pause", &json!(null));
    eventually("the pause", || (state(&server, "/sinks/analytics") == "paused").then_some(()));
    let (_, last) = fill(&server, 0, 3);
    server.until_delivered(&last);
    server.stop();
    let (_, out, _) = stage.site.tool("inspect", &["--json"]);
    let queue = serde_json::from_str::<Value>(&out).unwrap()["queues"][0].clone();
    assert_eq!((&queue["delivered_sequence_min"], &queue["dead_letters"]), (&json!(60), &json!(0)), "{queue}");
    let sink = &queue["sinks"][0];
    assert_eq!((&sink["sink"], &sink["delivered_sequence_min"]), (&json!("analytics"), &json!(0)), "{queue}");
    let part = queue["part"].as_str().unwrap();
    assert_eq!(sink["part"], format!("{part}/sink-analytics"));
    let (_, text, _) = stage.site.tool("inspect", &[]);
    assert!(text.contains("sink analytics"), "{text}");
    let exported = |arguments: &[&str]| {
        let (code, out, _) = stage.site.tool("export", &[&["--queue", "orders"], arguments].concat());
        (code, out.lines().count())
    };
    assert_eq!(exported(&[]), (Some(0), 0));
    assert_eq!(exported(&["--sink", "analytics"]), (Some(0), 60));
    assert_eq!(exported(&["--sink", "archive"]).0, Some(2));
    let (code, out, _) = stage.site.tool("verify", &[]);
    assert!(code == Some(0) && out.contains("intact"), "{out}");
    let directory = stage.site.queue("orders").join("sinks").join("analytics");
    for (file, kind) in [("begin", "small-file"), ("cursor", "cursor"), ("dead-letters.ndjson", "dead-letter")] {
        let path = directory.join(file);
        let whole = std::fs::read(&path).unwrap_or_default();
        std::fs::write(&path, "{garbled\n{garbled\n").unwrap();
        let (code, out, _) = stage.site.tool("verify", &["--json"]);
        let found = serde_json::from_str::<Value>(&out).unwrap()["findings"].clone();
        assert!(code == Some(1) && found[0]["kind"] == kind, "{file}: {found}");
        assert_eq!(found[0]["file"], path.to_str().unwrap());
        std::fs::write(&path, whole).unwrap();
    }
}
