//! Data directories that earlier programs have written stay readable, and are delivered, for ever.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_errors_doc,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "a test that cannot go on should panic, and is its own documentation"
)]

mod server;

#[path = "golden/fixed.rs"]
mod fixed;
#[path = "golden/making.rs"]
mod making;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use forebay::journal::format::FORMAT_VERSION;
use forebay::journal::keys_file;
use making::{Expected, ExpectedQueue, ExpectedRecord};
use serde_json::Value;
use server::database::{sqlite_column, until_sqlite_has};
use server::{SMALL_JOURNAL, Site};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

/// The golden directories of all versions.
fn golden_directories() -> Vec<PathBuf> {
    let below = |directory: &Path| {
        let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.is_dir());
        paths.sort();
        paths
    };
    let all: Vec<_> = below(Path::new(GOLDEN)).iter().flat_map(|version| below(version)).collect();
    assert!(all.len() >= 3, "{all:?}");
    all
}

/// Every file below a directory, by its path from there, with its bytes.
fn everything(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.insert(path.strip_prefix(directory).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// A site with a copy of a golden directory, and what that holds.
fn site_of(golden: &Path, rate: &str) -> (Site, Expected) {
    let expected: Expected = serde_json::from_slice(&fs::read(golden.join("expected.json")).unwrap()).unwrap();
    let site = Site::new("[queues.orders]\n");
    for (path, bytes) in everything(&golden.join("data")) {
        let path = site.data().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let mut config = SMALL_JOURNAL.to_owned();
    for name in expected.queues.keys() {
        config += &format!("[queues.{name}]\nrate = \"{rate}\"\n");
        if site.database(name).exists() {
            config += &format!(
                "[queues.{name}.sink]\ntype = \"sqlite\"\ntable = \"{name}\"\n\
                 columns = {{ body = \"$body\", ticket = \"$ticket\" }}\n"
            );
        }
    }
    site.configure(&config);
    (site, expected)
}

impl ExpectedQueue {
    fn is_live(&self, record: &ExpectedRecord) -> bool {
        !self.dead.contains(&record.sequence) && !self.lost.contains(&record.sequence)
    }

    fn next_sequence(&self) -> u64 {
        self.records.len() as u64 + 1
    }
}

#[test]
fn the_tools_read_every_golden_directory_to_what_was_written() {
    for golden in golden_directories() {
        let (site, expected) = site_of(&golden, "1/h");
        let before = everything(&site.data());
        let (code, out, err) = site.tool("verify", &["--json"]);
        assert_eq!(code, Some(0), "{}: {out}{err}", golden.display());
        let (code, out, err) = site.tool("inspect", &["--json"]);
        assert_eq!(code, Some(0), "{out}{err}");
        let inspected: Value = serde_json::from_str(&out).unwrap();
        for (name, queue) in &expected.queues {
            let shown = inspected["queues"].as_array().unwrap().iter().find(|shown| shown["queue"] == **name).unwrap();
            assert_eq!(shown["durable_sequence"], queue.records.len(), "{name}: {shown:#}");
            assert_eq!(shown["trimmed_sequence"], queue.first_in_journal - 1, "{name}: {shown:#}");
            assert_eq!(shown["delivered_sequence_min"], queue.delivered, "{name}: {shown:#}");
            assert_eq!(shown["dead_letters"], queue.dead.len(), "{name}: {shown:#}");
            let (code, out, said) = site.tool("export", &["--queue", name, "--from", "1"]);
            assert_eq!(code, Some(i32::from(!queue.lost.is_empty())), "{said}");
            let exported: Vec<ExpectedRecord> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let in_journal =
                |record: &&ExpectedRecord| record.sequence >= queue.first_in_journal && queue.is_live(record);
            let wanted: Vec<_> = queue.records.iter().filter(in_journal).cloned().collect();
            assert_eq!(exported, wanted, "{}, {name}", golden.display());
            let (code, out, said) = site.tool("export", &["--queue", name, "--dead"]);
            assert_eq!(code, Some(0), "{said}");
            let exported: Vec<ExpectedRecord> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let is_dead = |record: &&ExpectedRecord| queue.dead.contains(&record.sequence);
            assert_eq!(exported, queue.records.iter().filter(is_dead).cloned().collect::<Vec<_>>(), "{name}");
        }
        assert!(everything(&site.data()) == before, "the tools have changed something");
    }
}

#[test]
fn a_server_delivers_the_rest_of_every_golden_directory_and_goes_on() {
    for golden in golden_directories() {
        let (site, expected) = site_of(&golden, "unlimited");
        let server = site.start();
        let mut client = server.client();
        for (name, queue) in &expected.queues {
            let what = format!("{}, {name}", golden.display());
            let wanted: Vec<_> = queue.records.iter().filter(|record| queue.is_live(record)).collect();
            let tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'forebay_position'";
            let database = site.database(name);
            if !wanted.is_empty() {
                server.until_delivered(&wanted.last().unwrap().ticket);
                let table = sqlite_column(&database, tables).remove(0);
                let tickets = format!("SELECT ticket FROM {table} ORDER BY rowid");
                let delivered = until_sqlite_has(&database, wanted.len(), &tickets);
                assert_eq!(delivered, wanted.iter().map(|record| record.ticket.clone()).collect::<Vec<_>>(), "{what}");
                let bodies = sqlite_column(&database, &format!("SELECT hex(body) FROM {table} ORDER BY rowid"));
                assert_eq!(bodies, wanted.iter().map(|record| hex_body(record)).collect::<Vec<_>>(), "{what}");
            }
            for record in &queue.records {
                let state = if queue.is_live(record) { "delivered" } else { "dead" };
                assert_eq!(client.ticket(&record.ticket)["state"], state, "{what}: {record:?}");
                assert_key_is_remembered(&mut client, &site, name, queue, record);
            }
            let next = client.accept(name, "the next one");
            assert!(next.starts_with(&format!("{name}-{:x}-", queue.next_sequence())), "{what}: {next}");
            server.until_delivered(&next);
        }
        drop(client);
        server.stop();
        let (code, out, err) = site.tool("verify", &[]);
        assert_eq!(code, Some(0), "{out}{err}");
    }
}

/// A request that is sent again gets its first ticket; of a record that was lost, the key is lost too.
fn assert_key_is_remembered(
    client: &mut server::Client,
    site: &Site,
    name: &str,
    queue: &ExpectedQueue,
    record: &ExpectedRecord,
) {
    let Some(key) = &record.parts.idempotency_key else { return };
    let first = queue.records.iter().find(|first| first.parts.idempotency_key.as_ref() == Some(key)).unwrap();
    let again = client.post(name, &[("idempotency-key", key)], "again");
    assert_eq!(again.header("idempotent-replayed"), Some("true"), "{}: {again:?}", site.path().display());
    let ticket = again.json();
    let ticket = ticket.get("ticket").or_else(|| ticket.get("first_ticket")).unwrap();
    assert_eq!(*ticket, *first.ticket, "{again:?}");
}

fn hex_body(record: &ExpectedRecord) -> String {
    let bytes = match (&record.parts.body, &record.parts.body_base64) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(base64)) => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, base64).unwrap(),
        (None, None) => panic!("{record:?} has no body"),
    };
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[test]
fn every_format_version_has_golden_files() {
    let mut versions: [BTreeSet<u32>; 2] = [BTreeSet::new(), BTreeSet::new()];
    for (path, bytes) in golden_directories().iter().flat_map(|golden| everything(golden)) {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("seg") if bytes.starts_with(b"forebay\n") => {
                versions[0].insert(u32::from_le_bytes(bytes[8..12].try_into().unwrap()));
            }
            Some("keys") => {
                versions[1].insert(u32::from(bytes[6] - b'0'));
            }
            _ => {}
        }
    }
    let wanted = [(1..=FORMAT_VERSION).collect(), (1..=u32::from(keys_file::FORMAT_VERSION)).collect()];
    assert_eq!(
        versions, wanted,
        "segments and files of keys; tests/golden/README.md says how to make the missing ones"
    );
}

