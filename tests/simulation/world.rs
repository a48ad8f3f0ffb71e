//! The world: what happens next, and what must hold behind every step.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};

use forebay::config::{self, Ack};
use forebay::journal::format::BATCH_HEADER_BYTES;
use forebay::journal::platform::Platform as _;
use forebay::queue::{DrainState, Mark};

use crate::clients::{Clients, IN_FLIGHT_MAX};
use crate::disk;
use crate::machine::Machine;
use crate::model::Model;
use crate::process::{NoStart, Process, Sizes};
use crate::random::Random;
use crate::sink::{self, Database, Shared};
use crate::weather::{self, Weather};

/// Turns in which a stop must have ended.
const TURNS_TO_STOP: u64 = 3000;
/// Turns that everything gets once the faults have stopped.
const TURNS_TO_SETTLE: u64 = 20_000;

/// How a run ended.
#[derive(Debug, Default)]
pub struct Summary {
    pub starts: u64,
    pub refused: bool,
    pub rows: usize,
    pub requests: usize,
    /// A digest of everything that happened.
    pub digest: u64,
    /// Everything that happened, in lines, if it was asked for.
    pub trace: String,
}

pub struct World {
    machine: Machine,
    /// Chance of its own, so that what the machine draws does not change what happens next.
    random: Random,
    weather: Weather,
    sizes: Sizes,
    configs: Vec<config::Queue>,
    database: Shared,
    clients: Clients,
    process: Option<Process>,
    epoch: u64,
    /// Whether what is on the disk was refused: then there is nothing more to see.
    is_over: bool,
    has_trace: bool,
    summary: Summary,
}

impl World {
    pub fn new(seed: u64, steps: u64, has_trace: bool) -> Self {
        let mut random = Random::new(seed);
        let weather = Weather::new(&mut random, steps);
        let queues = if random.chance(3000) { 2 } else { 1 };
        let sizes = weather::sizes(&mut random);
        let clients = 2 + random.index(10);
        let poison_every = if random.chance(3000) { 7 + u32::try_from(random.below(40)).unwrap() } else { 0 };
        let machine = Machine::new(Random::new(random.next()));
        machine.state().disk.faults = weather.disk;
        let record_bytes_max = [40, 400, 2500][random.index(3)];
        let configs: Vec<_> = (0..queues).map(|_| weather::config(&mut random)).collect();
        let answers_early: Vec<_> = configs.iter().map(|config| config.ack == Ack::Memory).collect();
        let mut database = Database::new(queues, Model::new(&answers_early, clients, poison_every));
        database.faults = weather.sink;
        Self {
            machine,
            weather,
            sizes,
            configs,
            database: Arc::new(Mutex::new(database)),
            clients: Clients::new(clients, record_bytes_max, sizes.commit_bytes_max - BATCH_HEADER_BYTES),
            process: None,
            epoch: 0,
            is_over: false,
            has_trace,
            summary: Summary::default(),
            random,
        }
    }

    /// Runs to the end.
    pub fn run(mut self, steps: u64) -> (Summary, Result<(), String>) {
        let mut result = Ok(());
        for step in 0..steps {
            if self.is_over {
                break;
            }
            self.step(step);
            result = self.check();
            if result.is_err() {
                break;
            }
        }
        if result.is_ok() && !self.is_over {
            result = self.settle();
        }
        let (rows, requests) = {
            let database = self.database();
            (database.model.row_count(), database.model.requests.len())
        };
        (self.summary.rows, self.summary.requests) = (rows, requests);
        if let Err(what) = &result {
            self.note("violation", 0, 0);
            if self.has_trace {
                let _ = writeln!(self.summary.trace, "{what}");
            }
        }
        (self.summary, result)
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap()
    }

    /// Adds to the trace.
    fn note(&mut self, what: &'static str, a: u64, b: u64) {
        let mut digest = self.summary.digest;
        for number in [what.len() as u64, a, b, self.machine.monotonic_ns()] {
            digest = (digest ^ number).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
        }
        self.summary.digest = digest;
        if self.has_trace {
            let now_ns = self.machine.monotonic_ns();
            let _ = writeln!(self.summary.trace, "{now_ns:>13} {what} {a} {b}");
        }
    }

    fn step(&mut self, step: u64) {
        if self.weather.damage_at == Some(step) {
            self.damage();
        }
        if self.process.is_none() {
            self.advance();
            match self.random.below(10) {
                0..4 => self.start(),
                4 => self.change_disk(),
                _ => {}
            }
            return;
        }
        if self.random.chance(self.weather.crashes) {
            return if self.random.chance(2500) { self.stop() } else { self.crash() };
        }
        match self.random.below(100) {
            0..30 => self.send(false),
            30..56 => self.run_journal(),
            56..76 => self.run_drain(),
            76..80 => self.run_maintenance(),
            80..92 => self.advance(),
            92..97 => self.collect(),
            97 => self.change_sink(),
            98 => self.change_disk(),
            _ => self.jump(),
        }
        self.look_for_crash();
        let is_failed = self.process.as_ref().is_some_and(|process| process.health.is_journal_failed());
        if is_failed && self.random.chance(300) {
            self.crash();
        }
    }

