//! Several transactions at a time: what one of them waits for does not hold up the others.

use serde_json::json;
use tokio_postgres::{Client, NoTls};

use crate::server::{Server, eventually};
use crate::stage::{Kind, Stage, admin, metric, now, pause, resume, send, send_all, ticket};

const KEYS: usize = 40;
const RECORDS_OF_KEY: usize = 25;

/// A session that is in a transaction.
struct Session {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Session {
    fn begin(url: &str, sql: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
            tokio::spawn(connection);
            client.batch_execute(&format!("BEGIN; {sql}")).await.unwrap();
            client
        });
        Self { runtime, client }
    }

    fn end(self) {
        self.runtime.block_on(self.client.batch_execute("ROLLBACK")).unwrap();
    }
}

/// The second timeout lets the lane fail and try again while the row is locked.
pub fn a_row_that_another_session_has_locked_stops_its_key_alone() {
    for sink in ["", "commit_timeout_ms = 1000"] {
        let stage = Stage::new(Kind::Postgres, "");
        stage.execute("CREATE TABLE stock (key text PRIMARY KEY, taken integer)");
        stage.configure_statement(
            "rate = \"unlimited\"\norder = \"key\"\nconcurrency = 3\nbatch = { records_max = 20 }",
            sink,
            "INSERT INTO stock VALUES (:key, 1) ON CONFLICT (key) DO UPDATE SET taken = stock.taken + 1",
        );
        let taken = |condition: &str| {
            let sql = format!("SELECT coalesce(sum(taken), 0) FROM stock WHERE key {condition}");
            stage.rows(&sql)[0][0].parse::<usize>().unwrap()
        };
        let server = stage.site.start();
        assert_eq!(admin(&server, "GET", "", &serde_json::Value::Null)["now"]["lanes"], 3);
        server.until_delivered(&send(&server, &[("forebay-key", "hot")], "{}"));
        let session = Session::begin(stage.postgres_url(), "SELECT FROM stock WHERE key = 'hot' FOR UPDATE");
        let hot = send(&server, &[("forebay-key", "hot")], "{}");
        eventually("the transaction that waits", || (metric(&server, "drain_in_flight") == 1).then_some(()));
        for number in 0..KEYS {
            let key = format!("key-{number}");
            let bodies = (0..RECORDS_OF_KEY).map(|_| "{}".to_owned());
            send_all(&server, &[("forebay-key", &key)], bodies);
            // Behind the one that waits.
            send(&server, &[("forebay-key", "hot")], "{}");
        }
        eventually("everything else", || (taken("<> 'hot'") == KEYS * RECORDS_OF_KEY).then_some(()));
        assert_eq!((taken("= 'hot'"), ticket(&server, &hot).0.as_str()), (1, "queued"));
        session.end();
        eventually("the hot key", || (taken("= 'hot'") == KEYS + 2).then_some(()));
        server.stop();
        stage.assert_all_in_order((KEYS * (RECORDS_OF_KEY + 1) + 2) as u64);
        assert_eq!(taken("<> ''"), KEYS * (RECORDS_OF_KEY + 1) + 2);
    }
}

const STOCK: &str = "CREATE TABLE stock (key text PRIMARY KEY, taken integer)";
const TAKE: &str = "INSERT INTO stock VALUES (:key, 1) ON CONFLICT (key) DO UPDATE SET taken = stock.taken + 1";

fn change(server: &Server, concurrency: u32) {
    admin(server, "PATCH", "", &json!({ "concurrency": concurrency }));
}

fn until_lanes(server: &Server, count: u32) {
    eventually(&format!("{count} lanes"), || (now(server)["lanes"] == count).then_some(()));
}

/// The only lane fails again and again, and lets others in between two attempts.
pub fn lanes_are_added_beside_one_that_waits_for_a_locked_row() {
    let stage = Stage::new(Kind::Postgres, "");
    stage.execute(STOCK);
    let options = "rate = \"unlimited\"\norder = \"key\"\nretry = { failures_max = 1000 }";
    stage.configure_statement(options, "commit_timeout_ms = 500", TAKE);
    let taken = |key: &str| stage.rows(&format!("SELECT taken FROM stock WHERE key = '{key}'")).concat();
    let server = stage.site.start();
    server.until_delivered(&send(&server, &[("forebay-key", "hot")], "{}"));
    let session = Session::begin(stage.postgres_url(), "SELECT FROM stock WHERE key = 'hot' FOR UPDATE");
    let hot = send(&server, &[("forebay-key", "hot")], "{}");
    eventually("the transaction that waits", || (metric(&server, "drain_in_flight") == 1).then_some(()));
    // One that has the key of what is on its way already, and some that do not.
    send(&server, &[("forebay-key", "hot")], "{}");
    for number in 0..KEYS {
        send(&server, &[("forebay-key", &format!("key-{number}"))], "{}");
    }
    assert_eq!(now(&server)["lanes"], 1);
    change(&server, 3);
    until_lanes(&server, 3);
    eventually("everything else", || (stage.rows("SELECT FROM stock").len() == KEYS + 1).then_some(()));
    assert_eq!((taken("hot"), ticket(&server, &hot).0.as_str()), (vec!["1".to_owned()], "queued"));
    // The lane that fails is the one that stays.
    change(&server, 1);
    until_lanes(&server, 1);
    session.end();
    eventually("the hot key", || (taken("hot") == ["3"]).then_some(()));
    server.stop();
    stage.assert_all_in_order(KEYS as u64 + 3);
}

