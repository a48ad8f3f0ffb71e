//! Databases and data directories that were set back to an earlier copy, thrown away, or copied and run twice.

use std::fs;
use std::path::PathBuf;

use super::*;
use server::database::{sqlite_column, sqlite_execute};
use server::{SMALL_JOURNAL, Server, copy_directory, eventually};

const ROWS: &str = "SELECT body FROM forebay_orders ORDER BY rowid";

/// A site that delivers everything at once into a database outside its data directory.
struct Shop {
    site: Site,
}

impl Shop {
    fn new(journal: &str) -> Self {
        let shop = Self { site: Site::new("") };
        shop.set_rate(journal, "unlimited");
        shop
    }

    fn set_rate(&self, journal: &str, rate: &str) {
        let url = format!("sqlite:{}", self.database().display());
        self.site.configure(&format!("{journal}[queues.orders]\nrate = \"{rate}\"\nsink = {{ url = \"{url}\" }}\n"));
    }

    fn database(&self) -> PathBuf {
        self.site.path().join("shop").join("orders.db")
    }

    fn start(&self) -> Server {
        fs::create_dir_all(self.database().parent().unwrap()).unwrap();
        self.site.start()
    }

    /// Accepts records with these bodies and waits for the last one's delivery; returns their tickets.
    fn deliver(server: &Server, bodies: impl Iterator<Item = String>) -> Vec<String> {
        let mut client = server.client();
        let tickets: Vec<_> = bodies.map(|body| client.accept("orders", body)).collect();
        server.until_delivered(tickets.last().unwrap());
        tickets
    }

    fn rows(&self) -> Vec<String> {
        sqlite_column(&self.database(), ROWS)
    }
}

fn named(name: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |n| format!("{name}-{n}"))
}

fn until_halted(server: &Server) {
    eventually("a halt", || (server.metric("forebay_drain_halted{queue=\"orders\"}") == 1).then_some(()));
}

#[test]
fn a_restored_database_gets_again_what_the_journal_still_has() {
    let shop = Shop::new("");
    let server = shop.start();
    let mut tickets = Shop::deliver(&server, named("before", 5));
    server.stop();
    let backup = shop.site.path().join("backup");
    copy_directory(shop.database().parent().unwrap(), &backup);
    let server = shop.start();
    tickets.extend(Shop::deliver(&server, named("after", 5)));
    server.stop();
    copy_directory(&backup, shop.database().parent().unwrap());
    assert_eq!(shop.rows().len(), 5);
    let server = shop.start();
    let wanted: Vec<_> = named("before", 5).chain(named("after", 5)).collect();
    assert_eq!(until_sqlite_has(&shop.database(), 10, ROWS), wanted);
    for ticket in &tickets {
        server.until_delivered(ticket);
    }
    server.stop();
}

#[test]
fn a_database_restored_to_before_what_the_journal_still_has_halts_its_queue() {
    let shop = Shop::new(SMALL_JOURNAL);
    let server = shop.start();
    Shop::deliver(&server, named("before", 5));
    server.stop();
    let backup = shop.site.path().join("backup");
    copy_directory(shop.database().parent().unwrap(), &backup);
    let server = shop.start();
    Shop::deliver(&server, named("after", 100).map(|body| body + &"x".repeat(8000)));
    eventually("a recycled segment", || {
        (server.metric("forebay_trimmed_sequence{queue=\"orders\"}") > 50).then_some(())
    });
    server.stop();
    copy_directory(&backup, shop.database().parent().unwrap());
    let server = shop.start();
    until_halted(&server);
    // It says from where to where, and the front door stays open.
    let log = server.log();
    let line = log.lines().find(|line| line.contains("no longer delivered")).unwrap();
    assert!(line.contains('5') && !line.contains("beyond"), "{line}");
    server.client().accept("orders", "more");
    assert_eq!(shop.rows().len(), 5, "something was delivered beyond the gap");
    server.stop();

    // What was beyond the position then must not count from another one.
    sqlite_execute(&shop.database(), "UPDATE forebay_position SET beyond = x'010101'");
    let server = shop.start();
    until_halted(&server);
    server.until_said("and its beyond to NULL");
    let first = server.log().split("the journal begins with ").nth(1).unwrap().split(':').next().unwrap().to_owned();
    server.stop();
    let position = first.parse::<u64>().unwrap() - 1;
    sqlite_execute(&shop.database(), &format!("UPDATE forebay_position SET position = {position}, beyond = NULL"));
    let server = shop.start();
    let last = server.client().accept("orders", "last");
    server.until_delivered(&last);
    let rows = shop.rows();
    assert!(rows.len() > 7 && rows.ends_with(&["more".to_owned(), "last".to_owned()]), "{rows:?}");
    server.stop();
}