    fn start(&mut self) {
        let machine = self.machine.next_life();
        self.epoch += 1;
        self.summary.starts += 1;
        if self.weather.rates_change {
            for config in &mut self.configs {
                config.shaping.rate = weather::rate(&mut self.random);
            }
        }
        let started = Process::start(&machine, self.epoch, &self.configs, self.sizes, &self.database);
        self.machine = machine;
        self.notice_damage();
        match started {
            Ok(process) => {
                for (number, queue) in process.queues.iter().enumerate() {
                    self.database().model.recovered(number, queue);
                    self.note("start", number as u64, queue.journal.durable.get());
                }
                self.process = Some(process);
            }
            Err(NoStart::Passing) => self.note("no start", 0, 0),
            Err(NoStart::Refused(why)) => {
                self.note("refused", 0, 0);
                if self.database().model.is_damaged {
                    self.is_over = true;
                    self.summary.refused = true;
                } else {
                    self.database().model.complain(format!("a start was refused without damage: {why}"));
                }
            }
        }
        self.look_for_crash();
    }

    /// The process ends at once, and perhaps the machine with it.
    fn crash(&mut self) {
        let cuts_power = self.random.chance(self.weather.power_cuts);
        // What was answered before the end counts.
        self.collect();
        self.process = None;
        self.database().end_life();
        let model = self.database.lock().unwrap();
        self.clients.disconnected(&model.model);
        drop(model);
        {
            let mut state = self.machine.state();
            let crate::machine::State { disk, random, .. } = &mut *state;
            disk.has_stopped = false;
            if cuts_power {
                disk.cut_power(random);
            }
        }
        self.note("crash", u64::from(cuts_power), 0);
    }

    /// The process is asked to end: everything that has arrived is answered first.
    fn stop(&mut self) {
        self.note("stop", 0, 0);
        for _ in 0..TURNS_TO_STOP {
            self.run_journal();
            self.collect();
            self.look_for_crash();
            self.pass(1_000_000);
            let Some(process) = &mut self.process else { return };
            if !self.clients.have_requests_in_flight() {
                process.end_executors();
            }
            if process.is_journal_finished() {
                process.stop_drains();
                self.run_drain();
            }
            if self.process.as_ref().is_some_and(Process::are_drains_finished) {
                self.run_maintenance();
                return self.crash();
            }
        }
        self.database().model.complain("a stop does not end".to_owned());
    }

    fn look_for_crash(&mut self) {
        if self.machine.state().disk.has_stopped {
            self.crash();
        }
    }

    fn send(&mut self, asks_only_again: bool) {
        let count = if self.random.chance(1000) { 8 } else { 1 };
        let now_us = self.machine.unix_us();
        for _ in 0..count {
            let Some(process) = &mut self.process else { return };
            let mut database = self.database.lock().unwrap();
            let to = (process.queues.as_slice(), &*process.health, process.rings.as_mut_slice());
            let sent = self.clients.send(&mut self.random, &mut database.model, to, (now_us, asks_only_again));
            drop(database);
            if let Some(request) = sent {
                self.note("send", u64::from(request), 0);
            }
        }
    }

    fn collect(&mut self) {
        let Some(process) = &mut self.process else { return };
        let mut database = self.database.lock().unwrap();
        let from = (process.queues.as_slice(), process.rings.as_mut_slice());
        let answers = self.clients.collect(&mut database.model, from);
        drop(database);
        if answers > 0 {
            self.note("answers", answers, 0);
        }
    }

    fn run_journal(&mut self) {
        let Some(process) = &mut self.process else { return };
        if process.run_journal() {
            let operations = self.machine.state().disk.operations;
            self.note("journal", operations, 0);
        }
    }

    fn run_drain(&mut self) {
        let queue = self.random.index(self.configs.len());
        let Some(process) = &mut self.process else { return };
        process.run_drain(queue);
        let position = self.database().position(queue);
        self.note("drain", queue as u64, position);
    }

    fn run_maintenance(&mut self) {
        let Some(process) = &mut self.process else { return };
        process.run_maintenance();
        let operations = self.machine.state().disk.operations;
        self.note("maintenance", operations, 0);
    }

    fn advance(&mut self) {
        let step_ns = match self.random.below(20) {
            0..12 => self.random.below(200_000),
            12..19 => self.random.below(5_000_000),
            _ => self.random.below(300_000_000),
        };
        self.pass(step_ns);
    }

    fn pass(&mut self, step_ns: u64) {
        let mut state = self.machine.state();
        state.monotonic_ns += step_ns;
        state.unix_us += step_ns / 1000;
    }

