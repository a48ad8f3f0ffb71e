//! One executor: accepts, serves, acknowledges, and ends in order.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::{ExecutorJoinHandle, Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};
use socket2::Socket;

use super::connection::ConnectionState;
use super::core::{Core, Shared};
use super::counters::Counters;
use super::http::FastPath;
use super::net::{Listener, Net, Stream};
use crate::config::Protocol;
use crate::queue::Queue;
use crate::ring::IngressEnd;

/// How often overdue connections are looked for, and the watchdog is shown that the executor is awake.
const TICK: Duration = Duration::from_millis(250);
/// The same while the executor is stopping and waits for its last connections.
const STOPPING_TICK: Duration = Duration::from_millis(5);
/// How long connections that were told to close are waited for, in milliseconds; a task only has to be polled.
const CLOSING_MS_MAX: u64 = 1000;
/// How long no connection is accepted after the kernel refused one, most likely for want of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long ready tasks may keep glommio from its timers and rings. If the timer for that runs out before the first task
/// has run, because the thread lost its core just then, glommio 0.9 goes to sleep over tasks that are ready, and no task
/// of ours wakes it. A machine with more to do than cores takes a core away for its usual 10 ms often, and hardly
/// ever for so long; then the watchdog wakes it (`docs/decisions/0017-a-watchdog-wakes-executors.md`).
const PREEMPTION_INTERVAL: Duration = Duration::from_secs(1);
/// Locked memory of an executor's rings, in bytes; glommio registers it with the kernel.
const IO_MEMORY_BYTES: usize = 512 * 1024;
/// What a client is told that comes when there are too many connections.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A listening socket and what is spoken there.
pub struct Door {
    /// Bound and listening.
    pub socket: Socket,
    /// What is spoken.
    pub protocol: Protocol,
    /// The queue whose records requests are as they come; `None` where the paths of the API are served.
    pub queue: Option<String>,
}

/// What one executor is made of.
pub struct Executor {
    /// Its number, and the core that it is pinned to.
    pub cpu: usize,
    /// Its own listening sockets.
    pub doors: Vec<Door>,
    /// Its end of the ring.
    pub ring: IngressEnd,
    /// What all executors are given.
    pub shared: Shared,
    /// What it counts.
    pub counters: Arc<Counters>,
}

/// Why an executor did not start.
#[derive(Debug, thiserror::Error)]
#[error(
    "an executor could not start on core {cpu}: {error}. It needs io_uring (kernel 5.15 or newer, not blocked by a \
     container's seccomp profile nor by kernel.io_uring_disabled) and {} KiB of locked memory (ulimit -l)",
    IO_MEMORY_BYTES / 1024
)]
pub struct ExecutorError {
    cpu: usize,
    error: String,
}

impl Executor {
    /// Starts the executor on a thread of its own.
    ///
    /// # Errors
    ///
    /// The kernel refuses `io_uring` or locked memory, or there is no such core.
    pub fn start(self) -> Result<ExecutorJoinHandle<()>, ExecutorError> {
        let cpu = self.cpu;
        LocalExecutorBuilder::new(Placement::Fixed(cpu))
            .name(&format!("ingress-{cpu}"))
            .io_memory(IO_MEMORY_BYTES)
            .preempt_timer(PREEMPTION_INTERVAL)
            .spawn(move || self.run())
            .map_err(|error| ExecutorError { cpu, error: error.to_string() })
    }

    async fn run(self) {
        let grace_ms = self.shared.grace_ms;
        let core = Core::new(self.shared, self.counters, self.ring);
        // A queue that does not say that latency matters may be woken from another thread only after that interval.
        let tasks =
            glommio::executor().create_task_queue(Shares::default(), Latency::Matters(PREEMPTION_INTERVAL), "http");
        let net = match Net::new() {
            Ok(net) => net,
            Err(error) => {
                tracing::error!(%error, "an executor could not make its epoll set");
                return;
            }
        };
        let http = FastPath::new(Rc::clone(&core), tasks);
        let doors: Vec<_> = self
            .doors
            .into_iter()
            .filter_map(|door| spawn(accept(Rc::clone(&core), Rc::clone(&http), Rc::clone(&net), door), tasks))
            .collect();
        let sockets = spawn(Rc::clone(&net).run(Rc::clone(&http)), tasks);
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        core.counters.pulse.thread.set(u64::from(thread.unsigned_abs()));
        while !core.is_stopping() {
            futures_lite::future::or(core.stop_begun(), glommio::timer::sleep(TICK)).await;
            core.tick();
            http.tick();
        }
        for door in doors {
            door.cancel().await;
        }
        let deadline_ms = core.clock.monotonic_ms().saturating_add(grace_ms);
        while core.connections() > 0 && core.clock.monotonic_ms() < deadline_ms {
            glommio::timer::sleep(STOPPING_TICK).await;
            core.tick();
            http.tick();
        }
        if core.connections() > 0 {
            tracing::warn!(connections = core.connections(), "connections were still open at the end of grace_ms");
        }
        core.end();
        while core.connections() > 0 && core.clock.monotonic_ms() < deadline_ms.saturating_add(CLOSING_MS_MAX) {
            glommio::timer::sleep(STOPPING_TICK).await;
            core.tick();
            http.tick();
        }
        if let Some(sockets) = sockets {
            sockets.cancel().await;
        }
        core.counters.pulse.thread.set(0);
    }
}

fn spawn<T: 'static>(task: impl Future<Output = T> + 'static, queue: TaskQueueHandle) -> Option<glommio::Task<T>> {
    // The queue was made a moment ago and is never removed.
    glommio::spawn_local_into(task, queue).ok()
}

/// Accepts until it is cancelled.
async fn accept(core: Rc<Core>, http: Rc<FastPath>, net: Rc<Net>, door: Door) {
    // The configuration has no listener for a queue that there is not.
    let taker = door.queue.and_then(|name| core.queue(&name).cloned());
    let mut listener = match Listener::new(&net, door.socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a listening socket could not be used");
            return;
        }
    };
    loop {
        match listener.accept().await {
            Ok(stream) => serve(&core, &http, stream, door.protocol, taker.clone()),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted; raise the limit of open files (ulimit -n)?");
                glommio::timer::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Hands a connection to whoever speaks its protocol, or turns it away if there are too many.
fn serve(core: &Rc<Core>, http: &FastPath, mut stream: Stream, protocol: Protocol, taker: Option<Arc<Queue>>) {
    let state = ConnectionState::new(core);
    let Some(connected) = core.add_connection(&state) else {
        core.counters.turned_away.add(1);
        // The client may have gone already; it is turned away either way.
        let _ = stream.write_now(TOO_MANY);
        return;
    };
    match (protocol, taker) {
        (Protocol::Http, None) => http.add(stream, state, connected),
        (Protocol::Http, Some(queue)) => http.pass_by(stream, state, connected, queue),
    }
}
