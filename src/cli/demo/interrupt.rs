//! SIGINT, SIGTERM and SIGHUP: while the server runs they are noted and looked at between two waits, so
//! that the server never outlives the demo; without a server they end the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Exit code of a process that a signal ended, less the signal's number, as in a shell.
const EXIT_SIGNALLED: u8 = 128;

/// Whether a signal has come.
pub struct Interrupt {
    signal: Arc<AtomicUsize>,
    childless: Arc<AtomicBool>,
}

/// A signal has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted by signal {0}")]
pub struct Interrupted(usize);

impl Interrupted {
    /// What the process exits with.
    pub fn exit_code(self) -> u8 {
        u8::try_from(self.0).map_or(u8::MAX, |signal| signal.saturating_add(EXIT_SIGNALLED))
    }
}

impl Interrupt {
    /// Catches the signals from now on.
    pub fn catch() -> anyhow::Result<Self> {
        let interrupt = Self { signal: Arc::default(), childless: Arc::new(AtomicBool::new(true)) };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let number = usize::try_from(signal).context("a signal without a number")?;
            let status = i32::from(EXIT_SIGNALLED) + signal;
            flag::register_conditional_shutdown(signal, status, Arc::clone(&interrupt.childless))
                .and_then(|_| flag::register_usize(signal, Arc::clone(&interrupt.signal), number))
                .context("cannot catch signals")?;
        }
        Ok(interrupt)
    }

    /// Says whether a process of ours must be killed before we may end.
    pub fn set_child(&self, running: bool) {
        self.childless.store(!running, Ordering::SeqCst);
    }

    /// Fails once a signal has come.
    pub fn check(&self) -> Result<(), Interrupted> {
        match self.signal.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(Interrupted(signal)),
        }
    }

    /// Waits for up to `duration`; fails once a signal has come.
    pub fn wait(&self, duration: Duration) -> Result<(), Interrupted> {
        self.check()?;
        // It may return early, which every caller's loop bears.
        thread::park_timeout(duration);
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(Interrupted(2).exit_code(), 130);
        assert_eq!(Interrupted(15).exit_code(), 143);
        assert_eq!(Interrupted(1000).exit_code(), 255);
    }
}
