//! Changes to queues while they run: by the admin API, and by reading the configuration again.
//!
//! A change is checked as a whole, logged with who asked for it, and then followed by the drain at once. It lasts until the
//! next restart or reload, when the configuration counts again; a pause lasts until somebody resumes.

mod letters;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::config::{self, Config, Shaping};
use crate::drain::dead_letters::{DeadLetterFile, LetterError};
use crate::drain::pause;
use crate::journal::platform::{Platform, System};
use crate::queue::{DrainState, Queue};

/// A queue and where its files are.
pub struct Controlled<P: Platform = System> {
    /// What all threads see of it.
    pub queue: Arc<Queue>,
    /// Where its files are.
    pub directory: PathBuf,
    /// Its dead letters.
    pub dead_letters: Arc<DeadLetterFile<P>>,
}

/// Changes queues while they run.
pub struct Control {
    queues: Vec<Controlled>,
    /// What runs, and what counts as long as nothing else is asked for: without what has changed since the start.
    running: Mutex<Config>,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no such queue.
    #[error("there is no queue `{name}`; the queues are {}", queues.join(", "))]
    NoQueue {
        /// The name that was given.
        name: String,
        /// Those that there are.
        queues: Vec<String>,
    },
    /// What was asked for cannot be; nothing was changed.
    #[error("{}", .0.join("; "))]
    Refused(Vec<String>),
    /// It cannot be done with that dead letter; nothing was changed.
    #[error(transparent)]
    Letter(LetterError),
    /// The mark of a pause could not be written or removed.
    #[error("the pause could not be noted in the data directory: {0}")]
    Mark(io::Error),
}

impl Control {
    /// Control over these queues, which run with this configuration.
    #[must_use]
    pub fn new(queues: Vec<Controlled>, config: Config) -> Self {
        Self { queues, running: Mutex::new(config) }
    }

    /// All queues as JSON.
    #[must_use]
    pub fn describe_all(&self) -> Value {
        json!({ "queues": self.queues.iter().map(|of| describe(&of.queue)).collect::<Vec<_>>() })
    }

    /// One queue as JSON.
    ///
    /// # Errors
    ///
    /// There is none with this name.
    pub fn describe(&self, name: &str) -> Result<Value, ControlError> {
        self.find(name).map(|of| describe(&of.queue))
    }

    /// Changes how a queue's records leave, by a JSON merge patch of its settings.
    ///
    /// # Errors
    ///
    /// Nothing was changed.
    pub fn change(&self, name: &str, patch: &Value, by: &str) -> Result<Value, ControlError> {
        let queue = &self.find(name)?.queue;
        let _one_at_a_time = self.lock();
        let current = queue.instructions.borrow().shaping.clone();
        let shaping = config::patch(&current, queue.config.ordering.order, patch).map_err(ControlError::Refused)?;
        tell(queue, shaping, by);
        Ok(describe(queue))
    }

    /// Delivers nothing of a queue until somebody resumes it, across restarts too.
    ///
    /// # Errors
    ///
    /// The queue is not paused, unless it was.
    pub fn pause(&self, name: &str, by: &str) -> Result<Value, ControlError> {
        let Controlled { queue, directory, .. } = self.find(name)?;
        let _one_at_a_time = self.lock();
        pause::mark(&System, directory, by).map_err(ControlError::Mark)?;
        if queue.instructions.send_if_modified(|told| !std::mem::replace(&mut told.is_paused, true)) {
            tracing::info!(queue = queue.name, by, "paused: nothing is delivered until somebody resumes");
        }
        Ok(describe(queue))
    }

    /// Delivers again.
    ///
    /// # Errors
    ///
    /// The queue is still paused, if it was.
    pub fn resume(&self, name: &str, by: &str) -> Result<Value, ControlError> {
        let Controlled { queue, directory, .. } = self.find(name)?;
        let _one_at_a_time = self.lock();
        pause::clear(&System, directory).map_err(ControlError::Mark)?;
        if queue.instructions.send_if_modified(|told| std::mem::replace(&mut told.is_paused, false)) {
            tracing::info!(queue = queue.name, by, "resumed");
        }
        Ok(describe(queue))
    }