/// What a former life has left in a file must be there, or nothing shows that it is not read.
#[test]
fn the_golden_backlog_has_a_file_with_a_former_life() {
    let files = everything(&Path::new(GOLDEN).join("v1/backlog/data/queues/orders"));
    let (_, open) = files.iter().rfind(|(path, _)| path.extension().is_some_and(|ending| ending == "seg")).unwrap();
    let generations: BTreeSet<_> =
        open.chunks(4096).filter(|block| block.starts_with(b"FBba")).map(|block| &block[24..32]).collect();
    assert_eq!(generations.len(), 2);
    assert!(open[open.len() - 4096..].starts_with(b"FBseal\r\n"), "and a footer");
    let keys = files.keys().filter(|path| path.extension().is_some_and(|ending| ending == "keys")).count();
    assert_eq!(keys, 2, "one of a segment that is gone, one of a segment that is there");
}

#[test]
fn golden_files_are_small() {
    let bytes: usize = everything(Path::new(GOLDEN)).values().map(Vec::len).sum();
    assert!(bytes < 512 * 1024, "{bytes}");
}

/// Gives the first segment of the queue a header as another version would have written it.
fn raise_segment_version(site: &Site) -> PathBuf {
    let path = site.files("orders", "seg").remove(0);
    let mut header = fs::read(&path).unwrap()[..76].to_vec();
    header[8..12].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
    let crc = crc32c::crc32c(&header[..72]);
    header[72..].copy_from_slice(&crc.to_le_bytes());
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&header, 0).unwrap();
    path
}

