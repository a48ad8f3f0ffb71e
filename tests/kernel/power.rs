//! Cuts of the power under load. The data directory and the database are on a file system on a loop device, whose
//! image is on a disk that loses what was not synced. The file system is shut down, so that it writes nothing that it holds.

use std::time::Duration;

use super::load::{Account, COLUMNS, Load, TABLE, account};
use super::mount::{Kind, Volume};
use super::random::Random;
use super::server::database::{sqlite_column, sqlite_execute};
use super::server::{SMALL_JOURNAL, Server, Site, eventually};
use super::volatile_disk::{Abilities, VolatileDisk};

/// How many cuts each file system gets; `FOREBAY_POWER_CUTS` makes it more.
const CUTS: u64 = 6;
/// As long as an ordinary disk's.
const SYNC_PAUSE: Duration = Duration::from_millis(2);

/// What cuts of the power led to.
enum Aftermath {
    /// The drain has halted, because the sink has more than the journal.
    Halted,
    /// What became of the orders, and how many sectors the cuts lost.
    Counted { account: Account, sectors_lost: usize },
    /// A start was refused, for this reason.
    Refused(String),
}

/// Cuts the power of a server again and again, while clients send. Its database is cut as well, unless a bug is planted.
fn cut_under_load(kind: Kind, cuts: u64, planted_bug: Option<&str>) -> Aftermath {
    let mut random = Random::from_environment("FOREBAY_POWER_SEED");
    let mut site = Site::new("");
    let mut database = site.database("orders");
    if let Some(bug) = planted_bug {
        site.set_environment("FOREBAY_PLANTED_BUG", bug);
        // Elsewhere, since its syncs make the whole image durable and would hide that there are no others.
        database = site.path().join("orders.db");
    }
    let url = format!("sqlite:{}", database.display());
    site.configure(&format!(
        "{SMALL_JOURNAL}[queues.orders]\nrate = \"2000/s\"\nretry = {{ backoff_ms_max = 200 }}\n\
         [queues.orders.sink]\nurl = \"{url}\"\n{COLUMNS}"
    ));
    let disk_path = site.path().join("disk");
    std::fs::create_dir(&disk_path).unwrap();
    let disk =
        VolatileDisk::mount(&disk_path, Abilities { direct: true, sync_pause: SYNC_PAUSE, ..Abilities::default() });
    let mut volume = Volume::new(kind, &disk_path.join("image"), &site.data());
    sqlite_execute(&database, TABLE);
    let load = Load::start(&mut random);
    let mut sectors_lost = 0;
    for _ in 0..cuts {
        let server = match site.try_start() {
            Ok(server) => server,
            Err(log) => {
                load.abandon();
                return Aftermath::Refused(log);
            }
        };
        load.aim(Some(server.address()));
        load.until_more(1 + random.below(500));
        std::thread::sleep(Duration::from_micros(random.below(30_000)));
        sectors_lost += disk.cut(&mut random);
        volume.shut_down();
        load.aim(None);
        server.kill9();
        volume.unmount();
        disk.restore();
        volume.mount();
        if planted_bug.is_none() {
            // What a cut leaves behind is no damage.
            let (code, found, _) = site.tool("verify", &[]);
            assert_eq!(code, Some(0), "{found}");
        }
    }
    let server = match site.try_start() {
        Ok(server) => server,
        Err(log) => {
            load.abandon();
            return Aftermath::Refused(log);
        }
    };
    load.aim(Some(server.address()));
    let orders = load.finish();
    // What was lost may have been delivered before, and then the sink is further than the journal.
    if planted_bug.is_some() && is_drained_or_halted(&server) == Drained::Halted {
        return Aftermath::Halted;
    }
    until_drained(&server);
    assert!(orders.len() as u64 >= cuts, "the clients got hardly anything through: {}", orders.len());
    let account = account(&orders, &database);
    eprintln!("{kind:?}: {} orders over {cuts} cuts, which lost {sectors_lost} sectors", orders.len());
    server.stop();
    assert_eq!(sqlite_column(&database, "PRAGMA integrity_check"), ["ok"]);
    Aftermath::Counted { account, sectors_lost }
}

#[derive(PartialEq, Eq)]
enum Drained {
    All,
    Halted,
}

fn is_drained_or_halted(server: &Server) -> Drained {
    let mark = |name: &str| server.metric(&format!("forebay_{name}_sequence{{queue=\"orders\"}}"));
    eventually("the end of the backlog, or of the drain", || {
        let is_halted = server.said("no longer delivered");
        let is_all = mark("delivered") == mark("durable");
        is_halted.then_some(Drained::Halted).or(is_all.then_some(Drained::All))
    })
}

fn until_drained(server: &Server) {
    let mark = |name: &str| server.metric(&format!("forebay_{name}_sequence{{queue=\"orders\"}}"));
    eventually("the end of the backlog", || (mark("delivered") == mark("durable")).then_some(()));
}

fn cuts_from_environment() -> u64 {
    std::env::var("FOREBAY_POWER_CUTS").map_or(CUTS, |text| text.parse().expect("FOREBAY_POWER_CUTS must be a number"))
}

fn assert_nothing_is_lost(kind: Kind) {
    match cut_under_load(kind, cuts_from_environment(), None) {
        Aftermath::Counted { account, sectors_lost } => {
            assert_eq!(account, Account::default());
            assert!(sectors_lost > 0, "the cuts lost nothing, so they show nothing");
        }
        Aftermath::Halted => panic!("the drain has halted"),
        Aftermath::Refused(log) => panic!("a start was refused:\n{log}"),
    }
}

#[test]
fn xfs_has_everything_that_was_acknowledged_before_the_power_was_cut() {
    assert_nothing_is_lost(Kind::Xfs);
}

#[test]
fn ext4_has_everything_that_was_acknowledged_before_the_power_was_cut() {
    assert_nothing_is_lost(Kind::Ext4);
}

/// The proof that these tests can fail: a server that acknowledges without a sync loses orders, or damages its journal.
#[cfg(feature = "planted-bugs")]
#[test]
fn an_acknowledgement_without_a_sync_is_caught() {
    for bug in ["AcknowledgeBeforeSync", "SkipSync"] {
        match cut_under_load(Kind::Xfs, CUTS, Some(bug)) {
            Aftermath::Counted { account, .. } => {
                eprintln!("{bug}: {} orders lost", account.lost.len());
                assert!(!account.lost.is_empty(), "{bug} lost nothing");
            }
            Aftermath::Halted => eprintln!("{bug}: the sink has what the journal lost"),
            Aftermath::Refused(log) => {
                eprintln!("{bug}: a start was refused");
                assert!(log.contains("damaged at byte"), "{log}");
            }
        }
    }
}
