//! A body as records: what forebay makes of its lines is what a reader that knows nothing but bytes makes of them.
#![no_main]

use std::cell::LazyCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use forebay::config;
use forebay::ingress::core::{Core, Shared};
use forebay::ingress::http::attributes::AttributeFields;
use forebay::ingress::http::problem::{Problem, Refusal};
use forebay::ingress::http::submit::{Head, build_frame, is_ndjson};
use forebay::queue::{Health, Queue};
use forebay::record::{Record, hash_key};
use forebay::ring::{FRAME_HEADER_BYTES, FrameHeader, ring};
use forebay::ticket::TicketCodec;
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes;

const RECORDS_MAX: usize = 16;
const RECORD_BYTES_MAX: usize = 64;
const FRAME_BYTES_MAX: usize = 1500;
const SECRET: [u8; 16] = [7; 16];
const SLOT: u32 = 5;

thread_local! {
    static DOOR: LazyCell<(Rc<Core>, Arc<Queue>)> = LazyCell::new(door);
}

/// One executor's state and one queue.
fn door() -> (Rc<Core>, Arc<Queue>) {
    let text = "[[listeners]]\naddress = \"127.0.0.1:0\"\n[queues.orders]\n";
    let mut configuration =
        config::parse(text, "ndjson", &|_| None, &forebay::sink::KINDS).expect("a sound configuration");
    configuration.ingress.batch_request_records_max = RECORDS_MAX;
    configuration.ingress.record_bytes_max = RECORD_BYTES_MAX;
    let settings = configuration.queues.remove("orders").expect("the queue of the text");
    let queue = Arc::new(Queue::new(0, 7, "orders", settings, TicketCodec::new("orders", SECRET, Vec::new())));
    let shared = Shared {
        queues: vec![Arc::clone(&queue)].into(),
        limits: configuration.ingress,
        frame_bytes_max: FRAME_BYTES_MAX,
        secret: SECRET,
        health: Arc::new(Health::default()),
        connections: Arc::new(AtomicUsize::new(0)),
        grace_ms: 0,
    };
    let (ingress, _journal) = ring(8192, 1, Arc::default());
    (Core::new(shared, Arc::default(), ingress), queue)
}

fuzz_target!(|data: &[u8]| {
    // The first line stands for the content type.
    let (content_type, body) = match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (&b"application/x-ndjson"[..], data),
    };
    assert_eq!(is_ndjson(content_type), names_ndjson(content_type));
    let idempotency_key = if body.len() % 2 == 0 { &b"key"[..] } else { b"" };
    DOOR.with(|door| {
        for is_ndjson in [true, false] {
            let content_type = &content_type[..content_type.len().min(256)];
            let attributes = AttributeFields::default();
            let head = Head { key: b"k", idempotency_key, content_type, attributes, is_ndjson };
            let mut frame = Vec::new();
            let built = build_frame(&door.0, &door.1, &head, body, SLOT, &mut frame);
            let wanted = if is_ndjson { lines(body) } else { vec![body.to_vec()] };
            check(&head, &wanted, built, &frame);
        }
    });
});

/// The lines that are not blank, without the blanks around them.
fn lines(body: &[u8]) -> Vec<Vec<u8>> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\x0c');
    let mut lines = Vec::new();
    let mut line = Vec::new();
    for byte in body.iter().chain(b"\n") {
        if *byte != b'\n' {
            line.push(*byte);
            continue;
        }
        while line.last().is_some_and(is_blank) {
            line.pop();
        }
        let blanks = line.iter().take_while(|byte| is_blank(byte)).count();
        lines.push(line.split_off(blanks));
        line.clear();
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// Whether the text in front of any parameters is the media type.
fn names_ndjson(content_type: &[u8]) -> bool {
    let text: String = content_type.iter().map(|byte| char::from(*byte)).collect();
    let media_type = text.split(';').next().unwrap_or_default().trim_matches([' ', '\t', '\r', '\n', '\x0c']);
    media_type.to_lowercase() == "application/x-ndjson"
}

fn check(head: &Head<'_>, wanted: &[Vec<u8>], built: Result<(), Refusal>, frame: &[u8]) {
    let parts = head.key.len() + head.idempotency_key.len();
    let content_type = if head.is_ndjson { b"application/json" } else { head.content_type };
    let bytes: usize = wanted.iter().map(|body| 48 + parts + content_type.len() + body.len()).sum();
    let problem = if wanted.iter().all(Vec::is_empty) {
        Some(Problem::BadRequest)
    } else if bytes > FRAME_BYTES_MAX
        || head.is_ndjson && (wanted.len() > RECORDS_MAX || wanted.iter().any(|line| line.len() > RECORD_BYTES_MAX))
    {
        Some(Problem::TooLarge)
    } else {
        None
    };
    assert_eq!(built.err().map(|refusal| refusal.problem), problem);
    if problem.is_some() {
        return;
    }
    let (header, mut rest) = FrameHeader::read_from_prefix(frame).expect("a frame has a header");
    assert_eq!(frame.len(), FRAME_HEADER_BYTES + bytes);
    assert_eq!((header.length.get() as usize, header.count.get() as usize), (bytes, wanted.len()));
    assert_eq!((header.slot.get(), header.queue.get()), (SLOT, 0));
    let hash = if head.idempotency_key.is_empty() { [0; 16] } else { hash_key(&SECRET, 7, head.idempotency_key) };
    assert_eq!(header.idempotency_hash, hash);
    for (number, body) in wanted.iter().enumerate() {
        let (record, taken) = Record::decode(rest).expect("a whole record");
        assert_eq!(record.body, body);
        assert_eq!(
            (record.key, record.idempotency_key, record.content_type),
            (head.key, head.idempotency_key, content_type)
        );
        assert_eq!(record.group_count as usize, if number == 0 { wanted.len() } else { 0 });
        assert_eq!(record.idempotency_hash, hash);
        rest = &rest[taken..];
    }
    assert_eq!(rest, b"");
}
