//! The end of a run: the faults stop, and everything that was promised must be kept before long.

use crate::sink::Verdict;
use crate::site::Site;
use crate::world::World;
use crate::{disk, sink};

/// Turns that everything gets once the faults have stopped.
const TURNS_TO_SETTLE: u64 = 20_000;

impl World {
    /// The faults stop; everything that was promised must be kept before long.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        self.note("settle", 0, 0);
        self.database().faults = sink::Faults { latency_us_max: 500, ..sink::Faults::default() };
        for current in 0..self.sites.len() {
            self.current = current;
            self.site().machine.state().disk.faults = disk::Faults::default();
            for queue in 0..self.configs.len() {
                self.tell(queue, None, false);
            }
            // Somebody mends what has failed, and starts anew what has met a database that was set back.
            if self.site().is_journal_failed() || self.sets_database_back() {
                self.crash();
            }
        }
        for turn in 0..TURNS_TO_SETTLE {
            for current in 0..self.sites.len() {
                self.current = current;
                self.settle_turn(turn);
                if self.is_over {
                    return Ok(());
                }
                self.check()?;
            }
            if turn.is_multiple_of(50) && self.is_settled() && self.missing().is_none() {
                return Ok(());
            }
        }
        let are_waiting = self.sites.iter().any(|site| site.clients.are_waiting());
        if self.database().model.is_damaged && !are_waiting {
            return Ok(());
        }
        Err(format!("no progress without faults: clients wait: {are_waiting}, missing: {:?}", self.missing()))
    }

    fn settle_turn(&mut self, turn: u64) {
        if self.site().process.is_none() {
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
    }

    /// Whether there is nothing more to do. A queue that has halted keeps what it has, and its clients wait.
    fn is_settled(&self) -> bool {
        self.sites.iter().all(|site| {
            let Some(process) = &site.process else { return false };
            let must_halt = |queue| self.verdict(site.number, queue) == Verdict::MustHalt;
            let is_empty = |number: usize| {
                let queue = &process.queues[number];
                !must_halt(number) && queue.main.backlog_records(&queue.journal) == 0
            };
            let is_done = |queue: usize| site.is_halted(queue) || is_empty(queue);
            let any_halted = (0..self.configs.len()).any(|queue| site.is_halted(queue));
            (any_halted || !site.clients.are_waiting()) && (0..self.configs.len()).all(is_done)
        })
    }

    /// A promise that is not kept, of a queue that has not halted.
    fn missing(&self) -> Option<String> {
        let database = self.database();
        let of = |site: &Site| {
            let mut queues = (0..self.configs.len()).filter(|queue| !site.is_halted(*queue));
            queues.find_map(|queue| database.model.missing(site.number, queue))
        };
        self.sites.iter().find_map(of)
    }
}
