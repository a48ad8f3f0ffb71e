//! `GET /v1/tickets/{ticket}`: where a record is.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde::Serialize;

use super::problem::{Problem, Refusal};
use crate::dead_letter_index::Fate;
use crate::ingress::core::Core;
use crate::queue::{Outlet, Queue};
use crate::record::Sequence;
use crate::ticket;

/// What a ticket's holder is told.
#[derive(Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
enum State {
    Queued { position: u64, eta_ms: Option<u64> },
    Delivered,
    Dead { reason: String },
    Redriving,
    Purged,
    Expired,
}

#[derive(Serialize)]
struct Status<'a> {
    ticket: &'a str,
    #[serde(flatten)]
    state: State,
    /// Where the record is on its way to the queue's other sinks, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sinks: BTreeMap<&'a str, State>,
}

/// Answers with the state of the ticket's record.
///
/// # Errors
///
/// [`Problem::NotFound`] for what was never issued, [`Problem::Internal`] if a dead letter's
/// reason cannot be read.
pub fn status(core: &Core, ticket: &str) -> Result<Response<Full<Bytes>>, Refusal> {
    core.counters.statuses.add(1);
    let not_found = || Refusal::new(Problem::NotFound, "no such ticket was issued here");
    let queue = ticket::queue_of(ticket).and_then(|name| core.queue(name)).ok_or_else(not_found)?;
    let sequence = queue.tickets.read(ticket).ok_or_else(not_found)?;
    if sequence > queue.journal.appended.get() {
        return Err(not_found());
    }
    let status = Status { ticket, state: state(queue, &queue.main, sequence)?, sinks: other_states(queue, sequence)? };
    let body = serde_json::to_vec(&status).map_err(|error| Refusal::new(Problem::Internal, error.to_string()))?;
    let mut response = Response::new(Full::new(Bytes::from(body)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Of the sinks beside the main one, those that the record is for: one that was added later may not have found it any more.
fn other_states(queue: &Queue, sequence: Sequence) -> Result<BTreeMap<&str, State>, Refusal> {
    let others = queue.others.iter().filter(|outlet| sequence > outlet.begins_after.get());
    let named = others.filter_map(|outlet| Some((outlet.name.as_deref()?, outlet)));
    named.map(|(name, outlet)| Ok((name, state(queue, outlet, sequence)?))).collect()
}

fn state(queue: &Queue, outlet: &Outlet, sequence: Sequence) -> Result<State, Refusal> {
    let (position, fate) = outlet.position_and_fate(sequence).map_err(|error| {
        tracing::error!(queue = queue.name, sink = outlet.name, sequence, %error, "a dead letter's reason cannot be read");
        Refusal::new(Problem::Internal, "the record is a dead letter, but its reason cannot be read")
    })?;
    Ok(match fate {
        Some(Fate::Dead(reason)) => State::Dead { reason },
        Some(Fate::Redriving) => State::Redriving,
        Some(Fate::Purged) => State::Purged,
        Some(Fate::Expired) => State::Expired,
        Some(Fate::Redriven) => State::Delivered,
        None if position == 0 => State::Delivered,
        None => State::Queued { position, eta_ms: outlet.eta_ms(position) },
    })
}
