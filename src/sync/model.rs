//! Loom's threads and atomics, and stand-ins for what loom has not got and what is a library of others.
//!
//! A stand-in orders memory as the documentation of what it stands for says, and no more: where it ordered more, a
//! mistake of ours could hide behind it. What is inside those libraries is not examined; they have tests of their own.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
pub use loom::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

loom::thread_local! {
    static CURRENT: Thread = Thread::default();
}

/// [`std::thread::Thread`]: a token that is kept until the thread parks. Whoever parks sees what was written before the
/// token was given. Loom's own `unpark` also ends waits of other kinds.
#[derive(Clone, Default)]
pub struct Thread(Arc<Token>);

#[derive(Default)]
struct Token {
    is_given: loom::sync::Mutex<bool>,
    given: loom::sync::Condvar,
}

impl Thread {
    /// Lets the thread go on, or not sleep the next time.
    pub fn unpark(&self) {
        *self.0.is_given.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.given.notify_one();
    }
}

/// The thread that asks.
#[must_use]
pub fn current() -> Thread {
    CURRENT.with(Thread::clone)
}

/// Parks without an end to its patience, so that a lost wake-up is a deadlock, which loom reports.
pub fn park_timeout(_patience: Duration) {
    let Thread(token) = current();
    let mut is_given = token.is_given.lock().unwrap_or_else(PoisonError::into_inner);
    while !*is_given {
        is_given = token.given.wait(is_given).unwrap_or_else(PoisonError::into_inner);
    }
    *is_given = false;
}

/// [`std::sync::OnceLock`]: whoever gets the value sees what was written before it was set.
pub struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    is_set: AtomicBool,
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self { value: std::sync::OnceLock::new(), is_set: AtomicBool::new(false) }
    }
}

impl<T> OnceLock<T> {
    /// The value, if it is set.
    pub fn get(&self) -> Option<&T> {
        if self.is_set.load(Ordering::Acquire) { self.value.get() } else { None }
    }

    /// The value, which is set if it was not.
    pub fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
        let value = self.value.get_or_init(init);
        self.is_set.store(true, Ordering::Release);
        value
    }
}

/// `atomic_waker::AtomicWaker`: all registrations and wakes are in one order, and each sees what was written before
/// those that came before it.
#[derive(Default)]
pub struct AtomicWaker(loom::sync::Mutex<Option<Waker>>);

impl AtomicWaker {
    /// Nobody to wake.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on this one is woken.
    pub fn register(&self, waker: &Waker) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    /// Takes out who was to be woken.
    pub fn take(&self) -> Option<Waker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Wakes who is registered, once.
    pub fn wake(&self) {
        if let Some(waker) = self.take() {
            waker.wake();
        }
    }
}

/// `tokio::sync::Notify` with one task that waits: a notification that comes first is kept.
#[derive(Default)]
pub struct Notify(loom::sync::Mutex<(bool, Option<Waker>)>);

