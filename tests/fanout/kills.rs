//! kill -9 at random instants while records go to three sinks in different orders.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::server::{Client, SMALL_JOURNAL, Server};
use crate::stage::{Kind, NDJSON, Stage, Store, names};

const KILLS: usize = 12;
/// Records of one request.
const LINES: usize = 20;
/// Requests of one life, at most.
const REQUESTS: usize = 60;

/// Posts requests from this one on, or until the server goes away; returns the first that was not acknowledged.
fn post(server: &Server, first: usize, count: usize) -> usize {
    let Ok(mut client) = Client::connect(server.address()) else { return first };
    for next in first..first + count {
        let lines: String = names(next * LINES..(next + 1) * LINES).iter().map(|name| format!("{name}\n")).collect();
        let key = format!("request-{next}");
        match client.try_post("orders", &[NDJSON, ("idempotency-key", &key)], lines) {
            Ok(response) => assert_eq!(response.status, 202, "{response:?}"),
            Err(_) => return next,
        }
    }
    first + count
}

pub fn kills_under_load_lose_and_double_nothing_in_any_sink(main: Kind) {
    let stage = Stage::new(main);
    let archive = Store::Sqlite(stage.site.path().join("archive.db"));
    archive.execute("CREATE TABLE arrivals (n INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT, ticket TEXT)");
    let retry = "retry = { backoff_ms_min = 5, backoff_ms_max = 20 }";
    let batch = "batch = { records_max = 50 }";
    stage.site.configure(&format!(
        "{SMALL_JOURNAL}[queues.orders]\nrate = \"4000/s\"\n{retry}\n{batch}\n[queues.orders.sink]\n{}\
         [queues.orders.sinks.analytics]\nrate = \"unlimited\"\norder = \"none\"\nconcurrency = 3\n{retry}\n{batch}\n{}\
         [queues.orders.sinks.archive]\nrate = \"2000/s\"\n{retry}\n{batch}\n{}",
        stage.main.keys(),
        stage.other.keys(),
        archive.keys()
    ));
    let (mut seed, mut next) = (0x2545_f491_4f6c_dd1d_u64, 0);
    let mut behind = 0;
    for _ in 0..KILLS {
        let server = stage.site.start();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        next = thread::scope(|scope| {
            let client = scope.spawn(|| post(&server, next, REQUESTS));
            // Up to half a second.
            thread::sleep(Duration::from_micros(seed >> 45));
            server.signal(Signal::KILL);
            client.join().unwrap()
        });
        server.kill9();
        let [one, two, three] = [&stage.main, &stage.other, &archive].map(|store| store.bodies().len());
        behind += usize::from(one != two || two != three);
    }
    // The request that was not acknowledged is sent again.
    let server = stage.site.start();
    next = post(&server, next, 10);
    for store in [&stage.main, &archive] {
        assert_eq!(store.until_bodies(next * LINES), names(0..next * LINES));
    }
    let mut analysed = stage.other.until_bodies(next * LINES);
    analysed.sort();
    assert_eq!(analysed, names(0..next * LINES));
    assert!(behind > 0, "no kill came while one sink was behind another");
    server.stop();
    // By its own account each sink has all of it, too.
    for (store, suffix) in [(&stage.main, ""), (&stage.other, "/sink-analytics"), (&archive, "/sink-archive")] {
        let found = store.positions();
        assert!(found.iter().all(|(part, _)| part.contains(suffix)), "{found:?}");
        assert_eq!(found.iter().map(|(_, position)| *position).max(), Some((next * LINES) as u64), "{found:?}");
    }
    let lanes = stage.other.positions().iter().filter(|(part, _)| part.contains("/sink-analytics/lane-")).count();
    assert_eq!(lanes, 2);
}
