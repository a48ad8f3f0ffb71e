//! Reads responses as their bytes arrive: the head, then a body of known length, in chunks, or up to the end.

use super::chunked::ChunkedBody;
use std::mem::MaybeUninit;

const HEADERS_MAX: usize = 64;

/// Why bytes are not a response that the engine accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    #[error("the response head is not HTTP/1")]
    Head,
    #[error("the response head is larger than its bound")]
    HeadTooLarge,
    #[error("the response body is larger than its bound")]
    BodyTooLarge,
    #[error("the response has a bad or contradictory length")]
    Length,
    #[error("the chunked body is malformed")]
    Chunk,
    #[error("the server wants to switch protocols")]
    Upgrade,
}

/// What the engine keeps of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub retry_after_seconds: Option<u32>,
    pub keep_alive: bool,
}

/// Reads one response after another from one connection.
pub struct ResponseReader {
    head_max_bytes: usize,
    body_max_bytes: u64,
    without_body: bool,
    state: State,
}

enum State {
    Head,
    Body { response: Response, body: Body },
}

enum Body {
    Length { left: u64 },
    Chunked(ChunkedBody),
    UntilEnd { read: u64 },
}

impl ResponseReader {
    /// `without_body`: the request is a HEAD, whose response has a length but no body.
    pub fn new(head_max_bytes: usize, body_max_bytes: u64, without_body: bool) -> Self {
        Self { head_max_bytes, body_max_bytes, without_body, state: State::Head }
    }

    /// Forgets a response that was begun, for a new connection.
    pub fn reset(&mut self) {
        self.state = State::Head;
    }

    /// Takes what it can of `input` and returns how many bytes that was, and the response when it is complete.
    /// Bytes not taken must come again, followed by more.
    pub fn advance(&mut self, input: &[u8]) -> Result<(usize, Option<Response>), ResponseError> {
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            let (used, complete) = match &mut self.state {
                State::Head => {
                    let Some(used) = self.read_head(rest)? else { return Ok((taken, None)) };
                    // The body may be empty, which the next turn finds out without any further bytes.
                    taken += used;
                    continue;
                }
                State::Body { response, body } => {
                    let (used, complete) = body.advance(rest, self.body_max_bytes)?;
                    (used, complete.then_some(*response))
                }
            };
            taken += used;
            if complete.is_some() {
                self.state = State::Head;
            }
            return Ok((taken, complete));
        }
    }

    /// Tells that the connection ended: that completes a body that has no other end.
    pub fn finish(&mut self) -> Option<Response> {
        match std::mem::replace(&mut self.state, State::Head) {
            State::Body { response, body: Body::UntilEnd { .. } } => Some(response),
            _ => None,
        }
    }

    /// Reads a head if it is all there, and sets the state that it leads to; returns the head's length in bytes.
    fn read_head(&mut self, input: &[u8]) -> Result<Option<usize>, ResponseError> {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut []);
        let status =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, input, &mut headers);
        let length = match status {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if input.len() < self.head_max_bytes => return Ok(None),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(ResponseError::HeadTooLarge);
            }
            Err(_) => return Err(ResponseError::Head),
        };
        if length > self.head_max_bytes {
            return Err(ResponseError::HeadTooLarge);
        }
        let code = parsed.code.ok_or(ResponseError::Head)?;
        match code {
            101 => return Err(ResponseError::Upgrade),
            // An interim answer: the response proper is still to come.
            100..=199 => return Ok(Some(length)),
            _ => {}
        }
        let fields = Fields::read(parsed.headers, parsed.version == Some(1))?;
        let body = if self.without_body || code == 204 || code == 304 {
            Body::Length { left: 0 }
        } else if fields.chunked {
            Body::Chunked(ChunkedBody::new())
        } else if let Some(left) = fields.content_length {
            if left > self.body_max_bytes {
                return Err(ResponseError::BodyTooLarge);
            }
            Body::Length { left }
        } else {
            Body::UntilEnd { read: 0 }
        };
        let keep_alive = fields.keep_alive && !matches!(body, Body::UntilEnd { .. });
        let response = Response { status: code, retry_after_seconds: fields.retry_after_seconds, keep_alive };
        self.state = State::Body { response, body };
        Ok(Some(length))
    }
}

impl Body {
    /// Returns how many bytes of `input` belong to the body, and whether it is complete.
    fn advance(&mut self, input: &[u8], max_bytes: u64) -> Result<(usize, bool), ResponseError> {
        match self {
            Self::Length { left } => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= used as u64;
                Ok((used, *left == 0))
            }
            Self::Chunked(body) => body.advance(input, max_bytes),
            Self::UntilEnd { read } => {
                *read += input.len() as u64;
                if *read > max_bytes { Err(ResponseError::BodyTooLarge) } else { Ok((input.len(), false)) }
            }
        }
    }
}

/// The header fields that matter to the engine.
struct Fields {
    content_length: Option<u64>,
    chunked: bool,
    keep_alive: bool,
    retry_after_seconds: Option<u32>,
}

