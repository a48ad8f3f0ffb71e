//! What is asked of dead letters by the admin API and the command line: pages, edits, redrives, purges; and what is refused.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::server::Server;
use crate::server::database::sqlite_column;
use crate::stage::{asked, dead, list, order, request, strict_site, until_redriven};

/// Runs `forebay dead-letters` against a server; returns its exit code and all that it said.
fn command(server: &Server, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.arg("dead-letters").args(arguments).args(["--admin", &server.admin().to_string()]).env_remove("RUST_LOG");
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn letters_are_listed_read_edited_redriven_and_purged() {
    let site = strict_site();
    let server = site.start();
    let tickets = dead(&server, 1..6);
    let page = asked(&server, "GET", "?limit=2", &Value::Null);
    assert_eq!((&page["dead"], &page["next_after"]), (&json!(5), &json!(2)), "{page:#}");
    let page = asked(&server, "GET", "?after=2&limit=3", &Value::Null);
    let sequences: Vec<_> =
        page["dead_letters"].as_array().unwrap().iter().map(|l| l["sequence"].as_u64().unwrap()).collect();
    assert_eq!((sequences, &page["next_after"]), (vec![3, 4, 5], &Value::Null));
    assert!(page["dead_letters"][0]["reason"].as_str().unwrap().contains("CHECK constraint failed"), "{page:#}");
    let shown = asked(&server, "GET", "/3", &Value::Null);
    assert_eq!((&shown["ticket"], &shown["body"]), (&json!(tickets[2]), &json!(order(3, -1))));

    // An edit counts for the redrive, and the original stays in the file.
    assert_eq!(request(&server, "PUT", "/3", order(3, 30).as_bytes()).status, 200);
    let shown = asked(&server, "GET", "/3", &Value::Null);
    assert_eq!((&shown["body"], &shown["is_edited"]), (&json!(order(3, 30)), &json!(true)));
    let file = fs::read_to_string(site.queue("orders").join("dead-letters.ndjson")).unwrap();
    assert!(file.contains(&json!(order(3, -1)).to_string()) && file.contains("ann@desk"), "{file}");
    let (code, exported, _) = site.tool("export", &["--queue", "orders", "--dead"]);
    assert!(code == Some(0) && exported.contains(&json!(order(3, 30)).to_string()), "{exported}");

    // Letter 4 is refused again and stays, with the reason of now.
    let answer = asked(&server, "POST", "/redrive", &json!({ "sequences": [4, 3], "rate": "unlimited" }));
    assert_eq!((&answer["count"], &answer["rate"]), (&json!(2), &json!("unlimited")));
    let after = until_redriven(&server);
    assert_eq!((&after["dead"], &after["redriven"]), (&json!(4), &json!(1)), "{after:#}");
    assert_eq!(server.client().ticket(&tickets[2])["state"], "delivered");
    assert_eq!(server.client().ticket(&tickets[3])["state"], "dead");
    let rows = sqlite_column(&site.database("orders"), "SELECT id || ' ' || amount || ' ' || ticket FROM orders");
    assert_eq!(rows, [format!("3 30 {}", tickets[2])]);

    // What is purged says so.
    assert_eq!(asked(&server, "DELETE", "/4", &Value::Null)["count"], 1);
    assert_eq!(server.client().ticket(&tickets[3])["state"], "purged");
    assert_eq!(asked(&server, "POST", "/purge", &json!({ "all": true }))["count"], 3);
    for (metric, value) in
        [("", 0), ("_redriving", 0), ("_redriven_total", 1), ("_purged_total", 4), ("_edited_total", 1)]
    {
        assert_eq!(server.metric(&format!("forebay_dead_letters{metric}{{queue=\"orders\"}}")), value, "{metric}");
    }
    for said in ["a dead letter has another body", "dead letters are to be redriven", "dead letters were purged"] {
        assert!(server.said(said), "{said} is not in\n{}", server.log());
    }
    server.stop();

    let server = site.start();
    let states: Vec<_> =
        tickets.iter().map(|t| server.client().ticket(t)["state"].as_str().unwrap().to_owned()).collect();
    assert_eq!(states, ["purged", "purged", "delivered", "purged", "purged"]);
    assert_eq!(list(&server)["dead_letters"], json!([]));
    server.stop();
    let (code, said, _) = site.tool("verify", &[]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let site = strict_site();
    let server = site.start();
    dead(&server, 1..3);
    let before = list(&server);
    for (method, path, body, status, name) in [
        ("GET", "/7", "", 404, "not-found"),
        ("GET", "?limit=many", "", 400, "bad-request"),
        ("GET", "/first", "", 404, "not-found"),
        ("PUT", "/1", "", 422, "not-applicable"),
        ("PUT", "/7", "x", 404, "not-found"),
        ("DELETE", "/7", "", 404, "not-found"),
        ("POST", "/redrive", "{", 400, "bad-request"),
        ("POST", "/redrive", "{}", 422, "not-applicable"),
        ("POST", "/redrive", r#"{"all":true,"sequences":[1]}"#, 422, "not-applicable"),
        ("POST", "/redrive", r#"{"sequences":[1,7]}"#, 404, "not-found"),
        ("POST", "/redrive", r#"{"all":true,"rate":"fast"}"#, 422, "not-applicable"),
        ("POST", "/redrive", r#"{"al":true}"#, 422, "not-applicable"),
        ("POST", "/purge", r#"{"sequences":[]}"#, 422, "not-applicable"),
        ("PATCH", "/1", "", 405, "method-not-allowed"),
    ] {
        request(&server, method, path, body.as_bytes()).assert_problem(status, name);
    }
    assert_eq!(list(&server), before);
    server.stop();
}

#[test]
fn the_command_line_does_the_same() {
    let site = strict_site();
    let server = site.start();
    let tickets = dead(&server, 1..4);
    let (code, said) = command(&server, &["list", "orders", "--limit", "2"]);
    assert!(code == Some(0) && said.contains("3 dead, 0 being redriven") && said.contains("--after 2"), "{said}");
    let (_, said) = command(&server, &["show", "orders", "2", "--body"]);
    assert_eq!(said, order(2, -1));
    let body = site.path().join("body.json");
    fs::write(&body, order(2, 20)).unwrap();
    let (code, said) = command(&server, &["edit", "orders", "2", "--body", body.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = command(&server, &["redrive", "orders", "2", "--rate", "50/s"]);
    assert!(code == Some(0) && said.contains("1 letters are redriven at 50/s"), "{said}");
    server.until_delivered(&tickets[1]);
    let (code, said) = command(&server, &["cancel", "orders"]);
    assert!(code == Some(0) && said.contains("0 letters"), "{said}");
    let (code, said) = command(&server, &["purge", "orders", "--all"]);
    assert!(code == Some(1) && said.contains("--yes"), "{said}");
    let (code, said) = command(&server, &["purge", "orders", "--all", "--yes"]);
    assert!(code == Some(0) && said.contains("2 letters are purged"), "{said}");
    let (code, said) = command(&server, &["show", "orders", "2"]);
    assert!(code == Some(1) && said.contains("is gone"), "{said}");
    server.stop();
}