    fn change_sink(&mut self) {
        if self.weather.sink_goes_down {
            let is_down = self.random.chance(2500);
            self.database().faults.is_down = is_down;
        }
        let machine = self.machine.clone();
        self.database().decide_one(&machine);
        self.note("sink", 0, 0);
    }

    fn change_disk(&mut self) {
        if self.weather.fills_up {
            let full = self.random.chance(3000);
            self.machine.state().disk.faults.full = full;
            self.note("disk", u64::from(full), 0);
        }
    }

    /// The wall clock is set, by less than the window of the idempotency keys; the other one never is.
    fn jump(&mut self) {
        if self.weather.clock_jumps {
            let jump_us = self.random.below(600_000_000);
            let forward = self.random.chance(5000);
            let mut state = self.machine.state();
            state.unix_us = if forward { state.unix_us + jump_us } else { state.unix_us - jump_us };
            drop(state);
            self.note("jump", jump_us, u64::from(forward));
        }
    }

    fn damage(&mut self) {
        let bits = self.random.chance(7000);
        {
            let mut state = self.machine.state();
            let crate::machine::State { disk, random, .. } = &mut *state;
            if bits {
                disk.rot(random);
            } else {
                disk.faults.misdirected_write = 5000;
            }
        }
        self.notice_damage();
        self.note("damage", u64::from(bits), 0);
    }

    /// From here on what the disk held may be gone. One misdirected write is enough.
    fn notice_damage(&mut self) {
        let mut state = self.machine.state();
        if state.disk.is_damaged {
            state.disk.faults.misdirected_write = 0;
            self.database.lock().unwrap().model.is_damaged = true;
        }
    }

    /// What must hold behind every step.
    fn check(&mut self) -> Result<(), String> {
        self.notice_damage();
        if let Some(complaint) = self.database().model.complaint.take() {
            return Err(complaint);
        }
        let is_damaged = self.database().model.is_damaged;
        let Some(process) = &self.process else { return Ok(()) };
        for (number, queue) in process.queues.iter().enumerate() {
            let (journal, drain) = (&queue.journal, &queue.drain);
            let marks = [&journal.appended, &journal.durable, &drain.released, &drain.delivered, &journal.trimmed];
            let marks = marks.map(Mark::get);
            if !marks.is_sorted_by(|a, b| a >= b) {
                return Err(format!("queue {number}: the watermarks are out of order: {marks:?}"));
            }
            if drain.state() == DrainState::Halted && !is_damaged {
                return Err(format!("queue {number}: the drain has halted at {}", drain.delivered.get()));
            }
            let in_flight_bytes = (IN_FLIGHT_MAX * self.clients.frame_bytes_max()) as u64;
            if queue.backlog_bytes() > queue.config.max_backlog_bytes + in_flight_bytes && drain.batches.get() > 0 {
                return Err(format!("queue {number}: a backlog of {} bytes is too large", queue.backlog_bytes()));
            }
        }
        let state = self.machine.state();
        let segments: usize = process.catalogues.iter().map(|catalogue| catalogue.len()).sum();
        let files = state.disk.count("/data/", ".seg");
        // One may be on its way from the pool to each queue, or be left by an operation that failed.
        if files > segments + self.sizes.spare_segments + 2 * self.configs.len() + 2 {
            return Err(format!("{files} segment files for {segments} segments"));
        }
        Ok(())
    }

    /// The faults stop; everything that was promised must be kept before long.
    fn settle(&mut self) -> Result<(), String> {
        self.note("settle", 0, 0);
        self.machine.state().disk.faults = disk::Faults::default();
        self.database().faults = sink::Faults { latency_us_max: 500, ..sink::Faults::default() };
        if self.process.as_ref().is_some_and(|process| process.health.is_journal_failed()) {
            self.crash();
        }
        for turn in 0..TURNS_TO_SETTLE {
            if self.is_over {
                return Ok(());
            }
            if self.process.is_none() {
                self.start();
            }
            self.send(true);
            self.run_journal();
            self.collect();
            self.run_drain();
            if turn.is_multiple_of(20) {
                self.run_maintenance();
            }
            self.pass(2_000_000);
            self.check()?;
            let halted = |process: &Process| process.queues.iter().any(|q| q.drain.state() == DrainState::Halted);
            if self.process.as_ref().is_some_and(halted) {
                return Ok(());
            }
            let is_empty = |process: &Process| process.queues.iter().all(|queue| queue.backlog_records() == 0);
            let is_done = !self.clients.are_waiting() && self.process.as_ref().is_some_and(is_empty);
            if turn.is_multiple_of(50) && is_done && self.database().model.missing().is_none() {
                return Ok(());
            }
        }
        let missing = self.database().model.missing();
        if self.database().model.is_damaged && !self.clients.are_waiting() {
            return Ok(());
        }
        Err(format!("no progress without faults: clients wait: {}, missing: {missing:?}", self.clients.are_waiting()))
    }
}
