//! The world: what happens next.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};

use forebay::config;
use forebay::rate::Rate;

use crate::disk::Disk;
use crate::echo::SECOND;
use crate::machine::{Machine, State};
use crate::model::Model;
use crate::process::{Process, Sizes};
use crate::random::Random;
use crate::sink::{Database, Shared, Verdict};
use crate::site::{Site, Start};
use crate::weather::{self, Mishap, Weather};

/// Turns in which a stop must have ended.
const TURNS_TO_STOP: u64 = 3000;

/// Bytes of a record besides its body, at most.
const RECORD_BYTES_BESIDES: u64 = 100;

/// How a run ended.
#[derive(Debug, Default)]
pub struct Summary {
    pub starts: u64,
    pub refused: bool,
    pub rows: usize,
    pub requests: usize,
    /// How often what does not come up in every seed came up.
    pub seen: BTreeMap<&'static str, u64>,
    /// A digest of everything that happened.
    pub digest: u64,
    /// Everything that happened, in lines, if it was asked for.
    pub trace: String,
}

/// What a backup of a data directory holds.
struct Backup {
    disk: Disk,
    epoch: u64,
}

pub struct World {
    /// Chance of its own, so that what the machine draws does not change what happens next.
    random: Random,
    weather: Weather,
    pub(crate) sizes: Sizes,
    pub(crate) configs: Vec<config::Queue>,
    /// The second sinks of the queues that are to have one, and the start from which on they do.
    seconds: Vec<Option<(u64, config::Outlet)>>,
    pub(crate) database: Shared,
    /// One, or two once the data directory was copied.
    pub(crate) sites: Vec<Site>,
    /// The one whose turn it is.
    pub(crate) current: usize,
    /// How large records are and how many there are to a request.
    record: (u64, u64),
    backup: Option<Backup>,
    /// Whether what is on the disk was refused: then there is nothing more to see.
    pub(crate) is_over: bool,
    has_trace: bool,
    summary: Summary,
}

impl World {
    pub fn new(seed: u64, steps: u64, has_trace: bool) -> Self {
        let mut random = Random::new(seed);
        let weather = Weather::new(&mut random, steps);
        let queues = [1, 1, 1, 1, 1, 1, 1, 2, 2, 3][random.index(10)];
        let sizes = weather::sizes(&mut random);
        let clients = 2 + random.index(10);
        let poison_every = if random.chance(3000) { 7 + u32::try_from(random.below(40)).unwrap() } else { 0 };
        let machine = Machine::new(Random::new(random.next()));
        machine.state().disk.faults = weather.disk;
        let record = ([40, 400, 2500][random.index(3)], [3, 3, 9][random.index(3)]);
        let mut configs: Vec<_> = (0..queues).map(|_| weather::config(&mut random)).collect();
        // Of two copies of a directory nobody can say which records of which one the database has beyond its position.
        let is_copied = matches!(weather.mishap, Some((Mishap::DirectorySetBack | Mishap::Copied, ..)));
        for config in &mut configs {
            if random.chance(4000) && !is_copied {
                weather::reorder(&mut random, &mut config.ordering, &mut config.shaping);
                // What was due soon by a clock that has been set back since would not be until the end.
                config.ordering.delay_ms_max = if weather.clock_jumps { 0 } else { 1000 };
            }
        }
        let second = |config: &config::Queue| (!is_copied).then(|| weather::second(&mut random, config)).flatten();
        let seconds = configs.iter().map(second).collect();
        let bounds: Vec<_> = configs.iter().map(|config| weather::bounds(config, &sizes)).collect();
        let mut database = Database::new(Model::new(&bounds, poison_every));
        database.faults = weather.sink;
        let database = Arc::new(Mutex::new(database));
        let mut site = Site::new(0, machine, clients, record, &sizes);
        site.pass(0, &database);
        Self {
            random,
            weather,
            sizes,
            configs,
            seconds,
            database,
            sites: vec![site],
            current: 0,
            record,
            backup: None,
            is_over: false,
            has_trace,
            summary: Summary::default(),
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
        {
            let mut database = self.database.lock().unwrap();
            self.summary.rows = database.model.row_count();
            self.summary.requests = database.model.requests.len();
            self.summary.seen = std::mem::take(&mut database.model.seen);
        }
        if let Err(what) = &result {
            self.note("violation", 0, 0);
            if self.has_trace {
                let _ = writeln!(self.summary.trace, "{what}");
            }
        }
        (self.summary, result)
    }

    pub(crate) fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap()
    }

