//! Dead letters of one sink are no business of the others.

use serde_json::json;

use crate::server::eventually;
use crate::stage::{Kind, Stage, ask, asked, names, until_analysed};

pub fn poison_in_one_sink_is_a_dead_letter_of_that_one_alone(main: Kind) {
    let stage = Stage::new(main);
    let options = "rate = \"unlimited\"\nretry = { backoff_ms_min = 10 }";
    stage.configure(options, Some(options));
    let server = stage.site.start();
    let mut client = server.client();
    for body in names(0..5) {
        client.accept("orders", body);
    }
    let poison = client.accept("orders", "poison");
    let last = client.accept("orders", "last");
    server.until_delivered(&last);
    until_analysed(&server, &last);
    let wanted = |special: &[&str]| [names(0..5), special.iter().map(|body| (*body).to_owned()).collect()].concat();
    assert_eq!(stage.main.bodies(), wanted(&["poison", "last"]));
    assert_eq!(stage.other.bodies(), wanted(&["last"]));
    let ticket = client.ticket(&poison);
    assert_eq!((&ticket["state"], &ticket["sinks"]["analytics"]["state"]), (&json!("delivered"), &json!("dead")));
    assert!(ticket["sinks"]["analytics"]["reason"].as_str().unwrap().to_lowercase().contains("check"), "{ticket}");
    assert_eq!(asked(&server, "GET", "/dead-letters", &json!(null))["dead"], 0);
    let letters = asked(&server, "GET", "/sinks/analytics/dead-letters", &json!(null));
    assert_eq!((&letters["dead"], &letters["sink"]), (&json!(1), &json!("analytics")), "{letters}");
    assert_eq!(letters["dead_letters"][0]["sequence"], 6);
    assert_eq!(ask(&server, "GET", "/dead-letters/6", &json!(null)).status, 404);
    server.kill9();
    // It is in a file of its own, and what is done with it has a position of its own.
    let (code, out, _) = stage.site.tool("export", &["--queue", "orders", "--sink", "analytics", "--dead"]);
    assert!(code == Some(0) && out.contains("\"body\":\"poison\""), "{out}");
    let (_, out, _) = stage.site.tool("export", &["--queue", "orders", "--dead"]);
    assert_eq!(out, "");
    let server = stage.site.start();
    let repaired = ask(&server, "PUT", "/sinks/analytics/dead-letters/6", &json!("mended"));
    assert_eq!(repaired.status, 200, "{repaired:?}");
    asked(&server, "POST", "/sinks/analytics/dead-letters/redrive", &json!({ "all": true }));
    let ticket = || server.client().ticket(&poison)["sinks"]["analytics"]["state"].clone();
    eventually("the redrive", || (ticket() == "delivered").then_some(()));
    assert_eq!(stage.other.until_bodies(7), wanted(&["last", "\"mended\""]));
    assert_eq!(stage.main.bodies(), wanted(&["poison", "last"]));
    let parts: Vec<_> = stage.other.positions().into_iter().map(|(part, _)| part).collect();
    assert!(parts.len() == 2 && parts[1].starts_with(&format!("{}/redrive-", parts[0])), "{parts:?}");
    server.stop();
}