impl Fields {
    fn read(headers: &[httparse::Header<'_>], keep_alive_by_default: bool) -> Result<Self, ResponseError> {
        let mut fields =
            Self { content_length: None, chunked: false, keep_alive: keep_alive_by_default, retry_after_seconds: None };
        for header in headers {
            let named = |name: &str| header.name.eq_ignore_ascii_case(name);
            if named("content-length") {
                let length = parse_length(header.value).ok_or(ResponseError::Length)?;
                if fields.content_length.is_some_and(|other| other != length) {
                    return Err(ResponseError::Length);
                }
                fields.content_length = Some(length);
            } else if named("transfer-encoding") {
                // No other coding was asked for, so none but this one can end the body properly.
                if !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") || fields.chunked {
                    return Err(ResponseError::Length);
                }
                fields.chunked = true;
            } else if named("connection") {
                for option in header.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    if option.eq_ignore_ascii_case(b"close") {
                        fields.keep_alive = false;
                    } else if option.eq_ignore_ascii_case(b"keep-alive") {
                        fields.keep_alive = true;
                    }
                }
            } else if named("retry-after") {
                // The other form, a date, would need the server's clock; the backoff covers it.
                fields.retry_after_seconds = parse_length(header.value).map(|s| u32::try_from(s).unwrap_or(u32::MAX));
            }
        }
        Ok(fields)
    }
}

fn parse_length(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader() -> ResponseReader {
        ResponseReader::new(1024, 100, false)
    }

    fn response(status: u16, retry_after_seconds: Option<u32>, keep_alive: bool) -> Response {
        Response { status, retry_after_seconds, keep_alive }
    }

    /// Feeds `text` in the pieces given, keeping what was not taken, as a connection does.
    fn feed(reader: &mut ResponseReader, pieces: &[&[u8]]) -> Result<Vec<Response>, ResponseError> {
        let (mut pending, mut found) = (Vec::new(), Vec::new());
        for piece in pieces {
            pending.extend_from_slice(piece);
            loop {
                let (taken, complete) = reader.advance(&pending)?;
                pending.drain(..taken);
                found.extend(complete);
                if complete.is_none() || pending.is_empty() {
                    break;
                }
            }
        }
        assert!(pending.is_empty(), "left over: {:?}", String::from_utf8_lossy(&pending));
        Ok(found)
    }

    #[test]
    fn responses_split_at_every_byte_read_the_same() {
        let cases: [(&str, Response); 8] = [
            ("HTTP/1.1 202 Accepted\r\ncontent-length: 5\r\n\r\nhello", response(202, None, true)),
            ("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", response(202, None, true)),
            ("HTTP/1.1 204 No Content\r\n\r\n", response(204, None, true)),
            ("HTTP/1.1 503 x\r\nRetry-After: 3\r\nContent-Length: 1\r\n\r\n.", response(503, Some(3), true)),
            ("HTTP/1.1 200 OK\r\nConnection: foo, Close\r\nContent-Length: 1\r\n\r\n.", response(200, None, false)),
            ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n.", response(200, None, false)),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", response(200, None, true)),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0a\r\n0123456789\r\n0\r\nA: b\r\n\r\n",
                response(200, None, true),
            ),
        ];
        for (text, expected) in cases {
            for at in 0..=text.len() {
                let (left, right) = text.as_bytes().split_at(at);
                assert_eq!(feed(&mut reader(), &[left, right]), Ok(vec![expected]), "{text:?} split at {at}");
            }
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(feed(&mut reader(), &bytes), Ok(vec![expected]), "{text:?} byte by byte");
            let twice = text.repeat(2);
            assert_eq!(feed(&mut reader(), &[twice.as_bytes()]), Ok(vec![expected; 2]), "{text:?} twice");
        }
    }

    #[test]
    fn a_body_without_length_ends_with_the_connection() {
        let mut reader = reader();
        assert_eq!(feed(&mut reader, &[b"HTTP/1.1 200 OK\r\n\r\nsome"]), Ok(vec![]));
        assert_eq!(reader.finish(), Some(response(200, None, false)));
        assert_eq!(reader.finish(), None);
        assert_eq!(feed(&mut reader, &[b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome"]), Ok(vec![]));
        assert_eq!(reader.finish(), None);
    }

    #[test]
    fn a_head_response_has_no_body() {
        let mut reader = ResponseReader::new(1024, 100, true);
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(feed(&mut reader, &[text]), Ok(vec![response(200, None, true)]));
    }

    #[test]
    fn bad_responses_are_named() {
        use ResponseError::{BodyTooLarge, Chunk, Head, HeadTooLarge, Length, Upgrade};
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(1024));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(65));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let cases = [
            ("SSH-2.0-OpenSSH\r\n".to_owned(), Head),
            (long, HeadTooLarge),
            (many, HeadTooLarge),
            ("HTTP/1.1 101 Switching\r\n\r\n".to_owned(), Upgrade),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(), Length),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n".to_owned(), Length),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n".to_owned(), Length),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(), Length),
            ("HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n".to_owned(), BodyTooLarge),
            (format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(101)), BodyTooLarge),
            (format!("{chunked}x\r\n"), Chunk),
            (format!("{chunked}65\r\n"), BodyTooLarge),
        ];
        for (text, expected) in cases {
            assert_eq!(feed(&mut reader(), &[text.as_bytes()]), Err(expected), "{text:?}");
        }
    }
}
