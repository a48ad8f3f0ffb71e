//! Responses of the fast path, written as bytes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use hyper::StatusCode;

use crate::ingress::http::problem::Refusal;
use crate::ingress::http::submit::write_receipt;
use crate::queue::Queue;
use crate::ring::{Completion, Outcome};

/// Memory in which one response after the other is written.
#[derive(Default)]
pub struct ResponseWriter {
    receipt: String,
    response: Vec<u8>,
    date: Date,
}

/// The `Date` field as it is written in one second.
#[derive(Default)]
struct Date {
    second: u64,
    text: String,
}

impl Date {
    fn at(&mut self, unix_us: u64) -> &str {
        let second = unix_us / 1_000_000;
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text.clear();
            // Writing into a string cannot fail.
            let _ = write!(self.text, "{}", httpdate::HttpDate::from(UNIX_EPOCH + Duration::from_secs(second)));
        }
        &self.text
    }
}

impl ResponseWriter {
    /// The 202 of one record; `close` says that the connection ends behind it.
    pub fn accepted(&mut self, queue: &Queue, completion: &Completion, unix_us: u64, close: bool) -> &[u8] {
        self.receipt.clear();
        let location_bytes = write_receipt(&mut self.receipt, queue, completion, false);
        let (location, body) = self.receipt.split_at(location_bytes);
        let date = self.date.at(unix_us);
        let replayed = if completion.outcome == Outcome::Replayed { "idempotent-replayed: true\r\n" } else { "" };
        let connection = if close { "connection: close\r\n" } else { "" };
        self.response.clear();
        // Writing into a vector cannot fail.
        let _ = write!(
            self.response,
            "HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\nlocation: {location}\r\n\
             {replayed}{connection}content-length: {}\r\ndate: {date}\r\n\r\n{body}",
            body.len()
        );
        &self.response
    }

    /// A refusal; `close` says that the connection ends behind it.
    pub fn refusal(&mut self, refusal: Refusal, unix_us: u64, close: bool) -> &[u8] {
        let close = close && !refusal.closes();
        let response = refusal.into_response();
        let status: StatusCode = response.status();
        let date = self.date.at(unix_us);
        self.response.clear();
        // Writing into a vector cannot fail.
        let _ =
            write!(self.response, "HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default());
        for (name, value) in response.headers() {
            self.response.extend_from_slice(name.as_str().as_bytes());
            self.response.extend_from_slice(b": ");
            self.response.extend_from_slice(value.as_bytes());
            self.response.extend_from_slice(b"\r\n");
        }
        let connection = if close { "connection: close\r\n" } else { "" };
        let length = response.body().len();
        let _ = write!(self.response, "{connection}content-length: {length}\r\ndate: {date}\r\n\r\n");
        self.response.extend_from_slice(response.body());
        &self.response
    }
}
