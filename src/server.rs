//! The one place that knows all stages: recovers, starts the threads, stops them in order.
//!
//! Start: data directory, recovery, executors (before other threads, as glommio asks),
//! journal, drain, admin. Stop: executors (nothing new is accepted and everything accepted
//! is answered), journal (everything is on disk), drain (its last transaction is decided),
//! maintenance (the cursor is stored).

pub mod recovered;
mod watchdog;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use glommio::ExecutorJoinHandle;
use rustix::thread::CpuSet;
use tokio::sync::watch;

use crate::admin;
use crate::config::{Config, Listener};
use crate::control::Control;
use crate::drain::dead_letters::DeadLetterError;
use crate::drain::runner::Runner;
use crate::ingress::core::{Shared, announce_stop};
use crate::ingress::counters::Counters;
use crate::ingress::listen::{self, ListenError};
use crate::ingress::{Door, Executor, ExecutorError};
use crate::journal::directory::{DataDirectory, DirectoryError};
use crate::journal::format::BATCH_HEADER_BYTES;
use crate::journal::maintenance::{Chore, Maintenance};
use crate::journal::platform::{Platform as _, System};
use crate::journal::pool::Pool;
use crate::journal::recovery::RecoveryError;
use crate::journal::writer::{QueueLog, Writer};
use crate::limits::EXECUTORS_MAX;
use crate::metrics::Sources;
use crate::queue::{Health, Queue};
use crate::ring::{Bell, IngressEnd, JournalEnd, ring};
use crate::sink::{self, Part, Subpart};
use crate::sync::{AtomicUsize, AtomicWaker};
use crate::{config, scheduling};

