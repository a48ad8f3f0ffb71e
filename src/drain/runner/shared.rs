//! What a runner and its lanes share, and how each of them waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::drain::course::Course;
use crate::drain::dead_letters::DeadLetterFile;
use crate::drain::meter::Meter;
use crate::drain::retry::Backoff;
use crate::drain::scheduler::Scheduler;
use crate::limits::WALL_CLOCK_LOOK_MS;
use crate::progress::Progress;
use crate::queue::{DrainState, Instructions, Outlet, Queue};
use crate::sink::encoded::Encoder;
use crate::sink::{Claim, SinkError};

/// What a runner and its lanes share. They are polled by one task, so nobody ever waits for the lock; it is not held where
/// something is awaited.
pub(super) struct Shared<S: Scheduler> {
    pub(super) platform: S,
    pub(super) queue: Arc<Queue>,
    pub(super) outlet: Arc<Outlet>,
    pub(super) dead_letters: Arc<DeadLetterFile<S>>,
    state: Mutex<State>,
}

/// What changes of it.
pub(super) struct State {
    pub(super) course: Course,
    pub(super) meter: Meter,
    /// What of the queue the sink has, as of the last transactions whose fate is known.
    pub(super) progress: Arc<Progress>,
    /// The row of each lane, as it was last known; of those that have ended too, since the others still speak for what they
    /// delivered.
    pub(super) claims: Vec<Option<Claim>>,
    /// What the first lane's sink encodes records with, if it can ahead of their batch.
    pub(super) encoder: Option<Encoder>,
    /// The sink has asked to be left alone until then, by whichever lane or redrive it was told.
    pub(super) alone_until_ns: u64,
    /// Transactions that are being committed.
    in_flight: u64,
}

/// Whether records may be sent.
pub(super) enum Payment {
    /// They may.
    Made,
    /// The drain was told something else meanwhile, or goes at another pace: what may leave at once is to be asked again.
    Void,
    /// A stop came first.
    Stopped,
}

/// How the runner waits, or one of its lanes.
pub(super) struct Waiter<S: Scheduler> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) stop: watch::Receiver<bool>,
    /// Wakes; what the drain is told is for [`Course::follow`] to see.
    pub(super) instructions: watch::Receiver<Instructions>,
    /// How long whatever has failed is left alone.
    backoff: Backoff,
}

impl State {
    /// There will be a lane with this number.
    pub(super) fn expect_claim(&mut self, lane: usize) {
        if self.claims.len() <= lane {
            self.claims.resize(lane + 1, None);
        }
    }
}

impl<S: Scheduler> Shared<S> {
    pub(super) fn new(
        platform: S,
        (queue, outlet): (Arc<Queue>, Arc<Outlet>),
        dead_letters: Arc<DeadLetterFile<S>>,
        lanes: usize,
    ) -> Self {
        let course = Course::new(&outlet, platform.monotonic_ns(), platform.unix_us());
        let (meter, progress) = (Meter::default(), Arc::new(Progress::up_to(0)));
        let claims = vec![None; lanes];
        let state = State { course, meter, progress, claims, encoder: None, alone_until_ns: 0, in_flight: 0 };
        Self { platform, queue, outlet, dead_letters, state: Mutex::new(state) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.state().progress)
    }

    /// Does from here on what the drain is told, and what its sink bears.
    pub(super) fn follow(&self) {
        let (now_ns, unix_us) = (self.platform.monotonic_ns(), self.platform.unix_us());
        self.state().course.follow(&self.outlet, now_ns, unix_us);
    }

    /// Leaves the sink alone for as long as it has asked for, if it has: nothing is paid for until then, by any lane or redrive.
    pub(super) fn heed(&self, error: &SinkError) {
        let until_ns = self.platform.monotonic_ns() + error.asked_pause_ms() * 1_000_000;
        let mut state = self.state();
        state.alone_until_ns = state.alone_until_ns.max(until_ns);
    }

    /// A transaction begins, or has ended.
    pub(super) fn note_in_flight(&self, begins: bool) {
        let mut state = self.state();
        state.in_flight = if begins { state.in_flight + 1 } else { state.in_flight - 1 };
        self.outlet.drain.in_flight.set(state.in_flight);
    }
}