pub fn lanes_that_cannot_be_added_hold_up_neither_records_nor_a_stop() {
    let stage = Stage::new(Kind::Postgres, "");
    stage.execute(STOCK);
    let options = "rate = \"unlimited\"\norder = \"key\"\nretry = { backoff_ms_max = 300 }";
    stage.configure_statement(options, "commit_timeout_ms = 300", TAKE);
    let server = stage.site.start();
    change(&server, 2);
    until_lanes(&server, 2);
    change(&server, 1);
    until_lanes(&server, 1);
    // The row of the lane to come.
    let of_lane = "SELECT FROM forebay_position WHERE part LIKE '%/lane-1' FOR UPDATE";
    let session = Session::begin(stage.postgres_url(), of_lane);
    change(&server, 2);
    server.until_said("another lane could not be opened; trying again");
    server.until_delivered(&send(&server, &[("forebay-key", "a")], "{}"));
    assert_eq!(now(&server)["lanes"], 1);
    // Nobody wants it any more, and then somebody does.
    change(&server, 1);
    server.until_delivered(&send(&server, &[("forebay-key", "a")], "{}"));
    change(&server, 2);
    session.end();
    until_lanes(&server, 2);
    change(&server, 1);
    until_lanes(&server, 1);

    // Now no row is to be had, and whoever is to stop does.
    let session = Session::begin(stage.postgres_url(), "LOCK TABLE forebay_position");
    change(&server, 4);
    let last = send(&server, &[("forebay-key", "b")], "{}");
    server.until_said("the sink did not take records; trying again");
    assert_eq!((now(&server)["lanes"].clone(), ticket(&server, &last).0.as_str()), (json!(1), "queued"));
    server.stop();
    session.end();
    let server = stage.site.start();
    server.until_delivered(&last);
    change(&server, 4);
    until_lanes(&server, 4);
    server.stop();
    stage.assert_all_in_order(3);
}

/// The lane to come has its number from when it was asked for; if others ended before it has its row, it would stand in the place of
/// one of them.
pub fn lanes_that_come_while_others_end_keep_their_numbers() {
    let stage = Stage::new(Kind::Postgres, "rate = \"unlimited\"\norder = \"none\"\nbatch = { records_max = 5 }");
    let server = stage.site.start();
    let waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let (mut last, mut sent) = (String::new(), 0);
    let mut offer = |count: usize| {
        last = send_all(&server, &[], (sent..sent + count).map(|number| format!("{number:05}")));
        sent += count;
        (last.clone(), sent)
    };
    change(&server, 4);
    until_lanes(&server, 4);
    for _ in 0..2 {
        change(&server, 3);
        until_lanes(&server, 3);
        let of_lane = "SELECT FROM forebay_position WHERE part LIKE '%/lane-3' FOR UPDATE";
        let session = Session::begin(stage.postgres_url(), of_lane);
        change(&server, 4);
        eventually("the admission that waits", || (!stage.rows(waits).is_empty()).then_some(()));
        // Once it is paused, it has seen that one of its lanes is to end.
        change(&server, 2);
        pause(&server);
        change(&server, 4);
        resume(&server);
        session.end();
        until_lanes(&server, 4);
        offer(200);
    }
    // And at any moment, under load.
    for turn in 0..25 {
        change(&server, [4, 1, 3, 2, 5][turn % 5]);
        offer(20);
    }
    change(&server, 5);
    let (last, sent) = offer(20);
    until_lanes(&server, 5);
    let mut bodies = stage.until_bodies(sent);
    bodies.sort();
    assert_eq!(bodies, (0..sent).map(|number| format!("{number:05}")).collect::<Vec<_>>());
    server.until_delivered(&last);
    assert!(stage.has_used_lanes());
    server.stop();
    stage.assert_all_in_order(sent as u64);
    let lanes = "SELECT split_part(part, '/', 3) FROM forebay_position WHERE part LIKE '%/lane-%' ORDER BY 1";
    assert_eq!(stage.rows(lanes).concat(), ["lane-1", "lane-2", "lane-3", "lane-4"]);
}
