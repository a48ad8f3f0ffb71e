//! Wakes executors that sleep although they have something to do.
//!
//! An executor ticks several times a second. glommio 0.9 can go to sleep over ready tasks (`PREEMPTION_INTERVAL` in
//! `ingress/executor.rs`), and whatever else loses an executor's wake-up looks the same: its thread waits in `io_uring` for
//! something that never comes, until a signal does. So a thread that does not depend on glommio looks whether each executor
//! ticks, and sends such a signal to one that does not. The handler does nothing; glommio takes the interrupted call for the
//! end of its sleep, and looks at everything. An executor that is silent because it works, or waits for a core, is not
//! disturbed. `docs/decisions/0017-a-watchdog-wakes-executors.md` says why that is safe.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::clock;
use crate::ingress::counters::Counters;
use crate::limits::EXECUTOR_SILENCE_MS_MAX;
use crate::queue::Health;

/// How often the executors are looked at, in milliseconds.
const LOOK_INTERVAL_MS: u64 = 1_000;
/// What one look adds to a silence at most, in milliseconds. A look that comes much later shows that the process was
/// stopped, or has no core: then the executors could not tick either, and that is no silence of theirs.
const LOOK_LATE_MS_MAX: u64 = 2 * LOOK_INTERVAL_MS;
/// The signal that wakes. Nobody else sends it unless asked to, and without a handler it is ignored.
const WAKE_SIGNAL: libc::c_int = libc::SIGURG;

/// Looks after all executors; see the module.
pub struct Watchdog {
    executors: Vec<Watched>,
    health: Arc<Health>,
}

struct Watched {
    cpu: usize,
    counters: Arc<Counters>,
    silence: Silence,
}

impl Watchdog {
    /// A watchdog over executors: the core of each, and what it counts.
    #[must_use]
    pub fn new(executors: impl Iterator<Item = (usize, Arc<Counters>)>, health: Arc<Health>) -> Self {
        let watched = |(cpu, counters)| Watched { cpu, counters, silence: Silence::default() };
        Self { executors: executors.map(watched).collect(), health }
    }

    /// Looks at the executors for as long as the process runs. Never ends.
    pub async fn run(mut self) {
        let mut looks = tokio::time::interval(Duration::from_millis(LOOK_INTERVAL_MS));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let now_ms = clock::monotonic_ns() / 1_000_000;
            for watched in &mut self.executors {
                watched.look(now_ms, &self.health);
            }
        }
    }
}

impl Watched {
    fn look(&mut self, now_ms: u64, health: &Health) {
        let pulse = &self.counters.pulse;
        let (thread, cpu) = (pulse.thread.get(), self.cpu);
        if thread == 0 {
            // It has not begun, or has ended.
            return;
        }
        match self.silence.look(pulse.ticks.get(), now_ms) {
            Look::Unremarkable => {}
            Look::Silent { ms, first } => {
                health.executor_wakeups.add(1);
                if let Err(error) = wake(thread) {
                    tracing::error!(cpu, thread, %error, "an executor that does not tick could not be sent a signal");
                } else if first {
                    tracing::warn!(
                        cpu,
                        thread,
                        "an executor has not ticked for {ms} ms, and was sent a signal in case it sleeps. If the log says next that \
                         it ticks again, its core was most likely taken away for long: give forebay more of the machine. \
                         If not, it is stuck: take the stack of that thread (gdb -p) and restart"
                    );
                }
            }
            Look::Resumed { ms } => tracing::info!(cpu, thread, "the executor ticks again, after {ms} ms"),
        }
    }
}

/// How long an executor has been silent. Decides by the numbers that it is given, and reads no clock.
#[derive(Default)]
struct Silence {
    ticks: u64,
    looked_ms: u64,
    /// Since the last look that found another tick.
    silent_ms: u64,
    /// Signals in this silence.
    signals: u64,
}

/// What one look has found.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// It ticks, or has not been silent for long.
    Unremarkable,
    /// It has been silent for so long, and wants a signal; `first` in this silence.
    Silent { ms: u64, first: bool },
    /// It was sent a signal, and ticks again; that is how long it was silent.
    Resumed { ms: u64 },
}

impl Silence {
    /// Looks at an executor that has ticked so often by now.
    fn look(&mut self, ticks: u64, now_ms: u64) -> Look {
        let since_look_ms = now_ms.saturating_sub(self.looked_ms).min(LOOK_LATE_MS_MAX);
        self.looked_ms = now_ms;
        if ticks != self.ticks {
            let before = std::mem::replace(self, Self { ticks, looked_ms: now_ms, ..Self::default() });
            let ms = before.silent_ms + since_look_ms;
            return if before.signals > 0 { Look::Resumed { ms } } else { Look::Unremarkable };
        }
        self.silent_ms += since_look_ms;
        if self.silent_ms < EXECUTOR_SILENCE_MS_MAX.saturating_mul(self.signals + 1) {
            return Look::Unremarkable;
        }
        self.signals += 1;
        Look::Silent { ms: self.silent_ms, first: self.signals == 1 }
    }
}

