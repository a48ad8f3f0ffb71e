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
use crate::queue::{DrainState, Outlet, Queue};

/// One of a queue's sinks and where its files are.
pub struct Controlled<P: Platform = System> {
    /// What all threads see of the queue.
    pub queue: Arc<Queue>,
    /// What they see of the sink.
    pub outlet: Arc<Outlet>,
    /// Where its files are.
    pub directory: PathBuf,
    /// Its dead letters.
    pub dead_letters: Arc<DeadLetterFile<P>>,
}

/// What is asked about, or to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The queue.
    pub queue: String,
    /// Which of its sinks; `None` for the main one, which stands for the queue.
    pub sink: Option<String>,
}

/// Changes queues while they run.
pub struct Control {
    /// The sinks of all queues, those of one behind each other and its main one first.
    outlets: Vec<Controlled>,
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
    /// The queue has no such sink.
    #[error("the queue `{queue}` has no sink `{name}` beside its main one; {}", match sinks.as_slice() {
        [] => "it has none".to_owned(),
        sinks => format!("it has {}", sinks.join(", ")),
    })]
    NoSink {
        /// The queue.
        queue: String,
        /// The name that was given.
        name: String,
        /// Those that there are.
        sinks: Vec<String>,
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
    /// Control over these sinks, which run with this configuration. Those of one queue stand behind each other, the main one
    /// first.
    #[must_use]
    pub fn new(outlets: Vec<Controlled>, config: Config) -> Self {
        Self { outlets, running: Mutex::new(config) }
    }

    /// All queues as JSON.
    #[must_use]
    pub fn describe_all(&self) -> Value {
        json!({ "queues": self.mains().map(describe).collect::<Vec<_>>() })
    }

    /// A queue or one of its sinks as JSON.
    ///
    /// # Errors
    ///
    /// There is none with this name.
    pub fn describe(&self, address: &Address) -> Result<Value, ControlError> {
        self.find(address).map(describe)
    }

    /// Changes how records leave for a sink, by a JSON merge patch of its settings.
    ///
    /// # Errors
    ///
    /// Nothing was changed.
    pub fn change(&self, address: &Address, patch: &Value, by: &str) -> Result<Value, ControlError> {
        let of = self.find(address)?;
        let _one_at_a_time = self.lock();
        let current = of.outlet.instructions.borrow().shaping.clone();
        let shaping = config::patch(&current, of.outlet.config.ordering.order, patch).map_err(ControlError::Refused)?;
        tell(of, shaping, by);
        Ok(describe(of))
    }

    /// Delivers nothing to a sink until somebody resumes it, across restarts too.
    ///
    /// # Errors
    ///
    /// The sink is not paused, unless it was.
    pub fn pause(&self, address: &Address, by: &str) -> Result<Value, ControlError> {
        let of = self.find(address)?;
        let _one_at_a_time = self.lock();
        pause::mark(&System, &of.directory, by).map_err(ControlError::Mark)?;
        if of.outlet.instructions.send_if_modified(|told| !std::mem::replace(&mut told.is_paused, true)) {
            let (queue, sink) = of.names();
            tracing::info!(queue, sink, by, "paused: nothing is delivered until somebody resumes");
        }
        Ok(describe(of))
    }

    /// Delivers again.
    ///
    /// # Errors
    ///
    /// The sink is still paused, if it was.
    pub fn resume(&self, address: &Address, by: &str) -> Result<Value, ControlError> {
        let of = self.find(address)?;
        let _one_at_a_time = self.lock();
        pause::clear(&System, &of.directory).map_err(ControlError::Mark)?;
        if of.outlet.instructions.send_if_modified(|told| std::mem::replace(&mut told.is_paused, false)) {
            let (queue, sink) = of.names();
            tracing::info!(queue, sink, by, "resumed");
        }
        Ok(describe(of))
    }

    /// Takes over what a configuration says that can be taken over without a restart. Returns what needs one.
    #[must_use]
    pub fn reload(&self, config: &Config, by: &str) -> Vec<String> {
        let mut running = self.lock();
        for of in &self.outlets {
            let (queue, sink) = of.names();
            let Some(wanted) = config.queues.get(queue).and_then(|queue| queue.shaping_of(sink)) else { continue };
            tell(of, wanted_now(of, wanted), by);
            if let Some(running) = running.queues.get_mut(queue).and_then(|queue| queue.shaping_of_mut(sink)) {
                running.clone_from(wanted);
            }
        }
        needs_restart(&running, config)
    }

    fn mains(&self) -> impl Iterator<Item = &Controlled> {
        self.outlets.iter().filter(|of| of.outlet.name.is_none())
    }

    fn find(&self, address: &Address) -> Result<&Controlled, ControlError> {
        let Address { queue, sink } = address;
        let short = |name: &str| name.chars().take(crate::limits::QUEUE_NAME_BYTES_MAX).collect();
        let mut of_queue = self.outlets.iter().filter(|of| of.queue.name == *queue).peekable();
        if of_queue.peek().is_none() {
            let queues = self.mains().map(|of| of.queue.name.clone()).collect();
            return Err(ControlError::NoQueue { name: short(queue), queues });
        }
        of_queue.clone().find(|of| of.outlet.name == *sink).ok_or_else(|| ControlError::NoSink {
            queue: queue.clone(),
            name: short(sink.as_deref().unwrap_or_default()),
            sinks: of_queue.filter_map(|of| of.outlet.name.clone()).collect(),
        })
    }

    /// One change at a time, so that none is made from what another has just replaced.
    fn lock(&self) -> MutexGuard<'_, Config> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of a configuration's shaping can be taken over in the sink as it runs: the file may say another order than the one
/// that is kept until a restart.
fn wanted_now(of: &Controlled, wanted: &Shaping) -> Shaping {
    let is_strict = !of.outlet.config.ordering.is_reordering();
    Shaping { concurrency: if is_strict { 1 } else { wanted.concurrency }, ..wanted.clone() }
}

impl<P: Platform> Controlled<P> {
    /// The queue's name and the sink's.
    fn names(&self) -> (&str, Option<&str>) {
        (&self.queue.name, self.outlet.name.as_deref())
    }
}

fn tell(of: &Controlled, shaping: Shaping, by: &str) {
    let instructions = &of.outlet.instructions;
    let (before, after) = (config::written(&instructions.borrow().shaping), config::written(&shaping));
    let is_new = instructions.send_if_modified(|told| {
        let is_new = told.shaping != shaping;
        told.shaping = shaping;
        is_new
    });
    if is_new {
        let (queue, sink) = of.names();
        tracing::info!(queue, sink, by, %before, %after, "changed");
    }
}

/// A queue with all its sinks, or one that is not its main one.
fn describe(Controlled { queue, outlet, .. }: &Controlled) -> Value {
    let mut value = describe_outlet(queue, outlet);
    if outlet.name.is_none() {
        let others = queue.others.iter().filter_map(|other| Some((other.name.clone()?, describe_outlet(queue, other))));
        value["sinks"] = Value::Object(others.collect());
    }
    value
}

/// A sink's settings under the names of the configuration, and how it is now.
fn describe_outlet(queue: &Queue, outlet: &Outlet) -> Value {
    let told = outlet.instructions.borrow().clone();
    let mut value = config::written(&told.shaping);
    value["queue"] = json!(queue.name);
    if let Some(name) = &outlet.name {
        value["sink"] = json!(name);
    }
    value["paused"] = json!(told.is_paused);
    let (drain, backlog) = (&outlet.drain, outlet.backlog_records(&queue.journal));
    value["now"] = json!({
        "state": state_name(drain.state()),
        "ceiling_per_second": Some(outlet.ceiling().per_second()).filter(|rate| rate.is_finite()),
        "rate_per_second": Some(outlet.rate().per_second()).filter(|rate| rate.is_finite()),
        "rate_measured_per_second": drain.rate_measured.get(),
        "backlog_records": backlog,
        "backlog_bytes": outlet.backlog_bytes(&queue.journal),
        "eta_ms": outlet.eta_ms(backlog),
        "durable_sequence": queue.journal.durable.get(),
        "delivered_sequence": drain.delivered.get(),
        "beyond_records": drain.beyond_records.get(),
        "window_records": drain.window_records.get(),
        "window_bytes": drain.window_bytes.get(),
        "lanes": drain.lanes.get(),
        "in_flight": drain.in_flight.get(),
        "dead_letters": outlet.dead_letters.count(),
        "redriving": outlet.dead_letters.redriving(),
        "expired_records": outlet.dead_letters.expired(),
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
                differs(format!("queues.{name}"), wanted.with_shaping_of(queue) != *queue);
            }
        }
    }
    for name in wanted.queues.keys().filter(|name| !running.queues.contains_key(*name)) {
        differs(format!("queues.{name} (new)"), true);
    }
    keys
}
