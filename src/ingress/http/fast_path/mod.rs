//! The one hot request, without hyper and without a task: a POST of one record, small and whole.
//!
//! Every connection begins here. As long as it sends nothing but such requests it stays, and each
//! costs one read, one frame and one write, driven by [`Net::run`](crate::ingress::net::Net::run)
//! itself. At the first request of any other kind the connection and what it has sent go to hyper
//! and stay there. `docs/decisions/0005-fast-path-beside-hyper.md` says what this is worth.
//!
//! Invariants: a connection has at most one request between its ring and its answer, so answers
//! are in order; bytes behind that request are kept and not looked at until it is answered. A
//! request that hyper gets is one of which nothing was done here.

mod request;
mod response;

use std::cell::RefCell;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use glommio::TaskQueueHandle;

use super::body;
use super::problem::Refusal;
use super::submit::{self, Head};
use crate::ingress::connection::{ConnectionState, Phase};
use crate::ingress::core::{Answer, Connected, Core, HeldBody};
use crate::ingress::net::{Companion, Stream};
use crate::queue::Queue;
use request::{Bounds, Look, Request, look};
use response::ResponseWriter;

/// Answers that are sent before sockets are looked at again: the requests behind them are then on their way
/// to the disk while the others are answered.
const ANSWERS_A_TURN_MAX: usize = 32;

/// Requests in flight from which on the executor stays awake for the commit that will answer them. So many within
/// the time of one commit keep its core busy anyway.
const BUSY_IN_FLIGHT_MIN: usize = 16;

/// The connections of one executor that hyper has not got.
pub struct FastPath {
    core: Rc<Core>,
    /// By the keys of their sockets. A connection is taken out while it is worked on.
    connections: RefCell<Vec<Option<Box<Connection>>>>,
    /// Connections whose answers have come.
    answered: RefCell<Vec<usize>>,
    writer: RefCell<ResponseWriter>,
    /// Where hyper's connections run.
    tasks: TaskQueueHandle,
}

struct Connection {
    stream: Stream,
    state: Rc<ConnectionState>,
    connected: Connected,
    /// What has come and belongs to no request that was taken.
    input: Input,
    in_flight: Option<InFlight>,
    /// What the socket has not taken of the last response.
    output: Vec<u8>,
    /// Close it once `output` is empty.
    closing: bool,
}

#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    /// It is of no use to look at fewer bytes.
    bytes_min: usize,
    /// The room that they take.
    held: Option<HeldBody>,
}

/// A request between its ring and its answer.
struct InFlight {
    answer: Answer,
    queue: Arc<Queue>,
    arrived_ns: u64,
    body_bytes: u64,
}

/// What becomes of a connection.
enum Fate {
    Stays,
    Ends,
    /// Hyper gets it, with these bytes.
    Leaves(Vec<u8>),
}

impl FastPath {
    /// No connections yet; those that leave run in `tasks`.
    #[must_use]
    pub fn new(core: Rc<Core>, tasks: TaskQueueHandle) -> Rc<Self> {
        Rc::new(Self {
            core,
            connections: RefCell::default(),
            answered: RefCell::default(),
            writer: RefCell::default(),
            tasks,
        })
    }

    /// Takes a connection that was just accepted.
    pub fn add(&self, stream: Stream, state: Rc<ConnectionState>, connected: Connected) {
        stream.watch(true);
        let key = stream.key();
        let connection = Connection {
            stream,
            state,
            connected,
            input: Input::default(),
            in_flight: None,
            output: Vec::new(),
            closing: false,
        };
        self.put(key, Box::new(connection));
    }

    /// Ends the connections whose time is over, and while the server stops those that have nothing to wait for.
    pub fn tick(&self) {
        let keys = self.connections.borrow().len();
        for key in 0..keys {
            self.with(key, |connection| {
                if connection.state.is_timed_out() {
                    return self.time_out(key, connection);
                }
                if !self.core.is_stopping() {
                    return Fate::Stays;
                }
                match self.advance(key, connection) {
                    Fate::Stays if connection.is_idle() => Fate::Ends,
                    fate => fate,
                }
            });
        }
    }

    fn time_out(&self, key: usize, connection: &mut Connection) -> Fate {
        if connection.state.phase() != Phase::Body {
            return Fate::Ends;
        }
        connection.state.forgive();
        match self.refuse(connection, body::timed_out()) {
            Fate::Stays => self.advance(key, connection),
            fate => fate,
        }
    }

