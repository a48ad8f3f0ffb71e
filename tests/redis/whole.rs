//! The real forebay in front of a real Redis.

use std::collections::BTreeSet;

use crate::redis_server::RedisServer;
use crate::server::{Client, Site, eventually};

const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

fn queue(url: &str) -> String {
    format!(
        "[queues.orders]\nrate = \"unlimited\"\nretry = {{ backoff_ms_max = 100 }}\n[queues.orders.sink]\ntype = \"redis\"\n\
         url = \"{url}\"\ncommands = [\"RPUSH orders {{/id}}\", \"INCRBY sum {{/n}}\"]\n"
    )
}

fn orders(from: u64, to: u64) -> String {
    (from..to)
        .map(|id| {
            if id % 100 == 99 { format!("{{\"id\":{id},\"n\":\"x\"}}\n") } else { format!("{{\"id\":{id},\"n\":1}}\n") }
        })
        .collect()
}

/// Redis is away at the start and killed while records are on their way, forebay is killed too; some records are refused.
#[test]
fn every_record_arrives_once_whoever_is_killed() {
    let mut redis = RedisServer::start();
    let site = Site::new(&queue(&redis.url()));
    redis.kill9();
    let mut server = site.start();
    let mut tickets = BTreeSet::new();
    for round in 0..6 {
        let response = server.client().post("orders", &NDJSON, orders(round * 500, (round + 1) * 500));
        assert_eq!(response.status, 202);
        tickets.insert(response.text("first_ticket"));
        match round % 3 {
            0 => redis.restart(),
            1 => {
                server.kill9();
                server = site.start();
            }
            _ => redis.kill9(),
        }
    }
    redis.restart();
    for ticket in &tickets {
        server.until_delivered(ticket);
    }
    let poison = 3_000 / 100;
    eventually("all orders", || {
        let sum: Option<u64> = redis.ask(&["GET", "sum"]);
        assert!(sum.unwrap_or_default() <= 3_000 - poison, "{sum:?}");
        (sum == Some(3_000 - poison) && server.metric("forebay_dead_letters{queue=\"orders\"}") == poison).then_some(())
    });
    // The first command of a refused record stays.
    let ids: Vec<u64> = redis.ask(&["LRANGE", "orders", "0", "-1"]);
    assert_eq!(ids, (0..3_000).collect::<Vec<_>>(), "each once, and in order");
    server.stop();
}

#[test]
fn a_dead_letter_is_redriven_from_the_command_that_refused_it() {
    let redis = RedisServer::start();
    let site = Site::new(&queue(&redis.url()));
    let server = site.start();
    let _: () = redis.ask(&["SET", "sum", "text"]);
    let ticket = server.client().accept("orders", "{\"id\":7,\"n\":1}");
    eventually("a dead letter", || (server.metric("forebay_dead_letters{queue=\"orders\"}") == 1).then_some(()));
    let _: () = redis.ask(&["SET", "sum", "5"]);
    let path = "/v1/queues/orders/dead-letters/redrive";
    let answer = Client::connect(server.admin()).unwrap().request("POST", path, &[], Some(b"{\"all\":true}")).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    server.until_delivered(&ticket);
    assert_eq!(redis.ask::<u64>(&["GET", "sum"]), 6);
    assert_eq!(redis.ask::<Vec<u64>>(&["LRANGE", "orders", "0", "-1"]), [7]);
    server.stop();
}
