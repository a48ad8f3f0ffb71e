//! HTTP/1.1, spoken by hyper: which path leads where, and one connection's life. The one hot request has a
//! [fast path](fast_path) beside it.

pub mod attributes;
mod body;
pub mod fast_path;
pub mod kept;
pub mod problem;
mod status;
pub mod submit;

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};

use super::connection::{Connection, ConnectionState, Phase, Sent};
use super::core::Core;
use super::net::Stream;
use crate::limits::HEADERS_MAX;
use crate::queue::Queue;
pub use fast_path::FastPath;
use problem::{Problem, Refusal};
use submit::Taking;

/// Serves one connection, which has `sent` something already, until the client or a stop ends it, or its time is
/// over. If there is a `taker`, requests are records of that queue as they come.
async fn serve(core: Rc<Core>, stream: Stream, state: Rc<ConnectionState>, sent: Sent, taker: Option<Arc<Queue>>) {
    let io = Connection::new(stream, sent, Rc::clone(&core), Rc::clone(&state));
    let service = service_fn(|request| answer(Rc::clone(&core), Rc::clone(&state), taker.clone(), request));
    let connection = hyper::server::conn::http1::Builder::new()
        .max_buf_size(core.shared.limits.head_bytes_max)
        .max_headers(HEADERS_MAX)
        // Deadlines are ours: see `connection.rs`.
        .header_read_timeout(None)
        // A client that has said all it has to say may close its side and still wait for the answer.
        .half_close(true)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut asked_to_end = false;
    std::future::poll_fn(|cx| {
        state.remember(cx);
        if state.is_to_be_closed() {
            return Poll::Ready(());
        }
        let mut ended = connection.as_mut().poll(cx);
        // Behind a first poll: what the client had sent before is read by then, and is answered.
        if ended.is_pending() && core.is_stopping() && !asked_to_end {
            asked_to_end = true;
            connection.as_mut().graceful_shutdown();
            ended = connection.as_mut().poll(cx);
        }
        ended.map(|ended| {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended");
            }
        })
    })
    .await;
}

async fn answer(
    core: Rc<Core>,
    state: Rc<ConnectionState>,
    taker: Option<Arc<Queue>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    state.enter(Phase::Answer);
    let result = route(&core, &state, taker.as_ref(), request).await;
    state.enter(Phase::Response);
    Ok(result.unwrap_or_else(|refusal| {
        core.counters.refused[refusal.problem as usize].add(1);
        refusal.into_response().map(Full::new)
    }))
}

/// What stands before a ticket in its path.
const TICKETS: &str = "/v1/tickets/";

/// Whether a path is forebay's own where all others lead into a queue: clients must be able to ask for their tickets, and a load
/// balancer for our health.
fn is_answered_here(path: &str) -> bool {
    path.starts_with(TICKETS) || matches!(path, "/healthz" | "/readyz")
}

/// Where the paths lead.
async fn route(
    core: &Rc<Core>,
    state: &ConnectionState,
    taker: Option<&Arc<Queue>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let path = request.uri().path();
    if let Some(queue) = taker.filter(|_| !is_answered_here(path)) {
        return submit::submit(core, state, queue, Taking::Request, request).await;
    }
    if let Some(name) = path.strip_prefix("/v1/queues/").and_then(|rest| rest.strip_suffix("/records")) {
        let Some(queue) = core.queue(name) else {
            return Err(Refusal::new(Problem::NotFound, "there is no queue of that name"));
        };
        expect_method(&request, &Method::POST, "POST")?;
        return submit::submit(core, state, queue, Taking::Body, request).await;
    }
    if let Some(ticket) = path.strip_prefix(TICKETS) {
        expect_method(&request, &Method::GET, "GET")?;
        return status::status(core, ticket);
    }
    match path {
        "/healthz" | "/readyz" => {
            expect_method(&request, &Method::GET, "GET")?;
            health(core, path == "/readyz")
        }
        _ => Err(Refusal::new(
            Problem::NotFound,
            "the paths are POST /v1/queues/{queue}/records, GET /v1/tickets/{ticket}, GET /healthz and GET /readyz",
        )),
    }
}

fn expect_method(request: &Request<Incoming>, method: &Method, name: &'static str) -> Result<(), Refusal> {
    if request.method() == method {
        return Ok(());
    }
    Err(Refusal::new(Problem::MethodNotAllowed, format!("this path takes {name}")).allow(name))
}

/// Health and readiness for a load balancer; the admin address says more.
fn health(core: &Core, readiness: bool) -> Result<Response<Full<Bytes>>, Refusal> {
    let health = &core.shared.health;
    if health.is_journal_failed() {
        return Err(Refusal::new(
            Problem::JournalFailed,
            "a write to the journal failed; restart after mending the disk",
        ));
    }
    if readiness && health.is_stopping() {
        return Err(Refusal::new(Problem::Stopping, "the server is stopping"));
    }
    let mut response = Response::new(Full::new(Bytes::from_static(b"ok\n")));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}
