//! The request that a record is. Pure: the plan and a record in, a request out.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Method, Request, Uri};

use crate::config::{self, Piece, Source, Template};
use crate::sink::Delivery;
use crate::sink::mapping::TextPlan;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Headers that say how a request is framed, which is for the connection to decide.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What we call ourselves where neither the record nor the configuration has a name.
const PRODUCT: HeaderValue = HeaderValue::from_static(concat!("forebay/", env!("CARGO_PKG_VERSION")));

/// How a record becomes a request.
#[derive(Clone, Debug)]
pub(super) struct RequestPlan {
    base: Base,
    path: Vec<PathPiece>,
    /// The names of the headers of the configuration.
    headers: Vec<HeaderName>,
    /// The method, then each value of the path, then each header.
    texts: TextPlan,
}

/// Where the service is.
#[derive(Clone, Debug)]
struct Base {
    scheme: Scheme,
    authority: Authority,
    /// Without a slash at its end.
    path: String,
    /// As it stands in the configuration.
    whole: PathAndQuery,
}

/// A piece of the path's template.
#[derive(Clone, Debug)]
enum PathPiece {
    /// Stands there as it is.
    Text(String),
    /// A path with its query, as a client sent it.
    Target,
    /// Any other value, in which nothing may be taken for a part of the path.
    Value,
}

impl RequestPlan {
    /// The plan of a sink.
    ///
    /// # Errors
    ///
    /// Everything in its configuration that no request can have, each as a sentence.
    pub(super) fn new(sink: &config::Sink, queue: &str) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let base = Base::read(&sink.url).map_err(|fault| faults.push(fault));
        let method = sink.options.template("method");
        if method.constant().is_some_and(|method| !method.is_empty() && read_method(method.as_bytes()).is_none()) {
            faults.push("`method` is none; write such as `method = \"PUT\"`".to_owned());
        }
        let template = sink.options.template("path");
        faults.extend(base.as_ref().ok().and_then(|base| path_fault(&template, base)));
        let (mut headers, table) = (Vec::new(), sink.options.table("headers"));
        for (name, _) in table {
            header_name(name).map_or_else(|fault| faults.push(fault), |name| headers.push(name));
        }
        let (Ok(base), true) = (base, faults.is_empty()) else { return Err(faults) };
        let path: Vec<_> = template.pieces.iter().map(PathPiece::new).collect();
        let values = template.pieces.into_iter().filter(|piece| matches!(piece, Piece::Value(_)));
        let values = values.map(|piece| Template { pieces: vec![piece] });
        let of_headers = table.iter().map(|(_, template)| template.clone());
        let texts: Vec<_> = [method].into_iter().chain(values).chain(of_headers).collect();
        Ok(Self { base, path, headers, texts: TextPlan::new(&texts, queue) })
    }

    /// Where the service is, for messages.
    pub(super) fn place(&self) -> String {
        format!("{}://{}", self.base.scheme, self.base.authority)
    }

    /// The address to connect to.
    pub(super) fn uri(&self) -> Result<Uri, String> {
        self.base.uri(self.base.whole.clone())
    }

    /// The request of a record.
    ///
    /// # Errors
    ///
    /// It cannot be one, in words.
    pub(super) fn request(&self, delivery: &Delivery<'_>) -> Result<Request<Full<Bytes>>, String> {
        let mut texts = self.texts.texts(delivery).map_err(|error| error.to_string())?.into_iter();
        let method = texts.next().unwrap_or_default();
        let method = if method.is_empty() {
            Method::POST
        } else {
            read_method(&method).ok_or_else(|| format!("{:?} is no method", String::from_utf8_lossy(&method)))?
        };
        let uri = self.base.uri(self.target(&mut texts)?)?;
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(delivery.record.body)));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.fields(delivery, texts)?;
        Ok(request)
    }

    /// The path and query, of which the next of these texts are the values.
    fn target(&self, texts: &mut impl Iterator<Item = Vec<u8>>) -> Result<PathAndQuery, String> {
        let mut target = Vec::new();
        for piece in &self.path {
            match piece {
                PathPiece::Text(text) => target.extend_from_slice(text.as_bytes()),
                PathPiece::Target => target.extend(texts.next().unwrap_or_default()),
                PathPiece::Value => {
                    let value = texts.next().unwrap_or_default();
                    if value.is_empty() {
                        return Err("the record lacks a value of the path".to_owned());
                    }
                    encode(&value, &mut target);
                }
            }
        }
        self.base.target(&target)
    }

    /// The headers, of which these texts are those of the configuration.
    fn fields(&self, delivery: &Delivery<'_>, texts: impl Iterator<Item = Vec<u8>>) -> Result<HeaderMap, String> {
        let (record, mut fields) = (&delivery.record, HeaderMap::new());
        let value = |name: &HeaderName, bytes: &[u8]| {
            HeaderValue::from_bytes(bytes).map_err(|_| format!("the value of {name} is none that a header may have"))
        };
        // Other records keep only what the configuration asks for, and say it there.
        if !record.attributes.method().is_empty() {
            for (name, bytes) in record.attributes.headers().iter() {
                let name = HeaderName::from_bytes(name).map_err(|error| error.to_string())?;
                // Who is meant is said by the url, as it is by any proxy.
                if name != HOST {
                    fields.append(&name, value(&name, bytes)?);
                }
            }
        }
        if !record.content_type.is_empty() {
            fields.insert(CONTENT_TYPE, value(&CONTENT_TYPE, record.content_type)?);
        }
        // The key of a request with many records would let the service take one of them for all.
        let has_key = !record.idempotency_key.is_empty() && record.is_alone();
        let key = if has_key { record.idempotency_key } else { delivery.ticket.as_bytes() };
        fields.insert(IDEMPOTENCY_KEY, value(&IDEMPOTENCY_KEY, key)?);
        for (name, text) in self.headers.iter().zip(texts) {
            if text.is_empty() {
                fields.remove(name);
            } else {
                fields.insert(name, value(name, &text)?);
            }
        }
        fields.entry(USER_AGENT).or_insert(PRODUCT);
        Ok(fields)
    }
}

