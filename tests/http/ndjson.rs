//! Many records in one body: all of them or none.

use super::*;

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
const ROWS: &str = "SELECT body, content_type FROM forebay_orders ORDER BY rowid";

fn bodies(site: &Site) -> Vec<String> {
    sqlite_rows(&site.database("orders"), ROWS).into_iter().map(|row| row[0].clone()).collect()
}

#[test]
fn every_line_is_a_record_whatever_ends_it() {
    let site = Site::new(UNLIMITED);
    let server = site.start();
    let mut client = server.client();
    let response = client.post(
        "orders",
        &[("content-type", "Application/X-NDJSON; charset=utf-8"), ("forebay-key", "k")],
        "\n{\"n\":1}\r\n\r\n  \t\n{\"n\":2}\n {\"n\":3} \n\n{\"n\":4}",
    );
    assert_eq!(response.status, 202, "{response:?}");
    assert_eq!(response.json()["count"], 4);
    let (first, last) = (response.text("first_ticket"), response.text("last_ticket"));
    assert!(first.starts_with("orders-1-") && last.starts_with("orders-4-"), "{response:?}");
    assert_eq!(response.header("location"), Some(format!("/v1/tickets/{first}").as_str()));
    server.until_delivered(&last);
    assert_eq!(client.ticket(&first)["state"], "delivered");
    let wanted: Vec<_> = (1..=4).map(|n| vec![format!("{{\"n\":{n}}}"), "application/json".to_owned()]).collect();
    assert_eq!(sqlite_rows(&site.database("orders"), ROWS), wanted);
    server.stop();
}

#[test]
fn positions_are_those_of_the_last_record() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    until_drain_runs(&server);
    let mut client = server.client();
    client.accept("orders", "before");
    let response = client.post("orders", &[NDJSON], "1\n2\n3\n");
    assert_eq!((&response.json()["position"], &response.json()["eta_ms"]), (&4.into(), &(4 * HOUR_MS).into()));
    assert_eq!(client.ticket(&response.text("first_ticket"))["position"], 2);
    assert_eq!(client.ticket(&response.text("last_ticket"))["position"], 4);
    server.stop();
}

#[test]
fn one_wrong_line_keeps_all_out() {
    let config = "[ingress]\nrecord_bytes_max = 100\nbatch_request_records_max = 5\nbatch_request_bytes_max = 1000\n";
    let site = Site::new(&format!("{config}{UNLIMITED}"));
    let server = site.start();
    let mut client = server.client();
    let long_line = format!("1\n2\n{}\n4\n", "x".repeat(101));
    let refused = client.post("orders", &[NDJSON], &long_line);
    refused.assert_problem(413, "too-large");
    assert!(refused.text("detail").contains("line 3 has 101 bytes"), "{refused:?}");
    client.post("orders", &[NDJSON], "1\n2\n3\n4\n5\n6\n").assert_problem(413, "too-large");
    for empty in ["\n\r\n \n", "\n"] {
        client.post("orders", &[NDJSON], empty).assert_problem(400, "bad-request");
    }
    // The connection is closed behind what was not read.
    let mut hasty = server.client();
    hasty.post("orders", &[NDJSON], "x\n".repeat(501)).assert_problem(413, "too-large");
    assert_eq!(server.metric("forebay_appended_sequence{queue=\"orders\"}"), 0);
    let just_fits = format!("{}\n2\n3\n4\n5\n", "x".repeat(100));
    let response = client.post("orders", &[NDJSON], &just_fits);
    assert_eq!(response.status, 202, "{response:?}");
    server.until_delivered(&response.text("last_ticket"));
    assert_eq!(bodies(&site), just_fits.lines().collect::<Vec<_>>());
    server.stop();
}

#[test]
fn a_body_with_a_key_is_replayed_as_a_whole() {
    let site = Site::new(UNLIMITED);
    let mut server = site.start();
    let headers = [NDJSON, ("idempotency-key", "batch-1")];
    let first = server.client().post("orders", &headers, "1\n2\n3\n");
    assert_eq!((first.status, first.header("idempotent-replayed")), (202, None));
    for restart in [false, true] {
        if restart {
            server.kill9();
            server = site.start();
        }
        let again = server.client().post("orders", &headers, "1\n2\n3\n");
        assert_eq!((again.status, again.header("idempotent-replayed")), (202, Some("true")), "{again:?}");
        for field in ["first_ticket", "last_ticket", "count"] {
            assert_eq!(again.json()[field], first.json()[field], "{again:?}");
        }
    }
    let last = server.client().accept("orders", "4");
    server.until_delivered(&last);
    assert_eq!(bodies(&site), ["1", "2", "3", "4"]);
    server.stop();
}

#[test]
fn the_largest_body_of_many_records_is_taken() {
    let site = Site::new(UNLIMITED);
    let server = site.start();
    let lines: String = (0..20_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let response = server.client().post("orders", &[NDJSON], &lines);
    assert_eq!((response.status, response.json()["count"].as_u64()), (202, Some(20_000)), "{response:?}");
    server.until_delivered(&response.text("last_ticket"));
    assert_eq!(bodies(&site), lines.lines().collect::<Vec<_>>());
    server.stop();
}
