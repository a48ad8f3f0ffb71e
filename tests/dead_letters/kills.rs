//! Redrives over kills of the process, and over a database that was set back.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::server::database::{sqlite_column, sqlite_execute, until_sqlite_has};
use crate::server::eventually;
use crate::stage::{IDS, LENIENT, asked, dead, list, strict_site, until_redriven};

/// Each letter is delivered once or still a dead letter, whenever the process is killed.
#[test]
fn kills_at_any_instant_neither_lose_nor_double_a_letter() {
    const LETTERS: usize = 300;
    let site = strict_site();
    let server = site.start();
    let tickets = dead(&server, 0..LETTERS);
    server.stop();
    sqlite_execute(&site.database("orders"), LENIENT);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut kills_within = 0;
    for _ in 0..12 {
        let server = site.start();
        let before = list(&server);
        let gone = before["redriven"].as_u64().unwrap();
        if before["dead"] != 0 {
            asked(&server, "POST", "/redrive", &json!({ "all": true, "rate": "1000/s" }));
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_micros(seed >> 47));
        server.kill9();
        let rows = sqlite_column(&site.database("orders"), IDS).len() as u64;
        kills_within += u64::from(rows > gone && rows < LETTERS as u64);
    }
    let server = site.start();
    if list(&server)["dead"] != 0 {
        asked(&server, "POST", "/redrive", &json!({ "all": true, "rate": "unlimited" }));
    }
    assert_eq!(until_redriven(&server)["redriven"], LETTERS);
    let mut ids: Vec<usize> =
        sqlite_column(&site.database("orders"), IDS).iter().map(|id| id.parse().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..LETTERS).collect::<Vec<_>>());
    assert!(tickets.iter().all(|ticket| server.client().ticket(ticket)["state"] == "delivered"));
    assert!(kills_within > 0, "no kill fell into a redrive, so nothing was shown");
    server.stop();
}

/// A database that was set back has lost what was redriven since, and gets it again.
#[test]
fn a_restored_database_gets_again_what_was_redriven() {
    let site = strict_site();
    let server = site.start();
    dead(&server, 1..4);
    server.stop();
    let database = site.database("orders");
    sqlite_execute(&database, LENIENT);
    let server = site.start();
    asked(&server, "POST", "/redrive", &json!({ "sequences": [1] }));
    until_redriven(&server);
    server.stop();
    let backup = site.path().join("backup.db");
    sqlite_execute(&database, "PRAGMA wal_checkpoint(TRUNCATE)");
    fs::copy(&database, &backup).unwrap();
    let server = site.start();
    asked(&server, "POST", "/redrive", &json!({ "sequences": [2, 3] }));
    until_redriven(&server);
    server.stop();
    for ending in ["db-wal", "db-shm"] {
        let _ = fs::remove_file(database.with_extension(ending));
    }
    fs::copy(&backup, &database).unwrap();
    let server = site.start();
    until_sqlite_has(&database, 3, IDS);
    eventually("the end", || (list(&server)["redriven"] == 3).then_some(()));
    server.stop();
}
