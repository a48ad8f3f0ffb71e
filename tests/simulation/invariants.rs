//! What must hold behind every step.

use forebay::queue::{DrainState, Mark, Queue};

use crate::sink::Verdict;
use crate::site::Site;
use crate::world::World;

impl World {
    pub(crate) fn check(&mut self) -> Result<(), String> {
        self.notice_damage();
        if let Some(complaint) = self.database().model.complaint.take() {
            return Err(complaint);
        }
        for site in &self.sites {
            let Some(process) = &site.process else { continue };
            for (number, queue) in process.queues.iter().enumerate() {
                self.check_queue(site, number, queue).map_err(|what| format!("queue {number}: {what}"))?;
            }
            self.check_site(site)?;
        }
        Ok(())
    }

    fn check_queue(&self, site: &Site, number: usize, queue: &Queue) -> Result<(), String> {
        let (journal, drain) = (&queue.journal, &queue.main.drain);
        let marks = [&journal.appended, &journal.durable, &drain.released, &drain.delivered, &journal.trimmed];
        let marks = marks.map(Mark::get);
        if !marks.is_sorted_by(|a, b| a >= b) {
            return Err(format!("the watermarks are out of order: {marks:?}"));
        }
        let verdict = self.verdict(site.number, number);
        if drain.state() == DrainState::Halted && verdict == Verdict::GoesOn && !self.database().model.is_damaged {
            return Err(format!("the drain has halted at {}", drain.delivered.get()));
        }
        // What was let in before anything of it counted as backlog is in flight. A database that was set back
        // adds to the backlog what it had before.
        let in_flight_max = self.sizes.executors * self.sizes.limits.in_flight_max;
        let in_flight_bytes = in_flight_max as u64 * self.frame_bytes_max();
        let bytes = queue.main.backlog_bytes(journal);
        let is_known = drain.batches.get() > 0 && !self.sets_database_back();
        if is_known && bytes > queue.config.max_backlog_bytes + in_flight_bytes {
            return Err(format!("a backlog of {bytes} bytes is too large"));
        }
        Ok(())
    }

    fn check_site(&self, site: &Site) -> Result<(), String> {
        let Some(process) = &site.process else { return Ok(()) };
        let in_flight_max = self.sizes.limits.in_flight_max;
        if let Some(core) = process.cores.iter().find(|core| core.in_flight() > in_flight_max) {
            return Err(format!(
                "{} requests of an executor in flight, where {in_flight_max} may be",
                core.in_flight()
            ));
        }
        let segments: usize = process.catalogues.iter().map(|catalogue| catalogue.len()).sum();
        let files = site.machine.state().disk.count("/data/", ".seg");
        // One may be on its way from the pool to each queue, or be left by an operation that failed.
        if files > segments + self.sizes.spare_segments + 2 * process.queues.len() + 2 {
            return Err(format!("{files} segment files for {segments} segments"));
        }
        Ok(())
    }
}
