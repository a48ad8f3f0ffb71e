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

/// Cuts the power again and again, while clients send; returns what became of the orders, and how many sectors were lost.
fn cut_under_load(kind: Kind, cuts: u64, planted_bug: Option<&str>) -> (Account, usize) {
    let mut random = Random::from_environment("FOREBAY_POWER_SEED");
    let mut site = Site::new(&format!(
        "{SMALL_JOURNAL}[queues.orders]\nrate = \"2000/s\"\nretry = {{ backoff_ms_max = 200 }}\n[queues.orders.sink]\n{COLUMNS}"
    ));
    if let Some(bug) = planted_bug {
        site.set_environment("FOREBAY_PLANTED_BUG", bug);
    }
    let disk_path = site.path().join("disk");
    std::fs::create_dir(&disk_path).unwrap();
    let disk =
        VolatileDisk::mount(&disk_path, Abilities { direct: true, sync_pause: SYNC_PAUSE, ..Abilities::default() });
    let mut volume = Volume::new(kind, &disk_path.join("image"), &site.data());
    let database = site.database("orders");
    sqlite_execute(&database, TABLE);
    let load = Load::start(&mut random);
    let mut sectors_lost = 0;
    for _ in 0..cuts {
        let server = site.start();
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
    let server = site.start();
    load.aim(Some(server.address()));
    let orders = load.finish();
    until_drained(&server);
    assert!(orders.len() as u64 >= cuts, "the clients got hardly anything through: {}", orders.len());
    let found = account(&orders, &database);
    eprintln!("{kind:?}: {} orders over {cuts} cuts, which lost {sectors_lost} sectors", orders.len());
    server.stop();
    assert_eq!(sqlite_column(&database, "PRAGMA integrity_check"), ["ok"]);
    (found, sectors_lost)
}

fn until_drained(server: &Server) {
    let mark = |name: &str| server.metric(&format!("forebay_{name}_sequence{{queue=\"orders\"}}"));
    eventually("the end of the backlog", || (mark("delivered") == mark("durable")).then_some(()));
}

fn cuts_from_environment() -> u64 {
    std::env::var("FOREBAY_POWER_CUTS").map_or(CUTS, |text| text.parse().expect("FOREBAY_POWER_CUTS must be a number"))
}

#[test]
fn xfs_has_everything_that_was_acknowledged_before_the_power_was_cut() {
    let (found, sectors_lost) = cut_under_load(Kind::Xfs, cuts_from_environment(), None);
    assert_eq!(found, Account::default());
    assert!(sectors_lost > 0, "the cuts lost nothing, so they show nothing");
}

#[test]
fn ext4_has_everything_that_was_acknowledged_before_the_power_was_cut() {
    let (found, sectors_lost) = cut_under_load(Kind::Ext4, cuts_from_environment(), None);
    assert_eq!(found, Account::default());
    assert!(sectors_lost > 0, "the cuts lost nothing, so they show nothing");
}

/// The proof that these tests can fail: a server that acknowledges without a sync loses orders.
#[cfg(feature = "planted-bugs")]
#[test]
fn an_acknowledgement_without_a_sync_is_caught() {
    for bug in ["AcknowledgeBeforeSync", "SkipSync"] {
        let (found, _) = cut_under_load(Kind::Xfs, cuts_from_environment(), Some(bug));
        eprintln!("{bug}: {} orders lost", found.lost.len());
        assert!(!found.lost.is_empty(), "{bug} lost nothing");
    }
}
