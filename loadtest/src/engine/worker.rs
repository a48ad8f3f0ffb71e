//! The loop of one connection: take the next request, wait until it is due, send it until it is settled.

use super::Plan;
use super::connection::Connection;
use super::due_timer::DueTimer;
use super::outcome::Tally;
use super::progress::Progress;
use super::request::RequestTemplate;
use super::retry::{FailureKind, RetryPolicy};
use super::source::{Source, lock};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a connection that could not be opened rests in a closed loop without retries, where nothing else would
/// keep it from failing a million times a second.
const CLOSED_LOOP_REST: Duration = Duration::from_millis(10);

/// Everything that the workers of a run share.
pub struct Run {
    pub start: Instant,
    pub progress: Arc<Progress>,
    addresses: Arc<[SocketAddr]>,
    template: RequestTemplate,
    retry: Option<RetryPolicy>,
    source: Source,
}

impl Run {
    pub fn new(plan: &Plan, addresses: Arc<[SocketAddr]>, progress: Arc<Progress>, start: Instant) -> Self {
        let (template, retry, source) = (RequestTemplate::new(plan), plan.retry.clone(), Source::new(&plan.load));
        Self { start, progress, addresses, template, retry, source }
    }
}

/// One connection with its own requests, counting into its thread's tally.
pub struct Worker {
    run: Arc<Run>,
    tally: Arc<Mutex<Tally>>,
    timer: Arc<DueTimer>,
    connection: Connection,
    body: Vec<u8>,
    request: Vec<u8>,
}

impl Worker {
    /// Takes over `stream` if its connection is already open. Must be made within a runtime.
    pub fn new(
        run: Arc<Run>,
        plan: &Plan,
        tally: Arc<Mutex<Tally>>,
        timer: Arc<DueTimer>,
        stream: Option<TcpStream>,
    ) -> io::Result<Self> {
        let connection = Connection::new(run.addresses.clone(), plan, stream)?;
        Ok(Self { run, tally, timer, connection, body: Vec::new(), request: Vec::new() })
    }

    /// Works until there is nothing left to send; returns the connection if it is still open then.
    pub async fn work(mut self) -> Option<TcpStream> {
        while let Some(job) = self.run.source.next(self.run.start) {
            let started = self.timer.wait(self.run.start, job.due).await;
            self.run.progress.offered.fetch_add(1, Relaxed);
            lock(&self.tally).started(job.due, started.saturating_sub(job.due));
            self.run.template.write(job.index, &mut self.body, &mut self.request);
            match self.send_until_settled(started).await {
                Ok(at) => {
                    lock(&self.tally).acknowledged(job.index, at, at.saturating_sub(job.due));
                    self.run.progress.acknowledged.fetch_add(1, Relaxed);
                }
                Err(failure) => {
                    let progress = &self.run.progress;
                    let counter = if failure.is_refusal() { &progress.refused } else { &progress.errors };
                    counter.fetch_add(1, Relaxed);
                    self.rest_after(failure).await;
                }
            }
        }
        self.connection.into_stream()
    }

    /// Sends the request, again and again as the retry policy says; returns when it was acknowledged.
    async fn send_until_settled(&mut self, started: Duration) -> Result<Duration, FailureKind> {
        let mut attempts = 0;
        loop {
            let failure = match self.attempt().await {
                Ok(()) => return Ok(self.run.start.elapsed()),
                Err(failure) => failure,
            };
            attempts += 1;
            let elapsed = self.run.start.elapsed().saturating_sub(started);
            let pause = self
                .run
                .retry
                .as_ref()
                .and_then(|policy| policy.decide(attempts, failure, elapsed, rand::random()))
                .ok_or(failure)?;
            self.run.progress.retries.fetch_add(1, Relaxed);
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&mut self) -> Result<(), FailureKind> {
        match self.connection.exchange(&self.request).await {
            Ok(response) => {
                lock(&self.tally).status(response.status);
                if (200..300).contains(&response.status) {
                    return Ok(());
                }
                let retry_after_seconds = response.retry_after_seconds;
                Err(FailureKind::Status { code: response.status, retry_after_seconds })
            }
            Err(failure) => {
                lock(&self.tally).failed(failure.kind, &failure.detail);
                Err(failure.kind)
            }
        }
    }

    async fn rest_after(&self, failure: FailureKind) {
        let unreachable = matches!(failure, FailureKind::Connect | FailureKind::ConnectTimeout);
        if unreachable && matches!(self.run.source, Source::Closed { .. }) {
            tokio::time::sleep(CLOSED_LOOP_REST).await;
        }
    }
}
