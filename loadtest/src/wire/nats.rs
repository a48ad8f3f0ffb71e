//! NATS JetStream: each order is a message of one stream, published with an inbox for the stream's acknowledgement.

use super::WireError;
use super::clients::Client;
use super::text_stream::{TextStream, number};
use crate::order::write_decimal;
use serde::Deserialize;
use serde_json::json;

const STREAM: &str = "ORDERS";
const SUBJECT: &str = "orders";
const HELLO: &str = r#"CONNECT {"verbose":false,"pedantic":false,"lang":"rust","version":"1","protocol":1}"#;

pub struct Nats {
    stream: TextStream,
    /// Where this connection's answers come; it has one request in flight, so they need no number.
    inbox: String,
    request: Vec<u8>,
}

/// An answer of JetStream: an error, or the number of the message that was published, or the state of the stream.
#[derive(Deserialize)]
struct Answer {
    error: Option<ApiError>,
    seq: Option<u64>,
    state: Option<StreamState>,
}

#[derive(Deserialize)]
struct ApiError {
    code: u32,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct StreamState {
    messages: u64,
}

impl Nats {
    async fn connect(port: u16) -> Result<Self, WireError> {
        let mut stream = TextStream::open(port).await?;
        if !stream.line().await?.starts_with(b"INFO ") {
            return Err(WireError::Protocol("no INFO at the start"));
        }
        let inbox = format!("_INBOX.{:016x}", rand::random::<u64>());
        stream.send(format!("{HELLO}\r\nSUB {inbox} 1\r\nPING\r\n").as_bytes()).await?;
        loop {
            match stream.line().await? {
                b"PONG" => return Ok(Self { stream, inbox, request: Vec::new() }),
                other => refused(other)?,
            }
        }
    }

    /// Publishes `payload` and reads the answer to it.
    async fn request(&mut self, subject: &str, payload: &[u8]) -> Result<Answer, WireError> {
        self.request.clear();
        self.request.extend_from_slice(b"PUB ");
        self.request.extend_from_slice(subject.as_bytes());
        self.request.push(b' ');
        self.request.extend_from_slice(self.inbox.as_bytes());
        self.request.push(b' ');
        write_decimal(payload.len() as u64, &mut self.request);
        self.request.extend_from_slice(b"\r\n");
        self.request.extend_from_slice(payload);
        self.request.extend_from_slice(b"\r\n");
        self.stream.send(&self.request).await?;
        let length = self.message_length().await?;
        let answer: Answer = serde_json::from_slice(self.stream.block(length).await?)
            .map_err(|_| WireError::Protocol("an answer that is not the JSON that was due"))?;
        match answer.error {
            Some(ApiError { code, description }) => Err(WireError::Refused(format!("{description} ({code})"))),
            None => Ok(answer),
        }
    }

    /// Reads up to the head of the next message and returns the length of what follows.
    async fn message_length(&mut self) -> Result<usize, WireError> {
        loop {
            match self.stream.line().await? {
                b"PING" => self.stream.send(b"PONG\r\n").await?,
                line if line.starts_with(b"MSG ") => {
                    return number(line.rsplit(|byte| *byte == b' ').next().unwrap_or_default());
                }
                other => refused(other)?,
            }
        }
    }
}

impl Client for Nats {
    async fn open(port: u16, count: usize) -> Result<Vec<Self>, WireError> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            clients.push(Self::connect(port).await?);
        }
        Ok(clients)
    }

    async fn publish(&mut self, order: &[u8]) -> Result<(), WireError> {
        let answer = self.request(SUBJECT, order).await?;
        answer.seq.map(drop).ok_or(WireError::Protocol("an acknowledgement without a number"))
    }

    async fn prepare(port: u16) -> Result<(), WireError> {
        let configuration = json!({
            "name": STREAM,
            "subjects": [SUBJECT],
            "storage": "file",
            "retention": "limits",
            "num_replicas": 1,
            "max_msgs": -1,
            "max_bytes": -1,
        });
        let payload = configuration.to_string();
        let subject = format!("$JS.API.STREAM.CREATE.{STREAM}");
        Self::connect(port).await?.request(&subject, payload.as_bytes()).await?;
        Ok(())
    }

    async fn held(port: u16) -> Result<u64, WireError> {
        let subject = format!("$JS.API.STREAM.INFO.{STREAM}");
        let answer = Self::connect(port).await?.request(&subject, b"").await?;
        answer.state.map(|state| state.messages).ok_or(WireError::Protocol("no state of the stream"))
    }
}

/// What the server says besides messages: `-ERR` ends everything, INFO and `+OK` change nothing here.
fn refused(line: &[u8]) -> Result<(), WireError> {
    match line {
        [b'-', ..] => Err(WireError::Refused(String::from_utf8_lossy(line).into_owned())),
        b"+OK" => Ok(()),
        line if line.starts_with(b"INFO ") => Ok(()),
        _ => Err(WireError::Protocol("a line that NATS does not have")),
    }
}