    pub(crate) fn site(&mut self) -> &mut Site {
        &mut self.sites[self.current]
    }

    /// Adds to the trace.
    pub(crate) fn note(&mut self, what: &'static str, a: u64, b: u64) {
        let (site, now_ns) = (self.current as u64, self.sites[self.current].now_ns());
        let mut digest = self.summary.digest;
        for number in [what.len() as u64, site, a, b, now_ns] {
            digest = (digest ^ number).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
        }
        self.summary.digest = digest;
        if self.has_trace {
            let _ = writeln!(self.summary.trace, "{now_ns:>13} {site} {what} {a} {b}");
        }
    }

    fn step(&mut self, step: u64) {
        self.current = if self.sites.len() > 1 { self.random.index(self.sites.len()) } else { 0 };
        if let Some((mishap, at, kept_at)) = self.weather.mishap {
            if step == kept_at {
                self.keep();
            }
            if step == at {
                self.meet(mishap);
            }
        }
        if self.site().process.is_none() {
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
            _ if self.random.chance(5000) => self.jump(),
            _ => self.instruct(),
        }
        self.look_for_crash();
        if self.site().is_journal_failed() && self.random.chance(300) {
            self.crash();
        }
    }

    /// A backup is made of the directory and of the database.
    fn keep(&mut self) {
        let site = &self.sites[0];
        let disk = site.machine.state().disk.copy();
        self.backup = Some(Backup { disk, epoch: site.epoch });
        self.database().keep();
    }

    fn meet(&mut self, mishap: Mishap) {
        self.current = 0;
        match mishap {
            Mishap::Rot => {
                let mut state = self.site().machine.state();
                let State { disk, random, .. } = &mut *state;
                disk.rot(random);
            }
            Mishap::MisdirectedWrite => self.site().machine.state().disk.faults.misdirected_write = 5000,
            Mishap::DatabaseSetBack => self.database().set_back(),
            Mishap::DirectorySetBack => self.set_directory_back(),
            Mishap::Copied => self.copy(),
        }
        self.notice_damage();
        self.note("mishap", mishap as u64, 0);
        self.database().model.see(mishap.name());
    }

    fn set_directory_back(&mut self) {
        let Some(Backup { disk, epoch }) = self.backup.take() else { return };
        self.crash();
        self.sites[0].machine.state().disk.set_back(&disk);
        self.sites[0].epoch = epoch;
        self.database().directory_set_back(0);
    }

    fn copy(&mut self) {
        let Some(Backup { disk, epoch }) = self.backup.take() else { return };
        let machine = self.sites[0].machine.with_disk(Random::new(self.random.next()), disk);
        machine.state().disk.faults = self.weather.disk;
        let clients = 1 + self.random.index(5);
        let mut site = Site::new(1, machine, clients, self.record, &self.sizes);
        site.epoch = epoch;
        self.sites.push(site);
        let mut database = self.database();
        database.add_site();
        database.model.fork();
    }

    pub(crate) fn start(&mut self) {
        self.summary.starts += 1;
        for (config, second) in self.configs.iter_mut().zip(&self.seconds) {
            if let Some((_, outlet)) = second.as_ref().filter(|(from, _)| self.summary.starts >= *from) {
                config.sinks.insert(SECOND.to_owned(), outlet.clone());
            }
        }
        if self.weather.rates_change {
            for config in &mut self.configs {
                config.shaping.rate = weather::rate(&mut self.random);
                if config.ordering.is_reordering() {
                    config.shaping.concurrency = weather::concurrency(&mut self.random);
                }
            }
        }
        let Self { sites, current, configs, sizes, database, .. } = self;
        match sites[*current].start(configs, sizes, database) {
            Start::Up => {
                for number in 0..self.configs.len() {
                    let process = self.site().process.as_ref();
                    let durable = process.map_or(0, |process| process.queues[number].journal.durable.get());
                    self.note("start", number as u64, durable);
                }
            }
            Start::Passing => self.note("no start", 0, 0),
            Start::Refused => {
                self.note("refused", 0, 0);
                (self.is_over, self.summary.refused) = (true, true);
            }
        }
        self.notice_damage();
        self.look_for_crash();
    }

