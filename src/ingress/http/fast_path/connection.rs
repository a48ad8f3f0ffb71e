//! One connection of the fast path: what it has sent, what waits for its answer, what it has not taken yet.

use std::mem;
use std::rc::Rc;
use std::sync::Arc;

use crate::ingress::connection::{ConnectionState, Phase};
use crate::ingress::core::{Answer, Connected, HeldBody};
use crate::ingress::net::Stream;
use crate::queue::Queue;

/// A connection that hyper has not got.
pub struct Connection {
    pub stream: Stream,
    pub state: Rc<ConnectionState>,
    pub connected: Connected,
    /// What has come and belongs to no request that was taken.
    pub input: Input,
    pub in_flight: Option<InFlight>,
    /// What the socket has not taken of the last response.
    pub output: Vec<u8>,
    /// Close it once `output` is empty.
    pub closing: bool,
}

/// What a connection has sent and nobody has taken.
#[derive(Default)]
pub struct Input {
    pub bytes: Vec<u8>,
    /// Where in `bytes` the next request begins.
    pub start: usize,
    /// It is of no use to look at fewer bytes.
    pub bytes_min: usize,
    /// How often the head was looked at.
    pub looks: u32,
    /// The room that they take.
    pub held: Option<HeldBody>,
}

/// A request between its ring and its answer.
pub struct InFlight {
    pub answer: Answer,
    pub queue: Arc<Queue>,
    pub arrived_ns: u64,
    pub body_bytes: u64,
}

impl Connection {
    /// Nothing waits for the journal or for the client to take it.
    pub fn is_free(&self) -> bool {
        self.in_flight.is_none() && self.output.is_empty()
    }

    /// Part of a request has come; its deadline is that of the head or of the body.
    pub fn expect(&self, in_body: bool) {
        match (in_body, self.state.phase()) {
            (true, Phase::Idle | Phase::Head) => self.state.enter(Phase::Body),
            (false, Phase::Idle) => self.state.enter(Phase::Head),
            _ => {}
        }
    }

    /// Sends a response, as far as the socket takes it now.
    pub fn send(&mut self, response: &[u8]) {
        if !self.output.is_empty() {
            self.output.extend_from_slice(response);
            return;
        }
        let length = self.write(response);
        if length < response.len() {
            self.output.extend_from_slice(&response[length..]);
            self.state.enter(Phase::Response);
        } else {
            self.state.enter(Phase::Idle);
        }
    }

    /// Goes on with the responses that the socket did not take.
    pub fn send_rest(&mut self) {
        if self.output.is_empty() {
            return;
        }
        let output = mem::take(&mut self.output);
        let length = self.write(&output);
        if length < output.len() {
            self.output = output;
            self.output.drain(..length);
        } else {
            self.state.enter(Phase::Idle);
        }
    }

    /// Bytes that are no longer to be sent. If the client has gone that is all of them, and the connection ends.
    fn write(&mut self, bytes: &[u8]) -> usize {
        match self.stream.write_now(bytes) {
            Some(Ok(length)) => length,
            None => 0,
            Some(Err(error)) => {
                tracing::debug!(%error, "a connection ended");
                self.closing = true;
                bytes.len()
            }
        }
    }
}

impl Input {
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Whether it is of use to look at the bytes before others have come.
    pub fn has_enough(&self) -> bool {
        self.len() >= self.bytes_min.max(1)
    }

    pub fn with(mut self, more: &[u8]) -> Self {
        if self.start > 0 && !more.is_empty() {
            self.bytes.drain(..mem::take(&mut self.start));
        }
        self.bytes.extend_from_slice(more);
        self
    }

    pub fn without(mut self, taken: usize) -> Self {
        self.start += taken;
        if taken > 0 {
            (self.bytes_min, self.looks) = (0, 0);
        }
        if self.len() == 0 {
            // An idle connection keeps no memory.
            self.bytes = Vec::new();
            self.start = 0;
        }
        self
    }
}
