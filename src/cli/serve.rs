//! `forebay serve`: runs until it is told to stop.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::control::Control;
use crate::server::Server;
use crate::{config, sink};

/// Descriptors for everything but connections: segments, databases, rings, logs.
const FILES_RESERVED: u64 = 256;
/// Exit code of a process that a second signal ended at once.
const EXIT_IMPATIENT: i32 = 130;

/// Run until SIGTERM or SIGINT.
///
/// The first signal stops in order: nothing new is accepted, what was accepted is answered and
/// written to disk, the transaction in progress is finished and the position stored. Records that
/// are not delivered yet stay in the data directory for the next start. A second signal exits at once,
/// which loses nothing that was acknowledged either.
///
/// SIGHUP reads the configuration again. Rates, bursts, schedules, batches and retries of the queues take effect at once;
/// whatever else has changed is named in the log and waits for a restart. If anything in the file is wrong, nothing changes.
#[derive(clap::Args)]
pub struct Arguments {
    /// The configuration; `config/forebay.toml` shows every option
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the command.
///
/// # Errors
///
/// The configuration is wrong or the server cannot start.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = config::load(&arguments.config, &sink::KINDS)?;
    abort_on_panic();
    raise_file_limit(config.ingress.connections_max);
    // The signals are caught before anything starts, so that none is missed.
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot catch signals")?;
    let control = Arc::new(OnceLock::new());
    let first_signal = watch_signals(signals, arguments.config.clone(), Arc::clone(&control))?;
    let server = Server::start(&config)?;
    for (listener, address) in server.addresses() {
        let purpose = listener.queue.as_ref().map(|queue| format!(" (every request into {queue})")).unwrap_or_default();
        println!("listening on http://{address}{purpose}");
    }
    println!("admin on http://{} (/healthz /readyz /metrics /v1/queues)", server.admin_address());
    // Nobody else sets it.
    let _ = control.set(server.control());
    // Joined, and not told through a channel: where the kernel interrupts this thread with the signal, ThreadSanitizer
    // runs the handler only if the thread waits in a call that it knows, as this one.
    let _ = first_signal.join();
    tracing::info!("stopping: answering what was accepted; a second signal exits at once");
    let clean = server.stop();
    tracing::info!("stopped");
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every connection takes a descriptor, and the usual soft limit is 1,024.
fn raise_file_limit(connections_max: usize) {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::debug!(%error, "the limit of open files could not be raised");
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let wanted = (connections_max as u64).saturating_add(FILES_RESERVED);
    if files < wanted {
        tracing::warn!(
            files,
            connections_max,
            "the process may open fewer files than connections_max allows connections; raise the limit (ulimit -Hn, \
             LimitNOFILE=) to {wanted}, or lower connections_max"
        );
    }
}

/// Ends with the first signal to stop; a second one ends the process. SIGHUP reads the configuration again.
fn watch_signals(
    mut signals: Signals,
    path: PathBuf,
    control: Arc<OnceLock<Arc<Control>>>,
) -> anyhow::Result<JoinHandle<()>> {
    signal_thread(move || {
        for signal in signals.forever() {
            match control.get() {
                _ if signal != SIGHUP => break,
                Some(control) => reload(&path, control),
                None => tracing::warn!("the server is starting; send SIGHUP again once it has started"),
            }
        }
        let second = signal_thread(move || {
            let is_stop = |signal: &i32| *signal != SIGHUP;
            let _ = signals.forever().find(is_stop);
            std::process::exit(EXIT_IMPATIENT);
        });
        if let Err(error) = second {
            tracing::warn!(%error, "a second signal will not be noticed");
        }
    })
}

fn signal_thread(run: impl FnOnce() + Send + 'static) -> anyhow::Result<JoinHandle<()>> {
    thread::Builder::new().name("signals".to_owned()).spawn(run).context("cannot start a thread")
}

/// Reads the configuration again and says what came of it.
fn reload(path: &Path, control: &Control) {
    let config = match config::load(path, &sink::KINDS) {
        Ok(config) => config,
        Err(errors) => {
            tracing::error!("the configuration is not taken over, since it has errors; nothing has changed:\n{errors}");
            return;
        }
    };
    let needs_restart = control.reload(&config, "SIGHUP");
    if needs_restart.is_empty() {
        tracing::info!("the configuration was read again");
    } else {
        let keys = needs_restart.join(", ");
        tracing::warn!(keys, "the configuration was read again; what these keys say takes effect with a restart");
    }
}

/// A thread that panicked would leave a server that accepts and never answers, or answers and never
/// delivers. Ending the process loses nothing: the next start recovers.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}
