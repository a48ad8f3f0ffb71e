//! Segments that a crash has torn are mended; segments that something else has damaged are refused.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use forebay::journal::format::{BatchHeader, BatchStart, Footer, SegmentIdentity};
use forebay::limits::BLOCK_BYTES;
use zerocopy::IntoBytes;

use super::*;

/// A segment file as its format describes it.
struct Segment {
    path: PathBuf,
    identity: SegmentIdentity,
    /// Where each batch begins, and its header.
    batches: Vec<(usize, BatchHeader)>,
    /// Where the log ends.
    end: usize,
}

impl Segment {
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let identity = SegmentIdentity::read_header(&bytes[..BLOCK_BYTES]).unwrap();
        let (mut batches, mut end) = (Vec::new(), BLOCK_BYTES);
        while let Ok((header, _)) = BatchHeader::decode(&identity, &bytes[end..]) {
            batches.push((end, header));
            end += header.padded_bytes();
        }
        Self { path: path.to_owned(), identity, batches, end }
    }

    fn last_of(site: &Site) -> Self {
        Self::read(site.files("orders", "seg").last().unwrap())
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        let file = fs::OpenOptions::new().write(true).open(&self.path).unwrap();
        file.write_all_at(bytes, offset as u64).unwrap();
    }

    /// Writes the footer that says that the log ends here, with so many keys in it.
    fn seal(&self, key_count: u64) {
        let (_, last) = self.batches.last().unwrap();
        let footer = Footer {
            next_sequence: last.next_sequence(),
            end_offset: self.end as u64,
            end_byte: last.first_byte.get() + u64::from(last.length.get()),
            key_count,
        };
        let mut block = [0; BLOCK_BYTES];
        self.identity.write_footer(&footer, &mut block);
        self.write(usize::try_from(self.identity.footer_offset()).unwrap(), &block);
    }

    fn flip(&self, offset: usize) {
        let byte = fs::read(&self.path).unwrap()[offset];
        self.write(offset, &[byte ^ 0x10]);
    }

    /// The next batch of this segment, with records that nobody has sent.
    fn next_batch(&self, identity: &SegmentIdentity, bytes: usize) -> Vec<u8> {
        let (_, last) = self.batches.last().unwrap();
        let start = BatchStart {
            first_sequence: last.next_sequence(),
            first_byte: last.first_byte.get() + u64::from(last.length.get()),
            epoch: last.epoch.get(),
            written_at_us: last.written_at_us.get(),
        };
        let records = vec![b'r'; bytes];
        let header = BatchHeader::seal(identity, start, 1, &records).unwrap();
        [header.as_bytes(), &records].concat()
    }
}

