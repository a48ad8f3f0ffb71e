//! The progress of a run on standard error: one line that changes on a terminal, a line per second elsewhere.

use forebay_loadtest::engine::Progress;
use forebay_loadtest::results::grouped;
use std::io::{IsTerminal, Write, stderr};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const TERMINAL_PERIOD: Duration = Duration::from_millis(200);
const PLAIN_PERIOD: Duration = Duration::from_secs(1);

/// Shows a run's progress until it is dropped.
pub struct Display {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Display {
    pub fn start(progress: std::sync::Arc<Progress>) -> Self {
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || {
            let terminal = stderr().is_terminal();
            let period = if terminal { TERMINAL_PERIOD } else { PLAIN_PERIOD };
            let started = Instant::now();
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                let line = line(&progress, started.elapsed());
                // Progress that cannot be shown is no reason to stop the run.
                let _ = if terminal { write!(stderr(), "\r\x1b[K{line}") } else { writeln!(stderr(), "{line}") };
            }
            if terminal {
                let _ = write!(stderr(), "\r\x1b[K");
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by itself, and the figures don't depend on it.
            let _ = thread.join();
        }
    }
}

fn line(progress: &Progress, elapsed: Duration) -> String {
    let counts = progress.counts();
    format!(
        "{:>5.1} s  offered {}  acknowledged {}  in flight {}  refused {}  errors {}  retries {}",
        elapsed.as_secs_f64(),
        grouped(counts.offered),
        grouped(counts.acknowledged),
        grouped(counts.in_flight),
        grouped(counts.refused),
        grouped(counts.errors),
        grouped(counts.retries)
    )
}
