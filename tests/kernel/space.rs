//! Disks that are full.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::load::{Account, Orders, account};
use super::mount::{Kind, Volume};
use super::server::database::until_sqlite_has;
use super::server::{Client, SMALL_JOURNAL, Server, Site, eventually};
use super::table_elsewhere;

/// A file that takes all the space there is.
struct Ballast(PathBuf);

impl Ballast {
    fn load(directory: &Path) -> Self {
        let path = directory.join("ballast");
        let file = File::options().create(true).append(true).open(&path).unwrap();
        let mut end = file.metadata().unwrap().len();
        let mut step = 16 << 20;
        while step >= 4096 {
            match fallocate(file.as_fd(), FallocateFlags::empty(), end, step) {
                Ok(()) => end += step,
                Err(Errno::NOSPC) => step /= 2,
                Err(error) => panic!("{error}"),
            }
        }
        Self(path)
    }

    fn drop_it(self) {
        std::fs::remove_file(self.0).unwrap();
    }
}

fn post(client: &mut Client, name: &str, number: usize) -> (String, super::server::client::Response) {
    let id = format!("{name}-{number}");
    let body = format!("{{\"id\":\"{id}\",\"padding\":\"{}\"}}", "x".repeat(3000));
    let response = client.post("orders", &[("content-type", "application/json")], body);
    (id, response)
}

/// Posts until the disk is full, and once more.
fn post_until_full(server: &Server, name: &str, orders: &mut Orders) {
    let mut client = server.client();
    for number in 0.. {
        let (id, response) = post(&mut client, name, number);
        if response.status != 202 {
            response.assert_problem(503, "disk-full");
            assert_eq!(response.header("retry-after"), Some("10"));
            break;
        }
        orders.insert(id, response.text("ticket"));
    }
    assert_eq!(server.metric("forebay_disk_full"), 1);
    // It is still a server: it says so, and knows its tickets.
    post(&mut client, name, usize::MAX).1.assert_problem(503, "disk-full");
    let (_, ticket) = orders.last_key_value().unwrap();
    assert_eq!(client.ticket(ticket)["state"], "queued");
}

fn a_full_disk(kind: Kind) {
    let site = Site::new("");
    let volume = Volume::new(kind, &site.path().join("image"), &site.data());
    let (database, sink) = table_elsewhere(&site);
    let config = |rate| format!("{SMALL_JOURNAL}[queues.orders]\nrate = \"{rate}\"\n{sink}");
    site.configure(&config("1/h"));
    let mut orders = Orders::new();

    let server = site.start();
    let (_, first) = post(&mut server.client(), "first", 0);
    orders.insert("first-0".to_owned(), first.text("ticket"));
    let ballast = Ballast::load(&site.data());
    post_until_full(&server, "full", &mut orders);

    // Room again: the next requests are accepted, without a restart.
    ballast.drop_it();
    let mut client = server.client();
    let (id, response) = eventually("room", || Some(post(&mut client, "room", 0)).filter(|(_, r)| r.status == 202));
    orders.insert(id, response.text("ticket"));
    assert_eq!(server.metric("forebay_disk_full"), 0);

    // Full once more, and killed: the next start needs no room, delivers, and thereby makes some.
    let _ballast = Ballast::load(&site.data());
    post_until_full(&server, "again", &mut orders);
    server.kill9();
    site.configure(&config("unlimited"));
    let server = site.start();
    until_sqlite_has(&database, orders.len(), "SELECT id FROM orders");
    let mut client = server.client();
    let (id, response) = eventually("room", || Some(post(&mut client, "after", 0)).filter(|(_, r)| r.status == 202));
    orders.insert(id, response.text("ticket"));
    until_sqlite_has(&database, orders.len(), "SELECT id FROM orders");
    assert_eq!(account(&orders, &database), Account::default());
    server.stop();
    drop(volume);
}

#[test]
fn a_full_ext4_refuses_loses_nothing_and_recovers() {
    a_full_disk(Kind::Ext4);
}

#[test]
fn a_full_xfs_refuses_loses_nothing_and_recovers() {
    a_full_disk(Kind::Xfs);
}