    fn put(&self, key: usize, connection: Box<Connection>) {
        let mut connections = self.connections.borrow_mut();
        if connections.len() <= key {
            connections.resize_with(key + 1, || None);
        }
        connections[key] = Some(connection);
    }

    /// Works on a connection, if it is still there.
    fn with(&self, key: usize, work: impl FnOnce(&mut Connection) -> Fate) {
        let taken = self.connections.borrow_mut().get_mut(key).and_then(Option::take);
        let Some(mut connection) = taken else { return };
        match work(&mut connection) {
            Fate::Stays => self.put(key, connection),
            Fate::Ends => drop(connection),
            Fate::Leaves(sent) => self.hand_over(*connection, sent),
        }
    }

    fn hand_over(&self, connection: Connection, sent: Vec<u8>) {
        let Connection { stream, state, connected, .. } = connection;
        stream.watch(false);
        let core = Rc::clone(&self.core);
        let task = async move {
            super::serve(core, stream, state, sent).await;
            drop(connected);
        };
        // The queue was made before the first connection and is never removed.
        if let Ok(task) = glommio::spawn_local_into(task, self.tasks) {
            task.detach();
        }
    }

    /// Takes requests off a connection until one waits for its answer, or nothing more has come.
    fn advance(&self, key: usize, connection: &mut Connection) -> Fate {
        while connection.in_flight.is_none() && connection.output.is_empty() {
            if connection.closing {
                // Says that nothing follows; what the client has sent behind this is not read.
                let _ = connection.stream.shutdown();
                return Fate::Ends;
            }
            let mut input = mem::take(&mut connection.input.bytes);
            let mut scratch = self.core.scratch.borrow_mut();
            let mut bytes = input.as_slice();
            if bytes.len() < connection.input.bytes_min.max(1) {
                let length = match connection.stream.read_now(&mut scratch) {
                    None => {
                        connection.input.bytes = input;
                        return Fate::Stays;
                    }
                    Some(Ok(0)) if input.is_empty() => return Fate::Ends,
                    Some(Ok(0)) => return Fate::Leaves(input),
                    Some(Ok(length)) => length,
                    Some(Err(error)) => {
                        tracing::debug!(%error, "a connection ended");
                        return Fate::Ends;
                    }
                };
                if connection.state.phase() == Phase::Idle {
                    connection.state.enter(Phase::Head);
                }
                if input.is_empty() {
                    bytes = &scratch[..length];
                } else {
                    input.extend_from_slice(&scratch[..length]);
                    bytes = &input;
                }
            }
            let rest = match look(bytes, self.bounds()) {
                Look::Other => return Fate::Leaves(bytes.to_vec()),
                Look::Partial { bytes_min, in_body } => {
                    if in_body && connection.state.phase() != Phase::Body {
                        connection.state.enter(Phase::Body);
                    }
                    connection.input.bytes_min = bytes_min;
                    bytes
                }
                Look::Taken(request) => {
                    let Some(queue) = self.core.queue(request.queue) else { return Fate::Leaves(bytes.to_vec()) };
                    connection.state.enter(Phase::Answer);
                    connection.input.bytes_min = 1;
                    self.core.note_sender(&connection.state);
                    match self.submit(key, queue, &request) {
                        Ok(in_flight) => connection.in_flight = Some(in_flight),
                        Err(refusal) => match self.refuse(connection, refusal) {
                            Fate::Stays => {}
                            fate => return fate,
                        },
                    }
                    &bytes[request.bytes..]
                }
            };
            let rest = rest.to_vec();
            drop(scratch);
            if let Fate::Ends = self.keep(connection, rest) {
                return Fate::Ends;
            }
        }
        Fate::Stays
    }

    fn bounds(&self) -> Bounds {
        let limits = &self.core.shared.limits;
        Bounds { head_bytes_max: limits.head_bytes_max, record_bytes_max: limits.record_bytes_max }
    }

    /// Keeps what has come of the next request, if there is room for it.
    fn keep(&self, connection: &mut Connection, rest: Vec<u8>) -> Fate {
        connection.input.held = None;
        if rest.is_empty() {
            return Fate::Stays;
        }
        let mut held = self.core.hold_body();
        if !held.grow(rest.len()) {
            connection.closing = true;
            // The answers must stay in order: with one to come, that one will say that it is the last.
            let waits = connection.in_flight.is_some();
            return if waits { Fate::Stays } else { self.refuse(connection, body::no_room()) };
        }
        connection.input.held = Some(held);
        connection.input.bytes = rest;
        Fate::Stays
    }

