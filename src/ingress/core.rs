//! What the tasks of one executor share: its end of the ring, the requests that wait,
//! and its open connections. Nothing here is shared with another core.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use hdrhistogram::Histogram;
use slab::Slab;

use super::connection::ConnectionState;
use super::counters::{Counters, latency_histogram};
use crate::clock::TurnClock;
use crate::config;
use crate::limits::FAST_REQUEST_BYTES_MAX;
use crate::planted::{Bug, is_planted};
use crate::queue::{Health, Queue};
use crate::ring::{Completion, IngressEnd, RingFull};
use crate::sync::{AtomicUsize, AtomicWaker, Ordering};

/// What all executors are given.
#[derive(Clone)]
pub struct Shared {
    /// All queues, by index.
    pub queues: Arc<[Arc<Queue>]>,
    /// Bounds of the front door.
    pub limits: config::Ingress,
    /// Bytes that one commit can hold; no frame may be larger.
    pub frame_bytes_max: usize,
    /// Key of the idempotency hash.
    pub secret: [u8; 16],
    /// What the process can do.
    pub health: Arc<Health>,
    /// Open connections of all executors; touched once a connection, not once a record.
    pub connections: Arc<AtomicUsize>,
    /// Time that a stop waits for requests in flight, in milliseconds.
    pub grace_ms: u64,
}

/// Announces the stop, and wakes the executors that sleep: each looks for it before it sleeps again.
pub fn announce_stop(health: &Health, wakers: &[Arc<AtomicWaker>]) {
    if !is_planted(Bug::WakeBeforeStop) {
        health.set_stopping();
    }
    for waker in wakers {
        waker.wake();
    }
    if is_planted(Bug::WakeBeforeStop) {
        health.set_stopping();
    }
}

/// The state of one executor.
pub struct Core {
    /// What all executors are given.
    pub shared: Shared,
    /// What this one counts.
    pub counters: Arc<Counters>,
    /// The time of this turn.
    pub clock: Rc<TurnClock>,
    /// `None` once this executor has ended: the journal then knows that nothing more will come.
    ring: RefCell<Option<IngressEnd>>,
    /// Woken when the journal has completed something, if we asked for it.
    waker: Arc<AtomicWaker>,
    slots: RefCell<Slab<Slot>>,
    frame: RefCell<Vec<u8>>,
    connections: RefCell<Slab<Rc<ConnectionState>>>,
    /// Bytes of bodies that are arriving.
    body_bytes: Cell<usize>,
    senders: Cell<Senders>,
    latency: RefCell<Histogram<u64>>,
    /// Where reads land before hyper has them.
    pub scratch: RefCell<Box<[u8]>>,
    stopping: Cell<bool>,
    stop_waker: RefCell<Option<Waker>>,
}

/// A request between its ring and its answer.
enum Slot {
    Waiting(Waiter),
    Done(Completion),
    /// The client has gone; the completion is still to come.
    Abandoned,
}

/// Who is told that a request is done.
enum Waiter {
    Nobody,
    Task(Waker),
    /// The connection on the fast path whose socket has this key.
    Connection(usize),
}

/// How many connections have sent requests in this window of time, and in the one before it.
#[derive(Clone, Copy, Default)]
struct Senders {
    window: u64,
    now: u16,
    before: u16,
}

/// Why a frame was not sent to the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Too many requests wait for the disk.
    InFlight,
    /// The ring is full.
    Ring,
}

/// Time after which a connection that sends nothing is no longer counted as a sender, in milliseconds.
const SENDERS_WINDOW_MS: u64 = 16;
/// Beyond this the frame buffer is given back after use.
const FRAME_BYTES_KEPT: usize = 256 * 1024;

impl Core {
    /// The state of a new executor.
    #[must_use]
    pub fn new(shared: Shared, counters: Arc<Counters>, ring: IngressEnd) -> Rc<Self> {
        Rc::new(Self {
            shared,
            counters,
            clock: Rc::default(),
            waker: ring.waker(),
            ring: RefCell::new(Some(ring)),
            slots: RefCell::default(),
            frame: RefCell::default(),
            connections: RefCell::default(),
            body_bytes: Cell::new(0),
            senders: Cell::default(),
            latency: RefCell::new(latency_histogram()),
            scratch: RefCell::new(vec![0; FAST_REQUEST_BYTES_MAX].into_boxed_slice()),
            stopping: Cell::new(false),
            stop_waker: RefCell::new(None),
        })
    }

