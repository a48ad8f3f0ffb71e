//! Sockets of one executor: non-blocking, with one epoll set for all of them.
//!
//! glommio's own streams ask `io_uring` for every single readiness, and its rings interrupt
//! the thread for every answer. Under thousands of connections that costs as much as the
//! requests do (`docs/decisions/0001-epoll-under-glommio.md` has the figures). One epoll
//! set tells of hundreds of connections with one system call and interrupts nobody.
//!
//! The set is edge-triggered: a socket is read until a read comes back short, and not
//! looked at again until the kernel reports something new. While anything is ready the
//! executor's [`run`](Net::run) task keeps its turn in the queue; when nothing is, it
//! waits for the set itself through glommio, and the thread sleeps.
//!
//! A socket has a task that waits for it, or it is **watched**: then its key is handed to the
//! [`Companion`] whenever something about it may have changed, which costs no task a turn.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_lite::AsyncRead;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::SocketFlags;
use rustix::time::Timespec;
use slab::Slab;
use socket2::Socket;

use crate::clock;

/// Sockets that one look at the set can report.
const EVENTS_MAX: usize = 512;
/// How long the executor keeps looking when nothing is ready any more, in nanoseconds. Going to sleep and
/// being woken costs as much, and under load the next request is nearer than that.
const SPIN_NS: u64 = 20_000;
/// The same while the [`Companion`] is busy: what it waits for will come within that time.
const SPIN_NS_BUSY: u64 = 300_000;
/// Connections that are accepted before others of the executor get a turn.
const ACCEPT_BATCH: u32 = 64;

/// The sockets of one executor.
pub struct Net {
    epoll: OwnedFd,
    sources: RefCell<Slab<Rc<Source>>>,
    events: RefCell<Vec<MaybeUninit<Event>>>,
}

/// What is known of one socket's readiness, and who waits for it.
struct Source {
    readable: Cell<bool>,
    /// The other side has closed: reads go on until they say so.
    hung_up: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
    watched: Cell<bool>,
}

/// What [`Net::run`] does besides waking tasks.
pub trait Companion {
    /// Another turn begins.
    fn begin_turn(&self);
    /// The watched socket with this key may be read or written again. It may be gone by now.
    fn socket_ready(&self, key: usize);
    /// Whether much is on its way, so that it is not worth while to go to sleep for a moment.
    fn is_busy(&self) -> bool;
    /// Does what has come up otherwise; returns whether there was anything.
    fn work(&self) -> bool;
    /// About to sleep: whatever comes up from now on must wake this task. Looks once more
    /// afterwards and returns whether there was anything.
    fn arm(&self, waker: &Waker) -> bool;
    /// Awake again.
    fn disarm(&self);
}

/// Sleeps until something else is ready or the companion wakes us.
pub async fn sleep_until(companion: &impl Companion, mut is_ready: impl FnMut(&mut Context<'_>) -> Poll<()>) {
    std::future::poll_fn(|cx| if companion.arm(cx.waker()) { Poll::Ready(()) } else { is_ready(cx) }).await;
    companion.disarm();
}

impl Net {
    /// An empty set.
    ///
    /// # Errors
    ///
    /// The process has too many open files.
    pub fn new() -> io::Result<Rc<Self>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let events = RefCell::new(vec![MaybeUninit::uninit(); EVENTS_MAX]);
        Ok(Rc::new(Self { epoll, sources: RefCell::default(), events }))
    }

    /// Wakes the tasks of ready sockets for as long as the executor runs. Never ends.
    pub async fn run(self: Rc<Self>, companion: impl Companion) {
        let mut awake_until_ns = 0;
        let mut watched = Vec::new();
        loop {
            companion.begin_turn();
            let ready = self.report_ready(&mut watched);
            watched.drain(..).for_each(|key| companion.socket_ready(key));
            let worked = companion.work();
            let now_ns = clock::monotonic_ns();
            if ready || worked {
                awake_until_ns = now_ns + if companion.is_busy() { SPIN_NS_BUSY } else { SPIN_NS };
            }
            if now_ns < awake_until_ns {
                futures_lite::future::yield_now().await;
            } else {
                self.sleep(&companion).await;
            }
        }
    }

    /// Wakes whoever waits for a socket that is ready, and lists those that are watched; returns whether
    /// there was one.
    fn report_ready(&self, watched: &mut Vec<usize>) -> bool {
        const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut events = self.events.borrow_mut();
        let sources = self.sources.borrow();
        let Ok((ready, _)) = epoll::wait(&self.epoll, events.as_mut_slice(), Some(&AT_ONCE)) else {
            // Interrupted by a signal: the next turn looks again.
            return true;
        };
        for event in ready.iter() {
            let key = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            // A socket that was closed a moment ago may still be reported.
            if let Some(source) = sources.get(key) {
                source.report(event.flags);
                if source.watched.get() {
                    watched.push(key);
                }
            }
        }
        !ready.is_empty()
    }

    /// Sleeps until a socket is ready or the companion wakes us.
    async fn sleep(&self, companion: &impl Companion) {
        let Ok(mut watch) = self.watch() else {
            // Without a descriptor to spare we look again and again; connections that end will free some.
            futures_lite::future::yield_now().await;
            return;
        };
        // What "reading" an epoll set gives is an error, and only once it is ready, which is all
        // that we want to know.
        sleep_until(companion, |cx| Pin::new(&mut watch).poll_read(cx, &mut [0]).map(|_| ())).await;
    }

    /// glommio waits for nothing but its own sources. A stream of it watches its descriptor from
    /// the moment it is made, so a stream over a duplicate of the set's descriptor is one.
    fn watch(&self) -> io::Result<glommio::net::TcpStream> {
        let duplicate = self.epoll.try_clone()?;
        // SAFETY: the duplicate is ours, and its ownership moves to the stream, which closes it.
        Ok(unsafe { glommio::net::TcpStream::from_raw_fd(duplicate.into_raw_fd()) })
    }

    fn add(self: &Rc<Self>, socket: &impl AsFd) -> io::Result<Registered> {
        let source = Rc::new(Source {
            readable: Cell::new(false),
            hung_up: Cell::new(false),
            reader: RefCell::new(None),
            writer: RefCell::new(None),
            watched: Cell::new(false),
        });
        let key = self.sources.borrow_mut().insert(Rc::clone(&source));
        let registered = Registered { net: Rc::clone(self), key, source };
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, socket, EventData::new_u64(key as u64), interest)?;
        Ok(registered)
    }
}

