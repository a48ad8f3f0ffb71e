//! Reads, writes and syncs that fail, on a disk that keeps nothing but what was synced; and file systems without
//! `O_DIRECT`, whose page cache can show what the disk has not got.

use std::path::PathBuf;
use std::time::Duration;

use fuser::Errno;

use super::load::{Account, Orders, account};
use super::random::Random;
use super::server::database::{sqlite_column, until_sqlite_has};
use super::server::{Client, SMALL_JOURNAL, Server, Site, eventually};
use super::table_elsewhere;
use super::volatile_disk::{Abilities, Failure, Operation, VolatileDisk};

const DIRECT: Abilities = Abilities { direct: true, keeps_cache: false, sync_pause: Duration::ZERO };
const CACHED: Abilities = Abilities { direct: false, keeps_cache: true, sync_pause: Duration::ZERO };
const SEGMENTS: &str = ".seg";

struct Place {
    // Dropped in this order: what is mounted inside the site goes before it.
    disk: VolatileDisk,
    database: PathBuf,
    site: Site,
    sink: String,
}

impl Place {
    fn new(abilities: Abilities, rate: &str) -> Self {
        let site = Site::new("");
        std::fs::create_dir(site.data()).unwrap();
        let disk = VolatileDisk::mount(&site.data(), abilities);
        let (database, sink) = table_elsewhere(&site);
        let place = Self { disk, database, site, sink };
        place.set_rate(rate);
        place
    }

    /// Cuts the power for a moment, while no server runs.
    fn cut(&self) {
        self.disk.cut(&mut Random::from_environment("FOREBAY_ERRORS_SEED"));
        self.disk.restore();
    }

    fn set_rate(&self, rate: &str) {
        self.site.configure(&format!("{SMALL_JOURNAL}[queues.orders]\nrate = \"{rate}\"\n{}", self.sink));
    }
}

fn order(client: &mut Client, id: &str) -> super::server::client::Response {
    let body = format!("{{\"id\":\"{id}\",\"padding\":\"{}\"}}", "x".repeat(2000));
    client.post("orders", &[("idempotency-key", id), ("content-type", "application/json")], body)
}

fn accept(server: &Server, orders: &mut Orders, id: &str) {
    let response = order(&mut server.client(), id);
    assert_eq!(response.status, 202, "{response:?}");
    orders.insert(id.to_owned(), response.text("ticket"));
}

/// Whatever fails, it fails for good: no acknowledgement after it, even if the disk is well again, until a restart; and
/// what the failed batch held counts as never stored.
fn a_failure_ends_acknowledging(abilities: Abilities, operation: Operation, failure: Failure) {
    let place = Place::new(abilities, "1/h");
    let mut orders = Orders::new();
    let server = place.site.start();
    for number in 0..40 {
        accept(&server, &mut orders, &format!("before-{number}"));
    }
    place.disk.fail(operation, SEGMENTS, failure);
    order(&mut server.client(), "unlucky").assert_problem(503, "journal-failed");
    place.disk.heal();
    order(&mut server.client(), "unlucky").assert_problem(503, "journal-failed");
    assert_eq!(server.metric("forebay_journal_failed"), 1);
    for address in [server.address(), server.admin()] {
        assert_eq!(Client::connect(address).unwrap().get("/healthz").status, 503);
    }
    server.kill9();

    // What is acknowledged now must be on the disk and not only in the page cache.
    let server = place.site.start();
    accept(&server, &mut orders, "unlucky");
    accept(&server, &mut orders, "after");
    server.kill9();
    place.cut();
    place.set_rate("unlimited");
    let server = place.site.start();
    accept(&server, &mut orders, "last");
    until_sqlite_has(&place.database, orders.len(), "SELECT id FROM orders");
    assert_eq!(account(&orders, &place.database), Account::default());
    server.stop();
}

#[test]
fn a_failed_sync_ends_acknowledging() {
    a_failure_ends_acknowledging(DIRECT, Operation::Sync, Failure::Error(Errno::EIO));
}

#[test]
fn a_failed_sync_ends_acknowledging_where_the_page_cache_hides_what_was_lost() {
    a_failure_ends_acknowledging(CACHED, Operation::Sync, Failure::Error(Errno::EIO));
}

#[test]
fn a_failed_write_ends_acknowledging() {
    a_failure_ends_acknowledging(DIRECT, Operation::Write, Failure::Error(Errno::EIO));
}

