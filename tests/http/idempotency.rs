//! A request that is sent again with its Idempotency-Key gets what it got before.

use super::*;

const BODIES: &str = "SELECT body FROM forebay_orders ORDER BY rowid";

#[test]
fn a_key_that_is_sent_again_gets_the_same_ticket_and_one_row() {
    let site = Site::new(UNLIMITED);
    let server = site.start();
    let mut client = server.client();
    let key = [("idempotency-key", "order-1")];
    let first = client.post("orders", &key, "one");
    assert_eq!((first.status, first.header("idempotent-replayed")), (202, None));
    server.until_delivered(&first.text("ticket"));
    for again in ["one", "another body"] {
        let second = client.post("orders", &key, again);
        assert_eq!((second.status, second.header("idempotent-replayed")), (202, Some("true")), "{second:?}");
        assert_eq!(second.text("ticket"), first.text("ticket"));
        assert_eq!(second.header("location"), first.header("location"));
        // It is delivered, so nothing is in front of it any more.
        assert_eq!((second.json()["position"].as_u64(), second.json()["eta_ms"].as_u64()), (Some(0), Some(0)));
    }
    let last = client.accept_with_key("orders", "order-2", "two");
    server.until_delivered(&last);
    assert_eq!(until_sqlite_has(&site.database("orders"), 2, BODIES), ["one", "two"]);
    server.stop();
}

#[test]
fn many_at_once_with_one_key_are_one_record() {
    let site = Site::new(UNLIMITED);
    let server = site.start();
    let address = server.address();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address).unwrap();
                (0..20).map(|n| client.accept_with_key("orders", &format!("key {n}"), "x")).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut tickets: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    tickets.dedup();
    assert_eq!(tickets.len(), 1, "{tickets:?}");
    let last = server.client().accept("orders", "last");
    server.until_delivered(&last);
    assert_eq!(until_sqlite_has(&site.database("orders"), 21, BODIES).last().unwrap(), "last");
    server.stop();
}

#[test]
fn a_key_is_still_known_after_a_restart_and_after_a_kill() {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let ticket = server.client().accept_with_key("orders", "k", "one");
    server.stop();
    for _ in 0..2 {
        let server = site.start();
        let again = server.client().post("orders", &[("idempotency-key", "k")], "one");
        assert_eq!((again.header("idempotent-replayed"), again.text("ticket")), (Some("true"), ticket.clone()));
        server.kill9();
    }
    let server = site.start();
    assert_eq!(server.client().ticket(&ticket)["position"], 1);
    assert_eq!(server.metric("forebay_appended_sequence{queue=\"orders\"}"), 1);
    server.stop();
}

#[test]
fn one_key_in_two_queues_is_two_records() {
    let site = Site::new(&format!("{STANDSTILL}[queues.refunds]\nrate = \"1/h\"\n"));
    let server = site.start();
    let mut client = server.client();
    let order = client.accept_with_key("orders", "k", "order");
    let refund = client.post("refunds", &[("idempotency-key", "k")], "refund");
    assert_eq!(refund.header("idempotent-replayed"), None);
    assert!(order.starts_with("orders-1-") && refund.text("ticket").starts_with("refunds-1-"));
    server.stop();
}

#[test]
fn a_window_of_nothing_turns_keys_off() {
    let site = Site::new("[queues.orders]\nrate = \"1/h\"\nidempotency_window_ms = 0\n");
    let server = site.start();
    let mut client = server.client();
    let tickets = [(); 2].map(|()| client.accept_with_key("orders", "k", "x"));
    assert_ne!(tickets[0], tickets[1]);
    server.stop();
}

#[test]
fn the_oldest_key_makes_room_and_is_counted() {
    let site = Site::new("[queues.orders]\nrate = \"1/h\"\nidempotency_keys_max = 2\n");
    let server = site.start();
    let mut client = server.client();
    let tickets = ["a", "b", "c"].map(|key| client.accept_with_key("orders", key, "x"));
    assert_eq!(server.metric("forebay_idempotency_keys_evicted_total{queue=\"orders\"}"), 1);
    assert_eq!(client.accept_with_key("orders", "c", "x"), tickets[2]);
    assert_eq!(client.accept_with_key("orders", "b", "x"), tickets[1]);
    assert_ne!(client.accept_with_key("orders", "a", "x"), tickets[0]);
    server.stop();
}