impl Source {
    fn report(&self, flags: EventFlags) {
        let ended = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        if ended {
            self.hung_up.set(true);
        }
        if ended || flags.contains(EventFlags::IN) {
            self.readable.set(true);
            if let Some(waker) = self.reader.borrow_mut().take() {
                waker.wake();
            }
        }
        if (ended || flags.contains(EventFlags::OUT))
            && let Some(waker) = self.writer.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

/// A socket's place in the set. The kernel takes the socket out when it is closed.
struct Registered {
    net: Rc<Net>,
    key: usize,
    source: Rc<Source>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.net.sources.borrow_mut().try_remove(self.key);
    }
}

/// A listening socket.
pub struct Listener {
    socket: Socket,
    place: Registered,
    accepted: u32,
}

impl Listener {
    /// Adds a listening socket to the set.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn new(net: &Rc<Net>, socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let place = net.add(&socket)?;
        Ok(Self { socket, place, accepted: 0 })
    }

    /// The next connection.
    ///
    /// # Errors
    ///
    /// The kernel has one and cannot give it to us, most likely for want of descriptors.
    pub async fn accept(&mut self) -> io::Result<Stream> {
        loop {
            self.accepted = self.accepted.wrapping_add(1);
            if self.accepted.is_multiple_of(ACCEPT_BATCH) {
                futures_lite::future::yield_now().await;
            }
            match rustix::net::accept_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => return Stream::new(&self.place.net, TcpStream::from(socket)),
                Err(rustix::io::Errno::AGAIN) => self.ready().await,
                // The client has gone before it was accepted.
                Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn ready(&self) {
        let source = &self.place.source;
        std::future::poll_fn(|cx| {
            if source.readable.replace(false) {
                return Poll::Ready(());
            }
            *source.reader.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A connection.
pub struct Stream {
    socket: TcpStream,
    place: Registered,
}

impl Stream {
    fn new(net: &Rc<Net>, socket: TcpStream) -> io::Result<Self> {
        let place = net.add(&socket)?;
        Ok(Self { socket, place })
    }

    /// The key that names this socket to the [`Companion`] while it is watched.
    #[must_use]
    pub fn key(&self) -> usize {
        self.place.key
    }

    /// From now on the companion is told of this socket, or no longer.
    pub fn watch(&self, watched: bool) {
        self.place.source.watched.set(watched);
    }

    /// Reads what has come; 0 is the end, and `None` that nothing has come.
    pub fn read_now(&mut self, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        let source = &self.place.source;
        while source.readable.get() {
            match self.socket.read(buffer) {
                Ok(length) => {
                    // A short read has emptied the socket (epoll(7)); what comes later is reported anew.
                    if length < buffer.len() && !source.hung_up.get() {
                        source.readable.set(false);
                    }
                    return Some(Ok(length));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => source.readable.set(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }

    /// Writes what the socket takes; `None` if it takes nothing now.
    pub fn write_now(&mut self, buffer: &[u8]) -> Option<io::Result<usize>> {
        loop {
            match self.socket.write(buffer) {
                Ok(length) => return Some(Ok(length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// As [`read_now`](Self::read_now), for a task that waits.
    pub fn poll_read(&mut self, cx: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.read_now(buffer).map_or_else(|| wait(&self.place.source.reader, cx), Poll::Ready)
    }

    /// As [`write_now`](Self::write_now), for a task that waits.
    pub fn poll_write(&mut self, cx: &Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.write_now(buffer).map_or_else(|| wait(&self.place.source.writer, cx), Poll::Ready)
    }

    /// Says that nothing more will be written.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub fn shutdown(&self) -> io::Result<()> {
        self.socket.shutdown(std::net::Shutdown::Write)
    }
}

fn wait<T>(waiter: &RefCell<Option<Waker>>, cx: &Context<'_>) -> Poll<T> {
    let mut waiter = waiter.borrow_mut();
    if !waiter.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
        *waiter = Some(cx.waker().clone());
    }
    Poll::Pending
}