impl<S: Scheduler> Waiter<S> {
    pub(super) fn new(shared: &Arc<Shared<S>>, stop: watch::Receiver<bool>) -> Self {
        let instructions = shared.outlet.instructions.subscribe();
        let backoff = Backoff::new(&shared.state().course.told.shaping.retry);
        Self { shared: Arc::clone(shared), stop, instructions, backoff }
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// What has failed works again.
    pub(super) fn works_again(&mut self) {
        self.backoff.reset();
    }

    /// Waits until the drain is told something, or a stop. It counts as paused once nothing is on its way any more.
    pub(super) async fn wait_while_paused(&mut self) {
        self.note_pause();
        tokio::select! {
            biased;
            _ = self.instructions.changed() => {}
            _ = self.stop.changed() => {}
        }
    }

    pub(super) fn note_pause(&self) {
        if self.shared.state().in_flight == 0 {
            self.shared.outlet.drain.set_state(DrainState::Paused);
        }
    }

    /// Waits until `count` more records may be sent, at most as many as may leave at once.
    pub(super) async fn pay_for(&mut self, count: usize) -> Payment {
        if count == 0 {
            return Payment::Made;
        }
        let (is_paused, changes) = {
            let course = &self.shared.state().course;
            (course.told.is_paused, course.changes)
        };
        if is_paused {
            self.wait_while_paused().await;
            return if self.is_stopping() { Payment::Stopped } else { Payment::Void };
        }
        while !self.is_stopping() {
            let wait_ns = {
                let mut state = self.shared.state();
                let alone_until_ns = state.alone_until_ns;
                let course = &mut state.course;
                if course.is_told_otherwise() || course.changes != changes {
                    return Payment::Void;
                }
                let now_ns = self.shared.platform.monotonic_ns();
                // Asked anew each time, since another lane may have taken what was due.
                let due_ns = course.pacer.when_due_ns(count as u64, now_ns).max(alone_until_ns);
                if due_ns <= now_ns {
                    // Only now: a sleep that lasts too long must not be made good twice, by these records and by the next.
                    course.pacer.take(count as u64, now_ns);
                    return Payment::Made;
                }
                due_ns - now_ns
            };
            self.sleep_unless_told(Duration::from_nanos(wait_ns)).await;
        }
        Payment::Stopped
    }

    /// So long, or until the wall clock is to be looked at.
    pub(super) fn until_look(&self, time: Duration) -> Duration {
        let has_schedule = !self.shared.state().course.told.shaping.schedule.entries.is_empty();
        if has_schedule { time.min(Duration::from_millis(WALL_CLOCK_LOOK_MS)) } else { time }
    }

    /// Sleeps until so much time has passed, or there is something else to follow, or a stop.
    async fn sleep_unless_told(&mut self, time: Duration) {
        let time = self.until_look(time);
        tokio::select! {
            biased;
            () = self.shared.platform.sleep(time) => {}
            _ = self.instructions.changed() => {}
            _ = self.stop.changed() => {}
        }
    }

    /// Logs a failure and waits before the next attempt; `false` if a stop came first.
    pub(super) async fn pause_after(&mut self, error: &(dyn std::error::Error + Sync)) -> bool {
        self.backoff.change(&self.shared.state().course.told.shaping.retry);
        let pause_ms = self.backoff.next_ms(self.shared.platform.random().unwrap_or(u64::MAX / 2));
        let drain = &self.shared.outlet.drain;
        drain.retries.add(1);
        if drain.state() == DrainState::Running {
            drain.set_state(DrainState::Retrying);
        }
        let queue = &self.shared.queue.name;
        tracing::warn!(queue, %error, pause_ms, "the sink did not take records; trying again");
        self.sleep(Duration::from_millis(pause_ms)).await
    }

    /// Sleeps; `false` if a stop came first.
    async fn sleep(&mut self, time: Duration) -> bool {
        if self.is_stopping() {
            return false;
        }
        tokio::select! {
            biased;
            () = self.shared.platform.sleep(time) => true,
            _ = self.stop.changed() => false,
        }
    }
}
