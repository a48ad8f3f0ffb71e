//! Stages put together on one thread, without sockets and without a server, and what they work on.
//!
//! The benches and `tests/allocations.rs` share this, so that they speak of the same records.

#![allow(dead_code, reason = "each user takes what it measures")]

pub mod journal;
pub mod rows;
pub mod way;

use forebay::config::{self, Config};
use forebay::record::{Attributes, NO_KEY, Record};
use forebay::ring::{FRAME_HEADER_BYTES, FrameHeader};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

/// The queue that everything goes through.
pub const QUEUE: &str = "orders";
/// Bytes of an order as a shop sends it.
pub const ORDER_BYTES: usize = 270;
/// A moment in 2023; nothing that is measured reads a clock.
pub const NOW_US: u64 = 1_700_000_000_000_042;

/// The configuration in which all options have their defaults.
#[must_use]
pub fn configuration() -> Config {
    config::parse(
        "[[listeners]]\naddress = \"127.0.0.1:0\"\n[queues.orders]\n",
        "defaults",
        &|_| None,
        &forebay::sink::KINDS,
    )
    .unwrap()
}

/// A JSON object of so many bytes.
#[must_use]
pub fn order(bytes: usize) -> Vec<u8> {
    let mut body =
        br#"{"order_id":"A-1234567","customer":{"id":42,"country":"de"},"amount_cents":1999,"note":""#.to_vec();
    body.resize(bytes - 2, b'x');
    body.extend_from_slice(b"\"}");
    body
}

/// The record with this body, as a client without keys of its own sends it.
#[must_use]
pub fn record(body: &[u8]) -> Record<'_> {
    Record {
        received_at_us: NOW_US,
        idempotency_hash: NO_KEY,
        group_count: 1,
        key: b"",
        idempotency_key: b"",
        content_type: b"application/json",
        attributes: Attributes::NONE,
        body,
    }
}

/// The same as it travels.
#[must_use]
pub fn encoded(body_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    record(&order(body_bytes)).encode(&mut bytes).unwrap();
    bytes
}

/// The header of the frame that holds one record of so many bytes.
#[must_use]
pub fn frame_header(record_bytes: usize) -> FrameHeader {
    let mut header = FrameHeader::new_zeroed();
    header.length = U32::new(u32::try_from(record_bytes).unwrap());
    header.count = U32::new(1);
    header.senders = U16::new(1);
    header
}

/// A frame that holds one order.
#[must_use]
pub fn frame() -> Vec<u8> {
    let record = encoded(ORDER_BYTES);
    let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + record.len());
    frame.extend_from_slice(frame_header(record.len()).as_bytes());
    frame.extend_from_slice(&record);
    frame
}

/// A request as common clients write it; `fields` are further lines of its head.
#[must_use]
pub fn request(body: &[u8], fields: &str) -> Vec<u8> {
    let mut request = format!(
        "POST /v1/queues/{QUEUE}/records HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: shop/1.0\r\n\
         Accept: */*\r\nContent-Type: application/json\r\n{fields}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}
