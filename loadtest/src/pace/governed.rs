//! The loop that one would write with the `governor` crate: wait until the limiter is ready, then send.

use super::endpoint::Endpoint;
use super::{PaceError, TOLERANCE_MS, io_error};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::io;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};

const REQUEST: &[u8] = b"POST / HTTP/1.1\r\nHost: sink\r\nContent-Length: 0\r\n\r\n";
const ANSWERS_BYTES: usize = 64 * 1024;

/// A front door that takes every request, and a loop that sends one to the sink for each. Dropping it ends both.
pub struct Governed {
    front: Endpoint,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// As many records as forebay makes good at a rate.
pub fn small_bucket(rate_per_second: u32) -> u32 {
    rate_per_second.saturating_mul(TOLERANCE_MS) / 1000
}

impl Governed {
    /// Starts it with so many records waiting.
    pub fn start(rate_per_second: u32, bucket: u32, sink_port: u16, waiting: u64) -> Result<Self, PaceError> {
        let at_least_one = |count: u32| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(rate_per_second)).allow_burst(at_least_one(bucket));
        let failed = || io_error("cannot start the loop of governor");
        let waiting = Arc::new(Semaphore::new(usize::try_from(waiting).unwrap_or(usize::MAX)));
        let queue = waiting.clone();
        let front = Endpoint::start(move || queue.add_permits(1)).map_err(failed())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed())?;
        let (stop, stopped) = oneshot::channel();
        let work = move || {
            let limiter = RateLimiter::direct(quota);
            runtime.block_on(async {
                tokio::select! {
                    // A sink that is gone is noticed by its arrivals.
                    _ = send(&waiting, &limiter, sink_port) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name("governor".to_owned()).spawn(work).map_err(failed())?;
        Ok(Self { front, stop: Some(stop), thread: Some(thread) })
    }

    /// Where its front door listens.
    pub fn port(&self) -> u16 {
        self.front.port()
    }
}

impl Drop for Governed {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by itself.
            let _ = thread.join();
        }
    }
}

/// Requests go one behind the other over one connection, and answers are read beside them.
async fn send(waiting: &Semaphore, limiter: &DefaultDirectRateLimiter, sink_port: u16) -> io::Result<()> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, sink_port)).await?;
    stream.set_nodelay(true)?;
    let (mut answers, mut requests) = stream.into_split();
    tokio::spawn(async move {
        let mut buffer = vec![0; ANSWERS_BYTES];
        while answers.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {}
    });
    while let Ok(record) = waiting.acquire().await {
        record.forget();
        limiter.until_ready().await;
        requests.write_all(REQUEST).await?;
    }
    Ok(())
}
