//! Refusals, as problem details (RFC 9457): one list of what can be wrong with a request.

use bytes::Bytes;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

/// Why a request is refused. The names are part of the interface: metrics and `type` carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Problem {
    /// Something in the request is malformed.
    BadRequest,
    /// No such path, queue or ticket.
    NotFound,
    /// The path does not know the method.
    MethodNotAllowed,
    /// The body came too slowly.
    BodyTimeout,
    /// Neither Content-Length nor chunked.
    LengthRequired,
    /// The body or a record is too large.
    TooLarge,
    /// The path is longer than a record keeps.
    UriTooLong,
    /// There are more headers than a record keeps.
    HeadersTooLarge,
    /// The body is compressed.
    UnsupportedEncoding,
    /// The queue's backlog is full.
    BacklogFull,
    /// Too many requests wait for the disk, or bodies fill the memory.
    Busy,
    /// The disk has no room for another segment, or refuses it for another reason.
    DiskFull,
    /// The journal failed; nothing is acknowledged until a restart.
    JournalFailed,
    /// The server is stopping.
    Stopping,
    /// Something of ours is broken.
    Internal,
}

impl Problem {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::BadRequest,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::LengthRequired,
        Self::TooLarge,
        Self::UriTooLong,
        Self::HeadersTooLarge,
        Self::UnsupportedEncoding,
        Self::BacklogFull,
        Self::Busy,
        Self::DiskFull,
        Self::JournalFailed,
        Self::Stopping,
        Self::Internal,
    ];

    /// Its name in metrics and in `type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.facts().0
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.facts().1
    }

    fn facts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::BadRequest => ("bad-request", StatusCode::BAD_REQUEST, "The request is malformed"),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "There is nothing here"),
            Self::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "The path does not take this method")
            }
            Self::BodyTimeout => ("body-timeout", StatusCode::REQUEST_TIMEOUT, "The body came too slowly"),
            Self::LengthRequired => {
                ("length-required", StatusCode::LENGTH_REQUIRED, "The request says no length of its body")
            }
            Self::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
            Self::UriTooLong => ("uri-too-long", StatusCode::URI_TOO_LONG, "The path is too long"),
            Self::HeadersTooLarge => {
                ("headers-too-large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are too large")
            }
            Self::UnsupportedEncoding => {
                ("unsupported-encoding", StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is encoded")
            }
            Self::BacklogFull => ("backlog-full", StatusCode::TOO_MANY_REQUESTS, "The queue's backlog is full"),
            Self::Busy => ("busy", StatusCode::SERVICE_UNAVAILABLE, "Too many requests are in flight"),
            Self::DiskFull => ("disk-full", StatusCode::SERVICE_UNAVAILABLE, "The disk takes no more"),
            Self::JournalFailed => ("journal-failed", StatusCode::SERVICE_UNAVAILABLE, "The journal has failed"),
            Self::Stopping => ("stopping", StatusCode::SERVICE_UNAVAILABLE, "The server is stopping"),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "Something here is broken"),
        }
    }
}

/// A refusal with what the client should know.
#[derive(Debug)]
pub struct Refusal {
    /// Which problem.
    pub problem: Problem,
    detail: String,
    header: Option<(HeaderName, HeaderValue)>,
    close: bool,
}

impl Refusal {
    /// A refusal; `detail` says what is wrong and what to do instead.
    #[must_use]
    pub fn new(problem: Problem, detail: impl Into<String>) -> Self {
        Self { problem, detail: detail.into(), header: None, close: false }
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.header = Some((RETRY_AFTER, HeaderValue::from(seconds)));
        self
    }

    /// Says which methods the path takes.
    #[must_use]
    pub fn allow(mut self, methods: &'static str) -> Self {
        self.header = Some((ALLOW, HeaderValue::from_static(methods)));
        self
    }

    /// Says which encodings the path takes.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, HeaderValue::from_static(value)));
        self
    }

    /// Closes the connection behind the response: the rest of the request is not read.
    #[must_use]
    pub fn close(mut self) -> Self {
        self.close = true;
        self
    }

    /// Whether the connection is closed behind the response.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.close
    }

    /// The response.
    #[must_use]
    pub fn into_response(self) -> Response<Bytes> {
        let (name, status, title) = self.problem.facts();
        let body = serde_json::json!({
            "type": format!("urn:forebay:problem:{name}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.detail,
        });
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some((name, value)) = self.header {
            headers.insert(name, value);
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_has_its_number_and_a_name_of_its_own() {
        let mut names = std::collections::BTreeSet::new();
        for (number, problem) in Problem::ALL.into_iter().enumerate() {
            assert_eq!(problem as usize, number);
            assert!(names.insert(problem.name()));
            assert!(problem.status().is_client_error() || problem.status().is_server_error());
        }
    }
}
