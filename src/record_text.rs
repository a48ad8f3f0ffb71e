//! What a client sent, as text in JSON: in dead letters and in exports.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::record::{Headers, Record};

/// The parts of a record. The body is `body` if it is UTF-8, and `body_base64` (RFC 4648, with padding)
/// if not; in the other parts, bytes that are not UTF-8 are replaced. A part that the client did not
/// send is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordText {
    /// The ordering key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The content type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// When it is due, as RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_at: Option<String>,
    /// When it expires, as RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// The priority, from 0 to 9.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// What the queue's `fair_by` took from a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fair_key: Option<String>,
    /// What the queue's `throttle.by` took from another header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle_key: Option<String>,
    /// The method of the request, if it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The path of the request with its query, if it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Those headers of the request that were kept: names and values, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// The body, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

impl RecordText {
    /// The body's bytes.
    ///
    /// # Errors
    ///
    /// It is neither there as text nor as Base64.
    pub fn body(&self) -> io::Result<Vec<u8>> {
        match (&self.body, &self.body_base64) {
            (Some(text), _) => Ok(text.clone().into_bytes()),
            (None, Some(base64)) => BASE64.decode(base64).map_err(io::Error::other),
            (None, None) => Err(io::Error::other("the line has no body")),
        }
    }

    /// The parts of `record`.
    #[must_use]
    pub fn of(record: &Record<'_>) -> Self {
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let text = |bytes: &[u8]| (!bytes.is_empty()).then(|| lossy(bytes));
        let attributes = record.attributes;
        let body = std::str::from_utf8(record.body).ok();
        Self {
            key: text(record.key),
            idempotency_key: text(record.idempotency_key),
            content_type: text(record.content_type),
            deliver_at: attributes.deliver_at_us().map(rfc3339),
            expires_at: attributes.expires_at_us().map(rfc3339),
            priority: attributes.priority_given(),
            fair_key: text(attributes.fair_key()),
            throttle_key: text(attributes.throttle_key()),
            method: text(attributes.method()),
            path: text(attributes.target()),
            headers: attributes.headers().iter().map(|(name, value)| (lossy(name), lossy(value))).collect(),
            body: body.map(str::to_owned),
            body_base64: body.is_none().then(|| BASE64.encode(record.body)),
        }
    }

    /// The headers as a record keeps them.
    #[must_use]
    pub fn encoded_headers(&self) -> Vec<u8> {
        let mut list = Vec::new();
        for (name, value) in &self.headers {
            // What is too long here was none of ours, and the others are worth keeping.
            let _ = Headers::append(&mut list, name.as_bytes(), value.as_bytes());
        }
        list
    }

    /// The attributes, each in words such as `priority 7`. What a terminal could obey is escaped.
    #[must_use]
    pub fn attributes_in_words(&self) -> Vec<String> {
        let priority = self.priority.map(|priority| priority.to_string());
        [
            ("due at", &self.deliver_at),
            ("expires at", &self.expires_at),
            ("priority", &priority),
            ("fair key", &self.fair_key),
            ("throttle key", &self.throttle_key),
            ("method", &self.method),
            ("path", &self.path),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name} {}", value.escape_debug())))
        .collect()
    }
}

/// Microseconds since the Unix epoch as RFC 3339 in UTC. A time that no calendar of four digits has is a damaged one; it
/// must not end an export.
#[must_use]
pub fn rfc3339(us: u64) -> String {
    const YEAR_10000_S: u64 = 253_402_300_800;
    let time = Duration::from_micros(us);
    if time.as_secs() >= YEAR_10000_S {
        return format!("{us} µs after 1970");
    }
    humantime::format_rfc3339_micros(UNIX_EPOCH + time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{AttributeValues, NO_KEY};

    #[test]
    fn attributes_are_words_that_no_terminal_obeys() {
        let values = AttributeValues {
            deliver_at_us: Some(1_700_000_001_000_007),
            expires_at_us: Some(u64::MAX),
            priority: Some(0),
            fair_key: "a\u{9b}31m".as_bytes(),
            throttle_key: b"shop \xff",
            method: b"PUT",
            target: b"/a?b=\x1b",
            headers: Headers::default(),
        };
        let mut buffer = Vec::new();
        let attributes = values.encode(&mut buffer).unwrap();
        let text = RecordText::of(&Record { attributes, idempotency_hash: NO_KEY, ..Record::lost(7, b"") });
        let words = [
            "due at 2023-11-14T22:13:21.000007Z",
            "expires at 18446744073709551615 µs after 1970",
            "priority 0",
            "fair key a\\u{9b}31m",
            "throttle key shop \u{fffd}",
            "method PUT",
            "path /a?b=\\u{1b}",
        ];
        assert_eq!(text.attributes_in_words(), words);
        assert_eq!(RecordText::of(&Record::lost(7, b"")).attributes_in_words(), [""; 0]);
    }
}
