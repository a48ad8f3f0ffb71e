//! What a load run does: the target, the requests, how they arrive, and how failures are treated.

use super::retry::RetryPolicy;
use super::{EngineError, Target};
use crate::order::{MAX_RECORDS, RunId};
use crate::schedule::Schedule;
use std::sync::Arc;
use std::time::Duration;

/// How requests arrive.
#[derive(Clone, Debug)]
pub enum Load {
    /// Each request has a due time, whatever the server does, and its latency counts from then.
    Open(Schedule),
    /// Each connection sends its next request when the last one is settled, and latency counts from sending.
    /// Ends after `records` requests or after `duration`, whichever comes first, but not before its first request;
    /// without either it runs until it is cancelled or until a run can number no more.
    Closed {
        /// The most requests to send.
        records: Option<u64>,
        /// How long to start new requests.
        duration: Option<Duration>,
    },
}

/// The bodies of the requests.
#[derive(Clone, Debug)]
pub enum Payload {
    /// No body and no `Content-Length`, as for GET.
    Empty,
    /// The same bytes in each request.
    Fixed(Arc<[u8]>),
    /// Generated flash-sale orders, see [`crate::order::write_order`].
    Orders {
        /// The seed of everything in the orders but their ids.
        seed: u64,
    },
}

/// The bounds that keep a bad server from stalling or filling the load generator.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a connection may take to open, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How long one exchange may take from its first byte sent to its last byte received, in milliseconds.
    pub request_timeout_ms: u64,
    /// The largest response head, in bytes.
    pub response_head_max_bytes: usize,
    /// The largest response body, in bytes, without chunk framing.
    pub response_body_max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 5_000,
            request_timeout_ms: 30_000,
            response_head_max_bytes: 16 * 1024,
            response_body_max_bytes: 16 * 1024 * 1024,
        }
    }
}

/// One load run. [`Plan::new`] fills in defaults; set the fields that should differ.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where requests go.
    pub target: Target,
    /// Paths that the requests take in turns, by their index, instead of the target's; empty for the target's alone.
    pub paths: Vec<String>,
    /// The request method, as it goes into the request line.
    pub method: String,
    /// Headers of every request beyond `Host`, `User-Agent` and those that the fields below add.
    pub headers: Vec<(String, String)>,
    /// The `Content-Type`, sent when there is a body.
    pub content_type: String,
    /// The bodies.
    pub payload: Payload,
    /// Whether each request carries `Idempotency-Key: <order id>`, the same again when it is retried.
    pub idempotency_keys: bool,
    /// The name of the run, which starts every order id.
    pub run: RunId,
    /// How requests arrive.
    pub load: Load,
    /// Keep-alive connections, over all threads; each has one request in flight at a time.
    pub connections: usize,
    /// Threads, each with its own runtime and its share of the connections.
    pub threads: usize,
    /// Whether each thread keeps to a core of its own, from the last one on, as far as one is left for the server.
    pub pinned: bool,
    /// Timeouts and sizes.
    pub limits: Limits,
    /// What to do about requests that were not acknowledged; `None` sends each once.
    pub retry: Option<RetryPolicy>,
}

impl Plan {
    /// A plan that posts generated orders to `url` as JSON over 64 connections from one thread, without retries.
    ///
    /// # Errors
    /// The URL is not plain HTTP or does not parse.
    pub fn new(url: &str, load: Load) -> Result<Self, EngineError> {
        Ok(Self {
            target: url.parse()?,
            paths: Vec::new(),
            method: "POST".to_owned(),
            headers: Vec::new(),
            content_type: "application/json".to_owned(),
            payload: Payload::Orders { seed: 1 },
            idempotency_keys: false,
            run: RunId::random(),
            load,
            connections: 64,
            threads: 1,
            pinned: false,
            limits: Limits::default(),
            retry: None,
        })
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// No connections or threads, more records than a run can number, or a method, path or header that would not
    /// survive in a request.
    pub fn validate(&self) -> Result<(), EngineError> {
        let invalid = |problem: String| Err(EngineError::BadPlan { problem });
        if self.connections == 0 || self.threads == 0 {
            return invalid("it needs at least one connection and one thread".to_owned());
        }
        if let Load::Closed { records: Some(records), .. } = self.load
            && records > MAX_RECORDS
        {
            return invalid(format!("{records} records are more than the {MAX_RECORDS} that a run can number"));
        }
        if let Some(path) = self.paths.iter().find(|path| !is_path(path)) {
            return invalid(format!("`{path}` is not a path: it starts with / and has no blanks"));
        }
        if !is_token(&self.method) {
            return invalid(format!("`{}` is not a request method", self.method));
        }
        if self.method.eq_ignore_ascii_case("CONNECT") {
            return invalid("CONNECT opens tunnels, which carry no load".to_owned());
        }
        let content_type = ("Content-Type".to_owned(), self.content_type.clone());
        for (name, value) in self.headers.iter().chain([&content_type]) {
            if !is_token(name) || !is_field_value(value) {
                return invalid(format!("`{name}: {value}` is not a header"));
            }
            if ["content-length", "transfer-encoding", "connection"].iter().any(|own| name.eq_ignore_ascii_case(own)) {
                return invalid(format!("the header {name} is the engine's own"));
            }
        }
        Ok(())
    }
}

/// RFC 9110 token: what methods and header names are made of.
fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

/// What a request line can carry; anything beyond ASCII must come percent-encoded, as in [`Target`].
fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_field_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7F))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::new("http://127.0.0.1/", Load::Closed { records: Some(1), duration: None }).unwrap()
    }

    #[test]
    fn defaults_are_valid() {
        plan().validate().unwrap();
    }

    #[test]
    fn what_would_break_a_request_is_refused() {
        let spoil: [fn(&mut Plan); 11] = [
            |plan| plan.connections = 0,
            |plan| plan.threads = 0,
            |plan| plan.paths = vec!["/a".to_owned(), "b".to_owned()],
            |plan| plan.paths = vec!["/a HTTP/1.1\r\nX: y".to_owned()],
            |plan| plan.method = "GE T".to_owned(),
            |plan| plan.method = String::new(),
            |plan| plan.method = "CONNECT".to_owned(),
            |plan| plan.content_type = "a\r\nb: c".to_owned(),
            |plan| plan.headers.push(("X:".to_owned(), "y".to_owned())),
            |plan| plan.headers.push(("content-length".to_owned(), "1".to_owned())),
            |plan| plan.load = Load::Closed { records: Some(MAX_RECORDS + 1), duration: None },
        ];
        for (position, spoil) in spoil.iter().enumerate() {
            let mut plan = plan();
            spoil(&mut plan);
            assert!(matches!(plan.validate(), Err(EngineError::BadPlan { .. })), "case {position}");
        }
    }
}