#[test]
fn a_version_that_is_not_known_is_refused_by_its_number_and_nothing_is_changed() {
    let (site, _) = site_of(&Path::new(GOLDEN).join("v1/repaired"), "unlimited");
    let path = raise_segment_version(&site);
    let said = format!("{}: segment header: segment format version {}", path.display(), FORMAT_VERSION + 1);
    assert_refused_and_left_alone(&site, &[&said, &format!("which reads version {FORMAT_VERSION}")], "header");

    let (site, _) = site_of(&Path::new(GOLDEN).join("v1/repaired"), "unlimited");
    let keys = site.files("orders", "keys").remove(0);
    let newer = [b'0' + keys_file::FORMAT_VERSION + 1];
    fs::OpenOptions::new().write(true).open(&keys).unwrap().write_all_at(&newer, 6).unwrap();
    let said = format!("{}: format version {}", keys.display(), keys_file::FORMAT_VERSION + 1);
    let reads = format!("which reads version {}", keys_file::FORMAT_VERSION);
    assert_refused_and_left_alone(&site, &[&said, &reads], "unreadable");
}

fn assert_refused_and_left_alone(site: &Site, parts: &[&str], kind: &str) {
    let before = everything(&site.data());
    let (code, log) = site.start_refused();
    assert_eq!(code, Some(1), "{log}");
    let (code, _, repair) = site.tool("repair", &["--queue", "orders", "--cut-damaged", "--yes"]);
    assert_eq!(code, Some(1), "{repair}");
    for part in parts {
        assert!(log.contains(part), "{part:?} is not in {log}");
    }
    let versions = parts.last().unwrap();
    assert!(repair.contains(versions), "{repair}");
    let (code, out, _) = site.tool("verify", &["--json"]);
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &found["findings"][0]["kind"]), (Some(1), &kind.into()), "{out}");
    assert!(found["findings"][0]["what"].as_str().unwrap().contains(versions), "{out}");
    assert!(everything(&site.data()) == before, "something on disk was changed");
}

type Make = fn(&Path);

/// The program makes what lies there, to the byte, as long as it writes the newest of these versions.
#[test]
fn the_golden_directories_of_this_version_can_be_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let makers: [(&str, Make); 4] = [
        ("attributes", making::make_attributes),
        ("backlog", making::make_backlog),
        ("repaired", making::make_repaired),
        ("requests", making::make_requests),
    ];
    for (name, make) in makers {
        let made = directory.path().join(name);
        make(&made);
        let golden = Path::new(GOLDEN).join(format!("v{FORMAT_VERSION}/{name}"));
        // What is there stays as it is: see README.md there.
        if std::env::var_os("FOREBAY_MAKE_GOLDEN").is_some() && !golden.exists() {
            for (path, bytes) in everything(&made) {
                let path = golden.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            continue;
        }
        let (made, kept) = (everything(&made), everything(&golden));
        let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&made), names(&kept), "{name}");
        for (path, bytes) in &made {
            // Another SQLite may lay its pages out in another way; what is in them the other tests read.
            let is_database = path.extension().is_some_and(|ending| ending == "db");
            assert!(is_database || *bytes == kept[path], "{name}: {} has other bytes", path.display());
        }
    }
}
