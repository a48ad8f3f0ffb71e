//! Makes the golden directories, with the real journal, drain, maintenance and repair on a [`Fixed`] machine: the same
//! program makes the same bytes. `README.md` beside says when to run it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, mpsc};

use forebay::config::{self, Config};
use forebay::journal::directory::DataDirectory;
use forebay::journal::maintenance::{Chore, Maintenance};
use forebay::journal::pool::Pool;
use forebay::journal::repair::{Options, repair_queue};
use forebay::journal::survey::Survey;
use forebay::journal::writer::{Turn, Writer};
use forebay::queue::Queue;
use forebay::record::{AttributeValues, Attributes, Headers, NO_KEY, Record, Sequence, hash_key};
use forebay::record_text::RecordText;
use forebay::ring::{Bell, FRAME_HEADER_BYTES, FrameHeader, IngressEnd, Outcome, ring};
use forebay::server::recovered::{DrainParts, QueueStart, RecoveredQueue};
use forebay::sink::{self, Part};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

use super::fixed::{Fixed, NOW_US};
use super::server::database::sqlite_execute;
use super::server::eventually;

/// Header, three blocks for batches, footer.
const SEGMENT_BYTES: u64 = 5 * 4096;
const COMMIT_BYTES_MAX: usize = 2 * 4096;

/// What a golden directory holds, by the names of its queues.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    pub queues: BTreeMap<String, ExpectedQueue>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedQueue {
    /// Up to here everything is in the database, or a dead letter.
    pub delivered: Sequence,
    /// The oldest record that is still in the journal.
    pub first_in_journal: Sequence,
    pub dead: Vec<Sequence>,
    /// What a repair has marked as lost.
    pub lost: Vec<Sequence>,
    /// Every record that was ever acknowledged.
    pub records: Vec<ExpectedRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedRecord {
    pub sequence: Sequence,
    pub ticket: String,
    #[serde(flatten)]
    pub parts: RecordText,
}

/// A request to be made: key, idempotency key, content type, bodies.
struct Request<'a>(&'a str, &'a str, &'a str, Vec<Vec<u8>>);

/// One life of a server without its threads.
struct Life {
    directory: DataDirectory,
    queues: Vec<Arc<Queue>>,
    writer: Writer<Fixed>,
    ring: IngressEnd,
    maintenance: Maintenance<Fixed>,
    drains: Vec<Option<DrainParts<Fixed>>>,
    config: Config,
    /// Attributes of the records that are sent from now on.
    attributes: Vec<u8>,
}

impl Life {
    fn start(machine: &Fixed, data: &Path, text: &str) -> Self {
        let config = config::parse(
            &format!("[[listeners]]\naddress = \"127.0.0.1:1\"\n{text}"),
            "golden",
            &|_| None,
            &forebay::sink::KINDS,
        );
        let config = config.unwrap();
        let directory = DataDirectory::open(data).unwrap();
        let recovered: Vec<_> = config
            .queues
            .iter()
            .zip(0..)
            .map(|((name, queue), index)| {
                let start = QueueStart {
                    index,
                    id: directory.identity.queue_id(name),
                    name,
                    config: queue,
                    directory: directory.queue(name).unwrap(),
                    epoch: directory.epoch,
                    ticket_secret: directory.identity.ticket_secret,
                    commit_bytes_max: COMMIT_BYTES_MAX,
                };
                RecoveredQueue::recover(machine.clone(), start).unwrap()
            })
            .collect();
        let pool = Arc::new(Pool::open(machine.clone(), &directory.pool(), SEGMENT_BYTES, 1).unwrap());
        pool.prepare().unwrap();
        directory.count_start().unwrap();
        let queues: Vec<_> = recovered.iter().map(|recovered| Arc::clone(&recovered.queue)).collect();
        let kept = recovered.iter().map(RecoveredQueue::kept).collect();
        let bell = Arc::<Bell>::default();
        let (ring, journal_end) = ring(64 * 1024, 16, Arc::clone(&bell));
        let (chores, chores_out) = mpsc::channel::<Chore>();
        let (logs, drains): (Vec<_>, Vec<_>) = recovered.into_iter().map(|queue| queue.split(64 * 1024)).unzip();
        let maintenance = Maintenance::new(machine.clone(), Arc::clone(&pool), kept, chores_out);
        let epoch = directory.epoch;
        let rings = vec![journal_end];
        let writer = Writer::new(machine.clone(), epoch, logs, rings, bell, pool, Arc::default(), chores).unwrap();
        let drains = drains.into_iter().flatten().map(Some).collect();
        Self { directory, queues, writer, ring, maintenance, drains, config, attributes: Vec::new() }
    }

