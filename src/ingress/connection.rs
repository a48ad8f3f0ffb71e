//! One client connection: its bytes for hyper, and its deadlines.
//!
//! Timers for every request would cost more than the request. So a connection only notes
//! until when it may stay as it is, and the executor's tick ends the ones that are overdue.
//! Deadlines are therefore late by up to one tick.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use hyper::rt::ReadBufCursor;

use super::core::{Core, HeldBody};
use super::net::Stream;
use crate::clock::TurnClock;

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The next request, which may take its time.
    Idle,
    /// The rest of a request's head.
    Head,
    /// The rest of a request's body.
    Body,
    /// The journal: no deadline.
    Answer,
    /// The client to take the response.
    Response,
}

/// What the tick and the tasks know of a connection.
pub struct ConnectionState {
    phase: Cell<Phase>,
    deadline_ms: Cell<u64>,
    timed_out: Cell<bool>,
    /// The window of time in which it last sent a request, as [`Core::note_sender`] counts them.
    pub(super) sent_in_window: Cell<u64>,
    waker: RefCell<Option<Waker>>,
    clock: Rc<TurnClock>,
    idle_timeout_ms: u64,
    head_timeout_ms: u64,
    body_timeout_ms: u64,
}

impl ConnectionState {
    /// A connection that has just been accepted. Its first request may not take longer than a head may.
    #[must_use]
    pub fn new(core: &Core) -> Rc<Self> {
        let limits = &core.shared.limits;
        let state = Self {
            phase: Cell::new(Phase::Idle),
            deadline_ms: Cell::new(u64::MAX),
            timed_out: Cell::new(false),
            sent_in_window: Cell::new(0),
            waker: RefCell::new(None),
            clock: Rc::clone(&core.clock),
            idle_timeout_ms: limits.idle_timeout_ms,
            head_timeout_ms: limits.head_timeout_ms,
            body_timeout_ms: limits.body_timeout_ms,
        };
        state.enter(Phase::Head);
        Rc::new(state)
    }

    /// Moves to another phase and starts its deadline.
    pub fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        let timeout_ms = match phase {
            Phase::Idle => self.idle_timeout_ms,
            Phase::Head => self.head_timeout_ms,
            Phase::Body | Phase::Response => self.body_timeout_ms,
            Phase::Answer => {
                self.deadline_ms.set(u64::MAX);
                return;
            }
        };
        self.deadline_ms.set(self.clock.monotonic_ms().saturating_add(timeout_ms));
    }

    /// What it is waiting for.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_overdue(&self, now_ms: u64) -> bool {
        now_ms > self.deadline_ms.get() && !self.timed_out.get()
    }

    /// Ends the wait: a body's reader answers 408, in any other phase the connection is closed.
    pub fn time_out(&self) {
        self.timed_out.set(true);
        self.wake();
    }

    /// Closes the connection in whatever phase it is.
    pub fn close(&self) {
        self.phase.set(Phase::Idle);
        self.time_out();
    }

    /// Whether [`time_out`](Self::time_out) was called.
    #[must_use]
    pub fn is_timed_out(&self) -> bool {
        self.timed_out.get()
    }

    /// Whether the connection is to be dropped as it is.
    #[must_use]
    pub fn is_to_be_closed(&self) -> bool {
        self.timed_out.get() && self.phase.get() != Phase::Body
    }

    /// The body's reader has noticed and answers; from now on the client must take the response.
    pub fn forgive(&self) {
        self.timed_out.set(false);
    }

    /// Lets the connection's task look at its state.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Notes whom to wake.
    pub fn remember(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}

/// What a connection had sent before hyper got it.
pub struct Sent {
    bytes: Vec<u8>,
    /// How much of it hyper has.
    given: usize,
    /// The room that it takes.
    _held: Option<HeldBody>,
}

impl Sent {
    /// The bytes from `start` on, and the room that is held for them.
    #[must_use]
    pub fn new(bytes: Vec<u8>, start: usize, held: Option<HeldBody>) -> Self {
        Self { bytes, given: start, _held: held }
    }

    fn pending(&self) -> &[u8] {
        &self.bytes[self.given..]
    }
}

/// A stream as hyper reads and writes it.
pub struct Connection {
    stream: Stream,
    sent: Option<Sent>,
    core: Rc<Core>,
    state: Rc<ConnectionState>,
}

impl Connection {
    /// Wraps a stream of which `sent` was read already.
    #[must_use]
    pub fn new(stream: Stream, sent: Sent, core: Rc<Core>, state: Rc<ConnectionState>) -> Self {
        Self { stream, sent: Some(sent), core, state }
    }
}

impl hyper::rt::Read for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(sent) = &mut this.sent {
            let pending = sent.pending();
            let length = buf.remaining().min(pending.len());
            buf.put_slice(&pending[..length]);
            sent.given += length;
            if sent.pending().is_empty() {
                this.sent = None;
            }
            if length > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        // The stream wants initialised memory. Reading into the executor's own and copying the few hundred
        // bytes that came is cheaper than zeroing hyper's buffer for every read.
        let mut scratch = this.core.scratch.borrow_mut();
        let room = buf.remaining().min(scratch.len());
        match this.stream.poll_read(cx, &mut scratch[..room]) {
            Poll::Ready(Ok(length)) => {
                if length > 0 && this.state.phase.get() == Phase::Idle {
                    this.state.enter(Phase::Head);
                }
                buf.put_slice(&scratch[..length]);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl hyper::rt::Write for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.stream.poll_write(cx, buf);
        if matches!(written, Poll::Ready(Ok(length)) if length == buf.len())
            && this.state.phase.get() == Phase::Response
        {
            this.state.enter(Phase::Idle);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Every write has gone to the kernel already.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.shutdown())
    }
}
