//! `POST /v1/queues/{queue}/records`: one record, or the records of an NDJSON body. And requests that are records as they come.

use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Request, Response, StatusCode};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32};

use super::attributes::{AttributeFields, header};
use super::body::{self, no_room};
use super::kept::Kept;
use super::problem::{Problem, Refusal};
use crate::admission::{self, Load};
use crate::config::Ingress;
use crate::ingress::connection::ConnectionState;
use crate::ingress::core::{Answer, Busy, Core};
use crate::limits::{CONTENT_TYPE_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX, KEY_BYTES_MAX};
use crate::queue::Queue;
use crate::record::{NO_KEY, Record, RecordError, hash_key};
use crate::ring::{Completion, FRAME_HEADER_BYTES, FrameHeader, Outcome};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const FOREBAY_KEY: HeaderName = HeaderName::from_static("forebay-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const NDJSON: &[u8] = b"application/x-ndjson";
/// What each record of an NDJSON body is.
const NDJSON_RECORD_TYPE: &[u8] = b"application/json";

/// What the head of a request says of its records.
pub struct Head<'a> {
    /// `Forebay-Key`, empty for none.
    pub key: &'a [u8],
    /// `Idempotency-Key`, empty for none.
    pub idempotency_key: &'a [u8],
    /// `Content-Type`, empty for none.
    pub content_type: &'a [u8],
    /// What its attributes are made of.
    pub attributes: AttributeFields<'a>,
    /// Whether the body holds a record on each line.
    pub is_ndjson: bool,
}

/// What a request is to its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taking {
    /// Its body is the record, or the records.
    Body,
    /// All of it is the record, whatever it asks for; it need not have a body.
    Request,
}

/// Whether a content type says that the body holds a record on each line.
#[must_use]
pub fn is_ndjson(content_type: &[u8]) -> bool {
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    media_type.eq_ignore_ascii_case(NDJSON)
}

/// Takes a request's records, waits for the journal and answers.
///
/// # Errors
///
/// A [`Refusal`]; nothing was stored then, or (for [`Problem::JournalFailed`]) nobody can tell.
pub async fn submit(
    core: &Rc<Core>,
    connection: &ConnectionState,
    queue: &Arc<Queue>,
    taking: Taking,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let (parts, body) = request.into_parts();
    let kept = match taking {
        Taking::Body => Kept::named(&parts.headers, &queue.config.kept_headers)?,
        Taking::Request => Kept::whole(&parts)?,
    };
    let mut head = Head::read(&parts.headers, queue)?;
    head.attributes = head.attributes.with_request(kept.fields());
    head.is_ndjson &= taking == Taking::Body;
    let limits = &core.shared.limits;
    let bytes_max = if head.is_ndjson { limits.batch_request_bytes_max } else { limits.record_bytes_max };
    let announced = match taking {
        Taking::Body => body::check_head(&parts.headers, bytes_max)?,
        // Without a length there is no body, and its encoding is kept with the other headers.
        Taking::Request => body::check_length(&parts.headers, bytes_max)?,
    };
    check_before_body(core, queue, announced.unwrap_or(0))?;
    let body = body::read(core, connection, body, bytes_max).await?;
    let arrived_ns = core.clock.monotonic_ns();
    core.note_sender(connection);
    let answer = send(core, queue, &head, &body.bytes)?;
    let body_bytes = body.bytes.len() as u64;
    drop(body);
    let completion = answer.await;
    settle(core, &completion, arrived_ns, body_bytes)?;
    Ok(accepted(queue, &completion, head.is_ndjson))
}

/// Refuses by its head a request of which `announced` bytes of body are still to come.
///
/// # Errors
///
/// The journal has failed, the server is stopping, or the backlog has no room for so much.
pub fn check_before_body(core: &Core, queue: &Queue, announced: u64) -> Result<(), Refusal> {
    check_journal(core)?;
    check_stop(core)?;
    check_backlog(queue, announced)
}

/// Sends the records of a body that is there as a whole to the journal.
///
/// # Errors
///
/// The records are malformed or too large, the backlog is full, or too much waits for the journal. Nothing was sent.
pub fn send(core: &Rc<Core>, queue: &Queue, head: &Head<'_>, body: &[u8]) -> Result<Answer, Refusal> {
    core.submit(|slot, frame| build_frame(core, queue, head, body, slot, frame))?.map_err(busy)
}