    /// Sends requests that become one batch, and notes their records.
    fn commit(&mut self, queue: &str, expected: &mut Expected, requests: &[Request<'_>]) {
        let queue = Arc::clone(self.queues.iter().find(|known| known.name == queue).unwrap());
        let mut open = BTreeMap::new();
        for (slot, Request(key, idempotency_key, content_type, bodies)) in (0..).zip(requests) {
            let is_keyed = !idempotency_key.is_empty();
            let secret = &self.directory.identity.idempotency_secret;
            let hash = if is_keyed { hash_key(secret, queue.id, idempotency_key.as_bytes()) } else { NO_KEY };
            let record = |(index, body): (usize, &'_ Vec<u8>)| -> (Vec<u8>, RecordText) {
                let record = Record {
                    received_at_us: NOW_US,
                    idempotency_hash: hash,
                    group_count: if index == 0 { u32::try_from(bodies.len()).unwrap() } else { 0 },
                    key: key.as_bytes(),
                    idempotency_key: idempotency_key.as_bytes(),
                    content_type: content_type.as_bytes(),
                    attributes: Attributes::read(&self.attributes).unwrap(),
                    body,
                };
                let mut bytes = Vec::new();
                record.encode(&mut bytes).unwrap();
                (bytes, RecordText::of(&record))
            };
            let (bytes, texts): (Vec<_>, Vec<_>) = bodies.iter().enumerate().map(record).unzip();
            let bytes = bytes.concat();
            let mut header = FrameHeader::new_zeroed();
            header.length = U32::new(u32::try_from(bytes.len()).unwrap());
            header.count = U32::new(u32::try_from(bodies.len()).unwrap());
            header.slot = U32::new(slot);
            header.queue = U16::new(queue.index);
            header.senders = U16::new(1);
            header.idempotency_hash = hash;
            let mut frame = header.as_bytes().to_vec();
            assert_eq!(frame.len(), FRAME_HEADER_BYTES);
            frame.extend_from_slice(&bytes);
            self.ring.submit(&frame).unwrap();
            open.insert(slot, texts);
        }
        while !matches!(self.writer.turn(), Turn::Sleep(_)) {}
        while let Some(completion) = self.ring.completion() {
            assert_eq!(completion.outcome, Outcome::Stored);
            let records = &mut expected.queues.get_mut(&queue.name).unwrap().records;
            for (sequence, parts) in (completion.first_sequence..).zip(open.remove(&completion.slot).unwrap()) {
                records.push(ExpectedRecord { sequence, ticket: queue.tickets.ticket(sequence).to_string(), parts });
            }
        }
        assert!(open.is_empty());
    }

    /// Delivers all that is durable.
    fn deliver(&mut self, queue: &str, expected: &mut Expected) {
        let index = self.queues.iter().position(|known| known.name == queue).unwrap();
        let queue = Arc::clone(&self.queues[index]);
        let id = self.directory.identity.part(&queue.name, None);
        let part = Part::new(queue.name.clone(), None, id, false, 0);
        let sink = sink::open(&self.config.queues[&queue.name].sink, part, &self.config.data_dir);
        let (stop, stopped) = watch::channel(false);
        let no_redrives = Box::new(|_: forebay::sink::Subpart<'_>| panic!("nobody has asked for a redrive"));
        let runner = self.drains[index].take().unwrap().runner(sink, no_redrives, stopped);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        let task = local.spawn_local(runner.run());
        let is_done = || queue.main.drain.delivered.get() == queue.journal.durable.get();
        eventually("the delivery", || {
            local.block_on(&runtime, tokio::task::yield_now());
            is_done().then_some(())
        });
        stop.send_replace(true);
        local.block_on(&runtime, task).unwrap();
        let expected = expected.queues.get_mut(&queue.name).unwrap();
        expected.delivered = queue.main.drain.delivered.get();
        let dead = |record: &&ExpectedRecord| queue.main.dead_letters.contains(record.sequence);
        expected.dead = expected.records.iter().filter(dead).map(|record| record.sequence).collect();
    }

    fn tidy(&mut self) {
        for _ in 0..8 {
            self.maintenance.turn();
        }
    }

    fn end(self, expected: &mut Expected) {
        for queue in &self.queues {
            expected.queues.get_mut(&queue.name).unwrap().first_in_journal = queue.journal.trimmed.get() + 1;
        }
    }
}

/// Records of one request without keys.
fn plain(bodies: &[&str]) -> Vec<Vec<u8>> {
    bodies.iter().map(|body| body.as_bytes().to_vec()).collect()
}

/// A body that fills a block, so that a segment is soon full.
fn wide(text: &str) -> Vec<u8> {
    format!("{text} {}", "abcdefgh ".repeat(380)).into_bytes()
}

fn begin(directory: &Path, queues: &[&str]) -> Expected {
    let data = directory.join("data");
    fs::create_dir_all(&data).unwrap();
    let identity =
        ["00112233445566778899aabbccddeeff", &"5".repeat(32), &"a".repeat(32)].map(|line| format!("{line}\n"));
    fs::write(data.join("identity"), identity.concat()).unwrap();
    Expected { queues: queues.iter().map(|name| ((*name).to_owned(), ExpectedQueue::default())).collect() }
}

fn end(directory: &Path, expected: &Expected) {
    fs::write(directory.join("expected.json"), serde_json::to_string_pretty(expected).unwrap() + "\n").unwrap();
}

/// A backlog of two queues and one that is empty: sealed, open and recycled segments, files of keys, several starts, a
/// cursor, dead letters, a spare.
pub fn make_backlog(directory: &Path) {
    let mut expected = begin(directory, &["empty", "orders", "payments"]);
    let (machine, data) = (Fixed::default(), directory.join("data"));
    let database = data.join("orders.db");
    sqlite_execute(&database, "CREATE TABLE orders (body TEXT CHECK (body NOT LIKE '%refused%'), ticket TEXT)");
    let sink = format!(
        "[queues.orders.sink]\ntype = \"sqlite\"\nurl = \"{}\"\ntable = \"orders\"\n\
         columns = {{ body = \"$body\", ticket = \"$ticket\" }}\n",
        database.display()
    );
    let text = format!(
        "[queues.empty]\n[queues.payments]\nidempotency_window_ms = 0\n[queues.orders]\nrate = \"unlimited\"\n{sink}"
    );
    // The first start fills two segments. The first of them is delivered, and comes back for another life.
    let mut life = Life::start(&machine, &data, &text);
    let mut orders = |life: &mut Life, requests: &[Request<'_>]| life.commit("orders", &mut expected, requests);
    orders(
        &mut life,
        &[
            Request("", "", "", plain(&["first"])),
            Request("customer-1", "key-1", "application/json", plain(&["{\"a\": \"é\"}"])),
            Request("", "", "", plain(&["a body that is refused \"by\" the database"])),
        ],
    );
    life.tidy();
    orders(&mut life, &[Request("", "key-2", "text/plain", vec![wide("second batch")])]);
    orders(&mut life, &[Request("", "", "", vec![wide("third batch, which shines through later")])]);
    orders(&mut life, &[Request("", "key-3", "application/x-ndjson", plain(&["x", "y", "z"]))]);
    life.deliver("orders", &mut expected);
    life.tidy();
    for (key, text) in [("key-4", "fifth batch"), ("", "sixth batch"), ("key-5", "in the file of the first segment")] {
        life.commit("orders", &mut expected, &[Request("", key, "", vec![wide(text)])]);
    }
    life.tidy();
    life.commit("payments", &mut expected, &[Request("", "", "", plain(&["p1", ""]))]);
    life.end(&mut expected);
    // The second one leaves a backlog.
    let mut life = Life::start(&machine, &data, &text);
    life.commit(
        "orders",
        &mut expected,
        &[Request("customer-2", "key-6", "", plain(&["of the second start", "also"]))],
    );
    life.commit("payments", &mut expected, &[Request("", "", "application/octet-stream", vec![vec![0xff, 0, 0xfe]])]);
    life.commit("payments", &mut expected, &[Request("", "", "", vec![wide("p3")])]);
    life.commit("payments", &mut expected, &[Request("payer", "", "", vec![b"in the next segment".to_vec()])]);
    life.tidy();
    life.end(&mut expected);
    end(directory, &expected);
}

/// A queue whose first segment was damaged, and repaired: with marks, and the file as it was.
pub fn make_repaired(directory: &Path) {
    let mut expected = begin(directory, &["orders"]);
    let (machine, data) = (Fixed::default(), directory.join("data"));
    let mut life = Life::start(&machine, &data, "[queues.orders]\n");
    let bodies = plain(&["kept 1", "lost 1", "lost 2", "kept 2"]);
    life.commit("orders", &mut expected, &[Request("", "", "", bodies)]);
    life.commit("orders", &mut expected, &[Request("", "key-1", "", plain(&["kept 3"]))]);
    life.commit("orders", &mut expected, &[Request("", "", "", vec![wide("kept 4")])]);
    life.commit("orders", &mut expected, &[Request("", "key-2", "", plain(&["in the next segment"]))]);
    life.tidy();
    life.end(&mut expected);
    let segment = data.join("queues/orders/00000000000000000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    for lost in ["lost 1", "lost 2"] {
        let at = bytes.windows(lost.len()).position(|window| window == lost.as_bytes()).unwrap();
        bytes[at] = b'L';
    }
    fs::write(&segment, bytes).unwrap();
    expected.queues.get_mut("orders").unwrap().lost = vec![2, 3];
    let queue = Survey::open(&data).unwrap().queue("orders").on(machine);
    let cut_directory = queue.directory.join("cut-21000101T000000Z");
    let options = Options { apply: true, segment: None, cut_directory: &cut_directory, epoch: 2, now_us: NOW_US };
    repair_queue(&queue, &options, |_| Ok(())).unwrap();
    end(directory, &expected);
}

/// Records with every attribute, with one, with a tag of a later version, and with none.
pub fn make_attributes(directory: &Path) {
    let mut expected = begin(directory, &["orders"]);
    let (machine, data) = (Fixed::default(), directory.join("data"));
    let mut life = Life::start(&machine, &data, "[queues.orders]\n");
    let all = AttributeValues {
        deliver_at_us: Some(1_700_000_000_000_042),
        expires_at_us: Some(253_402_300_799_000_000),
        priority: Some(9),
        fair_key: "tenant \u{fc}".as_bytes(),
        throttle_key: b"shop",
        ..AttributeValues::default()
    };
    let one = AttributeValues { priority: Some(0), ..AttributeValues::default() };
    for (values, later, text) in [
        (all, &b""[..], "all"),
        (one, b"", "one"),
        (one, b"\xc8\x02\0ab", "a later tag"),
        (AttributeValues::default(), b"", "none"),
    ] {
        values.encode(&mut life.attributes).unwrap();
        life.attributes.extend_from_slice(later);
        life.commit("orders", &mut expected, &[Request("k", text, "text/plain", plain(&[text, "the second"]))]);
    }
    life.tidy();
    life.end(&mut expected);
    end(directory, &expected);
}

/// Records of whole requests, with and without a body, and one that keeps headers alone.
pub fn make_requests(directory: &Path) {
    let mut expected = begin(directory, &["orders"]);
    let (machine, data) = (Fixed::default(), directory.join("data"));
    let mut life = Life::start(&machine, &data, "[queues.orders]\n");
    let mut list = Vec::new();
    for (name, value) in [("accept", "a"), ("accept", "b"), ("x-empty", ""), ("x-tenant", "tenant \u{fc}")] {
        Headers::append(&mut list, name.as_bytes(), value.as_bytes()).unwrap();
    }
    let headers = Headers::read(&list).unwrap();
    let whole = AttributeValues { method: b"PUT", target: b"/cart/7%20?a=b", headers, ..AttributeValues::default() };
    let bare = AttributeValues { method: b"DELETE", target: b"/", ..AttributeValues::default() };
    let kept = AttributeValues { priority: Some(9), headers, ..AttributeValues::default() };
    for (values, text) in [(whole, "whole"), (bare, ""), (kept, "kept")] {
        values.encode(&mut life.attributes).unwrap();
        life.commit("orders", &mut expected, &[Request("k", text, "text/plain", plain(&[text]))]);
    }
    life.tidy();
    life.end(&mut expected);
    end(directory, &expected);
}
