//! One keep-alive connection: opens it when needed, sends a request, waits for its response.

use super::Plan;
use super::response::{Response, ResponseReader};
use super::retry::FailureKind;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

const READ_BUFFER_BYTES: usize = 16 * 1024;

/// Why an exchange brought no response.
#[derive(Debug)]
pub struct Failure {
    pub kind: FailureKind,
    pub detail: String,
}

impl Failure {
    fn new(kind: FailureKind, detail: &(impl ToString + ?Sized)) -> Self {
        Self { kind, detail: detail.to_string() }
    }
}

/// A connection to the target, reopened whenever the last exchange left it unusable.
pub struct Connection {
    addresses: Arc<[SocketAddr]>,
    connect_timeout: Duration,
    request_timeout: Duration,
    stream: Option<TcpStream>,
    input: Input,
    alarm: Alarm,
}

impl Connection {
    /// Takes over `stream` if it is already open. Must be made within a runtime, for its timer.
    pub fn new(addresses: Arc<[SocketAddr]>, plan: &Plan, stream: Option<std::net::TcpStream>) -> io::Result<Self> {
        let limits = &plan.limits;
        Ok(Self {
            addresses,
            connect_timeout: Duration::from_millis(limits.connect_timeout_ms),
            request_timeout: Duration::from_millis(limits.request_timeout_ms),
            stream: stream.map(TcpStream::from_std).transpose()?,
            input: Input {
                reader: ResponseReader::new(
                    limits.response_head_max_bytes,
                    limits.response_body_max_bytes,
                    plan.method == "HEAD",
                ),
                // A head that is not complete yet stays in the buffer, so the largest one must fit, and then some.
                buffer: vec![0; READ_BUFFER_BYTES.max(limits.response_head_max_bytes + 1)].into_boxed_slice(),
                pending: 0,
            },
            alarm: Alarm::new(),
        })
    }

    /// Gives the connection back if it is open, in a form that another runtime can take.
    pub fn into_stream(self) -> Option<std::net::TcpStream> {
        self.stream?.into_std().ok()
    }

    /// Sends `request` and reads its response, within the timeouts.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Response, Failure> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        self.alarm.set(self.request_timeout);
        let mut written = 0;
        let response = poll_fn(|context| {
            if written < request.len() {
                match poll_write_all(&mut stream, request, &mut written, context) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                    Poll::Pending => return self.alarm.poll(context),
                }
            }
            match self.input.poll_response(&mut stream, context) {
                Poll::Pending => self.alarm.poll(context),
                settled @ Poll::Ready(_) => settled,
            }
        })
        .await?;
        // Bytes after the response belong to no request, so what follows on this connection cannot be trusted.
        if response.keep_alive && self.input.pending == 0 {
            self.stream = Some(stream);
        }
        Ok(response)
    }

    async fn connect(&mut self) -> Result<TcpStream, Failure> {
        self.input.reader.reset();
        self.input.pending = 0;
        let opened = tokio::time::timeout(self.connect_timeout, TcpStream::connect(&self.addresses[..]));
        let stream = match opened.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(Failure::new(FailureKind::Connect, &error)),
            Err(_) => return Err(Failure::new(FailureKind::ConnectTimeout, "opening the connection timed out")),
        };
        stream.set_nodelay(true).map_err(|error| Failure::new(FailureKind::Connect, &error))?;
        Ok(stream)
    }
}

fn poll_write_all(
    stream: &mut TcpStream,
    request: &[u8],
    written: &mut usize,
    context: &mut Context<'_>,
) -> Poll<Result<(), Failure>> {
    while *written < request.len() {
        match ready!(Pin::new(&mut *stream).poll_write(context, &request[*written..])) {
            Ok(0) => return Poll::Ready(Err(Failure::new(FailureKind::Disconnect, "the connection takes no more"))),
            Ok(count) => *written += count,
            Err(error) => return Poll::Ready(Err(Failure::new(FailureKind::Disconnect, &error))),
        }
    }
    Poll::Ready(Ok(()))
}

/// What has been read from the connection, and how far it has been understood.
struct Input {
    reader: ResponseReader,
    buffer: Box<[u8]>,
    /// Bytes at the start of the buffer that the reader has not taken yet.
    pending: usize,
}

impl Input {
    fn poll_response(&mut self, stream: &mut TcpStream, context: &mut Context<'_>) -> Poll<Result<Response, Failure>> {
        loop {
            let mut room = ReadBuf::new(&mut self.buffer[self.pending..]);
            if let Err(error) = ready!(Pin::new(&mut *stream).poll_read(context, &mut room)) {
                return Poll::Ready(Err(Failure::new(FailureKind::Disconnect, &error)));
            }
            let count = room.filled().len();
            if count == 0 {
                let ended = self.reader.finish();
                let failure = || Failure::new(FailureKind::Disconnect, "the server closed the connection");
                return Poll::Ready(ended.ok_or_else(failure));
            }
            self.pending += count;
            match self.reader.advance(&self.buffer[..self.pending]) {
                Ok((taken, complete)) => {
                    self.buffer.copy_within(taken..self.pending, 0);
                    self.pending -= taken;
                    if let Some(response) = complete {
                        return Poll::Ready(Ok(response));
                    }
                }
                Err(error) => return Poll::Ready(Err(Failure::new(FailureKind::Protocol, &error))),
            }
        }
    }
}

/// A timeout that costs next to nothing when it does not fire: the timer is left to run out at an old deadline, and
/// only then set to the current one, instead of being registered anew for each request.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
    due: Instant,
}

impl Alarm {
    fn new() -> Self {
        Self { sleep: Box::pin(sleep(Duration::ZERO)), due: Instant::now() }
    }

    fn set(&mut self, after: Duration) {
        self.due = Instant::now() + after;
    }

    /// Pending until the deadline, then the failure that it stands for.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Response, Failure>> {
        loop {
            ready!(self.sleep.as_mut().poll(context));
            if Instant::now() >= self.due {
                return Poll::Ready(Err(Failure::new(FailureKind::Timeout, "the request timed out")));
            }
            self.sleep.as_mut().reset(self.due);
        }
    }
}
