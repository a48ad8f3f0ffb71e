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
            for part in 0..self.part_count() {
                self.tell(part, None, false);
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
            let must_halt = |part| self.verdict(site.number, part) == Verdict::MustHalt;
            let is_empty = |part: usize| {
                let queue = &process.queues[part % process.queues.len()];
                let backlog = process.outlet(part).map_or(0, |outlet| outlet.backlog_records(&queue.journal));
                !must_halt(part) && backlog == 0
            };
            let has_lanes = |part: usize| {
                process.outlet(part).is_none_or(|outlet| {
                    outlet.drain.lanes.get() == u64::from(outlet.instructions.borrow().shaping.concurrency)
                })
            };
            let is_done = |part: usize| site.is_halted(part) || (is_empty(part) && has_lanes(part));
            let any_halted = (0..self.part_count()).any(|part| site.is_halted(part));
            (any_halted || !site.clients.are_waiting()) && (0..self.part_count()).all(is_done)
        })
    }

    /// A promise that is not kept, of a queue that has not halted.
    fn missing(&self) -> Option<String> {
        let database = self.database();
        let of = |site: &Site| {
            let mut parts = (0..self.part_count()).filter(|part| !site.is_halted(*part));
            parts.find_map(|part| database.model.missing(site.number, part))
        };
        self.sites.iter().find_map(of)
    }
}
