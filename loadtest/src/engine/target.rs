//! Where the load goes: a plain-HTTP URL, taken apart and resolved.

use super::EngineError;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::sync::Arc;

/// A URL of the form `http://host[:port][/path][?query]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    host: String,
    port: u16,
    path: String,
}

impl Target {
    /// The value of the `Host` header: the port is left out when it is 80, and IPv6 addresses are bracketed.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 80 { host } else { format!("{host}:{}", self.port) }
    }

    /// The path and query as they go into the request line; at least `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Resolves the host, blocking.
    ///
    /// # Errors
    /// The name does not resolve, or resolves to nothing.
    pub fn resolve(&self) -> Result<Arc<[SocketAddr]>, EngineError> {
        let failed = |reason: String| EngineError::Unresolved { host: self.host.clone(), reason };
        let addresses: Vec<SocketAddr> =
            (self.host.as_str(), self.port).to_socket_addrs().map_err(|error| failed(error.to_string()))?.collect();
        if addresses.is_empty() { Err(failed("it has no address".to_owned())) } else { Ok(addresses.into()) }
    }
}

impl FromStr for Target {
    type Err = EngineError;

    fn from_str(url: &str) -> Result<Self, EngineError> {
        let bad = |problem| EngineError::BadUrl { url: url.to_owned(), problem };
        // A space or a line break would let a URL forge headers; anything beyond ASCII must come percent-encoded.
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("it has a character that must be percent-encoded"));
        }
        let Some(rest) = strip_scheme(url, "http://") else {
            let https = strip_scheme(url, "https://").is_some();
            return Err(bad(if https {
                "https is not supported: put the load on the plain-HTTP side of whatever terminates TLS"
            } else {
                "it does not start with http://"
            }));
        };
        let rest = rest.split('#').next().unwrap_or(rest);
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(bad("credentials in a URL are not supported: pass an Authorization header"));
        }
        let (host, port) = split_port(authority).ok_or_else(|| bad("its port is not a number from 1 to 65535"))?;
        if host.is_empty() {
            return Err(bad("it has no host"));
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { host: host.to_owned(), port, path })
    }
}

fn strip_scheme<'a>(url: &'a str, scheme: &str) -> Option<&'a str> {
    let (start, rest) = url.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`; `None` when the port is not one.
fn split_port(authority: &str) -> Option<(&str, u16)> {
    let (host, port) = if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']')?;
        (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
    } else {
        authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)))
    };
    match port {
        None => Some((host, 80)),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port > 0).map(|port| (host, port))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_apart() {
        for (url, authority, path) in [
            ("http://localhost", "localhost", "/"),
            ("HTTP://localhost:80/", "localhost", "/"),
            ("http://127.0.0.1:8080/v1/queues/orders/records", "127.0.0.1:8080", "/v1/queues/orders/records"),
            ("http://[::1]:81?a=b", "[::1]:81", "/?a=b"),
            ("http://[::1]/a#part", "[::1]", "/a"),
        ] {
            let target: Target = url.parse().unwrap();
            assert_eq!((target.authority().as_str(), target.path()), (authority, path), "{url}");
        }
    }

    #[test]
    fn unusable_urls_are_refused() {
        for url in [
            "",
            "localhost:80",
            "https://localhost/",
            "http://",
            "http://:80/",
            "http://a:0/",
            "http://a:65536/",
            "http://a:+1/",
            "http://a:/x",
            "http://[::1",
            "http://[::1]x/",
            "http://u:p@a/",
            "http://a/b c",
            "http://a/\r\nX: y",
            "http://é/",
        ] {
            assert!(matches!(url.parse::<Target>(), Err(EngineError::BadUrl { .. })), "{url}");
        }
        let message = "https://a/".parse::<Target>().unwrap_err().to_string();
        assert!(message.contains("https is not supported"), "{message}");
    }
}
