//! One life of the server: the real executors' state, journal, drain and maintenance, without their threads.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Waker};

use forebay::config;
use forebay::ingress::core::{Core, Shared as Front};
use forebay::journal::catalogue::Catalogue;
use forebay::journal::directory::DirectoryError;
use forebay::journal::format::BATCH_HEADER_BYTES;
use forebay::journal::maintenance::Maintenance;
use forebay::journal::platform::Platform as _;
use forebay::journal::pool::Pool;
use forebay::journal::recovery::RecoveryError;
use forebay::journal::writer::{Turn, Writer};
use forebay::queue::{Health, Outlet, Queue};
use forebay::ring::{Bell, ring};
use forebay::server::StartError;
use forebay::server::recovered::{QueueStart, RecoveredQueue};
use tokio::sync::watch;

use crate::machine::Machine;
use crate::sink::{Connection, Shared};

const TICKET_SECRET: [u8; 16] = [9; 16];
const KEY_SECRET: [u8; 16] = [5; 16];

/// Sizes that do not change from start to start.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Bounds of the front door.
    pub limits: config::Ingress,
    pub commit_bytes_max: usize,
    pub segment_bytes: u64,
    pub hot_ring_bytes: usize,
    pub ring_bytes: usize,
    pub executors: usize,
    pub spare_segments: usize,
}

/// Why there is no process.
pub enum NoStart {
    /// The disk had an error that may pass.
    Passing,
    /// What is on the disk was refused.
    Refused(String),
}

/// What the journal's thread would be doing.
enum Journal {
    Awake,
    PausedUntil(u64),
    /// It has found nothing to do; it arms the bell and looks once more.
    FallingAsleep(usize),
    Asleep,
    Finished,
}

type Drain = Pin<Box<dyn Future<Output = ()>>>;

pub struct Process {
    machine: Machine,
    pub queues: Vec<Arc<Queue>>,
    pub catalogues: Vec<Arc<Catalogue>>,
    pub health: Arc<Health>,
    /// What each executor has; its end of the ring is gone once it has ended.
    pub cores: Vec<Rc<Core>>,
    bell: Arc<Bell>,
    writer: Writer<Machine>,
    journal: Journal,
    maintenance: Maintenance<Machine>,
    drains: Vec<Option<Drain>>,
    /// Dropping it would stop the drains.
    stop: watch::Sender<bool>,
}

impl Process {
    pub fn start(
        machine: &Machine,
        (site, epoch): (usize, u64),
        configs: &[config::Queue],
        sizes: &Sizes,
        database: &Shared,
    ) -> Result<Self, NoStart> {
        let names: Vec<_> = (0..configs.len()).map(queue_name).collect();
        let start = |(config, index): (&config::Queue, u16)| {
            let start = QueueStart {
                index,
                id: 100 + u64::from(index),
                name: &names[usize::from(index)],
                config,
                directory: PathBuf::from(format!("/data/queues/{index}")),
                epoch,
                ticket_secret: TICKET_SECRET,
                commit_bytes_max: sizes.commit_bytes_max,
            };
            RecoveredQueue::recover(machine.clone(), start).map_err(|error| no_start(&error))
        };
        let recovered = configs.iter().zip(0..).map(start).collect::<Result<Vec<_>, _>>()?;
        let pool = Pool::open(machine.clone(), &PathBuf::from("/data/pool"), sizes.segment_bytes, sizes.spare_segments);
        let pool = Arc::new(pool.map_err(|_| NoStart::Passing)?);
        // Without one the first segment is made when it is needed.
        let _ = pool.prepare();
        let queues: Vec<_> = recovered.iter().map(|recovered| Arc::clone(&recovered.queue)).collect();
        let catalogues = recovered.iter().map(|recovered| Arc::clone(&recovered.catalogue)).collect();
        let kept = recovered.iter().map(RecoveredQueue::kept).collect();
        let (bell, health): (Arc<Bell>, Arc<Health>) = (Arc::default(), Arc::default());
        let front = Front {
            queues: queues.clone().into(),
            limits: sizes.limits.clone(),
            frame_bytes_max: sizes.commit_bytes_max - BATCH_HEADER_BYTES,
            secret: KEY_SECRET,
            health: Arc::clone(&health),
            connections: Arc::default(),
            grace_ms: 0,
        };
        let in_flight_max = sizes.limits.in_flight_max;
        let (rings, journal_ends): (Vec<_>, Vec<_>) =
            (0..sizes.executors).map(|_| ring(sizes.ring_bytes, in_flight_max, Arc::clone(&bell))).unzip();
        let executors = rings.into_iter().map(|ring| Core::new(front.clone(), Arc::default(), ring)).collect();
        let (chores, chores_out) = mpsc::channel();
        let (stop, stopped) = watch::channel(false);
        let (logs, parts): (Vec<_>, Vec<_>) =
            recovered.into_iter().map(|recovered| recovered.split(sizes.hot_ring_bytes)).unzip();
        // Those of the main sinks first, and then those of the second ones, if there are any.
        let mut drains: Vec<Option<Drain>> = (0..2 * parts.len()).map(|_| None).collect();
        let count = parts.len();
        for (number, parts) in parts.into_iter().enumerate() {
            for (part, place) in parts.into_iter().zip([number, count + number]) {
                let known = (&part.queue, &part.outlet);
                let sink = Box::new(Connection::new(database, machine, (site, place), known));
                let open = sink.opener();
                drains[place] = Some(Box::pin(part.runner(sink, open, stopped.clone()).run()));
            }
        }
        let maintenance = Maintenance::new(machine.clone(), Arc::clone(&pool), kept, chores_out);
        let (bell_in, health_in) = (Arc::clone(&bell), Arc::clone(&health));
        let writer = Writer::new(machine.clone(), epoch, logs, journal_ends, bell_in, pool, health_in, chores).unwrap();
        Ok(Self {
            machine: machine.clone(),
            queues,
            catalogues,
            health,
            cores: executors,
            bell,
            writer,
            journal: Journal::Awake,
            maintenance,
            drains,
            stop,
        })
    }

