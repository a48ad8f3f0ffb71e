//! A TCP proxy between forebay and a server, which can be slow, deaf, or gone at a chosen moment of the conversation.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::server::PATIENCE;
use crate::station::Moment;

const CHUNK_BYTES: usize = 64 * 1024;

/// What happens at the moment of a trap, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing from there on goes through in that direction, until it is released.
    Hold,
    /// The connection is cut, and nothing from there on has gone through in that direction.
    Cut,
}

/// A running proxy; dropping it cuts all connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<thread::JoinHandle<()>>,
}

struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_ended: bool,
    answer_delay: Duration,
    trap: Option<(Moment, Act)>,
    is_sprung: bool,
    connections: Vec<Arc<Connection>>,
}

/// Both ends of one connection.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// Whether the request of the trap has gone through here.
    is_requested: Mutex<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Answers,
}

impl Proxy {
    /// Takes connections for a server.
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { upstream, state: Mutex::default(), changed: Condvar::new() });
        let accepting = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for client in listener.incoming().map_while(Result::ok) {
                    if shared.state().is_ended {
                        break;
                    }
                    // Without a server there is no connection either.
                    if let Ok(server) = TcpStream::connect(shared.upstream) {
                        shared.join(client, server);
                    }
                }
            })
        };
        Self { address, shared, accepting: Some(accepting) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets every piece of an answer wait so long from here on.
    pub fn delay_answers(&self, delay: Duration) {
        self.shared.state().answer_delay = delay;
        self.shared.changed.notify_all();
    }

    /// Cuts all connections; new ones are taken.
    pub fn cut(&self) {
        self.shared.state().connections.drain(..).for_each(|connection| connection.cut());
    }

    /// Waits for a moment of the conversation, on whichever connection it comes first.
    pub fn set_trap(&self, moment: Moment, act: Act) {
        let mut state = self.shared.state();
        assert!(state.trap.is_none(), "there is a trap already");
        for connection in &state.connections {
            *connection.is_requested() = false;
        }
        (state.trap, state.is_sprung) = (Some((moment, act)), false);
    }

    /// Waits until the moment has come and what was to happen has happened.
    pub fn until_sprung(&self) {
        let (state, waited) =
            self.shared.changed.wait_timeout_while(self.shared.state(), PATIENCE, |state| !state.is_sprung).unwrap();
        assert!(!waited.timed_out(), "{:?} did not come", state.trap);
    }

    /// Lets go what is held.
    pub fn release(&self) {
        self.shared.state().trap = None;
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.is_ended = true;
            state.trap = None;
            state.connections.drain(..).for_each(|connection| connection.cut());
        }
        self.shared.changed.notify_all();
        // Whoever waits for a connection has to get one to see that it is over.
        if TcpStream::connect(self.address).is_ok()
            && let Some(accepting) = self.accepting.take()
        {
            let _ = accepting.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let _ = client.set_nodelay(true).and(server.set_nodelay(true));
        let connection = Arc::new(Connection { client, server, is_requested: Mutex::new(false) });
        self.state().connections.push(Arc::clone(&connection));
        for direction in [Direction::Requests, Direction::Answers] {
            let (shared, connection) = (Arc::clone(self), Arc::clone(&connection));
            thread::spawn(move || {
                shared.pass(&connection, direction);
                connection.cut();
                shared.state().connections.retain(|other| !Arc::ptr_eq(other, &connection));
            });
        }
    }

    /// Passes bytes on in one direction until the connection ends.
    fn pass(&self, connection: &Connection, direction: Direction) -> Option<()> {
        let (mut from, mut to) = match direction {
            Direction::Requests => (&connection.client, &connection.server),
            Direction::Answers => (&connection.server, &connection.client),
        };
        let mut chunk = vec![0; CHUNK_BYTES];
        // The end of what has gone through: a needle may come in two pieces.
        let mut tail = Vec::new();
        loop {
            let length = from.read(&mut chunk).ok().filter(|length| *length > 0)?;
            let chunk = &chunk[..length];
            if direction == Direction::Answers {
                self.wait_before_answer();
            }
            let (free, act) = self.look(connection, direction, &tail, chunk);
            to.write_all(&chunk[..free]).ok()?;
            if let Some(act) = act {
                self.spring(connection, act)?;
            }
            to.write_all(&chunk[free..]).ok()?;
            tail.extend_from_slice(chunk);
            let kept = tail.len().min(CHUNK_BYTES);
            tail.drain(..tail.len() - kept);
        }
    }

    /// How much of a chunk goes through before something happens, and what that is.
    fn look(&self, connection: &Connection, direction: Direction, tail: &[u8], chunk: &[u8]) -> (usize, Option<Act>) {
        let nothing = (chunk.len(), None);
        let state = self.state();
        let Some((moment, act)) = state.trap.filter(|_| !state.is_sprung) else { return nothing };
        let mut is_requested = connection.is_requested();
        let begin = match (direction, moment.answer) {
            (Direction::Requests, None) => begin_in(moment.request, tail, chunk),
            (Direction::Requests, Some(_)) => {
                *is_requested |= begin_in(moment.request, tail, chunk).is_some();
                None
            }
            // Answers of before the request are not looked at, so none can begin in the tail.
            (Direction::Answers, Some(answer)) if *is_requested => begin_in(answer, &[], chunk),
            (Direction::Answers, _) => None,
        };
        begin.map_or(nothing, |begin| (begin, Some(act)))
    }

    /// `None` if the connection has ended.
    fn spring(&self, connection: &Connection, act: Act) -> Option<()> {
        let mut state = self.state();
        if act == Act::Cut {
            state.trap = None;
            connection.cut();
        }
        state.is_sprung = true;
        self.changed.notify_all();
        if act == Act::Cut {
            return None;
        }
        drop(self.changed.wait_while(state, |state| state.trap.is_some()).unwrap_or_else(PoisonError::into_inner));
        Some(())
    }

    fn wait_before_answer(&self) {
        let state = self.state();
        let delay = state.answer_delay;
        let is_same = |state: &mut State| state.answer_delay == delay && !state.is_ended;
        if !delay.is_zero() {
            drop(self.changed.wait_timeout_while(state, delay, is_same));
        }
    }
}

impl Connection {
    fn is_requested(&self) -> MutexGuard<'_, bool> {
        self.is_requested.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        // It may have ended already.
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}

/// Where in `chunk`, behind `tail`, a needle begins that ends in it; 0 if it begins before.
fn begin_in(needle: &[u8], tail: &[u8], chunk: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return Some(0);
    }
    let before = tail.len().min(needle.len() - 1);
    let both = [&tail[tail.len() - before..], chunk].concat();
    let begin = both.windows(needle.len()).position(|window| window == needle)?;
    Some(begin.saturating_sub(before))
}

#[test]
fn a_needle_is_found_across_two_pieces() {
    assert_eq!(begin_in(b"COMMIT", b"xxCOM", b"MIT;"), Some(0));
    assert_eq!(begin_in(b"COMMIT", b"xx", b"..COMMIT;"), Some(2));
    assert_eq!(begin_in(b"COMMIT", b"COMMIT", b"COMMI"), None);
    assert_eq!(begin_in(b"", b"", b"x"), Some(0));
}