#[test]
fn a_data_directory_that_was_set_back_halts_its_queue() {
    let shop = Shop::new("");
    let server = shop.start();
    Shop::deliver(&server, named("before", 5));
    server.stop();
    let backup = shop.site.path().join("backup");
    copy_directory(&shop.site.data(), &backup);
    let server = shop.start();
    Shop::deliver(&server, named("after", 5));
    server.stop();
    copy_directory(&backup, &shop.site.data());
    let server = shop.start();
    until_halted(&server);
    assert_eq!(shop.rows().len(), 10);
    // The front door stays open, and nothing is delivered.
    server.client().accept("orders", "more");
    assert_eq!(shop.rows().len(), 10);
    server.stop();
}

#[test]
fn a_data_directory_that_was_thrown_away_begins_anew_beside_the_old_one() {
    let shop = Shop::new("");
    let server = shop.start();
    let old = Shop::deliver(&server, named("old", 5));
    server.stop();
    fs::remove_dir_all(shop.site.data()).unwrap();
    let server = shop.start();
    Shop::deliver(&server, named("new", 3));
    server.client().get(&format!("/v1/tickets/{}", old[0])).assert_problem(404, "not-found");
    let wanted: Vec<_> = named("old", 5).chain(named("new", 3)).collect();
    assert_eq!(shop.rows(), wanted);
    assert_eq!(sqlite_column(&shop.database(), "SELECT count(*) FROM forebay_position"), ["2"]);
    server.stop();
}

#[test]
fn of_two_processes_on_copies_of_a_directory_the_later_one_delivers() {
    let (first, second) = (Shop::new(""), Site::new(""));
    let server = first.start();
    Shop::deliver(&server, named("both", 3));
    server.stop();
    copy_directory(&first.site.data(), &second.data());
    let url = format!("sqlite:{}", first.database().display());
    second.configure(&format!("[queues.orders]\nrate = \"unlimited\"\nsink = {{ url = \"{url}\" }}\n"));

    let older = first.start();
    Shop::deliver(&older, named("older", 2));
    // The copy knows nothing of these two, so it may not go on behind them; it is one that fell behind.
    let behind = second.start();
    until_halted(&behind);
    behind.stop();

    // With a copy of the same state, the later one takes over, and the older one is fenced.
    older.stop();
    copy_directory(&first.site.data(), &second.data());
    let older = first.start();
    eventually("the older one's epoch", || older.said("delivering to the sink from here on").then_some(()));
    let later = second.start();
    Shop::deliver(&later, named("later", 2));
    let ticket = older.client().accept("orders", "fenced");
    until_halted(&older);
    assert_eq!(older.client().ticket(&ticket)["state"], "queued");
    let wanted: Vec<_> = named("both", 3).chain(named("older", 2)).chain(named("later", 2)).collect();
    assert_eq!(first.rows(), wanted);
    // Both go on accepting, and only one delivers.
    older.client().accept("orders", "waits");
    Shop::deliver(&later, named("last", 1));
    assert_eq!(first.rows().len(), wanted.len() + 1);
    older.stop();
    later.stop();
}

/// What was acknowledged from memory may be lost with the process, and no more than that; its tickets name nothing else.
#[test]
fn what_was_acknowledged_from_memory_is_lost_with_the_last_batch_at_most() {
    let site = Site::new("[queues.orders]\nack = \"memory\"\nrate = \"1/h\"\n");
    let mut kept = 0;
    for _ in 0..5 {
        let server = site.start();
        assert!(server.metric("forebay_durable_sequence{queue=\"orders\"}") >= kept);
        let mut client = server.client();
        let tickets: Vec<_> = named("order", 200).map(|body| client.accept("orders", body)).collect();
        // Everything before the batch in progress is on disk.
        kept = server.metric("forebay_durable_sequence{queue=\"orders\"}");
        server.kill9();
        let server = site.start();
        let durable = server.metric("forebay_durable_sequence{queue=\"orders\"}");
        assert!(durable >= kept, "{durable} records are left of {kept} that were durable");
        let mut client = server.client();
        for ticket in &tickets {
            let sequence = u64::from_str_radix(ticket.split('-').nth(1).unwrap(), 16).unwrap();
            let response = client.get(&format!("/v1/tickets/{ticket}"));
            assert_eq!(response.status == 404, sequence > durable, "{ticket}: {response:?}");
        }
        kept = durable;
        server.kill9();
    }
}