use self::recovered::{DrainParts, QueueStart, RecoveredQueue};
use self::watchdog::Watchdog;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A queue's segments.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// A queue's dead letters.
    #[error(transparent)]
    DeadLetters(#[from] DeadLetterError),
    /// An address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// An executor.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// Anything else that the system refused.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

fn system(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |error| StartError::System { what, error }
}

/// A running server.
pub struct Server {
    addresses: Vec<(Listener, SocketAddr)>,
    admin_address: SocketAddr,
    health: Arc<Health>,
    bell: Arc<Bell>,
    wakers: Vec<Arc<AtomicWaker>>,
    executors: Vec<ExecutorJoinHandle<()>>,
    journal: JoinHandle<()>,
    drain: JoinHandle<()>,
    stop_drain: watch::Sender<bool>,
    maintenance: JoinHandle<()>,
    /// Keeps the maintenance thread alive until the drain has ended.
    chores: mpsc::Sender<Chore>,
    control: Arc<Control>,
    /// Held until everything has stopped.
    _directory: DataDirectory,
}

impl Server {
    /// Recovers what the data directory holds and starts everything.
    ///
    /// # Errors
    ///
    /// The process must end then. No segment has been changed.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let directory = DataDirectory::open(&config.data_dir)?;
        let journal = &config.journal;
        let recovered = config
            .queues
            .iter()
            .zip(0_u16..)
            .map(|((name, queue), index)| recover_queue(&directory, config, index, name, queue))
            .collect::<Result<Vec<_>, _>>()?;
        let pool = Pool::open(System, &directory.pool(), journal.segment_bytes, journal.spare_segments);
        let pool = Arc::new(pool.map_err(system("the pool of spare segments"))?);
        if let Err(error) = pool.prepare() {
            tracing::warn!(%error, "no spare segment could be prepared; the first ones will be slower to sync");
        }
        directory.count_start()?;
        let queues: Arc<[Arc<Queue>]> = recovered.iter().map(|r| Arc::clone(&r.queue)).collect();
        let health = Arc::new(Health::default());
        let cpus = executor_cpus(config.ingress.executors);
        let others = cpus_without(&cpus);
        let (addresses, doors) = open_doors(&config.listeners, cpus.len())?;
        let admin_failed = |error| ListenError { address: config.admin.address, error };
        let admin = admin::bind(config.admin.address).map_err(admin_failed)?;
        let admin_address = admin.local_addr().map_err(admin_failed)?;

        let bell = Arc::new(Bell::default());
        let (ingress_ends, journal_ends): (Vec<_>, Vec<_>) =
            cpus.iter().map(|_| ring(journal.ring_bytes, config.ingress.in_flight_max, Arc::clone(&bell))).unzip();
        let wakers = ingress_ends.iter().map(IngressEnd::waker).collect();
        let shared = Shared {
            queues: Arc::clone(&queues),
            limits: config.ingress.clone(),
            frame_bytes_max: journal.commit_bytes_max - BATCH_HEADER_BYTES,
            secret: directory.identity.idempotency_secret,
            health: Arc::clone(&health),
            connections: Arc::new(AtomicUsize::new(0)),
            grace_ms: config.shutdown.grace_ms,
        };
        let counters: Vec<Arc<Counters>> = cpus.iter().map(|_| Arc::default()).collect();
        watchdog::catch_signal().map_err(system("the handler of the signal that wakes executors"))?;
        let watchdog = Watchdog::new(cpus.iter().copied().zip(counters.iter().cloned()), Arc::clone(&health));
        let mut executors = Vec::new();
        for (((cpu, doors), ring), counters) in cpus.into_iter().zip(doors).zip(ingress_ends).zip(&counters) {
            let executor = Executor { cpu, doors, ring, shared: shared.clone(), counters: Arc::clone(counters) };
            executors.push(executor.start()?);
        }

        let (chores, chores_out) = mpsc::channel();
        let controlled = recovered.iter().flat_map(RecoveredQueue::controlled).collect();
        let control = Arc::new(Control::new(controlled, config.clone()));
        let kept = recovered.iter().map(RecoveredQueue::kept).collect();
        let maintenance = Maintenance::new(System, Arc::clone(&pool), kept, chores_out);
        let maintenance = spawn("maintenance", &others, move || maintenance.run())?;
        let (logs, drains): (_, Vec<_>) =
            recovered.into_iter().map(|queue| queue.split(journal.hot_ring_bytes)).unzip();
        let drains = drains.into_iter().flatten().collect();
        let writer = WriterParts {
            epoch: directory.epoch,
            logs,
            rings: journal_ends,
            bell: Arc::clone(&bell),
            pool,
            health: Arc::clone(&health),
            chores: chores.clone(),
        };
        let journal = start_writer(writer, &others)?;
        let (stop_drain, stop) = watch::channel(false);
        let drain = start_drain(drains, &directory, &config.data_dir, &stop)?;
        let sources = Sources { queues, executors: counters, health: Arc::clone(&health) };
        start_admin(admin, sources, Arc::clone(&control), watchdog, &others)?;
        Ok(Self {
            addresses,
            admin_address,
            health,
            bell,
            wakers,
            executors,
            journal,
            drain,
            stop_drain,
            maintenance,
            chores,
            control,
            _directory: directory,
        })
    }

    /// Where it listens: each listener of the configuration and the address that it got.
    #[must_use]
    pub fn addresses(&self) -> &[(Listener, SocketAddr)] {
        &self.addresses
    }

    /// Changes queues while they run.
    #[must_use]
    pub fn control(&self) -> Arc<Control> {
        Arc::clone(&self.control)
    }

    /// Where the admin address is.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Stops in order: see the module. Returns whether every thread ended as it should.
    #[must_use]
    pub fn stop(self) -> bool {
        announce_stop(&self.health, &self.wakers);
        let mut clean = true;
        for executor in self.executors {
            clean &= executor.join().is_ok();
        }
        // The executors' ends of the rings are gone; the journal notices when it is woken.
        self.bell.ring();
        clean &= self.journal.join().is_ok();
        self.stop_drain.send_replace(true);
        clean &= self.drain.join().is_ok();
        drop(self.chores);
        clean &= self.maintenance.join().is_ok();
        clean
    }
}

/// The cores for the executors: as many as asked for, or all but one, which is left to the
/// journal.
fn executor_cpus(asked: usize) -> Vec<usize> {
    // A container may give us any of the machine's cores; only those may be pinned to.
    let ours = rustix::thread::sched_getaffinity(None).unwrap_or_default();
    let mut cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| ours.is_set(*cpu)).collect();
    if cores.is_empty() {
        cores.push(0);
    }
    let count = if asked == 0 { (cores.len() - 1).max(1) } else { asked };
    (0..count.min(EXECUTORS_MAX)).map(|number| cores[number % cores.len()]).collect()
}

type Doors = Vec<Vec<Door>>;

/// Binds every listener once for each executor.
fn open_doors(listeners: &[Listener], executors: usize) -> Result<(Vec<(Listener, SocketAddr)>, Doors), ListenError> {
    let mut addresses = Vec::new();
    let mut doors: Doors = (0..executors).map(|_| Vec::new()).collect();
    for listener in listeners {
        let (address, sockets) = listen::bind(listener.address, executors)?;
        for (doors, socket) in doors.iter_mut().zip(sockets) {
            doors.push(Door { socket, protocol: listener.protocol, queue: listener.queue.clone() });
        }
        addresses.push((listener.clone(), address));
    }
    Ok((addresses, doors))
}

fn recover_queue(
    directory: &DataDirectory,
    config: &Config,
    index: u16,
    name: &str,
    queue: &config::Queue,
) -> Result<RecoveredQueue, StartError> {
    let start = QueueStart {
        index,
        id: directory.identity.queue_id(name),
        name,
        config: queue,
        directory: directory.queue(name)?,
        epoch: directory.epoch,
        ticket_secret: directory.identity.ticket_secret,
        commit_bytes_max: config.journal.commit_bytes_max,
    };
    RecoveredQueue::recover(System, start)
}

