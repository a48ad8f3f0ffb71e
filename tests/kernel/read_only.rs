//! File systems that are or turn read-only.

use super::load::{Load, account};
use super::mount::{Kind, Volume};
use super::random::Random;
use super::server::database::until_sqlite_has;
use super::server::{Client, SMALL_JOURNAL, Site, eventually};
use super::table_elsewhere;

/// A start is refused in plain words, the tools that only look still work, and nothing is lost.
#[test]
fn a_data_directory_that_is_mounted_read_only_is_refused_and_can_be_looked_at() {
    for kind in Kind::BOTH {
        let site = Site::new("");
        let volume = Volume::new(kind, &site.path().join("image"), &site.data());
        let (database, sink) = table_elsewhere(&site);
        let config = |rate| format!("{SMALL_JOURNAL}[queues.orders]\nrate = \"{rate}\"\n{sink}");
        site.configure(&config("1/h"));
        let server = site.start();
        server.client().accept("orders", "{\"id\":\"delivered-at-once\"}");
        server.client().accept("orders", "{\"id\":\"waits\"}");
        server.stop();
        volume.remount("ro");
        let (code, log) = site.start_refused();
        assert_eq!(code, Some(1), "{log}");
        for part in [site.data().to_str().unwrap(), "Read-only file system"] {
            assert!(log.contains(part), "{part:?} is not in\n{log}");
        }
        for tool in ["inspect", "verify"] {
            let (code, said, wrong) = site.tool(tool, &[]);
            assert_eq!(code, Some(0), "{tool}: {said}{wrong}");
        }
        let (_, exported, _) = site.tool("export", &["--queue", "orders"]);
        assert!(exported.contains("waits"), "{exported}");
        volume.remount("rw");
        site.configure(&config("unlimited"));
        let server = site.start();
        until_sqlite_has(&database, 2, "SELECT id FROM orders");
        server.stop();
    }
}

/// ext4 turns itself read-only after an error of its own, under everybody's hands.
#[test]
fn an_ext4_that_turns_read_only_ends_acknowledging_and_loses_nothing() {
    let site = Site::new("");
    let mut volume = Volume::new(Kind::Ext4, &site.path().join("image"), &site.data());
    let (database, sink) = table_elsewhere(&site);
    // With segments so large that the error comes within one.
    site.configure(&format!("[queues.orders]\nrate = \"2000/s\"\n{sink}"));
    let load = Load::start(&mut Random::from_environment("FOREBAY_READ_ONLY_SEED"));
    let server = site.start();
    load.aim(Some(server.address()));
    load.until_more(300);
    let device = volume.device();
    let name = device.rsplit('/').next().unwrap();
    std::fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "forebay's test").unwrap();
    let mut client = server.client();
    eventually("a failed journal", || {
        let response = client.post("orders", &[], "{\"id\":\"nobody-can-tell\"}");
        (response.status == 503).then(|| response.assert_problem(503, "journal-failed"))
    });
    assert_eq!(Client::connect(server.admin()).unwrap().get("/healthz").status, 503);
    assert!(server.said("then restart forebay"), "{}", server.log());
    load.aim(None);
    server.kill9();
    volume.unmount();
    volume.mount();
    let server = site.start();
    load.aim(Some(server.address()));
    let orders = load.finish();
    let last = server.client().accept("orders", "{\"id\":\"last\"}");
    server.until_delivered(&last);
    let found = account(&orders, &database);
    assert_eq!(found.never_sent.iter().filter(|id| !["last", "nobody-can-tell"].contains(&id.as_str())).count(), 0);
    assert_eq!((found.lost, found.delivered_twice, found.with_another_ticket), Default::default());
    server.stop();
}
