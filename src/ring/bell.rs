//! The bell: how a producer wakes a sleeping consumer without a lost wake-up and
//! without a system call for every record.
//!
//! rtrb has no waker. The consumer arms the bell, looks at the rings once more, and
//! only then sleeps; a producer pushes first and looks at the bell afterwards. Both
//! put a sequentially consistent fence between their store and their load, so at
//! least one of them sees the other (Dekker's algorithm): either the consumer finds
//! the record, or the producer finds the bell armed and wakes it. A thread's park
//! token keeps a wake that comes before the sleep.

use std::time::Duration;

use crate::planted::{Bug, is_planted};
use crate::sync::{AtomicBool, OnceLock, Ordering, Thread, current, fence, park_timeout};

/// Wakes one thread.
#[derive(Default)]
pub struct Bell {
    armed: AtomicBool,
    sleeper: OnceLock<Thread>,
}

impl Bell {
    /// Wakes the sleeper if it sleeps or is about to. Call it after the push.
    pub fn ring(&self) {
        if !is_planted(Bug::RingWithoutFence) {
            fence(Ordering::SeqCst);
        }
        // The load comes first so that, while the consumer is awake, producers only read this line.
        if self.armed.load(Ordering::Relaxed)
            && self.armed.swap(false, Ordering::AcqRel)
            && let Some(sleeper) = self.sleeper.get()
        {
            sleeper.unpark();
        }
    }

    /// Wakes the thread that sleeps, whatever it sleeps for.
    pub fn wake(&self) {
        if let Some(sleeper) = self.sleeper.get() {
            sleeper.unpark();
        }
    }

    /// Sleeps until [`wake`](Self::wake) or `patience` ends, unless `has_enough` says that there is no need
    /// to. Only the thread of [`sleep_unless`](Self::sleep_unless) may call this, having said to the producers
    /// when to wake it. May return early.
    pub fn pause_unless(&self, patience: Duration, has_enough: impl FnOnce() -> bool) {
        self.sleeper.get_or_init(current);
        if !is_planted(Bug::PauseWithoutFence) {
            fence(Ordering::SeqCst);
        }
        if !has_enough() {
            park_timeout(patience);
        }
    }

    /// Sleeps until the bell rings or `patience` ends, unless `has_work` finds something
    /// once the bell is armed. Only one thread may ever call this. May return early.
    pub fn sleep_unless(&self, patience: Duration, has_work: impl FnOnce() -> bool) {
        self.sleeper.get_or_init(current);
        let is_idle = if is_planted(Bug::LookBeforeArming) {
            let was_idle = !has_work();
            self.arm();
            was_idle
        } else {
            self.arm();
            !has_work()
        };
        if is_idle {
            park_timeout(patience);
        }
        self.disarm();
    }

    /// From here on the bell can ring. Look for work once more behind this, then sleep.
    pub fn arm(&self) {
        // Release: whoever finds the bell armed must find the sleeper too, or it would take the arming away and wake
        // nobody. A swap and not a store: what was taken away late from an earlier sleep then comes before this arming
        // for everybody. For a store that follows from the order of modification alone, which loom does not know.
        let order = if is_planted(Bug::ArmWithoutRelease) { Ordering::Acquire } else { Ordering::AcqRel };
        self.armed.swap(true, order);
        if !is_planted(Bug::ArmWithoutFence) {
            fence(Ordering::SeqCst);
        }
    }

    /// The sleep is over.
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    /// Whether it was armed and has not rung since.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    /// With an hour of patience a lost wake-up would hang this test.
    #[test]
    fn no_wake_up_is_lost() {
        const ROUNDS: u64 = 200_000;
        let bell = Arc::new(Bell::default());
        let pushed = Arc::new(AtomicU64::new(0));
        let taken = Arc::new(AtomicU64::new(0));
        let consumer = {
            let (bell, pushed, taken) = (Arc::clone(&bell), Arc::clone(&pushed), Arc::clone(&taken));
            thread::spawn(move || {
                let mut seen = 0;
                while seen < ROUNDS {
                    let now = pushed.load(Ordering::Acquire);
                    if now > seen {
                        seen = now;
                        taken.store(seen, Ordering::Release);
                    } else {
                        bell.sleep_unless(Duration::from_hours(1), || pushed.load(Ordering::Acquire) > seen);
                    }
                }
            })
        };
        for round in 1..=ROUNDS {
            pushed.store(round, Ordering::Release);
            bell.ring();
            // Now and then the consumer is let run dry, so that it really sleeps.
            while round % 64 == 0 && taken.load(Ordering::Acquire) < round {
                thread::yield_now();
            }
        }
        consumer.join().unwrap();
    }
}
