//! The queues of the admin API: what they do, and changes to it.

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, ORIGIN};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::{Answer, full};
use crate::control::{Control, ControlError};

/// Bytes of a change; more were hardly meant.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Characters of a name that somebody gives of himself.
const ACTOR_CHARS_MAX: usize = 128;
/// Who asks, for the log.
const ACTOR: HeaderName = HeaderName::from_static("forebay-actor");
/// The path of all queues; that of one has its name behind it.
pub(super) const PATH: &str = "/v1/queues";

/// Answers a request below [`PATH`]. `peer` is where it comes from.
pub(super) async fn answer(control: &Control, peer: &str, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path[PATH.len()..].split('/').skip(1).collect();
    let allowed: &'static str = match parts.as_slice() {
        [] => "GET",
        [_] => "GET, PATCH",
        [_, "pause" | "resume"] => "POST",
        _ => {
            return problem(
                StatusCode::NOT_FOUND,
                "not-found",
                &format!("the paths are {PATH}, {PATH}/QUEUE, …/pause and …/resume"),
            );
        }
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
    let outcome = match parts.as_slice() {
        [] => Ok(control.describe_all()),
        [queue] if method == Method::GET => control.describe(queue),
        [queue] => match read(request).await {
            Ok(changes) => control.change(queue, &changes, &by),
            Err(response) => return response,
        },
        [queue, "pause"] => control.pause(queue, &by),
        [queue, ..] => control.resume(queue, &by),
    };
    match outcome {
        Ok(value) => json_response(StatusCode::OK, "application/json", &value),
        Err(error @ ControlError::NoQueue { .. }) => problem(StatusCode::NOT_FOUND, "not-found", &error.to_string()),
        Err(error @ ControlError::Refused(_)) => {
            problem(StatusCode::UNPROCESSABLE_ENTITY, "not-applicable", &error.to_string())
        }
        Err(error @ ControlError::Mark(_)) => {
            problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", &error.to_string())
        }
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

async fn read(request: Request<Incoming>) -> Result<Value, Answer> {
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| {
        problem(
            StatusCode::BAD_REQUEST,
            "bad-request",
            &format!("the body cannot be read ({error}); it may have {BODY_BYTES_MAX} bytes"),
        )
    })?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| {
        let detail = format!("the body is not JSON: {error}; send such as {{\"rate\": \"8000/s\"}}");
        problem(StatusCode::BAD_REQUEST, "bad-request", &detail)
    })
}

fn problem(status: StatusCode, name: &str, detail: &str) -> Answer {
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
