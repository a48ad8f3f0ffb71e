//! The load of everything that is not HTTP, closed or open loop.
//!
//! Connections are opened before the clock starts: what a protocol takes to say hello is not compared, and PostgreSQL
//! would pay for 256 new processes in every round.

use super::{Measured, RoundPlan, WireError};
use crate::engine::{DueTimer, Load, Source, latency_histogram, lock, pin, whole_us};
use crate::order::{RunId, write_order};
use hdrhistogram::Histogram;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long opening all connections of a thread may take.
const OPEN_TIMEOUT: Duration = Duration::from_mins(1);
/// How long the answers that a thread waits for may all stay away. One timer for all of a thread's requests, because one
/// for each would be work that the protocol does not ask for.
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
    run: RunId,
    source: Source,
}

/// One thread's share of what is measured.
struct Tally {
    offered: u64,
    acknowledged: u64,
    first_due: Option<Duration>,
    last_acknowledged: Duration,
    latency_us: Histogram<u64>,
    start_lag_us: Histogram<u64>,
    failure: Option<String>,
}

pub fn run<C: Client>(port: u16, plan: &RoundPlan, load: &Load) -> Result<Measured, WireError> {
    let threads = plan.threads.min(plan.connections).max(1);
    let round = Arc::new(Round { port, run: RunId::random(), source: Source::new(load) });
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
            let run = move || {
                pin(number, threads);
                run_thread::<C>(count, &round, opened, &starting)
            };
            handles.push(thread.spawn_scoped(scope, run)?);
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
    opened: Sender<()>,
    starting: &Receiver<Instant>,
) -> Result<Tally, WireError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let tally = Arc::new(Mutex::new(Tally::new()?));
    let ended: Result<(), WireError> = runtime.block_on(async {
        let opening = timeout(OPEN_TIMEOUT, C::open(round.port, count)).await;
        let clients = opening.map_err(|_| WireError::Timeout(OPEN_TIMEOUT))??;
        // Nobody listens once the round has been given up, and then there is no start either.
        let _ = opened.send(());
        // While this thread waits, the others' failures must be able to end the channel.
        drop(opened);
        let Ok(start) = starting.recv() else { return Ok(()) };
        let timer = Arc::new(DueTimer::new()?);
        let mut workers = JoinSet::new();
        for client in clients {
            workers.spawn(work(client, round.clone(), tally.clone(), timer.clone(), start));
        }
        finish(workers, &tally).await
    });
    ended?;
    // Dropping the runtime drops every worker that was given up, so the tally has no other owner left.
    drop(runtime);
    let empty = Tally::new()?;
    Ok(std::mem::replace(&mut *lock(&tally), empty))
}

/// Waits for the workers, or gives them up when no answer comes any more.
async fn finish(mut workers: JoinSet<()>, tally: &Mutex<Tally>) -> Result<(), WireError> {
    let mut acknowledged_then = None;
    loop {
        tokio::select! {
            joined = workers.join_next() => match joined {
                None => return Ok(()),
                Some(joined) => joined.map_err(|_| WireError::WorkerPanicked)?,
            },
            () = sleep(ANSWER_TIMEOUT) => {
                let mut tally = lock(tally);
                if acknowledged_then == Some(tally.acknowledged) {
                    tally.failed(&WireError::Timeout(ANSWER_TIMEOUT));
                    return Ok(());
                }
                // A thread that waits for no answer, because nothing is due, may wait for longer.
                acknowledged_then = (tally.offered > tally.acknowledged).then_some(tally.acknowledged);
            },
        }
    }
}

/// The loop of one client. It ends with the first failure, since a round with any is of no use.
async fn work<C: Client>(
    mut client: C,
    round: Arc<Round>,
    tally: Arc<Mutex<Tally>>,
    timer: Arc<DueTimer>,
    start: Instant,
) {
    let mut order = Vec::new();
    while let Some(job) = round.source.next(start) {
        order.clear();
        write_order(&round.run, SEED, job.index, &mut order);
        let started = timer.wait(start, job.due).await;
        lock(&tally).started(job.due, started);
        if let Err(error) = client.publish(&order).await {
            lock(&tally).failed(&error);
            return;
        }
        lock(&tally).acknowledged(job.due, start.elapsed());
    }
}