/// [`send`] for a body that was never held in memory set aside for bodies, because it came at once.
///
/// # Errors
///
/// As [`send`]; or the journal has failed, or bodies that are arriving leave no room.
pub fn send_at_once(core: &Rc<Core>, queue: &Queue, head: &Head<'_>, body: &[u8]) -> Result<Answer, Refusal> {
    check_journal(core)?;
    // The room is needed for a moment only, but the bound is one of the configuration.
    if !core.hold_body().grow(body.len()) {
        return Err(no_room());
    }
    send(core, queue, head, body)
}

/// Counts what became of a request.
///
/// # Errors
///
/// Nothing was stored, or nobody can tell.
pub fn settle(core: &Core, completion: &Completion, arrived_ns: u64, body_bytes: u64) -> Result<(), Refusal> {
    core.record_latency(core.clock.monotonic_ns().saturating_sub(arrived_ns) / 1000);
    match completion.outcome {
        Outcome::Stored | Outcome::Replayed => {}
        Outcome::DiskFull => {
            let detail = "no other segment can be had: the disk is full or refuses it; the server's log says why";
            return Err(Refusal::new(Problem::DiskFull, detail).retry_after(10));
        }
        Outcome::Failed => return Err(journal_failed()),
    }
    core.counters.accepted.add(1);
    core.counters.records.add(u64::from(completion.count));
    core.counters.bytes.add(body_bytes);
    Ok(())
}

/// Refuses while nothing can be acknowledged.
///
/// # Errors
///
/// The journal has failed.
fn check_journal(core: &Core) -> Result<(), Refusal> {
    if core.shared.health.is_journal_failed() { Err(journal_failed()) } else { Ok(()) }
}

/// Refuses a request whose head has come when the stop had begun.
///
/// # Errors
///
/// The server is stopping.
pub fn check_stop(core: &Core) -> Result<(), Refusal> {
    if core.is_stopping() {
        let detail = "the server is stopping; try another one, or again in a moment";
        return Err(Refusal::new(Problem::Stopping, detail).retry_after(1).close());
    }
    Ok(())
}

fn journal_failed() -> Refusal {
    let detail = "a write to the journal failed, so nothing can be acknowledged until the server is restarted";
    Refusal::new(Problem::JournalFailed, detail).retry_after(60)
}

/// What a client is told whose frame was not sent.
fn busy(busy: Busy) -> Refusal {
    let detail = match busy {
        Busy::InFlight => "in_flight_max requests wait for the disk",
        Busy::Ring => "the ring to the journal is full: the disk is slower than the requests",
    };
    Refusal::new(Problem::Busy, detail).retry_after(1)
}

fn check_backlog(queue: &Queue, bytes: u64) -> Result<(), Refusal> {
    let load = Load {
        backlog_records: queue.backlog_records(),
        backlog_bytes: queue.backlog_bytes(),
        max_backlog_bytes: queue.config.max_backlog_bytes,
        rate: queue.rate(),
        rate_measured: queue.drain.rate_measured.get(),
    };
    admission::admit(&load, bytes).map_err(|shed| {
        let detail = format!(
            "{} records ({} bytes) wait for the database and max_backlog_bytes is {}",
            load.backlog_records, load.backlog_bytes, load.max_backlog_bytes
        );
        Refusal::new(Problem::BacklogFull, detail).retry_after(shed.retry_after_s)
    })
}

impl<'a> Head<'a> {
    fn read(headers: &'a HeaderMap, queue: &Queue) -> Result<Self, Refusal> {
        let content_type = header(headers, &CONTENT_TYPE, CONTENT_TYPE_BYTES_MAX)?;
        Ok(Self {
            key: header(headers, &FOREBAY_KEY, KEY_BYTES_MAX)?,
            idempotency_key: header(headers, &IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_BYTES_MAX)?,
            content_type,
            attributes: AttributeFields::read(headers, &queue.config.ordering)?,
            is_ndjson: is_ndjson(content_type),
        })
    }
}

