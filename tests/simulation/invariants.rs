//! What must hold behind every step.

use forebay::queue::{DrainState, Mark, Outlet, Queue};

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
                let parts = [number, process.queues.len() + number];
                for (part, outlet) in parts.into_iter().zip(queue.outlets()) {
                    self.check_outlet((site, part), queue, outlet).map_err(|what| format!("part {part}: {what}"))?;
                }
                self.check_backlog(queue).map_err(|what| format!("queue {number}: {what}"))?;
            }
            self.check_site(site)?;
        }
        Ok(())
    }

    fn check_outlet(&self, (site, part): (&Site, usize), queue: &Queue, outlet: &Outlet) -> Result<(), String> {
        let (journal, drain) = (&queue.journal, &outlet.drain);
        let marks = [&journal.appended, &journal.durable, &drain.released, &drain.delivered, &journal.trimmed];
        let marks = marks.map(Mark::get);
        if !marks.is_sorted_by(|a, b| a >= b) {
            return Err(format!("the watermarks are out of order: {marks:?}"));
        }
        let verdict = self.verdict(site.number, part);
        if drain.state() == DrainState::Halted && verdict == Verdict::GoesOn && !self.database().model.is_damaged {
            return Err(format!("the drain has halted at {}", drain.delivered.get()));
        }
        Ok(())
    }

    fn check_backlog(&self, queue: &Queue) -> Result<(), String> {
        // What was let in before anything of it counted as backlog is in flight. A database that was set back, or a sink that
        // is new, adds to the backlog what it had before.
        let in_flight_max = self.sizes.executors * self.sizes.limits.in_flight_max;
        let in_flight_bytes = in_flight_max as u64 * self.frame_bytes_max();
        let bytes = queue.slowest().backlog_bytes(&queue.journal);
        let are_known = queue.outlets().all(|outlet| outlet.drain.batches.get() > 0);
        let is_known = are_known && !self.sets_database_back() && !self.adds_sinks();
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