/// Space for a segment is taken beforehand, so on a file system that can do that no write finds the disk full; on another one it may.
#[test]
fn a_write_into_a_segment_that_finds_no_space_ends_acknowledging() {
    a_failure_ends_acknowledging(DIRECT, Operation::Write, Failure::Error(Errno::ENOSPC));
}

#[test]
fn a_short_write_ends_acknowledging() {
    a_failure_ends_acknowledging(DIRECT, Operation::Write, Failure::Short);
}

/// Two queues are committed in one call, through `io_uring`, and fail together.
#[test]
fn a_failed_sync_of_several_queues_ends_acknowledging_for_all() {
    let place = Place::new(DIRECT, "1/h");
    place.site.configure("[queues.orders]\nrate = \"1/h\"\n[queues.others]\nrate = \"1/h\"\n");
    let server = place.site.start();
    let post = |queue: &'static str| {
        let mut client = server.client();
        std::thread::spawn(move || client.post(queue, &[], "record").status)
    };
    for queue in ["orders", "others"] {
        server.client().accept(queue, "record");
    }
    place.disk.fail(Operation::Sync, SEGMENTS, Failure::Error(Errno::EIO));
    let posts: Vec<_> = ["orders", "others"].into_iter().cycle().take(8).map(post).collect();
    for response in posts {
        assert_eq!(response.join().unwrap(), 503);
    }
    place.disk.heal();
    for queue in ["orders", "others"] {
        server.client().post(queue, &[], "record").assert_problem(503, "journal-failed");
    }
    server.kill9();
    let server = place.site.start();
    for queue in ["orders", "others"] {
        server.client().accept(queue, "record");
    }
    server.stop();
}

#[test]
fn a_file_system_without_direct_access_is_used_with_a_warning() {
    let place = Place::new(CACHED, "unlimited");
    let mut orders = Orders::new();
    for life in 0..3 {
        let server = place.site.start();
        assert!(server.said("no O_DIRECT on this file system"), "{}", server.log());
        for number in 0..100 {
            accept(&server, &mut orders, &format!("{life}-{number}"));
        }
        server.kill9();
        place.cut();
    }
    let server = place.site.start();
    until_sqlite_has(&place.database, orders.len(), "SELECT id FROM orders");
    assert_eq!(account(&orders, &place.database), Account::default());
    server.stop();
}

#[test]
fn a_segment_that_cannot_be_read_holds_the_start_up_and_is_left_as_it_is() {
    let place = Place::new(DIRECT, "unlimited");
    let server = place.site.start();
    let mut orders = Orders::new();
    accept(&server, &mut orders, "one");
    server.kill9();
    place.disk.fail(Operation::Read, SEGMENTS, Failure::Error(Errno::EIO));
    let (code, log) = place.site.start_refused();
    assert_eq!(code, Some(1), "{log}");
    for part in ["00000000000000000001.seg", "Input/output error"] {
        assert!(log.contains(part), "{part:?} is not in\n{log}");
    }
    place.disk.heal();
    let server = place.site.start();
    until_sqlite_has(&place.database, 1, "SELECT id FROM orders");
    server.stop();
}

/// A backlog that cannot be read waits; nothing behind it overtakes, and nothing is lost.
#[test]
fn a_backlog_that_cannot_be_read_is_tried_again() {
    let place = Place::new(DIRECT, "unlimited");
    let lock = rusqlite::Connection::open(&place.database).unwrap();
    lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let server = place.site.start();
    let mut orders = Orders::new();
    // Many segments, of which the drain can have read the first few.
    for number in 0..600 {
        accept(&server, &mut orders, &format!("order-{number}"));
    }
    place.disk.fail(Operation::Read, SEGMENTS, Failure::Error(Errno::EIO));
    lock.execute_batch("COMMIT").unwrap();
    eventually("the error in the log", || server.log().contains("Input/output error").then_some(()));
    assert!(sqlite_column(&place.database, "SELECT id FROM orders").len() < orders.len());
    accept(&server, &mut orders, "meanwhile");
    place.disk.heal();
    let ids = until_sqlite_has(&place.database, orders.len(), "SELECT id FROM orders ORDER BY rowid");
    assert_eq!(ids.last().unwrap(), "meanwhile");
    assert_eq!(account(&orders, &place.database), Account::default());
    server.stop();
}
