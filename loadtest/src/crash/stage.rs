//! What clients and killer share: where the server is, and how far the run is.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How far the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Clients send, servers are killed.
    Storm,
    /// A server stays, and clients repeat what is not acknowledged until it is.
    Finishing,
    /// Something failed, and everybody ends.
    Abandoned,
}

/// Shared by all threads of a run.
pub struct Stage {
    state: Mutex<State>,
    changed: Condvar,
    acknowledged_records: AtomicU64,
}

struct State {
    address: Option<SocketAddr>,
    phase: Phase,
}

impl Stage {
    /// No server yet.
    pub fn new() -> Self {
        let state = State { address: None, phase: Phase::Storm };
        Self { state: Mutex::new(state), changed: Condvar::new(), acknowledged_records: AtomicU64::new(0) }
    }

    /// Tells the clients where the server is, or that there is none.
    pub fn set_address(&self, address: Option<SocketAddr>) {
        self.lock().address = address;
        self.changed.notify_all();
    }

    /// Goes on to a later phase.
    pub fn enter(&self, phase: Phase) {
        let mut state = self.lock();
        state.phase = state.phase.max(phase);
        drop(state);
        self.changed.notify_all();
    }

    /// How far the run is.
    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// Waits until there is a server, and says where; `None` once the run is abandoned.
    pub fn address(&self) -> Option<SocketAddr> {
        let waits = |state: &mut State| state.address.is_none() && state.phase < Phase::Abandoned;
        let state = self.changed.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner);
        state.address.filter(|_| state.phase < Phase::Abandoned)
    }

    /// Waits, but not for longer than the phase lasts.
    pub fn pause(&self, duration: Duration, phase: Phase) {
        let waited = self.changed.wait_timeout_while(self.lock(), duration, |state| state.phase <= phase);
        drop(waited);
    }

    /// Waits before a server is asked again that did not answer, but not once another one is there.
    pub fn pause_after(&self, failed: SocketAddr, duration: Duration) {
        let same = |state: &mut State| state.address == Some(failed) && state.phase < Phase::Abandoned;
        let waited = self.changed.wait_timeout_while(self.lock(), duration, same);
        drop(waited);
    }

    /// Counts records that were acknowledged for the first time.
    pub fn acknowledged(&self, records: u32) {
        self.acknowledged_records.fetch_add(records.into(), Ordering::Relaxed);
    }

    /// Records that have been acknowledged so far.
    pub fn acknowledged_records(&self) -> u64 {
        self.acknowledged_records.load(Ordering::Relaxed)
    }

    /// Nothing is half done while the lock is held, so a thread that panicked with it leaves it in order.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