    /// The process ends at once, and perhaps the machine with it.
    pub(crate) fn crash(&mut self) {
        let cuts_power = self.random.chance(self.weather.power_cuts);
        // What was answered before the end counts.
        self.collect();
        let Self { sites, current, database, .. } = self;
        sites[*current].crash(cuts_power, database);
        self.note("crash", u64::from(cuts_power), 0);
    }

    /// The process is asked to end: everything that has arrived is answered first.
    fn stop(&mut self) {
        self.note("stop", 0, 0);
        for turn in 0..TURNS_TO_STOP {
            let Some(process) = &self.site().process else { return };
            process.begin_stop();
            if turn < 20 {
                // What arrives now is turned away, if its head had not come before.
                self.send(false);
            }
            self.run_journal();
            self.collect();
            self.look_for_crash();
            self.pass(1_000_000);
            let site = self.site();
            let Some(process) = &mut site.process else { return };
            if turn >= 20 && !site.clients.have_requests_in_flight() {
                process.end_executors();
            }
            if process.is_journal_finished() {
                process.stop_drains();
                self.run_drain();
            }
            if self.site().process.as_ref().is_some_and(Process::are_drains_finished) {
                self.run_maintenance();
                return self.crash();
            }
        }
        self.database().model.complain("a stop does not end".to_owned());
    }

    fn look_for_crash(&mut self) {
        if self.site().has_stopped() {
            self.crash();
        }
    }

    pub(crate) fn send(&mut self, asks_only_again: bool) {
        let count = if self.random.chance(1000) { 8 } else { 1 };
        for _ in 0..count {
            let Self { sites, current, random, database, .. } = self;
            if let Some(request) = sites[*current].send(random, database, asks_only_again) {
                self.note("send", u64::from(request), 0);
            }
        }
    }

    pub(crate) fn collect(&mut self) {
        let Self { sites, current, random, database, .. } = self;
        let answers = sites[*current].collect(random, database);
        if answers > 0 {
            self.note("answers", answers, 0);
        }
    }

    pub(crate) fn run_journal(&mut self) {
        let Self { sites, current, database, .. } = self;
        if sites[*current].run_journal(database) {
            let operations = self.site().machine.state().disk.operations;
            self.note("journal", operations, 0);
        }
    }

    pub(crate) fn run_drain(&mut self) {
        let part = self.random.index(self.part_count());
        let Some(process) = &mut self.site().process else { return };
        let lanes = |process: &Process| process.outlet(part).map_or(0, |outlet| outlet.drain.lanes.get());
        let before = lanes(process);
        process.run_drain(part);
        let after = lanes(process);
        if after != before {
            self.database().model.see(if after > before { "a lane more" } else { "a lane less" });
        }
        let position = self.database().position(part);
        self.note("drain", part as u64, position);
    }

    /// How many parts there may be: the main sinks of all queues, and as many second ones if any queue has one.
    pub(crate) fn part_count(&self) -> usize {
        let has_second = self.configs.iter().any(|config| !config.sinks.is_empty());
        if has_second { 2 * self.configs.len() } else { self.configs.len() }
    }

    /// Whether a sink is added to a queue that may have a past.
    pub(crate) fn adds_sinks(&self) -> bool {
        self.seconds.iter().flatten().any(|(from, _)| *from > 1)
    }

