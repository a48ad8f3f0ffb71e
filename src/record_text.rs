//! What a client sent, as text in JSON: in dead letters and in exports.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::record::Record;

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
        let text = |bytes: &[u8]| (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned());
        let body = std::str::from_utf8(record.body).ok();
        Self {
            key: text(record.key),
            idempotency_key: text(record.idempotency_key),
            content_type: text(record.content_type),
            body: body.map(str::to_owned),
            body_base64: body.is_none().then(|| BASE64.encode(record.body)),
        }
    }
}