    /// The queue with this name.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<&Arc<Queue>> {
        // The configuration's order is alphabetical, and so is the slice.
        let queues = &self.shared.queues;
        queues.binary_search_by(|queue| queue.name.as_str().cmp(name)).ok().map(|index| &queues[index])
    }

    /// Sends a frame that `build` writes to the journal; the future is what becomes of it.
    /// `build` gets the slot's number and may refuse with an error of its own.
    ///
    /// # Errors
    ///
    /// The inner error is [`Busy`]; the outer one is `build`'s. Nothing was sent then.
    pub fn submit<E>(
        self: &Rc<Self>,
        build: impl FnOnce(u32, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Result<Answer, Busy>, E> {
        let mut slots = self.slots.borrow_mut();
        if slots.len() >= self.shared.limits.in_flight_max && !is_planted(Bug::IgnoreInFlightMax) {
            self.ring.borrow().iter().for_each(IngressEnd::hurry);
            return Ok(Err(Busy::InFlight));
        }
        let entry = slots.vacant_entry();
        let slot = entry.key();
        let mut frame = self.frame.borrow_mut();
        frame.clear();
        build(u32::try_from(slot).unwrap_or(u32::MAX), &mut frame)?;
        let pushed = self.ring.borrow_mut().as_mut().map_or(Err(RingFull), |ring| ring.submit(&frame));
        if frame.capacity() > FRAME_BYTES_KEPT {
            *frame = Vec::new();
        }
        if pushed.is_err() {
            return Ok(Err(Busy::Ring));
        }
        entry.insert(Slot::Waiting(Waiter::Nobody));
        Ok(Ok(Answer { core: Rc::clone(self), slot }))
    }

    /// Requests between their ring and their answer.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Takes up to `completions_max` completions that have come: wakes the tasks that wait for them, and adds
    /// the connections on the fast path to `connections`. Returns whether there were any.
    pub fn hand_out(&self, completions_max: usize, connections: &mut Vec<usize>) -> bool {
        let mut ring = self.ring.borrow_mut();
        let Some(ring) = ring.as_mut() else { return false };
        let mut slots = self.slots.borrow_mut();
        let mut any = false;
        for _ in 0..completions_max {
            let Some(completion) = ring.completion() else { break };
            any = true;
            let key = completion.slot as usize;
            match slots.get_mut(key) {
                Some(slot @ Slot::Waiting(_)) => match std::mem::replace(slot, Slot::Done(completion)) {
                    Slot::Waiting(Waiter::Task(waker)) => waker.wake(),
                    Slot::Waiting(Waiter::Connection(connection)) => connections.push(connection),
                    _ => {}
                },
                Some(Slot::Abandoned) => drop(slots.remove(key)),
                Some(Slot::Done(_)) | None => tracing::error!(key, "a completion for a request that does not wait"),
            }
        }
        any
    }

    /// Whether this executor accepts nothing new any more.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Looks whether a stop was asked for, and begins it.
    pub fn look_for_stop(&self) {
        if self.shared.health.is_stopping() && !self.stopping.replace(true) {
            if let Some(waker) = self.stop_waker.borrow_mut().take() {
                waker.wake();
            }
            self.connections.borrow().iter().for_each(|(_, connection)| connection.wake());
        }
    }

    /// Ends the connections that are still open, whatever they wait for, and lets go of the ring. A task
    /// that is never polled again would keep both for ever.
    pub fn end(&self) {
        self.ring.borrow_mut().take();
        self.connections.borrow().iter().for_each(|(_, connection)| connection.close());
    }

    /// From now on the journal wakes `waker` behind its completions. Returns whether there is something to do
    /// already: whatever comes after this look wakes.
    pub fn arm(&self, waker: &Waker) -> bool {
        if !is_planted(Bug::LookBeforeRegistering) {
            self.waker.register(waker);
        }
        let completed = self.ring.borrow().as_ref().is_some_and(IngressEnd::has_completions);
        if is_planted(Bug::LookBeforeRegistering) {
            self.waker.register(waker);
        }
        completed || (self.shared.health.is_stopping() && !self.stopping.get())
    }

    /// The journal need not wake anybody any more.
    pub fn disarm(&self) {
        drop(self.waker.take());
    }

    /// Ready once the stop has begun.
    pub async fn stop_begun(&self) {
        std::future::poll_fn(|cx| {
            if self.stopping.get() {
                return Poll::Ready(());
            }
            *self.stop_waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Adds a connection, unless the process has too many; the guard removes it.
    #[must_use]
    pub fn add_connection(self: &Rc<Self>, state: &Rc<ConnectionState>) -> Option<Connected> {
        let total = &self.shared.connections;
        if total.fetch_add(1, Ordering::Relaxed) >= self.shared.limits.connections_max {
            total.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let key = self.connections.borrow_mut().insert(Rc::clone(state));
        self.count_connections();
        Some(Connected { core: Rc::clone(self), key })
    }

    /// Counts a connection among those that have sent a request lately.
    pub fn note_sender(&self, connection: &ConnectionState) {
        let window = self.clock.monotonic_ms() / SENDERS_WINDOW_MS + 1;
        let mut senders = self.senders.get();
        if senders.window != window {
            let before = if senders.window + 1 == window { senders.now } else { 0 };
            senders = Senders { window, now: 0, before };
        }
        if connection.sent_in_window.replace(window) != window {
            senders.now = senders.now.saturating_add(1);
        }
        self.senders.set(senders);
    }

    /// How many connections have sent requests lately; the journal gathers by it.
    #[must_use]
    pub fn senders(&self) -> u16 {
        let senders = self.senders.get();
        senders.now.max(senders.before)
    }

    /// How many connections this executor has.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.borrow().len()
    }

    fn count_connections(&self) {
        self.counters.connections.set(self.connections.borrow().len() as u64);
    }

    /// Ends the connections whose time is over, publishes the latencies of the last moments, and shows the watchdog that
    /// this executor is awake.
    pub fn tick(&self) {
        self.counters.pulse.ticks.add(1);
        self.clock.advance();
        let now_ms = self.clock.monotonic_ms();
        for (_, connection) in self.connections.borrow().iter() {
            if connection.is_overdue(now_ms) {
                self.counters.timed_out.add(1);
                connection.time_out();
            }
        }
        let mut recent = self.latency.borrow_mut();
        if !recent.is_empty() {
            self.counters.merge_latency(&recent);
            recent.reset();
        }
    }

    /// Records an acknowledgement's latency.
    pub fn record_latency(&self, us: u64) {
        self.latency.borrow_mut().saturating_record(us);
    }

    /// Takes room for body bytes, if there is any; the guard gives it back.
    #[must_use]
    pub fn hold_body(self: &Rc<Self>) -> HeldBody {
        HeldBody { core: Rc::clone(self), bytes: 0 }
    }
}

/// What will become of a frame.
pub struct Answer {
    core: Rc<Core>,
    slot: usize,
}

impl Answer {
    /// From now on the fast path is told of the connection with this key when the answer has come.
    pub fn notify(&self, connection: usize) {
        if let Some(Slot::Waiting(waiter)) = self.core.slots.borrow_mut().get_mut(self.slot) {
            *waiter = Waiter::Connection(connection);
        }
    }

    /// The answer, if it has come.
    #[must_use]
    pub fn get(&self) -> Option<Completion> {
        match self.core.slots.borrow().get(self.slot) {
            Some(Slot::Done(completion)) => Some(*completion),
            _ => None,
        }
    }
}

impl Future for Answer {
    type Output = Completion;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Completion> {
        match self.core.slots.borrow_mut().get_mut(self.slot) {
            Some(Slot::Done(completion)) => Poll::Ready(*completion),
            Some(Slot::Waiting(waiter)) => {
                if !matches!(waiter, Waiter::Task(known) if known.will_wake(cx.waker())) {
                    *waiter = Waiter::Task(cx.waker().clone());
                }
                Poll::Pending
            }
            // Only `drop` abandons a slot.
            Some(Slot::Abandoned) | None => Poll::Pending,
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let mut slots = self.core.slots.borrow_mut();
        match slots.get_mut(self.slot) {
            Some(slot @ Slot::Waiting(_)) => *slot = Slot::Abandoned,
            Some(Slot::Done(_)) => drop(slots.remove(self.slot)),
            Some(Slot::Abandoned) | None => {}
        }
    }
}

/// An open connection; dropping it ends the count.
pub struct Connected {
    core: Rc<Core>,
    key: usize,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.core.connections.borrow_mut().try_remove(self.key);
        self.core.shared.connections.fetch_sub(1, Ordering::Relaxed);
        self.core.count_connections();
    }
}

/// Room for the bytes of a body that is arriving.
pub struct HeldBody {
    core: Rc<Core>,
    bytes: usize,
}

impl HeldBody {
    /// Takes room for more bytes; `false` if there is none.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let total = self.core.body_bytes.get() + bytes;
        let fits = total <= self.core.shared.limits.body_bytes_in_flight_max;
        if fits {
            self.core.body_bytes.set(total);
            self.bytes += bytes;
        }
        fits
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        self.core.body_bytes.set(self.core.body_bytes.get() - self.bytes);
    }
}
