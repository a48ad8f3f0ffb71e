//! Which requests the fast path takes. Pure: bytes in, a decision out.
//!
//! The head is read by the parser that hyper uses, with the same settings, so both agree on where
//! it ends and what its fields are. Taken is only what can be read in one way: one record, its
//! length given once in digits, nothing that changes how the body is framed or what is expected of
//! the connection. Everything else, malformed requests included, is hyper's.

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Status};

use crate::ingress::http::submit::{Head, is_ndjson};
use crate::limits::{
    CONTENT_TYPE_BYTES_MAX, FAST_REQUEST_BYTES_MAX, HEADERS_MAX, IDEMPOTENCY_KEY_BYTES_MAX, KEY_BYTES_MAX,
};

/// What the bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub enum Look<'a> {
    /// The beginning of a request; nothing can be said of it before there are so many bytes.
    Partial {
        /// Bytes from the request's beginning that are needed at least.
        bytes_min: usize,
        /// Whether the head is complete.
        in_body: bool,
    },
    /// A whole request that the fast path takes.
    Taken(Request<'a>),
    /// For hyper.
    Other,
}

/// A request to store one record.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The name of the queue, as the path has it.
    pub queue: &'a str,
    /// `Forebay-Key`, empty for none.
    pub key: &'a [u8],
    /// `Idempotency-Key`, empty for none.
    pub idempotency_key: &'a [u8],
    /// `Content-Type`, empty for none.
    pub content_type: &'a [u8],
    /// The record; never empty.
    pub body: &'a [u8],
    /// Bytes of the whole request.
    pub bytes: usize,
}

impl<'a> Request<'a> {
    /// What its head says of its record.
    #[must_use]
    pub fn head(&self) -> Head<'a> {
        let Self { key, idempotency_key, content_type, .. } = *self;
        Head { key, idempotency_key, content_type, is_ndjson: false }
    }
}

/// The bounds that a listener sets.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of a head.
    pub head_bytes_max: usize,
    /// Bytes of a record.
    pub record_bytes_max: usize,
}

/// Looks at what a connection has sent since its last request.
#[must_use]
pub fn look(bytes: &[u8], bounds: Bounds) -> Look<'_> {
    let mut headers = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = ParserConfig::default().parse_request_with_uninit_headers(&mut request, bytes, &mut headers);
    let head_bytes = match parsed {
        Ok(Status::Complete(head_bytes)) if head_bytes <= bounds.head_bytes_max => head_bytes,
        Ok(Status::Partial) if bytes.len() < bounds.head_bytes_max.min(FAST_REQUEST_BYTES_MAX) => {
            return Look::Partial { bytes_min: bytes.len() + 1, in_body: false };
        }
        _ => return Look::Other,
    };
    let Some(fields) = Fields::read(request.headers) else { return Look::Other };
    let (Some(queue), Some(length)) = (queue_of(&request), fields.length) else { return Look::Other };
    let whole = head_bytes + length;
    if length == 0 || length > bounds.record_bytes_max || whole > FAST_REQUEST_BYTES_MAX {
        return Look::Other;
    }
    let Some(body) = bytes.get(head_bytes..whole) else {
        return Look::Partial { bytes_min: whole, in_body: true };
    };
    Look::Taken(Request {
        queue,
        key: fields.key,
        idempotency_key: fields.idempotency_key,
        content_type: fields.content_type,
        body,
        bytes: whole,
    })
}

/// The queue, if this is a POST to its records and nothing else.
fn queue_of<'a>(request: &httparse::Request<'_, 'a>) -> Option<&'a str> {
    if request.method != Some("POST") || request.version != Some(1) {
        return None;
    }
    request.path?.strip_prefix("/v1/queues/")?.strip_suffix("/records")
}

#[derive(Default)]
struct Fields<'a> {
    key: &'a [u8],
    idempotency_key: &'a [u8],
    content_type: &'a [u8],
    length: Option<usize>,
}

impl<'a> Fields<'a> {
    /// `None` if any field makes the request one for hyper.
    fn read(headers: &[Header<'a>]) -> Option<Self> {
        let mut fields = Self::default();
        for header in headers {
            let (name, value) = (header.name.as_bytes(), header.value);
            let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
            match name.len() {
                6 if is(b"expect") => return None,
                7 if is(b"upgrade") => return None,
                10 if is(b"connection") && !value.eq_ignore_ascii_case(b"keep-alive") => return None,
                11 if is(b"forebay-key") => fields.key = text(fields.key, value, KEY_BYTES_MAX)?,
                12 if is(b"content-type") => {
                    fields.content_type = text(fields.content_type, value, CONTENT_TYPE_BYTES_MAX)?;
                }
                14 if is(b"content-length") => {
                    fields.length = Some(length(value).filter(|_| fields.length.is_none())?);
                }
                15 if is(b"idempotency-key") => {
                    fields.idempotency_key = text(fields.idempotency_key, value, IDEMPOTENCY_KEY_BYTES_MAX)?;
                }
                16 if is(b"content-encoding") => return None,
                17 if is(b"transfer-encoding") => return None,
                _ => {}
            }
        }
        (!is_ndjson(fields.content_type)).then_some(fields)
    }
}

/// A field that may stand once, must not be empty and must be text.
fn text<'a>(before: &[u8], value: &'a [u8], bytes_max: usize) -> Option<&'a [u8]> {
    let good = before.is_empty() && !value.is_empty() && value.len() <= bytes_max && std::str::from_utf8(value).is_ok();
    good.then_some(value)
}