    /// The journal's thread gets the processor for a moment; whether it did anything.
    pub fn run_journal(&mut self) -> bool {
        match self.journal {
            Journal::PausedUntil(time_ns) if self.machine.monotonic_ns() < time_ns => return false,
            Journal::Asleep if self.bell.is_armed() => return false,
            Journal::Finished => return false,
            Journal::FallingAsleep(finished) => {
                self.bell.arm();
                self.journal = Journal::Asleep;
                if self.writer.has_news(finished) {
                    self.bell.disarm();
                    self.journal = Journal::Awake;
                }
                return true;
            }
            Journal::Awake | Journal::PausedUntil(_) | Journal::Asleep => {}
        }
        self.journal = match self.writer.turn() {
            Turn::Again => Journal::Awake,
            Turn::Finished => Journal::Finished,
            Turn::Sleep(finished) => Journal::FallingAsleep(finished),
            Turn::Pause(pause) => {
                // Whatever wakes it earlier, or late: a pause may end at any moment.
                let longest_ns = u64::try_from(pause.longest.as_nanos()).unwrap();
                let pause_ns = self.machine.draw(|random| random.below(2 * longest_ns));
                Journal::PausedUntil(self.machine.monotonic_ns() + pause_ns)
            }
        };
        true
    }

    /// What the drain of a part is told and has done; `None` if its queue has no second sink.
    pub fn outlet(&self, part: usize) -> Option<&Arc<Outlet>> {
        match part.checked_sub(self.queues.len()) {
            None => Some(&self.queues[part].main),
            Some(queue) => self.queues[queue].others.first(),
        }
    }

    /// The drain of a part gets the processor for a moment.
    pub fn run_drain(&mut self, number: usize) {
        let mut context = Context::from_waker(Waker::noop());
        if let Some(drain) = &mut self.drains[number]
            && drain.as_mut().poll(&mut context).is_ready()
        {
            self.drains[number] = None;
        }
    }

    /// The executors begin a turn at the machine's time.
    pub fn begin_turn(&self) {
        let (monotonic_ns, unix_us) = (self.machine.monotonic_ns(), self.machine.unix_us());
        for core in &self.cores {
            core.clock.set(monotonic_ns, unix_us);
            core.look_for_stop();
        }
    }

    /// A stop is asked for.
    pub fn begin_stop(&self) {
        self.health.set_stopping();
        self.begin_turn();
    }

    /// The executors have answered everything and end.
    pub fn end_executors(&self) {
        self.cores.iter().for_each(|core| core.end());
        self.bell.ring();
    }

    /// Whether the journal has ended.
    pub fn is_journal_finished(&self) -> bool {
        matches!(self.journal, Journal::Finished)
    }

    /// The drains are asked to end.
    pub fn stop_drains(&mut self) {
        self.stop.send_replace(true);
    }

    /// Whether every drain has ended.
    pub fn are_drains_finished(&self) -> bool {
        self.drains.iter().all(Option::is_none)
    }

    pub fn run_maintenance(&mut self) {
        self.maintenance.turn();
    }
}

/// The name of the queue with this number; names are in the order of numbers.
pub fn queue_name(number: usize) -> String {
    format!("orders-{number}")
}

fn no_start(error: &StartError) -> NoStart {
    use forebay::drain::dead_letters::DeadLetterError;
    let io = match error {
        StartError::Recovery(RecoveryError::Io { error, .. })
        | StartError::Directory(DirectoryError::Io { error, .. })
        | StartError::DeadLetters(DeadLetterError::Io { error, .. })
        | StartError::System { error, .. } => Some(error),
        _ => None,
    };
    match io {
        Some(error) if error.raw_os_error().is_some() => NoStart::Passing,
        _ => NoStart::Refused(error.to_string()),
    }
}
