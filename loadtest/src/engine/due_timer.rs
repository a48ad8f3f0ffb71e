//! Waiting for due times, more exactly than the runtime's timers do.

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

/// Requests that are due within the same tick are let go together, at its end. A timer for each of 100,000 requests a
/// second would take more of the processor than the requests do.
const TICK: Duration = Duration::from_micros(100);

/// A timer of the kernel's that all connections of a thread share. The runtime's own have a resolution of 1 ms, which is
/// longer than many an answer takes.
pub struct DueTimer {
    /// Whoever has it waits for the earliest due time, since connections come here in that order.
    timer: Mutex<AsyncFd<OwnedFd>>,
}

impl DueTimer {
    /// Must be made within a runtime.
    ///
    /// # Errors
    /// The process has too many open files.
    pub fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: the timer is an open descriptor that the `AsyncFd` owns and nobody else has, so it stays open and the same
        // for as long as that lives.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
        Ok(Self { timer: Mutex::new(timer) })
    }

    /// Returns once `due` has come, and not before, with the time it is then; both from `start` on.
    pub async fn wait(&self, start: Instant, due: Duration) -> Duration {
        let now = start.elapsed();
        if due <= now {
            return now;
        }
        let timer = self.timer.lock().await;
        loop {
            let now = start.elapsed();
            if due <= now {
                return now;
            }
            if sleep(&timer, end_of_tick(due).saturating_sub(now)).await.is_err() {
                // Nothing that a timer may say is expected here; the runtime's own one is always there.
                tokio::time::sleep(due.saturating_sub(now)).await;
            }
        }
    }
}

/// When a request goes that is due then.
fn end_of_tick(due: Duration) -> Duration {
    let ticks = due.as_nanos().div_ceil(TICK.as_nanos());
    TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX)).max(due)
}

async fn sleep(timer: &AsyncFd<OwnedFd>, duration: Duration) -> io::Result<()> {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let once = Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        // The kernel takes zero for a timer that is switched off.
        it_value: Timespec { tv_sec: seconds, tv_nsec: i64::from(duration.subsec_nanos().max(1)) },
    };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
    let mut expirations = [0; 8];
    loop {
        let mut ready = timer.readable().await?;
        let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut expirations)?));
        if let Ok(read) = read {
            return read.map(drop);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn no_request_goes_before_it_is_due_and_all_go() {
        let timer = Arc::new(DueTimer::new().unwrap());
        let start = Instant::now();
        let mut waiting = tokio::task::JoinSet::new();
        for number in 0..200 {
            let timer = Arc::clone(&timer);
            let due = Duration::from_micros(37 * number);
            waiting.spawn(async move { (due, timer.wait(start, due).await) });
        }
        let gone = waiting.join_all().await;
        assert!(gone.iter().all(|(due, at)| at >= due), "{gone:?}");
        assert_eq!(timer.wait(start, Duration::ZERO).await.as_secs(), start.elapsed().as_secs());
    }

    #[test]
    fn ticks_are_not_shorter_than_what_is_due() {
        for (due_us, end_us) in [(0, 0), (1, 100), (100, 100), (101, 200)] {
            assert_eq!(end_of_tick(Duration::from_micros(due_us)), Duration::from_micros(end_us));
        }
        let longest = Duration::from_secs(u64::MAX);
        assert_eq!(end_of_tick(longest), longest);
    }
}
