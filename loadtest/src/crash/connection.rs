//! One connection to forebay, with one request at a time, whose answer is kept: it holds the tickets.

use super::request::Request;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a server may be silent that has not ended. Only one that hangs is ever silent for so long.
const PATIENCE: Duration = Duration::from_mins(1);
/// Far more than any of forebay's answers has.
const HEADERS_MAX: usize = 32;
/// Far more than any of forebay's answers has, head and body.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const READ_BYTES: usize = 4 << 10;

/// A connection that is kept from request to request.
pub struct Connection {
    stream: TcpStream,
    /// Where it leads.
    pub address: SocketAddr,
}

/// What the server answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Whether the request's key was known already.
    pub replayed: bool,
    /// Whether the server closes the connection.
    pub closes: bool,
    /// The body.
    pub body: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        // On one machine, a port that nobody listens on any more can be given to the very connection that looks for it.
        if stream.local_addr()? == address {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, address })
    }

    /// Sends a request and waits for its answer.
    pub fn post(&mut self, request: &Request) -> io::Result<Answer> {
        self.stream.write_all(&bytes_of(request))?;
        let mut received = Vec::with_capacity(READ_BYTES);
        loop {
            if let Some(answer) = parse(&received)? {
                return Ok(answer);
            }
            if received.len() > ANSWER_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
            }
            let mut part = [0; READ_BYTES];
            match self.stream.read(&mut part)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => received.extend_from_slice(&part[..read]),
            }
        }
    }
}

fn bytes_of(request: &Request) -> Vec<u8> {
    let body = request.body();
    let mut head = format!(
        "POST {} HTTP/1.1\r\nHost: forebay\r\nContent-Type: {}\r\nContent-Length: {}\r\n",
        request.path(),
        request.content_type(),
        body.len()
    );
    if let Some(key) = request.key() {
        head += &format!("Idempotency-Key: {key}\r\n");
    }
    (head + "\r\n" + &body).into_bytes()
}

/// The answer, once all of it is there. Forebay always says how long a body is.
fn parse(received: &[u8]) -> io::Result<Option<Answer>> {
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(received).map_err(|error| invalid(&error.to_string()))?;
    let httparse::Status::Complete(head_bytes) = parsed else { return Ok(None) };
    let header = |name: &str| {
        let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let length = header("content-length").and_then(|length| length.parse().ok());
    let length: usize = length.ok_or_else(|| invalid("an answer without a length"))?;
    let body = received.get(head_bytes..head_bytes.saturating_add(length));
    Ok(body.map(|body| Answer {
        status: head.code.unwrap_or_default(),
        replayed: header("idempotent-replayed").is_some(),
        closes: header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
        body: body.to_vec(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_when_all_of_it_is_there() {
        let text =
            "HTTP/1.1 202 Accepted\r\ncontent-length: 4\r\nIdempotent-Replayed: true\r\nconnection: close\r\n\r\nbody";
        for length in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..length]).unwrap(), None);
        }
        let answer = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(answer, Answer { status: 202, replayed: true, closes: true, body: b"body".to_vec() });
        assert!(parse(b"POST / HTTP/1.1\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