    /// Sends a request's record to the journal.
    fn submit(&self, key: usize, queue: &Arc<Queue>, request: &Request<'_>) -> Result<InFlight, Refusal> {
        let core = &self.core;
        submit::check_health(core)?;
        // The room is needed for a moment only, but the bound is one of the configuration.
        if !core.hold_body().grow(request.body.len()) {
            return Err(body::no_room());
        }
        let head = Head {
            key: request.key,
            idempotency_key: request.idempotency_key,
            content_type: request.content_type,
            is_ndjson: false,
        };
        let answer = core.submit(|slot, frame| submit::build_frame(core, queue, &head, request.body, slot, frame))?;
        let answer = answer.map_err(submit::busy)?;
        answer.notify(key);
        Ok(InFlight {
            answer,
            queue: Arc::clone(queue),
            arrived_ns: core.clock.monotonic_ns(),
            body_bytes: request.body.len() as u64,
        })
    }

    /// Answers the request of which the journal has said what became of it.
    fn answer(&self, key: usize, connection: &mut Connection) -> Fate {
        let Some(completion) = connection.in_flight.as_ref().and_then(|in_flight| in_flight.answer.get()) else {
            return Fate::Stays;
        };
        let Some(InFlight { answer, queue, arrived_ns, body_bytes }) = connection.in_flight.take() else {
            return Fate::Stays;
        };
        drop(answer);
        let fate = match submit::settle(&self.core, &completion, arrived_ns, body_bytes) {
            Ok(()) => {
                connection.closing |= self.core.is_stopping();
                let mut writer = self.writer.borrow_mut();
                let now_us = self.core.clock.unix_us();
                connection.send(writer.accepted(&queue, &completion, now_us, connection.closing))
            }
            Err(refusal) => self.refuse(connection, refusal),
        };
        match fate {
            Fate::Stays => self.advance(key, connection),
            fate => fate,
        }
    }

    fn refuse(&self, connection: &mut Connection, refusal: Refusal) -> Fate {
        self.core.counters.refused[refusal.problem as usize].add(1);
        connection.closing |= refusal.closes();
        let mut writer = self.writer.borrow_mut();
        connection.send(writer.refusal(refusal, self.core.clock.unix_us(), connection.closing))
    }
}

impl Connection {
    /// Nothing has come that was not answered.
    fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.output.is_empty() && self.input.bytes.is_empty()
    }

    /// Sends a response, as far as the socket takes it now.
    fn send(&mut self, response: &[u8]) -> Fate {
        match self.stream.write_now(response) {
            Some(Ok(length)) if length == response.len() => self.state.enter(Phase::Idle),
            Some(Ok(length)) => self.send_later(&response[length..]),
            None => self.send_later(response),
            Some(Err(error)) => {
                tracing::debug!(%error, "a connection ended");
                return Fate::Ends;
            }
        }
        Fate::Stays
    }

    fn send_later(&mut self, rest: &[u8]) {
        self.output.extend_from_slice(rest);
        self.state.enter(Phase::Response);
    }

    /// Goes on with the response that the socket did not take.
    fn send_rest(&mut self) -> Fate {
        if self.output.is_empty() {
            return Fate::Stays;
        }
        match self.stream.write_now(&self.output) {
            None => {}
            Some(Ok(length)) => {
                self.output.drain(..length);
                if self.output.is_empty() {
                    self.state.enter(Phase::Idle);
                }
            }
            Some(Err(_)) => return Fate::Ends,
        }
        Fate::Stays
    }
}

/// Completions and the stop come from other threads; the executor looks for them on every turn,
/// and is woken for them only when it is about to sleep.
impl Companion for Rc<FastPath> {
    fn begin_turn(&self) {
        self.core.clock.advance();
    }

    fn socket_ready(&self, key: usize) {
        self.with(key, |connection| match connection.send_rest() {
            Fate::Stays => self.advance(key, connection),
            fate => fate,
        });
    }

    fn is_busy(&self) -> bool {
        self.core.in_flight() >= BUSY_IN_FLIGHT_MIN
    }

    fn work(&self) -> bool {
        self.core.look_for_stop();
        let mut answered = mem::take(&mut *self.answered.borrow_mut());
        let any = self.core.hand_out(ANSWERS_A_TURN_MAX, &mut answered);
        for key in answered.drain(..) {
            self.with(key, |connection| self.answer(key, connection));
        }
        *self.answered.borrow_mut() = answered;
        any
    }

    fn arm(&self, waker: &Waker) -> bool {
        self.core.arm(waker)
    }

    fn disarm(&self) {
        self.core.disarm();
    }
}
