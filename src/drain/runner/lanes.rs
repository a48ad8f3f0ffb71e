//! How the number of a runner's lanes follows what it is told, while they deliver.
//!
//! Lanes are added one at a time, each as soon as the first lane can say that its row is still held; those that are not wanted
//! any more end once their lot is decided. Nobody else waits for either. A lane that cannot be added is tried again later, and the
//! others go on without it.

use std::time::Duration;

use super::Runner;
use super::dispatch::LaneEnd;
use super::lane::Lane;
use super::shared::Waiter;
use crate::config;
use crate::drain::retry::Backoff;
use crate::drain::scheduler::Scheduler;
use crate::sink::{SinkError, Subpart};

/// A lane that is to be started.
pub(super) type NewLane<S> = (Box<Lane<S>>, LaneEnd<S>);

/// What is kept of the lanes to come.
pub(super) struct Admissions<S: Scheduler> {
    pub(super) admitted: Option<NewLane<S>>,
    backoff: Backoff,
    not_before_ns: u64,
}

impl<S: Scheduler> Admissions<S> {
    pub(super) fn new(retry: &config::Retry) -> Self {
        Self { admitted: None, backoff: Backoff::new(retry), not_before_ns: 0 }
    }
}

impl<S: Scheduler> Runner<S> {
    /// How many lanes there are to be.
    pub(super) fn lanes_wanted(&self) -> usize {
        self.shared.state().course.told.shaping.concurrency.max(1) as usize
    }

    /// Ends lanes that are not wanted any more, and has the next one admitted that is.
    pub(super) fn fit_lanes(&mut self) {
        let (before, wanted) = (self.dispatcher.len(), self.lanes_wanted());
        // The lane that is being admitted has the number that comes next, which must still be its own when it comes.
        if !self.dispatcher.is_admitting() {
            self.dispatcher.shrink(wanted);
        }
        if self.dispatcher.len() < before {
            self.publish_lanes();
        }
        if self.admission_wait() == Some(Duration::ZERO) {
            let number = self.dispatcher.len();
            let sink = (self.open)(Subpart::Lane(u32::try_from(number).unwrap_or(u32::MAX)));
            let waiter = Waiter::new(&self.shared, self.waiter.stop.clone());
            self.dispatcher.admit(Box::new(Lane::new(number, sink, waiter)));
        }
    }

    /// How long until the next lane is to be admitted; `None` if none is, if one is being admitted, or if there is no first lane yet
    /// that could do it.
    pub(super) fn admission_wait(&self) -> Option<Duration> {
        let is_under_way = self.dispatcher.is_admitting() || self.admissions.admitted.is_some();
        let is_wanted = (1..self.lanes_wanted()).contains(&self.dispatcher.len());
        let wait_ns = self.admissions.not_before_ns.saturating_sub(self.platform.monotonic_ns());
        (is_wanted && !is_under_way).then(|| Duration::from_nanos(wait_ns))
    }

    /// A lane was admitted, or could not be.
    pub(super) fn note_admitted(&mut self, admitted: Result<Box<Lane<S>>, SinkError>) {
        self.dispatcher.note_admitted();
        match admitted {
            Ok(lane) => {
                self.admissions.backoff.reset();
                self.admissions.admitted = Some((lane, self.dispatcher.add()));
                self.publish_lanes();
            }
            Err(error) => {
                let backoff = &mut self.admissions.backoff;
                backoff.change(&self.shared.state().course.told.shaping.retry);
                let pause_ms = backoff.next_ms(self.platform.random().unwrap_or(u64::MAX / 2));
                self.admissions.not_before_ns = self.platform.monotonic_ns() + pause_ms * 1_000_000;
                self.outlet.drain.retries.add(1);
                let (queue, lanes) = (&self.queue.name, self.dispatcher.len());
                tracing::warn!(queue, lanes, %error, pause_ms, "another lane could not be opened; trying again");
            }
        }
    }

    fn publish_lanes(&self) {
        let lanes = self.dispatcher.len();
        self.outlet.drain.lanes.set(lanes as u64);
        tracing::info!(queue = self.queue.name, lanes, "the number of lanes has changed");
    }
}
