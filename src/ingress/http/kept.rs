//! What of a request its records keep: headers that the queue's sink asks for, or the whole head.
//!
//! Pure: the head in, encoded parts out.

use std::collections::BTreeSet;

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;

use super::attributes::RequestFields;
use super::problem::{Problem, Refusal};
use crate::limits::{KEPT_HEADERS_BYTES_MAX, METHOD_BYTES_MAX, TARGET_BYTES_MAX};
use crate::record::Headers;

/// What is about one connection or about the length of this body, and what has a place of its own in a record.
const LEFT_OUT: [HeaderName; 13] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    EXPECT,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    HeaderName::from_static("idempotency-key"),
];
/// What begins so is for forebay.
const OURS: &str = "forebay-";

/// Parts of a head as its records keep them.
#[derive(Debug, Default)]
pub struct Kept {
    method: String,
    target: String,
    headers: Vec<u8>,
}

impl Kept {
    /// The headers with these names, in lower case; nothing is allocated if there are none.
    ///
    /// # Errors
    ///
    /// One is not UTF-8, or they are larger than a record keeps.
    pub fn named(headers: &HeaderMap, names: &BTreeSet<String>) -> Result<Self, Refusal> {
        if names.is_empty() {
            return Ok(Self::default());
        }
        let headers = encode(headers, |name| names.contains(name.as_str()))?;
        Ok(Self { headers, ..Self::default() })
    }

    /// Everything that is for whoever gets the request in the end.
    ///
    /// # Errors
    ///
    /// The request names no path, a header is not UTF-8, or something is larger than a record keeps.
    pub fn whole(head: &Parts) -> Result<Self, Refusal> {
        let bad = |detail: &str| Refusal::new(Problem::BadRequest, detail);
        let target = head.uri.path_and_query().map_or("", |target| target.as_str());
        if !target.starts_with('/') {
            return Err(bad("this address takes requests for a path, which begins with a slash"));
        }
        if target.len() > TARGET_BYTES_MAX {
            let detail =
                format!("the path and its query have {} bytes; at most {TARGET_BYTES_MAX} are kept", target.len());
            return Err(Refusal::new(Problem::UriTooLong, detail));
        }
        let method = head.method.as_str();
        if method.len() > METHOD_BYTES_MAX {
            return Err(bad("the method is longer than any that there is"));
        }
        let named: BTreeSet<String> = connection_options(&head.headers).collect();
        let is_kept = |name: &HeaderName| {
            !LEFT_OUT.contains(name) && !name.as_str().starts_with(OURS) && !named.contains(name.as_str())
        };
        let headers = encode(&head.headers, is_kept)?;
        Ok(Self { method: method.to_owned(), target: target.to_owned(), headers })
    }

    /// As the attributes of a record have it.
    #[must_use]
    pub fn fields(&self) -> RequestFields<'_> {
        RequestFields {
            method: self.method.as_bytes(),
            target: self.target.as_bytes(),
            headers: Headers::read(&self.headers).unwrap_or_default(),
        }
    }
}

/// The headers that `Connection` says are about this connection alone.
fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = String> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|option| option.trim().to_ascii_lowercase())
}

fn encode(headers: &HeaderMap, is_kept: impl Fn(&HeaderName) -> bool) -> Result<Vec<u8>, Refusal> {
    let mut list = Vec::new();
    for (name, value) in headers.iter().filter(|(name, _)| is_kept(name)) {
        // They reach a database or a file of dead letters as text, so they must be text.
        if std::str::from_utf8(value.as_bytes()).is_err() {
            return Err(Refusal::new(Problem::BadRequest, format!("{name} is not UTF-8")));
        }
        let appended = Headers::append(&mut list, name.as_str().as_bytes(), value.as_bytes());
        if appended.is_none() || list.len() > KEPT_HEADERS_BYTES_MAX {
            let detail = format!(
                "the headers that are kept with the record have more than {KEPT_HEADERS_BYTES_MAX} bytes, or a name has \
                 more than 255"
            );
            return Err(Refusal::new(Problem::HeadersTooLarge, detail));
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, value.as_bytes());
        }
        request.body(()).unwrap().into_parts().0
    }

    fn text(kept: &Kept) -> Vec<String> {
        let fields = kept.fields();
        let line = |(name, value): (&[u8], &[u8])| format!("{}: {}", lossy(name), lossy(value));
        fields.headers.iter().map(line).collect()
    }

    fn lossy(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn what_is_about_a_connection_stays_behind() {
        let head = head(
            "PATCH",
            "http://shop.example/a%20b?c=d",
            &[
                ("host", "shop.example"),
                ("connection", "close, X-Hop"),
                ("x-hop", "1"),
                ("keep-alive", "5"),
                ("te", "trailers"),
                ("expect", "100-continue"),
                ("content-length", "2"),
                ("content-type", "text/plain"),
                ("content-encoding", "gzip"),
                ("idempotency-key", "k"),
                ("forebay-key", "k"),
                ("accept", "a"),
                ("accept", "b"),
                ("x-empty", ""),
            ],
        );
        let kept = Kept::whole(&head).unwrap();
        assert_eq!((kept.fields().method, kept.fields().target), (&b"PATCH"[..], &b"/a%20b?c=d"[..]));
        assert_eq!(
            text(&kept),
            ["host: shop.example", "content-encoding: gzip", "accept: a", "accept: b", "x-empty: ",]
        );
    }

    #[test]
    fn only_headers_that_were_asked_for_are_kept() {
        let head = head("POST", "/", &[("x-tenant", "a"), ("x-other", "b"), ("content-type", "c"), ("x-tenant", "d")]);
        let names = ["x-tenant", "content-type", "x-none"].map(str::to_owned).into();
        let kept = Kept::named(&head.headers, &names).unwrap();
        assert_eq!(text(&kept), ["x-tenant: a", "x-tenant: d", "content-type: c"]);
        assert_eq!((kept.fields().method, kept.fields().target), (&b""[..], &b""[..]));
        assert_eq!(Kept::named(&head.headers, &BTreeSet::new()).unwrap().headers.capacity(), 0);
    }

    #[test]
    fn what_a_record_cannot_keep_is_refused() {
        let long = "x".repeat(TARGET_BYTES_MAX);
        let value = "v".repeat(KEPT_HEADERS_BYTES_MAX);
        let name = "n".repeat(256);
        for (head, problem) in [
            (head("OPTIONS", "*", &[]), Problem::BadRequest),
            (head("CONNECT", "shop.example:443", &[]), Problem::BadRequest),
            (head(&"M".repeat(33), "/", &[]), Problem::BadRequest),
            (head("GET", &format!("/{long}"), &[]), Problem::UriTooLong),
            (head("GET", "/", &[("a", &value)]), Problem::HeadersTooLarge),
            (head("GET", "/", &[(&name, "v")]), Problem::HeadersTooLarge),
        ] {
            assert_eq!(Kept::whole(&head).unwrap_err().problem, problem);
        }
        let latin = Request::builder().header("x", &b"\xe4"[..]).body(()).unwrap().into_parts().0;
        assert_eq!(Kept::whole(&latin).unwrap_err().problem, Problem::BadRequest);
        assert!(Kept::whole(&head("GET", &format!("/{}", &long[1..]), &[("a", &value[..16_000])])).is_ok());
    }
}
