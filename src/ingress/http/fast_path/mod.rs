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

mod connection;
pub mod request;
pub mod response;

use std::cell::RefCell;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use glommio::TaskQueueHandle;

use super::body;
use super::problem::Refusal;
use super::submit;
use crate::ingress::connection::{ConnectionState, Phase, Sent};
use crate::ingress::core::{Connected, Core};
use crate::ingress::net::{Companion, Stream};
use crate::limits::FAST_REQUEST_BYTES_MAX;
use crate::queue::Queue;
use connection::{Connection, InFlight, Input};
use request::{Bounds, Look, Request, look};
use response::ResponseWriter;

/// Answers that are sent before sockets are looked at again: the requests behind them are then on their way
/// to the disk while the others are answered.
const ANSWERS_A_TURN_MAX: usize = 32;

/// Requests that one connection may have refused before others get their turn.
const REQUESTS_A_TURN_MAX: usize = 16;
/// Looks at a head that is not complete; the parser begins anew each time, and hyper knows a shorter way.
const LOOKS_AT_A_HEAD_MAX: u32 = 8;
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
    /// Connections that have had their turn and may have more to be looked at.
    again: RefCell<Vec<usize>>,
    writer: RefCell<ResponseWriter>,
    /// Where hyper's connections run.
    tasks: TaskQueueHandle,
}

/// What becomes of a connection.
enum Fate {
    Stays,
    Ends,
    /// Hyper gets it, with what it has sent.
    Leaves,
}