/// Starts a thread that leaves the executors' cores to them, as far as there are others.
fn spawn(name: &str, cpus: &CpuSet, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    let cpus = *cpus;
    let pinned = move || {
        if cpus.count() > 0
            && let Err(error) = rustix::thread::sched_setaffinity(None, &cpus)
        {
            tracing::debug!(%error, "a thread may run on the executors' cores");
        }
        run();
    };
    thread::Builder::new().name(name.to_owned()).spawn(pinned).map_err(system("a thread"))
}

/// The cores that this process may use and no executor is pinned to; empty if there are none.
fn cpus_without(executors: &[usize]) -> CpuSet {
    let mut cpus = rustix::thread::sched_getaffinity(None).unwrap_or_default();
    for cpu in executors {
        cpus.unset(*cpu);
    }
    cpus
}

struct WriterParts {
    epoch: u64,
    logs: Vec<QueueLog>,
    rings: Vec<JournalEnd>,
    bell: Arc<Bell>,
    pool: Arc<Pool>,
    health: Arc<Health>,
    chores: mpsc::Sender<Chore>,
}

/// Starts the journal thread and waits until it has its `io_uring`.
fn start_writer(parts: WriterParts, cpus: &CpuSet) -> Result<JoinHandle<()>, StartError> {
    let (started_in, started) = mpsc::channel();
    let thread = spawn("journal", cpus, move || {
        let WriterParts { epoch, logs, rings, bell, pool, health, chores } = parts;
        match Writer::new(System, epoch, logs, rings, bell, pool, health, chores) {
            Ok(writer) => {
                scheduling::run_promptly_and_first();
                let _ = started_in.send(Ok(()));
                writer.run();
            }
            Err(error) => drop(started_in.send(Err(error))),
        }
    })?;
    let ended = || Err(io::Error::other("the journal thread ended at once"));
    started.recv().unwrap_or_else(|_| ended()).map_err(system("the journal's io_uring"))?;
    Ok(thread)
}

fn current_thread_runtime() -> Result<tokio::runtime::Runtime, StartError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("a tokio runtime"))
}

fn start_drain(
    drains: Vec<DrainParts>,
    directory: &DataDirectory,
    data_dir: &std::path::Path,
    stop: &watch::Receiver<bool>,
) -> Result<JoinHandle<()>, StartError> {
    let runtime = current_thread_runtime()?;
    let runners = drains
        .into_iter()
        .map(|parts| {
            let (queue, outlet) = (&parts.queue.name, &parts.outlet);
            let reorders = outlet.config.ordering.is_reordering();
            let id = directory.identity.part(queue, outlet.name.as_deref());
            let random = System.random().map_err(system("random numbers"))?;
            let part = Part::new(queue.clone(), outlet.name.clone(), id, reorders, random);
            let (config, data_dir) = (outlet.config.sink.clone(), data_dir.to_owned());
            let sink = sink::open(&config, part.clone(), &data_dir);
            let open = Box::new(move |subpart: Subpart<'_>| sink::open(&config, part.subpart(subpart), &data_dir));
            Ok(parts.runner(sink, open, stop.clone()))
        })
        .collect::<Result<Vec<Runner>, StartError>>()?;
    // It is not kept off the executors' cores: while nothing comes in, these are free, and a database on this machine may want
    // the others.
    spawn("drain", &CpuSet::new(), move || {
        // A departure that is late for want of a core is lost for good: making it up would break the rate.
        scheduling::run_promptly();
        let local = tokio::task::LocalSet::new();
        let tasks: Vec<_> = runners.into_iter().map(|runner| local.spawn_local(runner.run())).collect();
        local.block_on(&runtime, async {
            for task in tasks {
                if let Err(error) = task.await {
                    tracing::error!(%error, "a drain ended unexpectedly");
                }
            }
        });
    })
}

fn start_admin(
    listener: std::net::TcpListener,
    sources: Sources,
    control: Arc<Control>,
    watchdog: Watchdog,
    cpus: &CpuSet,
) -> Result<(), StartError> {
    let runtime = current_thread_runtime()?;
    let serve = async move {
        if let Err(error) = admin::serve(listener, Arc::new(sources), control).await {
            tracing::error!(%error, "the admin address is no longer served");
        }
    };
    // It has nothing to finish, so it ends with the process. The watchdog is still there while the executors stop.
    spawn("admin", cpus, move || {
        runtime.block_on(async { tokio::join!(serve, watchdog.run()) });
    })?;
    Ok(())
}