/// Writes the frame: its header, then the records.
///
/// # Errors
///
/// The records are malformed or too large, are due too late or have expired, or the backlog is full.
pub fn build_frame(
    core: &Core,
    queue: &Queue,
    head: &Head<'_>,
    body: &[u8],
    slot: u32,
    frame: &mut Vec<u8>,
) -> Result<(), Refusal> {
    frame.resize(FRAME_HEADER_BYTES, 0);
    let idempotency_hash = match head.idempotency_key {
        [] => NO_KEY,
        key => hash_key(&core.shared.secret, queue.id, key),
    };
    let received_at_us = core.clock.unix_us();
    let values = head.attributes.resolve(received_at_us, &queue.config.ordering)?;
    let mut attributes = Vec::new();
    let attributes = values.encode(&mut attributes).map_err(malformed)?;
    let mut record = Record {
        received_at_us,
        idempotency_hash,
        group_count: 1,
        key: head.key,
        idempotency_key: head.idempotency_key,
        content_type: head.content_type,
        attributes,
        body,
    };
    let count = if head.is_ndjson {
        record.content_type = NDJSON_RECORD_TYPE;
        encode_lines(&core.shared.limits, body, record, frame)?
    } else {
        if body.is_empty() && !head.attributes.is_whole_request() {
            return Err(Refusal::new(Problem::BadRequest, "the body is the record, and it is empty"));
        }
        record.encode(frame).map_err(malformed)?;
        1
    };
    let length = frame.len() - FRAME_HEADER_BYTES;
    if length > core.shared.frame_bytes_max {
        let detail =
            format!("with its headers this is {length} bytes, and one commit holds {}", core.shared.frame_bytes_max);
        return Err(Refusal::new(Problem::TooLarge, detail));
    }
    // Others were let in while the body came, and every record has a header of its own.
    check_backlog(queue, length as u64)?;
    let header = FrameHeader {
        length: U32::new(u32::try_from(length).unwrap_or(u32::MAX)),
        count: U32::new(count),
        slot: U32::new(slot),
        queue: U16::new(queue.index),
        senders: U16::new(core.senders()),
        idempotency_hash,
    };
    frame[..FRAME_HEADER_BYTES].copy_from_slice(header.as_bytes());
    Ok(())
}

/// A record that the format cannot hold.
fn malformed(error: RecordError) -> Refusal {
    Refusal::new(Problem::BadRequest, error.to_string())
}

/// Encodes one record for each line that is not blank; returns how many.
fn encode_lines(limits: &Ingress, body: &[u8], first: Record<'_>, frame: &mut Vec<u8>) -> Result<u32, Refusal> {
    let lines = || body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate().filter(|(_, l)| !l.is_empty());
    let count = lines().count();
    if count == 0 {
        return Err(Refusal::new(Problem::BadRequest, "the body has no line with a record"));
    }
    if count > limits.batch_request_records_max {
        let detail = format!("the body has {count} records; at most {} are taken", limits.batch_request_records_max);
        return Err(Refusal::new(Problem::TooLarge, detail));
    }
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let mut group_count = count;
    for (number, line) in lines() {
        if line.len() > limits.record_bytes_max {
            let detail =
                format!("line {} has {} bytes; at most {} are taken", number + 1, line.len(), limits.record_bytes_max);
            return Err(Refusal::new(Problem::TooLarge, detail));
        }
        let record = Record { group_count, body: line, ..first };
        record.encode(frame).map_err(malformed)?;
        group_count = 0;
    }
    Ok(count)
}

/// Writes the texts of a 202 behind each other: the path of the ticket, then the body. Returns the
/// length of the first.
pub fn write_receipt(text: &mut String, queue: &Queue, completion: &Completion, is_ndjson: bool) -> usize {
    let ticket = queue.tickets.ticket(completion.first_sequence);
    let last_sequence = completion.first_sequence + u64::from(completion.count.max(1)) - 1;
    let position = queue.position(last_sequence);
    // Writing into a string cannot fail.
    let _ = write!(text, "/v1/tickets/{ticket}");
    let location_bytes = text.len();
    let _ = if is_ndjson {
        let last = queue.tickets.ticket(last_sequence);
        write!(text, r#"{{"first_ticket":"{ticket}","last_ticket":"{last}","count":{}"#, completion.count)
    } else {
        write!(text, r#"{{"ticket":"{ticket}""#)
    };
    let _ = match queue.eta_ms(position) {
        Some(eta_ms) => write!(text, r#","position":{position},"eta_ms":{eta_ms}}}"#),
        None => write!(text, r#","position":{position},"eta_ms":null}}"#),
    };
    location_bytes
}

/// The 202. Location and body lie in one piece of memory.
fn accepted(queue: &Queue, completion: &Completion, is_ndjson: bool) -> Response<Full<Bytes>> {
    let mut text = String::with_capacity(256);
    let location_bytes = write_receipt(&mut text, queue, completion, is_ndjson);
    let text = Bytes::from(text);
    let mut response = Response::new(Full::new(text.slice(location_bytes..)));
    *response.status_mut() = StatusCode::ACCEPTED;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(location) = HeaderValue::from_maybe_shared(text.slice(..location_bytes)) {
        headers.insert(LOCATION, location);
    }
    if completion.outcome == Outcome::Replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