    /// Takes over what a configuration says that can be taken over without a restart. Returns what needs one.
    #[must_use]
    pub fn reload(&self, config: &Config, by: &str) -> Vec<String> {
        let mut running = self.lock();
        for of in &self.queues {
            let queue = &of.queue;
            let Some(wanted) = config.queues.get(&queue.name) else { continue };
            tell(queue, wanted_now(queue, &wanted.shaping), by);
            if let Some(running) = running.queues.get_mut(&queue.name) {
                running.shaping = wanted.shaping.clone();
            }
        }
        needs_restart(&running, config)
    }

    fn find(&self, name: &str) -> Result<&Controlled, ControlError> {
        self.queues.iter().find(|of| of.queue.name == name).ok_or_else(|| ControlError::NoQueue {
            name: name.chars().take(crate::limits::QUEUE_NAME_BYTES_MAX).collect(),
            queues: self.queues.iter().map(|of| of.queue.name.clone()).collect(),
        })
    }

    /// One change at a time, so that none is made from what another has just replaced.
    fn lock(&self) -> MutexGuard<'_, Config> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of a configuration's shaping can be taken over in the queue as it runs: the file may say another order than the one
/// that is kept until a restart.
fn wanted_now(queue: &Queue, wanted: &Shaping) -> Shaping {
    let is_strict = !queue.config.ordering.is_reordering();
    Shaping { concurrency: if is_strict { 1 } else { wanted.concurrency }, ..wanted.clone() }
}

fn tell(queue: &Queue, shaping: Shaping, by: &str) {
    let (before, after) = (config::written(&queue.instructions.borrow().shaping), config::written(&shaping));
    let is_new = queue.instructions.send_if_modified(|told| {
        let is_new = told.shaping != shaping;
        told.shaping = shaping;
        is_new
    });
    if is_new {
        tracing::info!(queue = queue.name, by, %before, %after, "changed");
    }
}

/// A queue's settings under the names of the configuration, and how it is now.
fn describe(queue: &Queue) -> Value {
    let told = queue.instructions.borrow().clone();
    let mut value = config::written(&told.shaping);
    value["queue"] = json!(queue.name);
    value["paused"] = json!(told.is_paused);
    let backlog = queue.backlog_records();
    value["now"] = json!({
        "state": state_name(queue.drain.state()),
        "ceiling_per_second": Some(queue.ceiling().per_second()).filter(|rate| rate.is_finite()),
        "rate_per_second": Some(queue.rate().per_second()).filter(|rate| rate.is_finite()),
        "rate_measured_per_second": queue.drain.rate_measured.get(),
        "backlog_records": backlog,
        "backlog_bytes": queue.backlog_bytes(),
        "eta_ms": queue.eta_ms(backlog),
        "durable_sequence": queue.journal.durable.get(),
        "delivered_sequence": queue.drain.delivered.get(),
        "beyond_records": queue.drain.beyond_records.get(),
        "window_records": queue.drain.window_records.get(),
        "window_bytes": queue.drain.window_bytes.get(),
        "lanes": queue.drain.lanes.get(),
        "in_flight": queue.drain.in_flight.get(),
        "dead_letters": queue.dead_letters.count(),
        "redriving": queue.dead_letters.redriving(),
        "expired_records": queue.dead_letters.expired(),
    });
    value
}

fn state_name(state: DrainState) -> &'static str {
    match state {
        DrainState::Connecting => "connecting",
        DrainState::Running => "running",
        DrainState::Retrying => "retrying",
        DrainState::Paused => "paused",
        DrainState::Halted => "halted",
    }
}

/// What differs and is not taken over.
fn needs_restart(running: &Config, wanted: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    let mut differs = |key: String, differs: bool| {
        if differs {
            keys.push(key);
        }
    };
    differs("data_dir".to_owned(), running.data_dir != wanted.data_dir);
    differs("listeners".to_owned(), running.listeners != wanted.listeners);
    differs("admin".to_owned(), running.admin != wanted.admin);
    differs("ingress".to_owned(), running.ingress != wanted.ingress);
    differs("journal".to_owned(), running.journal != wanted.journal);
    differs("shutdown".to_owned(), running.shutdown != wanted.shutdown);
    for (name, queue) in &running.queues {
        match wanted.queues.get(name) {
            None => differs(format!("queues.{name} (gone)"), true),
            Some(wanted) => {
                let same = config::Queue { shaping: queue.shaping.clone(), ..wanted.clone() };
                differs(format!("queues.{name}"), same != *queue);
            }
        }
    }
    for name in wanted.queues.keys().filter(|name| !running.queues.contains_key(*name)) {
        differs(format!("queues.{name} (new)"), true);
    }
    keys
}
