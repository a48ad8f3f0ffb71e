//! kill -9 at random instants, while records overtake each other.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::server::{Client, Server};
use crate::stage::{Kind, NDJSON, Stage};

const KILLS: usize = 12;
/// Records of one request.
const LINES: usize = 20;
/// Requests of one life, at most.
const REQUESTS: usize = 80;
const TENANTS: [&str; 3] = ["a", "b", "c"];

/// Posts so many requests from this one on, or until the server goes away; returns the first that was not acknowledged.
fn post(server: &Server, first: usize, count: usize) -> usize {
    let Ok(mut client) = Client::connect(server.address()) else { return first };
    for next in first..first + count {
        let (idempotency, key, priority) =
            (format!("request-{next}"), format!("key-{}", next % 7), (next * 7 % 10).to_string());
        let mut headers = vec![
            NDJSON,
            ("idempotency-key", &idempotency),
            ("x-tenant", TENANTS[next % 3]),
            ("forebay-priority", &priority),
        ];
        // One in seven has no key.
        headers.extend((next % 7 > 0).then_some(("forebay-key", &*key)));
        headers.extend(next.is_multiple_of(5).then_some(("forebay-delay", "30ms")));
        let lines: String = (0..LINES).map(|line| format!("{next:05}-{line:02}\n")).collect();
        match client.try_post("orders", &headers, lines) {
            Ok(response) => assert_eq!(response.status, 202, "{response:?}"),
            Err(_) => return next,
        }
    }
    first + count
}

pub fn kills_under_load_lose_and_double_nothing_and_keys_keep_their_order(kind: Kind) {
    kill_again_and_again(kind, "4000/s", &[1], &[]);
}

/// A life may have fewer lanes than the one before it, or one.
pub fn kills_with_several_lanes_lose_and_double_nothing_and_keys_keep_their_order(kind: Kind) {
    kill_again_and_again(kind, "unlimited", &[4, 4, 1, 4, 2], &[]);
}

/// And within each life, while records flow.
pub fn kills_while_lanes_come_and_go_lose_and_double_nothing_and_keys_keep_their_order(kind: Kind) {
    kill_again_and_again(kind, "unlimited", &[1, 3], &[4, 2, 1]);
}

/// Changes the number of lanes again and again, each time once the last change has taken effect, until the server goes away;
/// returns how many have.
fn change_lanes(server: &Server, turns: &[u32]) -> usize {
    for (changes, concurrency) in turns.iter().cycle().enumerate() {
        loop {
            let Ok(mut client) = Client::connect(server.admin()) else { return changes };
            let body = format!("{{\"concurrency\": {concurrency}}}");
            match client.request("PATCH", "/v1/queues/orders", &[], Some(body.as_bytes())) {
                Ok(response) if response.json()["now"]["lanes"] == *concurrency => break,
                Ok(response) => assert_eq!(response.status, 200, "{response:?}"),
                Err(_) => return changes,
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
    0
}

/// Each life has as many transactions at a time as its turn of `concurrency` says, and then as those of `changes`.
fn kill_again_and_again(kind: Kind, rate: &str, concurrency: &[u32], changes: &[u32]) {
    let options = |concurrency: u32| {
        format!(
            "rate = \"{rate}\"\norder = \"key\"\nfair_by = \"header:X-Tenant\"\nfair_weights = {{ a = 3 }}\ndelay_ms_max = \
             1000\nconcurrency = {concurrency}\nwindow = {{ records_max = 700 }}\nbatch = {{ records_max = 50 }}"
        )
    };
    let mut lives = concurrency.iter().cycle().map(|concurrency| options(*concurrency));
    let stage = Stage::new(kind, &lives.next().unwrap());
    let server = stage.site.start();
    let mut next = post(&server, 0, 1);
    stage.until_bodies(LINES);
    server.stop();
    let (mut seed, mut kills_beyond, mut in_effect) = (0x9e37_79b9_7f4a_7c15_u64, 0, 0);
    for options in lives.take(KILLS) {
        stage.configure(&options);
        let server = stage.site.start();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // In some lives clients are gone before, and the drain goes on by itself.
        let count = if (seed >> 32).is_multiple_of(4) { 5 } else { REQUESTS };
        next = thread::scope(|scope| {
            let client = scope.spawn(|| post(&server, next, count));
            let changing = scope.spawn(|| change_lanes(&server, changes));
            // Up to half a second.
            thread::sleep(Duration::from_micros(seed >> 45));
            server.signal(Signal::KILL);
            in_effect += changing.join().unwrap();
            client.join().unwrap()
        });
        assert!(!server.said("no longer delivered"), "the drain has halted");
        server.kill9();
        kills_beyond += usize::from(stage.has_beyond());
    }
    // The request that was not acknowledged is sent again.
    let server = stage.site.start();
    next = post(&server, next, 10);
    let bodies = stage.until_bodies(next * LINES);
    let mut sorted = bodies.clone();
    sorted.sort();
    let all = (0..next).flat_map(|request| (0..LINES).map(move |line| format!("{request:05}-{line:02}")));
    assert_eq!(sorted, all.collect::<Vec<_>>());
    let mut of_key: BTreeMap<usize, Vec<&String>> = BTreeMap::new();
    for body in &bodies {
        of_key.entry(body[..5].parse::<usize>().unwrap() % 7).or_default().push(body);
    }
    for (key, bodies) in of_key {
        assert!(key == 0 || bodies.is_sorted(), "key {key} is out of order");
    }
    // How many there were is a matter of the machine's load.
    assert!(concurrency.len() > 1 || !stage.has_used_lanes());
    assert_eq!(in_effect > 0, !changes.is_empty());
    assert!(!bodies.is_sorted() && kills_beyond > 0, "{kills_beyond} kills fell into deliveries out of order");
    server.stop();
    stage.assert_all_in_order((next * LINES) as u64);
}