impl Tally {
    fn new() -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self {
            offered: 0,
            acknowledged: 0,
            first_due: None,
            last_acknowledged: Duration::ZERO,
            latency_us: latency_histogram()?,
            start_lag_us: latency_histogram()?,
            failure: None,
        })
    }

    fn started(&mut self, due: Duration, at: Duration) {
        self.offered += 1;
        self.start_lag_us.saturating_record(whole_us(at.saturating_sub(due)));
        self.first_due = Some(self.first_due.map_or(due, |first| first.min(due)));
    }

    fn acknowledged(&mut self, due: Duration, at: Duration) {
        self.acknowledged += 1;
        self.last_acknowledged = self.last_acknowledged.max(at);
        self.latency_us.saturating_record(whole_us(at.saturating_sub(due)));
    }

    fn failed(&mut self, error: &WireError) {
        self.failure.get_or_insert_with(|| error.to_string());
    }

    fn merge(&mut self, other: Self) {
        self.offered += other.offered;
        self.acknowledged += other.acknowledged;
        self.first_due = self.first_due.into_iter().chain(other.first_due).min();
        self.last_acknowledged = self.last_acknowledged.max(other.last_acknowledged);
        // Both have the same bounds, so adding them cannot fail.
        self.latency_us += other.latency_us;
        self.start_lag_us += other.start_lag_us;
        self.failure = self.failure.take().or(other.failure);
    }

    fn measured(self) -> Measured {
        let first_due = self.first_due.unwrap_or_default();
        Measured {
            offered: self.offered,
            acknowledged: self.acknowledged,
            seconds: self.last_acknowledged.saturating_sub(first_due).as_secs_f64(),
            latency_us: self.latency_us,
            start_lag_us: self.start_lag_us,
            failure: self.failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Schedule;
    use std::sync::atomic::{AtomicBool, Ordering};

    const ANSWER: Duration = Duration::from_millis(5);
    const ROUND: RoundPlan = RoundPlan { connections: 2, threads: 2, duration: Duration::from_millis(20) };

    /// Acknowledges every order after `ANSWER`, which timers never cut short.
    struct Slow;

    impl Client for Slow {
        async fn open(_port: u16, count: usize) -> Result<Vec<Self>, WireError> {
            Ok((0..count).map(|_| Self).collect())
        }

        async fn publish(&mut self, _order: &[u8]) -> Result<(), WireError> {
            sleep(ANSWER).await;
            Ok(())
        }

        async fn prepare(_port: u16) -> Result<(), WireError> {
            Ok(())
        }

        async fn held(_port: u16) -> Result<u64, WireError> {
            Ok(0)
        }
    }

    /// Opens the connections of one thread, and fails to for any other.
    struct Full;

    static OPENED: AtomicBool = AtomicBool::new(false);

    impl Client for Full {
        async fn open(port: u16, count: usize) -> Result<Vec<Self>, WireError> {
            let first = !OPENED.swap(true, Ordering::Relaxed);
            if first {
                Ok((0..count).map(|_| Self).collect())
            } else {
                Slow::open(port, 0).await.and(Err(WireError::Closed))
            }
        }

        async fn publish(&mut self, _order: &[u8]) -> Result<(), WireError> {
            Ok(())
        }

        async fn prepare(_port: u16) -> Result<(), WireError> {
            Ok(())
        }

        async fn held(_port: u16) -> Result<u64, WireError> {
            Ok(0)
        }
    }

    /// A thread that waits for its start for ever would hang this test.
    #[test]
    fn a_thread_that_cannot_open_its_connections_ends_the_round() {
        let load = Load::Closed { records: None, duration: Some(ROUND.duration) };
        assert!(matches!(run::<Full>(0, &ROUND, &load), Err(WireError::Closed)));
    }

    #[test]
    fn open_loop_latency_counts_from_the_due_time() {
        let load = Load::Open(Schedule::burst(6).unwrap());
        let measured = run::<Slow>(0, &ROUND, &load).unwrap();
        assert_eq!((measured.offered, measured.acknowledged, measured.latency_us.len()), (6, 6, 6));
        // Whichever of the two clients takes more of the six, its third order has waited for two others.
        assert!(u128::from(measured.latency_us.max()) >= 3 * ANSWER.as_micros(), "{measured:?}");
        assert!(measured.seconds >= 3.0 * ANSWER.as_secs_f64(), "{measured:?}");
    }

    #[test]
    fn an_open_loop_waits_until_a_request_is_due() {
        let load = Load::Open(Schedule::constant(3, 100.0).unwrap());
        let measured = run::<Slow>(0, &ROUND, &load).unwrap();
        assert_eq!((measured.offered, measured.acknowledged), (3, 3));
        // The last one is due 20 ms after the first.
        assert!(measured.seconds >= 0.02 + ANSWER.as_secs_f64(), "{measured:?}");
    }

    #[test]
    fn a_closed_loop_ends_when_its_time_is_over() {
        let load = Load::Closed { records: None, duration: Some(ROUND.duration) };
        let measured = run::<Slow>(0, &ROUND, &load).unwrap();
        assert!(measured.offered > 0 && measured.acknowledged == measured.offered, "{measured:?}");
        assert!(u128::from(measured.latency_us.min()) >= ANSWER.as_micros(), "{measured:?}");
    }
}