    pub(crate) fn run_maintenance(&mut self) {
        let Some(process) = &mut self.site().process else { return };
        process.run_maintenance();
        let operations = self.site().machine.state().disk.operations;
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

    pub(crate) fn pass(&mut self, step_ns: u64) {
        let Self { sites, current, database, .. } = self;
        sites[*current].pass(step_ns, database);
    }

    fn change_sink(&mut self) {
        if self.weather.sink_goes_down {
            let is_down = self.random.chance(2500);
            self.database().faults.is_down = is_down;
        }
        let machine = self.site().machine.clone();
        self.database().decide_one(&machine);
        self.note("sink", 0, 0);
    }

    fn change_disk(&mut self) {
        if self.weather.fills_up {
            let full = self.random.chance(3000);
            self.site().machine.state().disk.faults.full = full;
            self.note("disk", u64::from(full), 0);
        }
    }

    /// Somebody changes the rate of a part or how many lanes it has, pauses it, or lets it go on.
    fn instruct(&mut self) {
        if !self.weather.is_instructed {
            return;
        }
        let part = self.random.index(self.part_count());
        let outlet = self.site().process.as_ref().and_then(|process| process.outlet(part));
        let reorders = outlet.is_some_and(|outlet| outlet.config.ordering.is_reordering());
        if reorders && self.random.chance(5000) {
            return self.widen(part);
        }
        let rate = self.random.chance(6000).then(|| weather::rate(&mut self.random));
        let is_paused = rate.is_none() && self.random.chance(5000);
        self.tell(part, rate, is_paused);
    }

    /// Tells the drain of a part how many lanes it is to have.
    fn widen(&mut self, part: usize) {
        let concurrency = weather::concurrency(&mut self.random);
        let Some(outlet) = self.site().process.as_ref().and_then(|process| process.outlet(part)) else { return };
        outlet.instructions.send_modify(|told| told.shaping.concurrency = concurrency);
        let lanes = outlet.drain.lanes.get();
        self.database().model.see("told another number of lanes");
        self.note("lanes", u64::from(concurrency), lanes);
    }

    /// Tells the drain of a part what to do; without a rate, the last one goes on.
    pub(crate) fn tell(&mut self, part: usize, rate: Option<Rate>, is_paused: bool) {
        let (number, now_ns) = (self.site().number, self.site().now_ns());
        let Some(outlet) = self.site().process.as_ref().and_then(|process| process.outlet(part)) else { return };
        let instructions = &outlet.instructions;
        instructions.send_modify(|told| {
            told.shaping.rate = rate.unwrap_or(told.shaping.rate);
            told.is_paused = is_paused;
        });
        let rate = instructions.borrow().shaping.rate;
        let mut database = self.database();
        database.told(number, part, rate, now_ns);
        database.model.see(if is_paused { "paused" } else { "told another rate" });
        drop(database);
        self.note("told", part as u64, u64::from(is_paused));
    }

    /// The wall clock is set; the other one never is.
    fn jump(&mut self) {
        if self.weather.clock_jumps {
            let jump_us = self.random.below(600_000_000);
            let forward = self.random.chance(5000);
            let Self { sites, current, database, .. } = self;
            sites[*current].jump(jump_us, forward, database);
            self.note("jump", jump_us, u64::from(forward));
        }
    }

    /// From here on what the disk held may be gone. One misdirected write is enough.
    pub(crate) fn notice_damage(&mut self) {
        for site in &self.sites {
            let mut state = site.machine.state();
            if state.disk.is_damaged {
                state.disk.faults.misdirected_write = 0;
                self.database.lock().unwrap().model.is_damaged = true;
            }
        }
    }

    /// Bytes of the largest frame that a client sends.
    pub(crate) fn frame_bytes_max(&self) -> u64 {
        let (bytes_max, records_max) = self.record;
        (records_max * (bytes_max + RECORD_BYTES_BESIDES)).min(self.sizes.commit_bytes_max as u64)
    }

    /// Whether the database is set back in this seed.
    pub(crate) fn sets_database_back(&self) -> bool {
        self.weather.mishap.is_some_and(|(mishap, ..)| mishap == Mishap::DatabaseSetBack)
    }

    /// What is expected of the drain of a part.
    pub(crate) fn verdict(&self, site: usize, part: usize) -> Verdict {
        self.database().verdict(site, part)
    }
}
