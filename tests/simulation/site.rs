//! One data directory: its machine, its clients and the process that may be running on it.

use forebay::config;
use forebay::ingress::http::fast_path::request::Bounds;
use forebay::journal::platform::Platform as _;
use forebay::queue::DrainState;

use crate::clients::Clients;
use crate::machine::{Machine, State};
use crate::process::{NoStart, Process, Sizes};
use crate::random::Random;
use crate::sink::Shared;

pub struct Site {
    pub number: usize,
    pub machine: Machine,
    pub clients: Clients,
    pub process: Option<Process>,
    /// Counts the starts, as the data directory does.
    pub epoch: u64,
}

/// How a start went.
pub enum Start {
    Up,
    Passing,
    /// The disk is damaged, and the start says so.
    Refused,
}

impl Site {
    /// A data directory with `clients`; `record` says how large their records are and how many there are to a request.
    pub fn new(number: usize, machine: Machine, clients: usize, record: (u64, u64), sizes: &Sizes) -> Self {
        let limits = &sizes.limits;
        let bounds = Bounds { head_bytes_max: limits.head_bytes_max, record_bytes_max: limits.record_bytes_max };
        Self { number, machine, clients: Clients::new(number, clients, record, bounds), process: None, epoch: 0 }
    }

    pub fn start(&mut self, configs: &[config::Queue], sizes: &Sizes, database: &Shared) -> Start {
        self.machine = self.machine.next_life();
        self.epoch += 1;
        let started = Process::start(&self.machine, (self.number, self.epoch), configs, sizes, database);
        let mut database = database.lock().unwrap();
        database.model.is_damaged |= self.machine.state().disk.is_damaged;
        match started {
            Ok(process) => {
                for (number, queue) in process.queues.iter().enumerate() {
                    database.model.recovered(self.number, number, queue);
                }
                self.process = Some(process);
                Start::Up
            }
            Err(NoStart::Passing) => Start::Passing,
            Err(NoStart::Refused(_)) if database.model.is_damaged => Start::Refused,
            Err(NoStart::Refused(why)) => {
                database.model.complain(format!("a start was refused without damage: {why}"));
                Start::Refused
            }
        }
    }

    /// The process ends at once, and perhaps the machine with it.
    pub fn crash(&mut self, cuts_power: bool, database: &Shared) {
        self.process = None;
        let mut database = database.lock().unwrap();
        database.end_life(self.number);
        self.clients.disconnected(&database.model);
        let mut state = self.machine.state();
        let State { disk, random, .. } = &mut *state;
        disk.has_stopped = false;
        if cuts_power {
            disk.cut_power(random);
        }
    }

    /// A client sends; returns its request.
    pub fn send(&mut self, random: &mut Random, database: &Shared, asks_only_again: bool) -> Option<u32> {
        let process = self.process.as_ref()?;
        process.begin_turn();
        let mut database = database.lock().unwrap();
        self.clients.send(random, &mut database.model, process, asks_only_again)
    }

    /// The executors hand out what is completed; returns the number of answers.
    pub fn collect(&mut self, random: &mut Random, database: &Shared) -> u64 {
        let Some(process) = &self.process else { return 0 };
        process.begin_turn();
        let mut database = database.lock().unwrap();
        self.clients.collect(random, &mut database.model, process)
    }

    /// The journal gets the processor; whether it did anything.
    pub fn run_journal(&mut self, database: &Shared) -> bool {
        let Some(process) = &mut self.process else { return false };
        let did = process.run_journal();
        let mut database = database.lock().unwrap();
        for (number, queue) in process.queues.iter().enumerate() {
            database.model.note_durable(self.number, number, queue.journal.durable.get());
        }
        did
    }

    /// Time passes.
    pub fn pass(&mut self, step_ns: u64, database: &Shared) {
        let unix_us = {
            let mut state = self.machine.state();
            state.monotonic_ns += step_ns;
            state.unix_us += step_ns / 1000;
            state.unix_us
        };
        database.lock().unwrap().model.note_time(self.number, unix_us);
    }

    /// The wall clock is set; the other one never is.
    pub fn jump(&mut self, jump_us: u64, forward: bool, database: &Shared) {
        let unix_us = {
            let mut state = self.machine.state();
            state.unix_us = if forward { state.unix_us + jump_us } else { state.unix_us - jump_us };
            state.unix_us
        };
        database.lock().unwrap().model.note_time(self.number, unix_us);
    }

    pub fn is_journal_failed(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.health.is_journal_failed())
    }

    /// Whether the drain of a part has halted.
    pub fn is_halted(&self, part: usize) -> bool {
        let outlet = self.process.as_ref().and_then(|process| process.outlet(part));
        outlet.is_some_and(|outlet| outlet.drain.state() == DrainState::Halted)
    }

    /// Whether the machine has ended the process within an operation of the disk.
    pub fn has_stopped(&self) -> bool {
        self.machine.state().disk.has_stopped
    }

    pub fn now_ns(&self) -> u64 {
        self.machine.monotonic_ns()
    }
}
