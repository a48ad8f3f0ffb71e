//! What the fast path takes, `httparse` and hyper read in the same way, however it comes in pieces.
#![no_main]

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use forebay::ingress::http::fast_path::request::{Bounds, Look, Request, look};
use forebay::ingress::http::submit::is_ndjson;
use forebay::limits::HEADERS_MAX;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, Version};
use libfuzzer_sys::fuzz_target;

const BOUNDS: Bounds = Bounds { head_bytes_max: 8192, record_bytes_max: 1024 };
/// Beyond this, not every beginning of a request is looked at.
const PREFIXES_MAX: usize = 512;
/// Turns that hyper may take for one connection.
const TURNS_MAX: usize = 100_000;

fuzz_target!(|bytes: &[u8]| {
    let mut taken = Vec::new();
    let mut rest = bytes;
    while let Look::Taken(request) = look(rest, BOUNDS) {
        check_parser(rest, &request);
        check_prefixes(rest, &request);
        rest = &rest[request.bytes..];
        taken.push(request);
    }
    check_beginning(rest);
    // A request for a queue that is not configured goes to hyper unread.
    let ours = taken.iter().take_while(|request| is_queue_name(request.queue)).count();
    if ours == 0 {
        return;
    }
    let piece = 1 + bytes.len() % 97;
    for piece in [usize::MAX, piece] {
        let seen = read_by_hyper(bytes, piece);
        assert!(seen.len() >= ours, "hyper refuses what the fast path takes");
        for (request, seen) in taken[..ours].iter().zip(&seen) {
            check_seen(request, seen);
        }
    }
});

fn is_queue_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

/// `httparse` finds the same head, and in it every field that was taken and none that forbids it.
fn check_parser(bytes: &[u8], request: &Request<'_>) {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(head)) = parsed.parse(bytes) else { panic!("no head") };
    assert_eq!((parsed.method, parsed.version), (Some("POST"), Some(1)));
    assert_eq!(parsed.path, Some(format!("/v1/queues/{}/records", request.queue).as_str()));
    let values = |name: &str| -> Vec<&[u8]> {
        parsed.headers.iter().filter(|field| field.name.to_lowercase() == name).map(|field| field.value).collect()
    };
    let at_most_one = |value: &[u8]| if value.is_empty() { Vec::new() } else { vec![value.to_vec()] };
    assert_eq!(values("forebay-key"), at_most_one(request.key));
    assert_eq!(values("idempotency-key"), at_most_one(request.idempotency_key));
    assert_eq!(values("content-type"), at_most_one(request.content_type));
    assert!(!is_ndjson(request.content_type));
    for name in ["transfer-encoding", "expect", "upgrade", "content-encoding"] {
        assert!(values(name).is_empty(), "{name}");
    }
    assert!(values("connection").iter().all(|value| value.eq_ignore_ascii_case(b"keep-alive")));
    let [length] = values("content-length")[..] else { panic!("one length") };
    let length: usize = std::str::from_utf8(length).expect("digits").parse().expect("a number");
    assert!((1..=BOUNDS.record_bytes_max).contains(&length) && head <= BOUNDS.head_bytes_max);
    assert_eq!((request.bytes, request.body), (head + length, &bytes[head..head + length]));
}

/// Fewer bytes are a beginning that asks for no more than there will be; more change nothing.
fn check_prefixes(bytes: &[u8], request: &Request<'_>) {
    let step = 1 + request.bytes / PREFIXES_MAX;
    for length in (0..request.bytes).step_by(step) {
        let Look::Partial { bytes_min, in_body } = look(&bytes[..length], BOUNDS) else {
            panic!("{length} bytes of {} are no beginning", request.bytes)
        };
        assert!(length < bytes_min && bytes_min <= request.bytes);
        let head = request.bytes - request.body.len();
        assert_eq!(in_body, length >= head);
    }
    assert_eq!(look(&bytes[..request.bytes], BOUNDS), look(bytes, BOUNDS));
}

/// What is not taken now is not taken of fewer bytes either.
fn check_beginning(bytes: &[u8]) {
    let step = 1 + bytes.len() / PREFIXES_MAX;
    for length in (0..bytes.len()).step_by(step) {
        assert!(!matches!(look(&bytes[..length], BOUNDS), Look::Taken(_)), "taken of {length} bytes and not of more");
    }
    if let Look::Partial { bytes_min, .. } = look(bytes, BOUNDS) {
        assert!(bytes_min > bytes.len());
    }
}

fn check_seen(request: &Request<'_>, seen: &Seen) {
    assert_eq!((&seen.method, seen.version), (&Method::POST, Version::HTTP_11));
    assert_eq!(seen.path, format!("/v1/queues/{}/records", request.queue));
    assert_eq!(seen.body, request.body);
    for (name, value) in [
        ("forebay-key", request.key),
        ("idempotency-key", request.idempotency_key),
        ("content-type", request.content_type),
    ] {
        let values: Vec<_> = seen.headers.get_all(name).iter().map(hyper::header::HeaderValue::as_bytes).collect();
        let wanted: &[&[u8]] = if value.is_empty() { &[] } else { &[value] };
        assert_eq!(values, wanted, "{name}");
    }
}

/// A request as hyper hands it to a service.
struct Seen {
    method: Method,
    version: Version,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// The requests that hyper reads, with the settings of `ingress::http`, from bytes that come in pieces.
fn read_by_hyper(bytes: &[u8], piece: usize) -> Vec<Seen> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (parts, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
                let (method, version, headers) = (parts.method, parts.version, parts.headers);
                seen.borrow_mut().push(Seen { method, version, path, headers, body: body.to_bytes() });
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }
    });
    let connection = http1::Builder::new()
        .max_buf_size(BOUNDS.head_bytes_max)
        .max_headers(HEADERS_MAX)
        .header_read_timeout(None)
        .half_close(true)
        .serve_connection(Wire { bytes: bytes.to_vec(), at: 0, piece }, service);
    let mut connection = pin!(connection);
    let mut context = Context::from_waker(Waker::noop());
    let ended = (0..TURNS_MAX).any(|_| connection.as_mut().poll(&mut context).is_ready());
    assert!(ended, "the connection ends");
    std::mem::take(&mut *seen.borrow_mut())
}

/// A client that has sent all of it, and takes every answer.
struct Wire {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
}

impl Read for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut room: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let length = room.remaining().min(self.piece).min(self.bytes.len() - self.at);
        room.put_slice(&self.bytes[self.at..self.at + length]);
        self.at += length;
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