impl Notify {
    /// No notification.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the task that waits go on, or the next one that will.
    pub fn notify_one(&self) {
        let waker = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 = true;
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for a notification.
    pub async fn notified(&self) {
        poll_fn(|cx| {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::take(&mut state.0) {
                return Poll::Ready(());
            }
            state.1 = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// `rtrb::RingBuffer`: a push publishes what was written before it to whoever finds the slots filled, a pop does the
/// same to whoever finds them free, and each end remembers what it knows of the other one. That an end is gone is read
/// without any order, as rtrb's documentation warns.
pub struct RingBuffer<T> {
    items: Mutex<VecDeque<T>>,
    capacity: usize,
    pushed: AtomicUsize,
    popped: AtomicUsize,
    ends: AtomicUsize,
}

/// The end that pushes.
pub struct Producer<T> {
    ring: Arc<RingBuffer<T>>,
    pushed: usize,
    popped_known: usize,
}

/// The end that pops.
pub struct Consumer<T> {
    ring: Arc<RingBuffer<T>>,
    popped: usize,
    pushed_known: std::cell::Cell<usize>,
}

/// There is not enough room, or there are not enough items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingError;

impl<T> RingBuffer<T> {
    /// A ring of `capacity` items.
    #[expect(clippy::new_ret_no_self, reason = "rtrb's shape")]
    #[must_use]
    pub fn new(capacity: usize) -> (Producer<T>, Consumer<T>) {
        let ring = Arc::new(Self {
            items: Mutex::default(),
            capacity,
            pushed: AtomicUsize::new(0),
            popped: AtomicUsize::new(0),
            ends: AtomicUsize::new(2),
        });
        let producer = Producer { ring: Arc::clone(&ring), pushed: 0, popped_known: 0 };
        (producer, Consumer { ring, popped: 0, pushed_known: std::cell::Cell::new(0) })
    }

    /// Loom runs one thread at a time, and none is switched away from while it holds this lock.
    fn items(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self) {
        // A model that has failed is over, and its atomics with it.
        if !std::thread::panicking() {
            self.ends.fetch_sub(1, Ordering::Release);
        }
    }
}

impl<T> Producer<T> {
    fn has_room(&mut self, count: usize) -> bool {
        if self.pushed + count > self.popped_known + self.ring.capacity {
            self.popped_known = self.ring.popped.load(Ordering::Acquire);
        }
        self.pushed + count <= self.popped_known + self.ring.capacity
    }

    fn publish(&mut self, count: usize) {
        self.pushed += count;
        self.ring.pushed.store(self.pushed, Ordering::Release);
    }

    /// Pushes one item.
    ///
    /// # Errors
    ///
    /// There is no room.
    pub fn push(&mut self, item: T) -> Result<(), RingError> {
        if !self.has_room(1) {
            return Err(RingError);
        }
        self.ring.items().push_back(item);
        self.publish(1);
        Ok(())
    }

    /// Pushes all of them at once.
    ///
    /// # Errors
    ///
    /// There is no room for all.
    pub fn push_entire_slice(&mut self, slice: &[T]) -> Result<(), RingError>
    where
        T: Copy,
    {
        if !self.has_room(slice.len()) {
            return Err(RingError);
        }
        self.ring.items().extend(slice);
        self.publish(slice.len());
        Ok(())
    }
}

impl<T> Consumer<T> {
    fn has(&self, count: usize) -> bool {
        self.pushed_known.get() - self.popped >= count || self.slots() >= count
    }

    fn take<R>(&mut self, count: usize, take: impl FnOnce(std::collections::vec_deque::Drain<'_, T>) -> R) -> R {
        let taken = take(self.ring.items().drain(..count));
        self.popped += count;
        self.ring.popped.store(self.popped, Ordering::Release);
        taken
    }

    /// How many items there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.pushed_known.set(self.ring.pushed.load(Ordering::Acquire));
        self.pushed_known.get() - self.popped
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.has(1)
    }

    /// Takes the first item.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn pop(&mut self) -> Result<T, RingError> {
        if !self.has(1) {
            return Err(RingError);
        }
        self.take(1, |mut items| items.next()).ok_or(RingError)
    }

    /// Fills the slice with the first items.
    ///
    /// # Errors
    ///
    /// There are not so many, and none is taken.
    pub fn pop_entire_slice(&mut self, slice: &mut [T]) -> Result<(), RingError> {
        if !self.has(slice.len()) {
            return Err(RingError);
        }
        self.take(slice.len(), |items| slice.iter_mut().zip(items).for_each(|(place, item)| *place = item));
        Ok(())
    }

    /// The first items, to throw them away.
    ///
    /// # Errors
    ///
    /// There are not so many.
    pub fn read_chunk(&mut self, count: usize) -> Result<ReadChunk<'_, T>, RingError> {
        if self.has(count) { Ok(ReadChunk { consumer: self, count }) } else { Err(RingError) }
    }

    /// Whether the other end is gone.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.ring.ends.load(Ordering::Relaxed) < 2
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.ring.leave();
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.ring.leave();
    }
}

/// Items that are looked at.
pub struct ReadChunk<'a, T> {
    consumer: &'a mut Consumer<T>,
    count: usize,
}

impl<T> ReadChunk<'_, T> {
    /// Gives their places back.
    pub fn commit_all(self) {
        self.consumer.take(self.count, |items| drop(items));
    }
}
