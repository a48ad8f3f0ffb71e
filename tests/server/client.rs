//! A blocking HTTP/1.1 client that keeps its connection, and that lets a test say anything it likes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::PATIENCE;

/// One connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

/// What the server answered.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    ///
    /// Nobody listens there.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Another hold of the same connection, to read while somebody else sends. Nothing may have been read yet.
    #[must_use]
    pub fn reader(&self) -> Self {
        Self { stream: BufReader::new(self.stream.get_ref().try_clone().unwrap()) }
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        // If the server has closed already, it need not be told.
        let _ = self.stream.get_ref().shutdown(std::net::Shutdown::Write);
    }

    /// Reads one response and its body.
    ///
    /// # Errors
    ///
    /// The connection ended before the response did, or what came is no response.
    pub fn read(&mut self) -> io::Result<Response> {
        let mut response = self.read_head()?;
        if (100..200).contains(&response.status) {
            return Ok(response);
        }
        match response.header("content-length") {
            Some(length) => {
                response.body = vec![0; length.parse().map_err(io::Error::other)?];
                self.stream.read_exact(&mut response.body)?;
            }
            None if response.header("transfer-encoding").is_some() => {
                return Err(io::Error::other("the server never has a reason to answer in chunks"));
            }
            None => {
                self.stream.read_to_end(&mut response.body)?;
            }
        }
        Ok(response)
    }

    /// Reads a response's head alone, as the answer to HEAD has no body whatever its length says.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn read_head(&mut self) -> io::Result<Response> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.filter(|_| status_line.starts_with("HTTP/1."));
        let status = status.ok_or_else(|| io::Error::other(format!("no status line: {status_line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Response { status, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other("a header without a colon"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the response ends with {line:?}"))),
        }
    }

    /// Whether the server has closed the connection, and said nothing more before it.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(error) => rest.is_empty() && error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Sends a request and reads its response.
    ///
    /// # Errors
    ///
    /// The connection broke; whether the request was taken is then unknown.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> io::Result<Response> {
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: forebay.test\r\n").into_bytes();
        for (name, value) in headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if let Some(body) = body {
            bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body.unwrap_or_default());
        self.send(bytes)?;
        self.read()
    }

    /// Posts a record or an NDJSON body to a queue.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    pub fn try_post(&mut self, queue: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> io::Result<Response> {
        self.request("POST", &format!("/v1/queues/{queue}/records"), headers, Some(body.as_ref()))
    }

    /// Posts, where a broken connection would be a failure of the test.
    pub fn post(&mut self, queue: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Response {
        self.try_post(queue, headers, body).unwrap()
    }

    /// Posts one record, which must be accepted, and returns its ticket.
    pub fn accept(&mut self, queue: &str, body: impl AsRef<[u8]>) -> String {
        let response = self.post(queue, &[], body);
        assert_eq!(response.status, 202, "{response:?}");
        response.text("ticket")
    }

    /// Posts one record with an idempotency key, which must be accepted, and returns its ticket.
    pub fn accept_with_key(&mut self, queue: &str, key: &str, body: impl AsRef<[u8]>) -> String {
        let response = self.post(queue, &[("idempotency-key", key)], body);
        assert_eq!(response.status, 202, "{response:?}");
        response.text("ticket")
    }

    /// Gets a path.
    pub fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, &[], None).unwrap()
    }

    /// What the server says of a ticket.
    pub fn ticket(&mut self, ticket: &str) -> Value {
        let response = self.get(&format!("/v1/tickets/{ticket}"));
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }
}

impl Response {
    /// The value of a header that stands there at most once.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(given, _)| given == name);
        let value = values.next();
        assert!(values.next().is_none(), "{name} twice: {self:?}");
        value.map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A string of the body.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        self.json()[name].as_str().unwrap_or_else(|| panic!("no {name}: {self:?}")).to_owned()
    }

    /// Asserts that this is the problem with that name, with all the fields that it should have.
    pub fn assert_problem(&self, status: u16, name: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:forebay:problem:{name}"), "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        for field in ["title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
    }
}
