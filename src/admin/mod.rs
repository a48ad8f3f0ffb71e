//! The admin address: health, readiness, metrics and the control of queues, on a thread of its own.

mod dead_letters;
mod queues;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::control::Control;
use crate::metrics::{self, Sources};
use crate::queue::DrainState;

/// Connections at once; whoever comes later waits.
const CONNECTIONS_MAX: usize = 64;
/// Time for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long nothing is accepted after the kernel refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the runtime that it runs on ends.
///
/// # Errors
///
/// The listener cannot be used.
pub async fn serve(
    listener: std::net::TcpListener,
    sources: Arc<Sources>,
    control: Arc<Control>,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (sources, control) = (Arc::clone(&sources), Arc::clone(&control));
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (sources, control) = (Arc::clone(&sources), Arc::clone(&control));
                async move {
                    let path = request.uri().path();
                    let is_of_queues =
                        path.strip_prefix(queues::PATH).is_some_and(|r| r.is_empty() || r.starts_with('/'));
                    Ok::<_, Infallible>(if is_of_queues {
                        queues::answer(&control, &peer.to_string(), request).await
                    } else {
                        answer(&sources, &request)
                    })
                }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "an admin connection ended");
            }
            drop(permit);
        });
    }
}

/// Binds the admin address.
///
/// # Errors
///
/// It is taken, not ours, or not permitted.
pub fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    std::net::TcpListener::bind(address)
}

/// What is answered.
type Answer = Response<Full<Bytes>>;
/// What is answered instead of what was asked for.
type Refusal = Box<Answer>;

fn answer(sources: &Arc<Sources>, request: &Request<Incoming>) -> Answer {
    if request.method() != Method::GET {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "this path takes GET\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    match request.uri().path() {
        "/healthz" => health(sources),
        "/readyz" => readiness(sources),
        "/metrics" => metrics(sources),
        _ => text(StatusCode::NOT_FOUND, "the paths are /healthz, /readyz, /metrics and /v1/queues\n".to_owned()),
    }
}

fn health(sources: &Sources) -> Answer {
    if sources.health.is_journal_failed() {
        let why = "a write to the journal failed; mend the disk and restart\n";
        return text(StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
    }
    text(StatusCode::OK, "ok\n".to_owned())
}

/// Ready is whoever accepts records. A sink that is down does not make us unready: taking the
/// records in the meantime is what we are for. The text says it all the same.
fn readiness(sources: &Sources) -> Answer {
    let health = &sources.health;
    let (status, mut lines) = if health.is_stopping() || health.is_journal_failed() {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned())
    } else {
        (StatusCode::OK, "ready\n".to_owned())
    };
    let outlets = sources.queues.iter().flat_map(|queue| queue.outlets().map(move |outlet| (queue, outlet)));
    for (queue, outlet) in outlets {
        let drain = match outlet.drain.state() {
            DrainState::Connecting => "connecting to the sink",
            DrainState::Running => "delivering",
            DrainState::Retrying => "retrying",
            DrainState::Paused => "paused",
            DrainState::Halted => "halted, see the log",
        };
        let sink = outlet.name.as_ref().map_or_else(String::new, |name| format!(", sink {name}"));
        let backlog = outlet.backlog_records(&queue.journal);
        lines += &format!("queue {}{sink}: {drain}, backlog {backlog} records\n", queue.name);
    }
    text(status, lines)
}

fn metrics(sources: &Arc<Sources>) -> Answer {
    let Ok(body) = metrics::text(sources) else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n".to_owned());
    };
    let mut response = text(StatusCode::OK, body);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn text(status: StatusCode, body: String) -> Answer {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn full(body: String) -> Full<Bytes> {
    Full::new(Bytes::from(body))
}