/// Gives the signal that wakes a handler that does nothing. Without one the kernel would throw the signal away and
/// let the thread sleep.
///
/// # Errors
///
/// The kernel does not know the signal, which it does.
pub fn catch_signal() -> io::Result<()> {
    extern "C" fn do_nothing(_: libc::c_int) {}
    // SAFETY: all fields of the structure are plain numbers, a mask of bits and an optional function, for each of which
    // zeros are valid: no flags, no signal blocked, no restorer. Without `SA_RESTART` the kernel does not resume
    // the call that it interrupts, which is what the signal is for.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = do_nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the structure is initialised and outlives the call, the old action is not asked for, and the handler
    // has the signature that an action without `SA_SIGINFO` has. It touches nothing, so it may interrupt anything.
    let result = unsafe { libc::sigaction(WAKE_SIGNAL, &raw const action, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends the signal to one thread of this process. One that has ended meanwhile needs none.
fn wake(thread: u64) -> io::Result<()> {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: the call takes three numbers and no address. It reaches threads of this process alone, and whichever it
    // reaches runs a handler that does nothing.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, WAKE_SIGNAL) };
    match io::Error::last_os_error() {
        error if result != 0 && error.raw_os_error() != Some(libc::ESRCH) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// A tick is found at one second, and no other for `ms` behind it; what the looks of every second found.
    fn silence_of_ms(ms: u64) -> (Silence, Vec<Look>) {
        let mut silence = Silence::default();
        let looks = (1_000..=1_000 + ms).step_by(1_000).map(|now_ms| silence.look(1, now_ms)).collect();
        (silence, looks)
    }

    #[test]
    fn an_executor_that_ticks_is_left_alone() {
        let mut silence = Silence::default();
        for second in 1..100 {
            assert_eq!(silence.look(4 * second, 1_000 * second), Look::Unremarkable);
        }
        // Nor is one that ticks at last.
        let (mut silence, looks) = silence_of_ms(EXECUTOR_SILENCE_MS_MAX - 1_000);
        assert!(looks.iter().all(|look| *look == Look::Unremarkable), "{looks:?}");
        assert_eq!(silence.look(2, 1_000 + EXECUTOR_SILENCE_MS_MAX), Look::Unremarkable);
    }

    #[test]
    fn a_silent_executor_gets_a_signal_each_time_the_bound_has_passed() {
        let (mut silence, looks) = silence_of_ms(3 * EXECUTOR_SILENCE_MS_MAX);
        let signals: Vec<_> = looks.into_iter().filter(|look| *look != Look::Unremarkable).collect();
        let wanted = [1, 2, 3].map(|n| Look::Silent { ms: n * EXECUTOR_SILENCE_MS_MAX, first: n == 1 });
        assert_eq!(signals, wanted);
        let now_ms = 1_000 + 3 * EXECUTOR_SILENCE_MS_MAX;
        assert_eq!(silence.look(2, now_ms + 500), Look::Resumed { ms: 3 * EXECUTOR_SILENCE_MS_MAX + 500 });
        // Another silence is one of its own.
        let looks: Vec<_> = (1..=5).map(|n| silence.look(2, now_ms + 500 + n * 1_000)).collect();
        assert_eq!(looks[4], Look::Silent { ms: EXECUTOR_SILENCE_MS_MAX, first: true });
        assert!(looks[..4].iter().all(|look| *look == Look::Unremarkable), "{looks:?}");
    }

    #[test]
    fn a_process_that_was_stopped_for_an_hour_was_not_silent_for_an_hour() {
        let mut silence = Silence::default();
        assert_eq!(silence.look(1, 1_000), Look::Unremarkable);
        assert_eq!(silence.look(1, 3_601_000), Look::Unremarkable);
        assert_eq!(silence.look(2, 3_602_000), Look::Unremarkable);
    }

    /// A ring to which nothing was submitted: no completion will ever come.
    #[test]
    fn the_signal_ends_a_wait_for_completions_that_nothing_else_ends() {
        catch_signal().unwrap();
        let (number_in, number) = mpsc::channel();
        let sleeper = thread::spawn(move || {
            let ring = io_uring::IoUring::new(2).unwrap();
            number_in.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            ring.submitter().submit_and_wait(1).unwrap_err()
        });
        let number = u64::from(number.recv().unwrap().unsigned_abs());
        // The first ones may come before it waits.
        while !sleeper.is_finished() {
            wake(number).unwrap();
            thread::yield_now();
        }
        assert_eq!(sleeper.join().unwrap().raw_os_error(), Some(libc::EINTR));
    }

    #[test]
    fn a_thread_that_has_ended_needs_no_signal() {
        let number = thread::spawn(|| rustix::thread::gettid().as_raw_nonzero().get()).join().unwrap();
        wake(u64::from(number.unsigned_abs())).unwrap();
    }
}