/// Digits and nothing else; a length that long is for hyper to refuse.
fn length(value: &[u8]) -> Option<usize> {
    if value.is_empty() || value.len() > 9 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |length, digit| length * 10 + usize::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { head_bytes_max: 16 * 1024, record_bytes_max: 1024 };
    const LINE: &str = "POST /v1/queues/orders/records HTTP/1.1\r\n";

    fn is_taken(text: &str) -> bool {
        matches!(look(text.as_bytes(), BOUNDS), Look::Taken(_))
    }

    #[test]
    fn a_record_is_taken_with_what_its_head_says() {
        let head = format!(
            "{LINE}Host: x\r\nContent-Type: application/json\r\nForebay-Key: k\r\nIDEMPOTENCY-KEY: i\r\n\
             Connection: Keep-Alive\r\ncontent-length: 2\r\n\r\n"
        );
        let bytes = head.clone() + "{}POST /";
        let wanted = Request {
            queue: "orders",
            key: b"k",
            idempotency_key: b"i",
            content_type: b"application/json",
            body: b"{}",
            bytes: head.len() + 2,
        };
        assert_eq!(look(bytes.as_bytes(), BOUNDS), Look::Taken(wanted));
    }

    #[test]
    fn whatever_could_be_read_in_two_ways_is_left_to_hyper() {
        assert!(is_taken(&format!("{LINE}content-length: 1\r\n\r\nx")));
        for fields in [
            "",
            "content-length: 0",
            "content-length: +1",
            "content-length: 1, 1",
            "content-length: 0x1",
            "content-length: 1\r\ncontent-length: 1",
            "content-length: 1\r\ncontent-length: 2",
            "content-length: 2000",
            "content-length: 1\r\ntransfer-encoding: chunked",
            "content-length: 1\r\nTransfer-Encoding: identity",
            "content-length: 1\r\nexpect: 100-continue",
            "content-length: 1\r\nupgrade: h2c",
            "content-length: 1\r\nconnection: close",
            "content-length: 1\r\nconnection: keep-alive, close",
            "content-length: 1\r\ncontent-encoding: gzip",
            "content-length: 1\r\ncontent-type: application/x-ndjson; charset=utf-8",
            "content-length: 1\r\ncontent-type: ",
            "content-length: 1\r\nforebay-key: a\r\nforebay-key: b",
            "content-length: 1\r\nidempotency-key: ",
            "content-length : 1",
            " content-length: 1",
            "content-length: 1\r\n folded: x",
        ] {
            let text = format!("{LINE}{fields}\r\n\r\nx");
            assert_eq!(look(text.as_bytes(), BOUNDS), Look::Other, "{fields:?}");
        }
        for line in [
            "GET /v1/queues/orders/records HTTP/1.1",
            "post /v1/queues/orders/records HTTP/1.1",
            "POST /v1/queues/orders/records HTTP/1.0",
            "POST /v1/queues/orders/records?x HTTP/1.1",
            "POST http://host/v1/queues/orders/records HTTP/1.1",
            "POST /v1/queues/records HTTP/1.1",
            "POST /v1/tickets/x HTTP/1.1",
        ] {
            let text = format!("{line}\r\ncontent-length: 1\r\n\r\nx");
            assert_eq!(look(text.as_bytes(), BOUNDS), Look::Other, "{line:?}");
        }
    }

    #[test]
    fn what_is_incomplete_says_how_much_is_needed() {
        let whole = format!("{LINE}content-length: 10\r\n\r\n0123456789");
        for length in 0..whole.len() {
            let Look::Partial { bytes_min, in_body } = look(&whole.as_bytes()[..length], BOUNDS) else {
                panic!("{length} bytes are not a beginning");
            };
            let head = whole.len() - 10;
            assert_eq!((bytes_min, in_body), if length < head { (length + 1, false) } else { (whole.len(), true) });
        }
        assert!(is_taken(&whole));
    }

    #[test]
    fn an_endless_head_is_left_to_hyper() {
        let text = format!("{LINE}x: {}", "y".repeat(20_000));
        assert_eq!(look(text.as_bytes(), BOUNDS), Look::Other);
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = look(&bytes, BOUNDS);
            let _ = look(&[LINE.as_bytes(), &bytes].concat(), BOUNDS);
        }

        /// Whatever stands in other fields, the body is where the only length says.
        #[test]
        fn a_taken_request_ends_where_its_length_says(
            names in prop::collection::vec("[A-Za-z-]{1,20}", 0..5),
            values in prop::collection::vec("[ -~]{0,30}", 5),
            body in prop::collection::vec(any::<u8>(), 1..200),
            behind in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut head = LINE.to_owned();
            for (name, value) in names.iter().zip(&values) {
                head += &format!("{name}: {value}\r\n");
            }
            head += &format!("Content-Length: {}\r\n\r\n", body.len());
            let bytes = [head.as_bytes(), &body, &behind].concat();
            if let Look::Taken(request) = look(&bytes, BOUNDS) {
                prop_assert_eq!(request.body, &body[..]);
                prop_assert_eq!(request.bytes, head.len() + body.len());
            }
        }
    }
}
