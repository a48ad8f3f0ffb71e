//! What the drain makes of records that it cannot deliver: it gives them up, and waits while the file has no room for them.

use std::time::Duration;

use serde_json::json;

use crate::postgres_server::PostgresServer;
use crate::server::database::{postgres, postgres_column, sqlite_column, sqlite_execute};
use crate::server::{Site, eventually};
use crate::stage::{IDS, ORDERS, STRICT, asked, list, order, queue_request, until_redriven};

#[test]
fn a_full_file_holds_the_drain_up_until_letters_leave() {
    let site = Site::new(&ORDERS.replace(
        "rate =",
        "dead_letters_bytes_max = 1200\nretry = { backoff_ms_max = 50, backoff_ms_min = 10 }\nrate =",
    ));
    sqlite_execute(&site.database("orders"), STRICT);
    let server = site.start();
    let mut client = server.client();
    let tickets: Vec<_> = (0..10).map(|id| client.accept("orders", order(id, -1))).collect();
    server.until_said("has reached dead_letters_bytes_max = 1200");
    let first = list(&server)["dead"].as_u64().unwrap();
    assert!((1..10).contains(&first), "{first}");
    // Nothing was lost meanwhile, and what is purged makes room.
    let mut purged = 0;
    while purged < 10 {
        purged += asked(&server, "POST", "/purge", &json!({ "all": true }))["count"].as_u64().unwrap();
    }
    eventually("the end", || (server.metric("forebay_backlog_records{queue=\"orders\"}") == 0).then_some(()));
    assert!(server.said("the dead-letter file was rewritten"), "{}", server.log());
    assert!(tickets.iter().all(|ticket| client.ticket(ticket)["state"] == "purged"));
    server.kill9();
    let server = site.start();
    assert!(tickets.iter().all(|ticket| server.client().ticket(ticket)["state"] == "purged"));
    assert_eq!(sqlite_column(&site.database("orders"), IDS), Vec::<String>::new());
    server.stop();
}

/// On PostgreSQL: a serialisation failure is transient by its code, whatever the record; here one record always has it.
#[test]
fn a_record_is_given_up_after_attempts_of_its_own_and_one_that_is_too_old_is_not_sent() {
    let postgres_server = PostgresServer::start();
    let url = postgres_server.url("postgres");
    postgres(
        &url,
        "CREATE TABLE orders (id integer);
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF NEW.id = 7 THEN RAISE EXCEPTION 'not now' USING ERRCODE = '40001'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER fail BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION fail()",
    );
    let queue = |retry: &str| {
        format!(
            "[queues.orders]\nrate = \"unlimited\"\nretry = {{ backoff_ms_min = 1, backoff_ms_max = 5, failures_max = 2{retry} }}\n\
             [queues.orders.sink]\ntype = \"postgres\"\nurl = \"{url}\"\ntable = \"orders\"\ncolumns = {{ id = \"/id\" }}\n"
        )
    };
    let site = Site::new(&queue(", attempts_max = 3"));
    let server = site.start();
    let lines: String = (0..20).map(|id| format!("{{\"id\":{id}}}\n")).collect();
    let ndjson = [("content-type", "application/x-ndjson")];
    let last = server.client().post("orders", &ndjson, lines).text("last_ticket");
    server.until_delivered(&last);
    let expected: Vec<_> = (0..20).filter(|id| *id != 7).map(|id| id.to_string()).collect();
    assert_eq!(postgres_column(&url, "SELECT id FROM orders ORDER BY id"), expected);
    let letters = list(&server)["dead_letters"].clone();
    assert_eq!((letters.as_array().unwrap().len(), &letters[0]["sequence"]), (1, &json!(8)), "{letters:#}");
    let reason = letters[0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("given up after 3 attempts") && reason.contains("not now"), "{reason}");
    // A redrive gives up after as many.
    asked(&server, "POST", "/redrive", &json!({ "all": true }));
    assert_eq!(until_redriven(&server)["dead"], 1);
    server.stop();

    // While it is paused it gets too old.
    let site = Site::new(&queue(", age_ms_max = 1"));
    let server = site.start();
    queue_request(&server, "POST", "/pause", "");
    eventually("the pause", || (server.metric("forebay_drain_paused{queue=\"orders\"}") == 1).then_some(()));
    let ticket = server.client().accept("orders", "{\"id\":100}");
    std::thread::sleep(Duration::from_millis(10));
    queue_request(&server, "POST", "/resume", "");
    eventually("the dead letter", || (server.client().ticket(&ticket)["state"] == "dead").then_some(()));
    let reason = list(&server)["dead_letters"][0]["reason"].clone();
    assert_eq!(reason, "given up undelivered: older than retry.age_ms_max = 1");
    assert_eq!(postgres_column(&url, "SELECT id FROM orders WHERE id = 100"), Vec::<String>::new());
    server.stop();
}