/// Every file below a directory with its bytes, but for the count of starts, which a refused start is too.
fn everything(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(everything(&path));
        } else if path.file_name().is_some_and(|name| name != "epoch") {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// A site whose only segment has ten batches of one record each, and the tickets of these.
fn site_with_ten_batches() -> (Site, Vec<String>) {
    let site = Site::new(STANDSTILL);
    let server = site.start();
    let mut client = server.client();
    // One client that waits for each answer makes one batch of each record; the bodies span two blocks.
    let tickets = (0..10).map(|n| client.accept("orders", format!("{n}{}", "x".repeat(5000)))).collect();
    server.kill9();
    assert_eq!(Segment::last_of(&site).batches.len(), 10);
    (site, tickets)
}

fn assert_goes_on(site: &Site, tickets: &[String]) {
    let server = site.start();
    let mut client = server.client();
    for (index, ticket) in tickets.iter().enumerate() {
        assert_eq!(client.ticket(ticket)["position"], index as u64 + 1, "{ticket}");
    }
    let next = client.post("orders", &[], "next");
    assert_eq!(next.json()["position"], tickets.len() as u64 + 1, "{next:?}");
    server.kill9();
    site.configure(UNLIMITED);
    let server = site.start();
    let sql = "SELECT substr(body, 1, 1) FROM forebay_orders ORDER BY rowid";
    let rows = until_sqlite_has(&site.database("orders"), tickets.len() + 1, sql);
    assert_eq!(rows.concat(), "0123456789n");
    server.stop();
}

#[test]
fn whatever_a_torn_write_leaves_behind_the_end_is_cut() {
    type Tail = fn(&Segment) -> Vec<u8>;
    let tails: [(&str, Tail); 5] = [
        ("garbage", |_| (0..3 * BLOCK_BYTES).map(|n| (n * 7 % 251) as u8).collect()),
        ("the first block of a batch", |s| s.next_batch(&s.identity, 9000)[..BLOCK_BYTES].to_vec()),
        ("a batch without its first block", |s| {
            let mut batch = s.next_batch(&s.identity, 9000);
            batch[..BLOCK_BYTES].fill(0);
            batch
        }),
        ("a batch with a hole", |s| {
            let mut batch = s.next_batch(&s.identity, 9000);
            batch[BLOCK_BYTES..2 * BLOCK_BYTES].fill(0);
            batch
        }),
        ("a batch of the file's former life", |s| {
            let former = SegmentIdentity { generation: s.identity.generation ^ 1, ..s.identity };
            s.next_batch(&former, 9000)
        }),
    ];
    for (what, tail) in tails {
        eprintln!("{what}");
        let (site, tickets) = site_with_ten_batches();
        let segment = Segment::last_of(&site);
        segment.write(segment.end, &tail(&segment));
        assert_goes_on(&site, &tickets);
    }
}

#[test]
fn a_last_batch_that_is_damaged_was_never_acknowledged_as_far_as_anybody_can_tell() {
    let (site, mut tickets) = site_with_ten_batches();
    let segment = Segment::last_of(&site);
    segment.flip(segment.batches[9].0 + 100);
    let lost = tickets.pop().unwrap();
    let server = site.start();
    let mut client = server.client();
    client.get(&format!("/v1/tickets/{lost}")).assert_problem(404, "not-found");
    // The sequence is given out again, and the old ticket must not name the new record.
    let again = client.accept("orders", "again");
    assert_eq!(client.ticket(&again)["position"], 10);
    client.get(&format!("/v1/tickets/{lost}")).assert_problem(404, "not-found");
    assert_eq!(client.ticket(&tickets[8])["position"], 9);
    server.stop();
}

#[test]
fn damage_with_something_valid_behind_it_is_refused_and_left_as_it_is() {
    for (batch, inside) in [(0, 0), (3, 5), (4, 70), (8, 5000)] {
        let (site, _) = site_with_ten_batches();
        let segment = Segment::last_of(&site);
        let offset = segment.batches[batch].0;
        segment.flip(offset + inside);
        let before = everything(&site.data());
        for _ in 0..2 {
            let name = segment.path.display().to_string();
            assert_refused(&site, &[&name, &format!("damaged at byte {offset}"), "The segment was left as it is"]);
            assert!(everything(&site.data()) == before, "something on disk was changed");
        }
    }
}

#[test]
fn a_damaged_segment_header_is_refused_and_left_as_it_is() {
    for offset in [0, 9, 40] {
        let (site, _) = site_with_ten_batches();
        let segment = Segment::last_of(&site);
        segment.flip(offset);
        let before = everything(&site.data());
        assert_refused(&site, &[&segment.path.display().to_string(), "segment header"]);
        assert!(everything(&site.data()) == before, "something on disk was changed");
    }
}

#[test]
fn a_missing_segment_is_refused() {
    let site = recycling::site_with_many_segments();
    let files = site.files("orders", "seg");
    fs::remove_file(&files[1]).unwrap();
    assert_refused(&site, &[&files[2].display().to_string(), "begins with sequence"]);
}

#[test]
fn damage_in_a_sealed_segment_ends_the_delivery_before_it() {
    let site = recycling::site_with_many_segments();
    let segment = Segment::read(&site.files("orders", "seg")[1]);
    let (offset, header) = segment.batches[1];
    segment.flip(offset + 200);
    site.configure(&format!("{}{UNLIMITED}", server::SMALL_JOURNAL));
    let server = site.start();
    server::eventually("a halt", || (server.metric("forebay_drain_halted{queue=\"orders\"}") == 1).then_some(()));
    assert!(server.said(&segment.path.display().to_string()), "{}", server.log());
    // Nothing behind it overtakes, what is delivered is counted, and the front door stays open.
    let delivered = server.metric("forebay_delivered_sequence{queue=\"orders\"}");
    assert!(delivered < header.first_sequence.get());
    let rows = server::database::sqlite_column(&site.database("orders"), BODIES);
    assert_eq!(rows.len(), usize::try_from(delivered).unwrap());
    server.client().accept("orders", "more");
    server.stop();
}

/// A window reads ahead, and does not meet damage before its turn.
#[test]
fn damage_ahead_does_not_keep_what_has_been_read_from_being_delivered_out_of_order() {
    let site = recycling::site_with_many_segments();
    let segment = Segment::read(&site.files("orders", "seg")[3]);
    let (offset, header) = segment.batches[1];
    segment.flip(offset + 200);
    let one_by_one = format!("{UNLIMITED}order = \"none\"\nbatch = {{ records_max = 1 }}\n");
    site.configure(&format!("{}{one_by_one}", server::SMALL_JOURNAL));
    let server = site.start();
    server::eventually("a halt", || (server.metric("forebay_drain_halted{queue=\"orders\"}") == 1).then_some(()));
    assert!(server.said(&segment.path.display().to_string()), "{}", server.log());
    let before = usize::try_from(header.first_sequence.get()).unwrap() - 1;
    assert_eq!(server::database::sqlite_column(&site.database("orders"), BODIES).len(), before);
    server.stop();
}

#[test]
fn a_damaged_footer_is_no_loss_and_one_that_promises_more_is_refused() {
    let site = recycling::site_with_many_segments();
    let segment = Segment::read(&site.files("orders", "seg")[1]);
    let footer_offset = usize::try_from(segment.identity.footer_offset()).unwrap();
    segment.flip(footer_offset + 20);
    // Without a footer it is scanned, and found whole.
    site.configure(&format!("{}{UNLIMITED}", server::SMALL_JOURNAL));
    let server = site.start();
    until_sqlite_has(&site.database("orders"), 400, BODIES);
    server.stop();

    // An open segment whose last batch is damaged is cut there, but not if a footer says that it goes on. The footer
    // counts a key that no file has, so that the segment is scanned in spite of it.
    let (site, _) = site_with_ten_batches();
    let segment = Segment::last_of(&site);
    segment.seal(1);
    segment.flip(segment.batches[9].0 + 100);
    let before = everything(&site.data());
    let offset = segment.batches[9].0;
    let name = segment.path.display().to_string();
    assert_refused(&site, &[&name, &format!("damaged at byte {offset}"), "its footer says"]);
    assert!(everything(&site.data()) == before, "something on disk was changed");
}

#[test]
fn a_crash_between_two_segments_loses_no_sequence() {
    let site = Site::new(UNLIMITED);
    let server = site.start();
    let mut client = server.client();
    let tickets: Vec<_> = (0..5).map(|n| client.accept("orders", format!("{n}"))).collect();
    let ticket = &tickets[4];
    server.until_delivered(ticket);
    server.kill9();
    // The journal seals a segment before it opens the next one; this is what a crash between the two leaves.
    let segment = Segment::last_of(&site);
    segment.seal(0);
    // All of it is delivered, so the maintenance may give the file back; the count has to go on all the same.
    for _ in 0..2 {
        let server = site.start();
        assert_eq!(server.metric("forebay_appended_sequence{queue=\"orders\"}"), 5);
        server.until_delivered(ticket);
        server.stop();
    }
    let server = site.start();
    let next = server.client().accept("orders", "5");
    assert!(next.starts_with("orders-6-"), "{next}");
    assert_eq!(until_sqlite_has(&site.database("orders"), 6, BODIES), ["0", "1", "2", "3", "4", "5"]);
    server.stop();
}