impl Base {
    fn read(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("`url` is none ({error})"))?;
        let parts = uri.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err("`url` names no host; write such as `https://partner.example/api`".to_owned());
        };
        if authority.as_str().contains('@') {
            let advice = "write `headers = { Authorization = \"Basic ${PARTNER_CREDENTIALS}\" }`, with name and password in Base64";
            return Err(format!("`url` holds credentials, which belong into a header; {advice}"));
        }
        let whole = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let path = whole.path().trim_end_matches('/').to_owned();
        Ok(Self { scheme, authority, path, whole })
    }

    /// What a record adds to the address; nothing leaves the address as it is.
    fn target(&self, target: &[u8]) -> Result<PathAndQuery, String> {
        if target.is_empty() {
            return Ok(self.whole.clone());
        }
        let target = std::str::from_utf8(target).map_err(|_| "the path is not UTF-8".to_owned())?;
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        if path.split('/').any(is_dots) {
            return Err("the path has a segment of dots, which would lead out of the url's own".to_owned());
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        let mut whole = format!("{}{slash}{path}", self.path);
        for (number, query) in self.whole.query().into_iter().chain(query).enumerate() {
            whole.push(if number == 0 { '?' } else { '&' });
            whole.push_str(query);
        }
        PathAndQuery::try_from(whole).map_err(|error| format!("the path cannot be one ({error})"))
    }

    fn uri(&self, target: PathAndQuery) -> Result<Uri, String> {
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone()).path_and_query(target);
        uri.build().map_err(|error| error.to_string())
    }
}

impl PathPiece {
    fn new(piece: &Piece) -> Self {
        match piece {
            Piece::Text(text) => Self::Text(text.clone()),
            Piece::Value(Source::Path) => Self::Target,
            Piece::Value(_) => Self::Value,
        }
    }
}

/// What no request can have of this path, whatever its values are.
fn path_fault(template: &Template, base: &Base) -> Option<String> {
    if template.pieces.iter().any(|piece| matches!(piece, Piece::Text(text) if !is_path_text(text))) {
        let advice = "write them as `%20`, and a value as `{/order_id}`";
        return Some(format!("`path` has characters that no path may have; {advice}"));
    }
    let whole = template.constant().map(|path| base.target(path.as_bytes()));
    whole.and_then(Result::err).map(|fault| format!("`path`: {fault}"))
}

/// A header that the configuration may set.
fn header_name(name: &str) -> Result<HeaderName, String> {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) if !FRAMING.contains(&name.as_str()) => Ok(name),
        Ok(name) => {
            Err(format!("`headers.{name}` says how a request is framed, which is not for you to say; remove it"))
        }
        Err(_) => Err(format!("`headers` has {name:?}, which is no name of a header")),
    }
}

/// A method. `CONNECT` is none of a request for a path.
fn read_method(bytes: &[u8]) -> Option<Method> {
    Method::from_bytes(bytes).ok().filter(|method| *method != Method::CONNECT)
}

/// Whether this can stand in a path and its query.
fn is_path_text(text: &str) -> bool {
    text.is_ascii() && !text.contains('#') && PathAndQuery::try_from(format!("/{text}")).is_ok()
}

/// Whether a segment means this folder or the one above, as servers read it.
fn is_dots(segment: &str) -> bool {
    matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")
}

/// Writes a value so that it is one piece of a path or a query (RFC 3986, section 2.3).
fn encode(value: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(*byte);
        } else {
            out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests;