impl FastPath {
    /// No connections yet; those that leave run in `tasks`.
    #[must_use]
    pub fn new(core: Rc<Core>, tasks: TaskQueueHandle) -> Rc<Self> {
        Rc::new(Self {
            core,
            connections: RefCell::default(),
            answered: RefCell::default(),
            again: RefCell::default(),
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
                    // A head that is not complete would be refused, so it is not waited for.
                    Fate::Stays if connection.is_free() && connection.state.phase() != Phase::Body => Fate::Ends,
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
        self.refuse(connection, body::timed_out());
        self.advance(key, connection)
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
            Fate::Leaves => self.hand_over(*connection),
        }
    }

    fn hand_over(&self, connection: Connection) {
        let Connection { stream, state, connected, input, .. } = connection;
        stream.watch(false);
        let sent = Sent::new(input.bytes, input.start, input.held);
        self.serve(stream, state, connected, sent, None);
    }

    /// Lets hyper have a connection that was just accepted, all of whose requests are records of this queue.
    pub fn pass_by(&self, stream: Stream, state: Rc<ConnectionState>, connected: Connected, queue: Arc<Queue>) {
        self.serve(stream, state, connected, Sent::new(Vec::new(), 0, None), Some(queue));
    }

    fn serve(
        &self,
        stream: Stream,
        state: Rc<ConnectionState>,
        connected: Connected,
        sent: Sent,
        taker: Option<Arc<Queue>>,
    ) {
        let core = Rc::clone(&self.core);
        let task = async move {
            super::serve(core, stream, state, sent, taker).await;
            drop(connected);
        };
        // The queue was made before the first connection and is never removed.
        if let Ok(task) = glommio::spawn_local_into(task, self.tasks) {
            task.detach();
        }
    }

    /// Takes requests off a connection until one waits for its answer, nothing more has come, or others should
    /// have their turn.
    fn advance(&self, key: usize, connection: &mut Connection) -> Fate {
        for _ in 0..REQUESTS_A_TURN_MAX {
            if !connection.is_free() {
                return Fate::Stays;
            }
            if connection.closing {
                // Says that nothing follows; what the client has sent behind this is not read.
                let _ = connection.stream.shutdown();
                return Fate::Ends;
            }
            if let Some(fate) = self.take_request(key, connection) {
                return fate;
            }
        }
        self.again.borrow_mut().push(key);
        Fate::Stays
    }

    /// Reads what has come, unless there is something to look at already, and takes a request if it is whole.
    /// `None` if the connection goes on.
    fn take_request(&self, key: usize, connection: &mut Connection) -> Option<Fate> {
        let mut scratch = self.core.scratch.borrow_mut();
        let mut fresh: &[u8] = &[];
        if !connection.input.has_enough() {
            let room = FAST_REQUEST_BYTES_MAX - connection.input.len().min(FAST_REQUEST_BYTES_MAX - 1);
            let length = match connection.stream.read_now(&mut scratch[..room]) {
                None => return Some(Fate::Stays),
                Some(Ok(0)) if connection.input.len() == 0 => return Some(Fate::Ends),
                Some(Ok(0)) => return self.leave(connection),
                Some(Ok(length)) => length,
                Some(Err(error)) => {
                    tracing::debug!(%error, "a connection ended");
                    return Some(Fate::Ends);
                }
            };
            if connection.state.phase() == Phase::Idle {
                connection.state.enter(Phase::Head);
            }
            fresh = &scratch[..length];
        }
        // Nearly always a request comes as a whole and is looked at where it was read, without a copy.
        let input = mem::take(&mut connection.input);
        let mut input = if input.len() == 0 { Input::default() } else { input.with(mem::take(&mut fresh)) };
        // Counted anew behind this; the request itself needs the room now.
        input.held = None;
        let bytes = if fresh.is_empty() { input.pending() } else { fresh };
        if bytes.len() < input.bytes_min {
            connection.input = input;
            self.hold(connection);
            return None;
        }
        let mut bytes_min = 0;
        let taken = match look(bytes, self.bounds()) {
            Look::Other => None,
            // Hyper refuses it by its head.
            Look::Partial { in_body: true, .. }
                if self.core.is_stopping() && connection.state.phase() != Phase::Body =>
            {
                None
            }
            Look::Partial { bytes_min: needed, in_body } => {
                connection.expect(in_body);
                bytes_min = needed;
                (in_body || input.looks < LOOKS_AT_A_HEAD_MAX).then_some(0)
            }
            // A queue that keeps a header's value gets it from hyper: which header, the look does not know.
            Look::Taken(request) => {
                self.core.queue(request.queue).filter(|queue| !queue.config.keeps_header()).map(|queue| {
                    self.take(key, connection, queue, &request);
                    request.bytes
                })
            }
        };
        let rest = taken.unwrap_or(0);
        connection.input = if fresh.is_empty() { input.without(rest) } else { input.with(&fresh[rest..]) };
        if taken.is_none() {
            return self.leave(connection);
        }
        if bytes_min > 0 {
            connection.input.bytes_min = bytes_min;
            connection.input.looks += 1;
        }
        self.hold(connection);
        None
    }

    fn take(&self, key: usize, connection: &mut Connection, queue: &Arc<Queue>, request: &Request<'_>) {
        // A request whose head came before a stop is still taken.
        let admitted = connection.state.phase() == Phase::Body;
        connection.state.enter(Phase::Answer);
        self.core.note_sender(&connection.state);
        let checked = if admitted { Ok(()) } else { submit::check_stop(&self.core) };
        match checked.and_then(|()| self.submit(key, queue, request)) {
            Ok(in_flight) => connection.in_flight = Some(in_flight),
            Err(refusal) => self.refuse(connection, refusal),
        }
    }

    fn bounds(&self) -> Bounds {
        let limits = &self.core.shared.limits;
        Bounds { head_bytes_max: limits.head_bytes_max, record_bytes_max: limits.record_bytes_max }
    }

    /// Counts what is kept of the next request, beyond what a head may have. If there is no room the connection
    /// is to be closed.
    fn hold(&self, connection: &mut Connection) {
        let length = connection.input.len();
        connection.input.held = None;
        if connection.state.phase() != Phase::Body && length <= self.core.shared.limits.head_bytes_max {
            return;
        }
        let mut held = self.core.hold_body();
        if held.grow(length) {
            connection.input.held = Some(held);
            return;
        }
        connection.input = Input::default();
        if connection.in_flight.is_none() {
            self.refuse(connection, body::no_room());
        }
        // The answers must stay in order: with one to come, that one says that it is the last.
        connection.closing = true;
    }

    /// Lets hyper have the connection, unless there is no room for what it has sent.
    fn leave(&self, connection: &mut Connection) -> Option<Fate> {
        self.hold(connection);
        (!connection.closing).then_some(Fate::Leaves)
    }

    /// Sends a request's record to the journal.
    fn submit(&self, key: usize, queue: &Arc<Queue>, request: &Request<'_>) -> Result<InFlight, Refusal> {
        let answer = submit::send_at_once(&self.core, queue, &request.head(), request.body)?;
        answer.notify(key);
        Ok(InFlight {
            answer,
            queue: Arc::clone(queue),
            arrived_ns: self.core.clock.monotonic_ns(),
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
        match submit::settle(&self.core, &completion, arrived_ns, body_bytes) {
            Ok(()) => {
                connection.closing |= self.core.is_stopping();
                let mut writer = self.writer.borrow_mut();
                let now_us = self.core.clock.unix_us();
                connection.send(writer.accepted(&queue, &completion, now_us, connection.closing));
            }
            Err(refusal) => self.refuse(connection, refusal),
        }
        self.advance(key, connection)
    }

    fn refuse(&self, connection: &mut Connection, refusal: Refusal) {
        self.core.counters.refused[refusal.problem as usize].add(1);
        connection.closing |= refusal.closes();
        let mut writer = self.writer.borrow_mut();
        connection.send(writer.refusal(refusal, self.core.clock.unix_us(), connection.closing));
    }
}

/// Completions and the stop come from other threads; the executor looks for them on every turn,
/// and is woken for them only when it is about to sleep.
impl Companion for Rc<FastPath> {
    fn begin_turn(&self) {
        self.core.clock.advance();
    }

    fn socket_ready(&self, key: usize) {
        self.with(key, |connection| {
            connection.send_rest();
            self.advance(key, connection)
        });
    }

    fn is_busy(&self) -> bool {
        self.core.in_flight() >= BUSY_IN_FLIGHT_MIN
    }

    fn work(&self) -> bool {
        self.core.look_for_stop();
        let mut answered = mem::take(&mut *self.answered.borrow_mut());
        let any = self.core.hand_out(ANSWERS_A_TURN_MAX, &mut answered);
        let again = mem::take(&mut *self.again.borrow_mut());
        for key in answered.drain(..) {
            self.with(key, |connection| self.answer(key, connection));
        }
        *self.answered.borrow_mut() = answered;
        for key in &again {
            self.with(*key, |connection| self.advance(*key, connection));
        }
        any || !again.is_empty()
    }

    fn arm(&self, waker: &Waker) -> bool {
        self.core.arm(waker) || !self.again.borrow().is_empty()
    }

    fn disarm(&self) {
        self.core.disarm();
    }
}
