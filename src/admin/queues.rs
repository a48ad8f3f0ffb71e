//! The queues of the admin API: what they do, and changes to it.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, ORIGIN};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::{Answer, Refusal, dead_letters, full};
use crate::control::{Address, Control, ControlError};
use crate::drain::dead_letters::{DeadLetterError, LetterError};

/// Bytes of a change; more were hardly meant.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;
/// Characters of a name that somebody gives of himself.
const ACTOR_CHARS_MAX: usize = 128;
/// Who asks, for the log.
const ACTOR: HeaderName = HeaderName::from_static("forebay-actor");
/// The path of all queues; that of one has its name behind it.
pub(super) const PATH: &str = "/v1/queues";

/// Answers a request below [`PATH`]. `peer` is where it comes from.
pub(super) async fn answer(control: &Arc<Control>, peer: &str, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path[PATH.len()..].split('/').skip(1).collect();
    let (address, rest) = match parts.as_slice() {
        [] => (None, &[][..]),
        [queue, "sinks", sink, rest @ ..] => (Some((queue, Some(sink))), rest),
        [queue, rest @ ..] => (Some((queue, None)), rest),
    };
    let address = address.map(|(queue, sink): (&&str, Option<&&str>)| Address {
        queue: (*queue).to_owned(),
        sink: sink.map(|sink| (*sink).to_owned()),
    });
    let allowed = match (&address, rest) {
        (None, _) => Some("GET"),
        (_, []) => Some("GET, PATCH"),
        (_, ["pause" | "resume"]) => Some("POST"),
        (_, ["dead-letters", rest @ ..]) => dead_letters::allowed(rest),
        _ => None,
    };
    let Some(allowed) = allowed else {
        let detail = format!(
            "the paths are {PATH}, {PATH}/QUEUE, {PATH}/QUEUE/sinks/SINK, and below the last two …/pause, …/resume, \
             …/dead-letters, …/dead-letters/SEQUENCE, …/dead-letters/redrive and …/dead-letters/purge"
        );
        return problem(StatusCode::NOT_FOUND, "not-found", &detail);
    };
    let method = request.method().clone();
    if !allowed.split(", ").any(|allowed| allowed == method.as_str()) {
        let mut response =
            problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", &format!("this path takes {allowed}"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return response;
    }
    // A page that somebody has open in a browser on this machine must not change a queue behind his back.
    if method != Method::GET && request.headers().contains_key(ORIGIN) {
        return problem(StatusCode::FORBIDDEN, "forbidden", "changes are not taken from web pages");
    }
    let by = actor(&request, peer);
    let Some(address) = address else { return outcome(Ok(control.describe_all())) };
    outcome(match rest {
        ["dead-letters", rest @ ..] => return dead_letters::answer(control, address, rest, by, request).await,
        [] if method == Method::GET => control.describe(&address),
        [] => {
            let read = read(request, BODY_BYTES_MAX).await;
            match read.and_then(|body| parse(&body, r#"{"rate": "8000/s"}"#)) {
                Ok(changes) => control.change(&address, &changes, &by),
                Err(refusal) => return *refusal,
            }
        }
        ["pause"] => control.pause(&address, &by),
        _ => control.resume(&address, &by),
    })
}

/// What came of a request as its answer.
pub(super) fn outcome(outcome: Result<Value, ControlError>) -> Answer {
    match outcome {
        Ok(value) => json_response(StatusCode::OK, "application/json", &value),
        Err(error @ (ControlError::NoQueue { .. } | ControlError::NoSink { .. })) => {
            problem(StatusCode::NOT_FOUND, "not-found", &error.to_string())
        }
        Err(error @ ControlError::Refused(_)) => {
            problem(StatusCode::UNPROCESSABLE_ENTITY, "not-applicable", &error.to_string())
        }
        Err(error @ ControlError::Mark(_)) => {
            problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", &error.to_string())
        }
        Err(ControlError::Letter(error)) => match &error {
            LetterError::Unknown(_) | LetterError::Gone(_) => {
                problem(StatusCode::NOT_FOUND, "not-found", &error.to_string())
            }
            LetterError::Redriving(_) | LetterError::NoBody(_) => {
                problem(StatusCode::CONFLICT, "conflict", &error.to_string())
            }
            LetterError::File(DeadLetterError::Full { .. }) => {
                problem(StatusCode::INSUFFICIENT_STORAGE, "dead-letters-full", &error.to_string())
            }
            LetterError::File(DeadLetterError::Io { .. }) => {
                problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", &error.to_string())
            }
        },
    }
}

/// Who asks: the name that he gives of himself, and where from.
fn actor(request: &Request<Incoming>, peer: &str) -> String {
    let named = request.headers().get(ACTOR).and_then(|value| value.to_str().ok());
    match named {
        Some(name) => format!("{} from {peer}", name.chars().take(ACTOR_CHARS_MAX).collect::<String>()),
        None => format!("somebody from {peer}"),
    }
}

/// A request's body of at most so many bytes.
pub(super) async fn read(request: Request<Incoming>, bytes_max: usize) -> Result<Bytes, Refusal> {
    let body = Limited::new(request.into_body(), bytes_max).collect().await.map_err(|error| {
        let detail = format!("the body cannot be read ({error}); it may have {bytes_max} bytes");
        Box::new(problem(StatusCode::BAD_REQUEST, "bad-request", &detail))
    })?;
    Ok(body.to_bytes())
}

/// A body as JSON; `example` is what could have been sent.
pub(super) fn parse(body: &[u8], example: &str) -> Result<Value, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let detail = format!("the body is not JSON: {error}; send such as {example}");
        Box::new(problem(StatusCode::BAD_REQUEST, "bad-request", &detail))
    })
}

pub(super) fn problem(status: StatusCode, name: &str, detail: &str) -> Answer {
    let title = status.canonical_reason().unwrap_or("refused");
    let kind = format!("urn:forebay:problem:{name}");
    let value = json!({ "type": kind, "title": title, "status": status.as_u16(), "detail": detail });
    json_response(status, "application/problem+json", &value)
}

fn json_response(status: StatusCode, kind: &'static str, value: &Value) -> Answer {
    let mut response = Response::new(full(format!("{value}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
