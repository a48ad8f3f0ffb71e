//! The load engine: open or closed loop over HTTP/1.1 keep-alive connections.
//!
//! [`run`] blocks its thread and does its work on threads of its own, each with a single-threaded runtime, because
//! it usually shares few cores with the server that it loads. In the steady state a request allocates nothing and
//! takes one write and one read.

mod chunked;
mod connection;
mod due_timer;
mod held;
mod outcome;
mod pinning;
mod plan;
mod progress;
mod request;
mod response;
mod retry;
mod source;
mod target;
mod worker;

pub(crate) use due_timer::DueTimer;
pub use held::Connections;
pub use outcome::Outcome;
pub(crate) use outcome::{latency_histogram, whole_us};
pub(crate) use pinning::{cores_left_by, kept_to, pin};
pub use plan::{Limits, Load, Payload, Plan};
pub use progress::{Progress, ProgressCounts};
pub use retry::{FailureKind, RetryPolicy};
pub(crate) use source::{Source, lock};
pub use target::Target;

use outcome::Tally;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::JoinSet;
use worker::{Run, Worker};

/// How often a thread looks whether the run was cancelled.
const CANCEL_CHECK: Duration = Duration::from_millis(50);

/// Why a run could not be done. What the server does is no error of the run: the outcome counts it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The URL cannot be used.
    #[error("cannot load {url}: {problem}")]
    BadUrl {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The plan contradicts itself or would write broken requests.
    #[error("the load plan is not usable: {problem}")]
    BadPlan {
        /// What is wrong with it.
        problem: String,
    },
    /// The host has no address.
    #[error("cannot resolve {host}: {reason}")]
    Unresolved {
        /// The host's name.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// Connections could not be opened beforehand, or no longer work.
    #[error("only {served} of {wanted} connections had a request acknowledged: {reason}")]
    Connections {
        /// Connections on which a request was acknowledged.
        served: usize,
        /// How many there should be.
        wanted: usize,
        /// What happened on the next one.
        reason: String,
    },
    /// A thread or its runtime could not be started.
    #[error("cannot start a load thread: {0}")]
    Thread(#[from] std::io::Error),
    /// A histogram could not be made.
    #[error("cannot make a histogram: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
    /// A load thread or one of its workers panicked, so the counts are not complete.
    #[error("a load worker failed: its counts are lost")]
    WorkerPanicked,
}

/// Runs `plan` to its end, or until `progress` is cancelled. Blocks; may be called from any thread.
///
/// `progress` is for this run alone: take a new one for each.
///
/// # Errors
/// The plan is not valid, the host does not resolve, or a thread cannot be started. A server that is down or answers
/// with errors is an outcome.
pub fn run(plan: &Plan, progress: &Arc<Progress>) -> Result<Outcome, EngineError> {
    run_with(plan, &mut Vec::new(), progress)
}

/// Runs `plan` like [`run`], but over connections that are already open and stay so: neither the time of the run nor
/// the work of the server has their opening and closing in it. Those that the plan has beyond them are opened by the
/// run. Blocks.
///
/// # Errors
/// As for [`run`].
pub fn run_over(plan: &Plan, connections: &mut Connections, progress: &Arc<Progress>) -> Result<Outcome, EngineError> {
    run_with(plan, &mut connections.streams, progress)
}

/// Takes the streams, and leaves those that are open in the end.
fn run_with(plan: &Plan, streams: &mut Vec<TcpStream>, progress: &Arc<Progress>) -> Result<Outcome, EngineError> {
    plan.validate()?;
    let addresses = plan.target.resolve()?;
    let started_unix_us = unix_us();
    let run = Arc::new(Run::new(plan, addresses, progress.clone(), Instant::now()));
    let threads = plan.threads.min(plan.connections);
    let mut unused = std::mem::take(streams).into_iter();
    let tally = thread::scope(|scope| {
        let mut handles = Vec::with_capacity(threads);
        for number in 0..threads {
            // The first threads take one connection more when they don't divide evenly.
            let connections = plan.connections / threads + usize::from(number < plan.connections % threads);
            let opened: Vec<Option<TcpStream>> = (0..connections).map(|_| unused.next()).collect();
            let run = run.clone();
            let handle = thread::Builder::new().name(format!("load-{number}")).spawn_scoped(scope, move || {
                if plan.pinned {
                    pin(number, threads);
                }
                run_thread(plan, opened, &run)
            });
            match handle {
                Ok(handle) => handles.push(handle),
                Err(error) => {
                    progress.cancel();
                    return Err(EngineError::Thread(error));
                }
            }
        }
        let mut total = Tally::new()?;
        for handle in handles {
            let joined = handle.join().unwrap_or(Err(EngineError::WorkerPanicked));
            // What the other threads still do would be thrown away, so they stop.
            let (tally, open) = joined.inspect_err(|_| progress.cancel())?;
            total.merge(tally);
            streams.extend(open);
        }
        Ok(total)
    })?;
    streams.extend(unused);
    Ok(tally.into_outcome(progress.counts(), run.start.elapsed(), started_unix_us))
}

/// One connection for each of `opened`, which are taken over where they are open; returns those that still are.
fn run_thread(
    plan: &Plan,
    opened: Vec<Option<TcpStream>>,
    run: &Arc<Run>,
) -> Result<(Tally, Vec<TcpStream>), EngineError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let tally = Arc::new(Mutex::new(Tally::new()?));
    let open = runtime.block_on(async {
        let timer = Arc::new(DueTimer::new()?);
        let mut workers = JoinSet::new();
        for stream in opened {
            workers.spawn(Worker::new(run.clone(), plan, tally.clone(), timer.clone(), stream)?.work());
        }
        finish(workers, &run.progress).await
    })?;
    // Dropping the runtime drops every abandoned worker, so the tally has no other owner left.
    drop(runtime);
    let empty = Tally::new()?;
    Ok((std::mem::replace(&mut *lock(&tally), empty), open))
}

/// Waits for the workers, or abandons them when the run is cancelled; returns the connections that are still open.
async fn finish(mut workers: JoinSet<Option<TcpStream>>, progress: &Progress) -> Result<Vec<TcpStream>, EngineError> {
    let mut open = Vec::new();
    let mut check = tokio::time::interval(CANCEL_CHECK);
    loop {
        tokio::select! {
            joined = workers.join_next() => match joined {
                None => return Ok(open),
                Some(Ok(stream)) => open.extend(stream),
                Some(Err(error)) if error.is_cancelled() => {}
                Some(Err(_)) => return Err(EngineError::WorkerPanicked),
            },
            _ = check.tick() => if progress.is_cancelled() {
                workers.abort_all();
            },
        }
    }
}

fn unix_us() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX)
}
