//! The closed loop of everything that is not HTTP.
//!
//! Connections are opened before the clock starts: what a protocol takes to say hello is not compared, and PostgreSQL
//! would pay for 256 new processes in every round.

use super::{Measured, RoundPlan, WireError};
use crate::engine::latency_histogram;
use crate::order::{MAX_RECORDS, RunId, write_order};
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long opening all connections of a thread may take.
const OPEN_TIMEOUT: Duration = Duration::from_mins(1);
/// How long after the last request was started its answer may take. One timer for all of a thread's requests, because
/// one for each would be work that the protocol does not ask for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The orders are those of the HTTP peers.
const SEED: u64 = 1;

/// One of the clients that load a server: a connection, or a channel of one.
pub trait Client: Sized + Send + 'static {
    /// Opens `count` clients.
    fn open(port: u16, count: usize) -> impl Future<Output = Result<Vec<Self>, WireError>> + Send;

    /// Sends one order and waits until the server acknowledges it.
    fn publish(&mut self, order: &[u8]) -> impl Future<Output = Result<(), WireError>> + Send;

    /// Makes what orders are published to, unless it is there.
    fn prepare(port: u16) -> impl Future<Output = Result<(), WireError>> + Send;

    /// Counts the orders that the server holds.
    fn held(port: u16) -> impl Future<Output = Result<u64, WireError>> + Send;
}

/// What all workers of a round share.
struct Round {
    port: u16,
    duration: Duration,
    run: RunId,
    next: AtomicU64,
}

/// One thread's share of what is measured.
struct Tally {
    offered: u64,
    acknowledged: u64,
    last_acknowledged: Duration,
    latency_us: Histogram<u64>,
    failure: Option<String>,
}

pub fn run<C: Client>(port: u16, plan: &RoundPlan) -> Result<Measured, WireError> {
    let threads = plan.threads.min(plan.connections).max(1);
    let round = Round { port, duration: plan.duration, run: RunId::random(), next: AtomicU64::new(0) };
    let round = Arc::new(round);
    thread::scope(|scope| {
        let (opened, openings) = channel();
        let mut starts = Vec::with_capacity(threads);
        let mut handles = Vec::with_capacity(threads);
        for number in 0..threads {
            // The first threads take one connection more when they don't divide evenly.
            let count = plan.connections / threads + usize::from(number < plan.connections % threads);
            let (start, starting) = channel();
            let (round, opened) = (round.clone(), opened.clone());
            starts.push(start);
            let thread = thread::Builder::new().name(format!("load-{number}"));
            // Returning early drops `starts`, on which the threads that already run wait, so they end.
            handles.push(thread.spawn_scoped(scope, move || run_thread::<C>(count, &round, &opened, &starting))?);
        }
        drop(opened);
        // Threads that could not open their connections have gone without a word here; their error comes below.
        if openings.iter().take(threads).count() == threads {
            let now = Instant::now();
            for start in &starts {
                // A thread that has gone meanwhile is reported by its join.
                let _ = start.send(now);
            }
        }
        drop(starts);
        let mut total = Tally::new()?;
        for handle in handles {
            total.merge(handle.join().unwrap_or(Err(WireError::WorkerPanicked))?);
        }
        Ok(total.measured())
    })
}

/// Opens the connections of one thread, says so, and loads the server from the instant that it is told.
fn run_thread<C: Client>(
    count: usize,
    round: &Arc<Round>,
    opened: &Sender<()>,
    starting: &Receiver<Instant>,
) -> Result<Tally, WireError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let tally = Arc::new(Mutex::new(Tally::new()?));
    let ended: Result<(), WireError> = runtime.block_on(async {
        let opening = timeout(OPEN_TIMEOUT, C::open(round.port, count)).await;
        let clients = opening.map_err(|_| WireError::Timeout(OPEN_TIMEOUT))??;
        // Nobody listens once the round has been given up, and then there is no start either.
        let _ = opened.send(());
        let Ok(start) = starting.recv() else { return Ok(()) };
        let mut workers = JoinSet::new();
        for client in clients {
            workers.spawn(work(client, round.clone(), tally.clone(), start));
        }
        let all = async {
            while let Some(joined) = workers.join_next().await {
                joined.map_err(|_| WireError::WorkerPanicked)?;
            }
            Ok(())
        };
        timeout(round.duration + ANSWER_TIMEOUT, all).await.unwrap_or_else(|_| {
            lock(&tally).failed(&WireError::Timeout(ANSWER_TIMEOUT));
            Ok(())
        })
    });
    ended?;
    // Dropping the runtime drops every worker that was given up, so the tally has no other owner left.
    drop(runtime);
    let empty = Tally::new()?;
    Ok(std::mem::replace(&mut *lock(&tally), empty))
}

/// The loop of one client. It ends with the first failure, since a round with any is of no use.
async fn work<C: Client>(mut client: C, round: Arc<Round>, tally: Arc<Mutex<Tally>>, start: Instant) {
    let mut order = Vec::new();
    loop {
        let due = start.elapsed();
        let index = round.next.fetch_add(1, Relaxed);
        let Some(index) = u32::try_from(index).ok().filter(|_| index < MAX_RECORDS && due < round.duration) else {
            return;
        };
        order.clear();
        write_order(&round.run, SEED, index, &mut order);
        lock(&tally).offered += 1;
        if let Err(error) = client.publish(&order).await {
            lock(&tally).failed(&error);
            return;
        }
        lock(&tally).acknowledged(due, start.elapsed());
    }
}

/// A worker that panicked is reported by its join; what it had counted is still there to read.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tally {
    fn new() -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self {
            offered: 0,
            acknowledged: 0,
            last_acknowledged: Duration::ZERO,
            latency_us: latency_histogram()?,
            failure: None,
        })
    }

    fn acknowledged(&mut self, due: Duration, at: Duration) {
        self.acknowledged += 1;
        self.last_acknowledged = self.last_acknowledged.max(at);
        let latency_us = u64::try_from(at.saturating_sub(due).as_micros()).unwrap_or(u64::MAX);
        self.latency_us.saturating_record(latency_us);
    }

    fn failed(&mut self, error: &WireError) {
        self.failure.get_or_insert_with(|| error.to_string());
    }

    fn merge(&mut self, other: Self) {
        self.offered += other.offered;
        self.acknowledged += other.acknowledged;
        self.last_acknowledged = self.last_acknowledged.max(other.last_acknowledged);
        // Both have the same bounds, so adding them cannot fail.
        self.latency_us += other.latency_us;
        self.failure = self.failure.take().or(other.failure);
    }

    /// Every round starts with a request at 0, so its last acknowledgement is how long it took.
    fn measured(self) -> Measured {
        Measured {
            offered: self.offered,
            acknowledged: self.acknowledged,
            seconds: self.last_acknowledged.as_secs_f64(),
            latency_us: self.latency_us,
            failure: self.failure,
        }
    }
}
