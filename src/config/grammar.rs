//! What single values may look like: addresses, names, sources, connection URLs.
//!
//! Each function says what is wrong as the end of a sentence that starts with the key, so that the
//! caller decides what may be shown of the value.

use std::net::{IpAddr, SocketAddr};

use super::Source;
use super::context::Text;
use super::wording::{listed, nearest};
use crate::limits::{QUEUE_NAME_BYTES_MAX, SELECTOR_HEADER_BYTES_MAX};

/// Bytes of an identifier; PostgreSQL cuts longer ones, which would silently name something else.
pub(super) const IDENTIFIER_BYTES_MAX: usize = 63;

/// The values that a record has apart from its body's fields.
const BUILT_IN: [(&str, Source); 10] = [
    ("$ticket", Source::Ticket),
    ("$sequence", Source::Sequence),
    ("$queue", Source::Queue),
    ("$received_at", Source::ReceivedAt),
    ("$key", Source::Key),
    ("$idempotency_key", Source::IdempotencyKey),
    ("$content_type", Source::ContentType),
    ("$body", Source::Body),
    ("$method", Source::Method),
    ("$path", Source::Path),
];

/// What stands before the name of a header whose value is meant.
const HEADER: &str = "$header.";

/// An IP address with a port.
pub(super) fn address(text: &Text) -> Result<SocketAddr, String> {
    if let Ok(address) = text.value.parse() {
        return Ok(address);
    }
    let given = text.quoted();
    let (host, port) = text.value.rsplit_once(':').unwrap_or((&text.value, ""));
    let sound_port = port.parse::<u16>().is_ok();
    let advice = if text.secret {
        "write `IP:port` such as `0.0.0.0:8080` or `[::]:8080`".to_owned()
    } else if host.is_empty() && sound_port {
        format!("write `0.0.0.0:{port}` for every interface, or `127.0.0.1:{port}` for this machine only")
    } else if host == "localhost" && sound_port {
        format!("names are not looked up; write `127.0.0.1:{port}`")
    } else if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) && sound_port {
        format!("write `[{host}]:{port}`")
    } else if text.value.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
        "the port is missing; write it behind brackets, such as `[::1]:8080`".to_owned()
    } else if text.value.parse::<IpAddr>().is_ok() {
        "the port is missing; write it behind a colon, such as `0.0.0.0:8080`".to_owned()
    } else {
        "names are not looked up; write an IP address and a port, such as `0.0.0.0:8080` or `[::]:8080`".to_owned()
    };
    Err(format!("cannot be {given}; {advice}"))
}

/// Whether two listeners cannot both have their address; a free port (0) never clashes.
pub(super) fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let covers =
        a.ip() == b.ip() || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    a.port() != 0 && a.port() == b.port() && covers
}

/// Whether a queue may have this name: it becomes a directory's name and part of every ticket.
pub(super) fn is_queue_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=QUEUE_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|b| plain(b) || b == b'_' || b == b'-')
}

/// Whether this is a table's name: `name` or `schema.name`.
pub(super) fn is_table_name(name: &str) -> bool {
    let mut parts = name.split('.');
    let sound = |part: &str| {
        (1..=IDENTIFIER_BYTES_MAX).contains(&part.len())
            && !part.starts_with(|c: char| c.is_ascii_digit() || c == '$')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$')
    };
    parts.clone().count() <= 2 && parts.all(sound)
}

/// Whether this is a column's name. It is always quoted when used, so nearly everything is.
pub(super) fn is_column_name(name: &str) -> bool {
    (1..=IDENTIFIER_BYTES_MAX).contains(&name.len()) && !name.contains('\0')
}

/// Whether this is a statement's parameter, `:name` without its colon.
pub(super) fn is_parameter_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// What is wrong with a JSON pointer that begins with a slash; `None` if nothing is.
pub(super) fn pointer_fault(pointer: &str) -> Option<&'static str> {
    let is_escaped = pointer.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    (!is_escaped).then_some("in a JSON pointer write `~0` for `~` and `~1` for a `/` within a name")
}

/// Whether this is the name of an HTTP header: a token of RFC 9110.
pub(super) fn is_header_name(name: &str) -> bool {
    (1..=SELECTOR_HEADER_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Where the value of a column or parameter comes from.
pub(super) fn source(text: &Text) -> Result<Source, String> {
    if let Some(source) = known_source(&text.value) {
        return Ok(source);
    }
    let given = text.quoted();
    Err(match unknown_source(&text.value, !text.secret) {
        Unknown::Empty => "cannot be empty; write `$body` for the whole body".to_owned(),
        Unknown::Pointer(fault) => format!("cannot be {given}; {fault}"),
        Unknown::Name(advice) => format!("cannot be {given}; {advice}"),
    })
}

/// Where a value comes from that is named within another text.
pub(super) fn named_source(name: &str) -> Result<Source, String> {
    known_source(name).ok_or_else(|| match unknown_source(name, false) {
        Unknown::Empty => "has empty braces; write `{$body}` for the whole body".to_owned(),
        Unknown::Pointer(fault) => format!("holds a value that cannot be; {fault}"),
        Unknown::Name(advice) => format!("holds a value that cannot be; {advice}"),
    })
}

fn known_source(value: &str) -> Option<Source> {
    let built_in = BUILT_IN.iter().find(|(name, _)| *name == value).map(|(_, source)| source.clone());
    let is_pointer = value.starts_with('/') && pointer_fault(value).is_none();
    let header = value.strip_prefix(HEADER).filter(|name| is_header_name(name));
    let header = header.map(|name| Source::Header(name.to_ascii_lowercase()));
    built_in.or(header).or_else(|| is_pointer.then(|| Source::Pointer(value.to_owned())))
}

/// What is wrong with the name of a value.
enum Unknown {
    Empty,
    Pointer(&'static str),
    /// With what could be written.
    Name(String),
}

fn unknown_source(value: &str, is_shown: bool) -> Unknown {
    if value.is_empty() {
        return Unknown::Empty;
    }
    if let Some(fault) = value.starts_with('/').then(|| pointer_fault(value)).flatten() {
        return Unknown::Pointer(fault);
    }
    let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    if value.starts_with(HEADER) {
        return Unknown::Name(format!(
            "behind `{HEADER}` write the name of an HTTP header, of at most {SELECTOR_HEADER_BYTES_MAX} bytes"
        ));
    }
    let choices = format!(
        "a JSON pointer such as \"/order_id\", a header such as \"$header.X-Tenant\", or {}",
        listed(&names, "or")
    );
    Unknown::Name(match nearest(value, names.iter().copied()).filter(|_| is_shown) {
        Some(near) => format!("did you mean `{near}`? Write {choices}"),
        None => format!("write {choices}"),
    })
}
