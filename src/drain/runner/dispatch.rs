//! How a runner hands lots to its lanes and gets their memory back, and how they run beside it.

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::sync::mpsc;

use super::DrainError;
use super::lane::Lane;
use crate::drain::lot::Lot;
use crate::drain::scheduler::Scheduler;
use crate::limits::CONCURRENCY_MAX;
use crate::sink::SinkError;

/// A lot, and another lane that waits for its admission.
const ASSIGNMENTS_MAX: usize = 2;
/// A lot of each lane, and the lane that was to be admitted.
const DONE_MAX: usize = CONCURRENCY_MAX as usize + 1;

/// What a lane is to do.
pub(super) enum Assignment<S: Scheduler> {
    /// To deliver a lot, of which the pacer may have said that it may leave.
    Deliver { lot: Lot, is_released: bool },
    /// To admit another lane, which only the first one is asked for.
    Admit(Box<Lane<S>>),
}

/// What a lane has done.
pub(super) enum Done<S: Scheduler> {
    /// The fate of its lot is decided.
    Delivered { lane: usize, lot: Lot },
    /// Another lane holds its row and may be started, or cannot be for this reason.
    Admitted(Result<Box<Lane<S>>, SinkError>),
}

/// What a lane has of this.
pub(super) struct LaneEnd<S: Scheduler> {
    pub(super) assignments: mpsc::Receiver<Assignment<S>>,
    pub(super) done: mpsc::Sender<Done<S>>,
}

/// What is to be known of a lot that a lane has.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// Keys that are held while it is on its way.
    pub(super) keys: Vec<u64>,
    pub(super) records: usize,
    pub(super) bytes: usize,
    /// Bytes of all the queue's records before its oldest one.
    pub(super) start_byte: Option<u64>,
}

/// Hands lots to lanes.
pub(super) struct Dispatcher<S: Scheduler> {
    lanes: Vec<Assigned<S>>,
    /// Whether the first lane has been asked to admit another one.
    is_admitting: bool,
    done: mpsc::Receiver<Done<S>>,
    /// For lanes to come.
    done_in: mpsc::Sender<Done<S>>,
}

struct Assigned<S: Scheduler> {
    assignments: mpsc::Sender<Assignment<S>>,
    in_flight: Option<InFlight>,
}

impl<S: Scheduler> Dispatcher<S> {
    /// Without any lane.
    pub(super) fn new() -> Self {
        let (done_in, done) = mpsc::channel(DONE_MAX);
        Self { lanes: Vec::new(), is_admitting: false, done, done_in }
    }

    /// How many lanes there are.
    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Whether the first lane has been asked to admit another one.
    pub(super) fn is_admitting(&self) -> bool {
        self.is_admitting
    }

    /// There is another lane, which is idle; returns its end.
    pub(super) fn add(&mut self) -> LaneEnd<S> {
        let (assignments_in, assignments) = mpsc::channel(ASSIGNMENTS_MAX);
        self.lanes.push(Assigned { assignments: assignments_in, in_flight: None });
        LaneEnd { assignments, done: self.done_in.clone() }
    }

    /// Ends the last lanes until there are no more than so many, at least one; whoever has a lot keeps its place until that is
    /// decided.
    pub(super) fn shrink(&mut self, lanes_max: usize) {
        while self.lanes.len() > lanes_max.max(1) && self.lanes.last().is_some_and(|lane| lane.in_flight.is_none()) {
            self.lanes.pop();
        }
    }

    /// One of so many lanes that has nothing to do: the first one, so that a queue with little to do keeps to one connection.
    pub(super) fn idle(&self, lanes_max: usize) -> Option<usize> {
        let is_idle =
            |(number, lane): (usize, &Assigned<S>)| lane.in_flight.is_none() && !(number == 0 && self.is_admitting);
        self.lanes.iter().enumerate().take(lanes_max).position(is_idle)
    }

    /// Gives an idle lane a lot.
    pub(super) fn assign(&mut self, lane: usize, (lot, is_released): (Lot, bool), in_flight: InFlight) {
        if let Some(assigned) = self.lanes.get_mut(lane) {
            assigned.in_flight = Some(in_flight);
            // A lane that takes nothing any more has seen the stop, and so will we.
            let _ = assigned.assignments.try_send(Assignment::Deliver { lot, is_released });
        }
    }

    /// Asks the first lane to admit another one, when it is idle or an attempt of its own has failed.
    pub(super) fn admit(&mut self, lane: Box<Lane<S>>) {
        if let Some(first) = self.lanes.first() {
            self.is_admitting = first.assignments.try_send(Assignment::Admit(lane)).is_ok();
        }
    }

    /// The first lane has done so, or cannot.
    pub(super) fn note_admitted(&mut self) {
        self.is_admitting = false;
    }

    /// What a lane has done since; `None` for nothing.
    pub(super) fn try_done(&mut self) -> Option<Done<S>> {
        self.done.try_recv().ok()
    }

    /// Whether a lane has done something.
    pub(super) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// What a lane does next. Nothing is lost by a wait that is given up.
    pub(super) async fn next_done(&mut self) -> Done<S> {
        match self.done.recv().await {
            Some(done) => done,
            None => pending().await,
        }
    }

    /// The lane is idle again; returns what it had.
    pub(super) fn finish(&mut self, lane: usize) -> InFlight {
        self.lanes.get_mut(lane).and_then(|lane| lane.in_flight.take()).unwrap_or_default()
    }

    /// What all lanes have.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = &InFlight> {
        self.lanes.iter().filter_map(|lane| lane.in_flight.as_ref())
    }

    /// There is nothing more to do: lanes end when they have finished.
    pub(super) fn close(&mut self) {
        self.lanes.clear();
    }
}

/// Lanes that run. All are polled in a fixed order by the task of their runner, so that nothing is left to chance; whoever wakes
/// one of them wakes all.
pub(super) struct RunningLanes<S: Scheduler, L> {
    running: Vec<Pin<Box<L>>>,
    /// The first lane, once it has ended.
    first: Option<Lane<S>>,
}

impl<S: Scheduler, L: Future<Output = Result<Lane<S>, DrainError>>> RunningLanes<S, L> {
    pub(super) fn new() -> Self {
        Self { running: Vec::new(), first: None }
    }

    pub(super) fn start(&mut self, lane: L) {
        self.running.push(Box::pin(lane));
    }

    /// Runs a runner's own part beside its lanes, until that has ended. The first error ends them all.
    pub(super) async fn run_beside<T>(
        &mut self,
        dispatching: impl Future<Output = Result<T, DrainError>>,
    ) -> Result<T, DrainError> {
        let mut dispatching = pin!(dispatching);
        poll_fn(|context| {
            self.poll(context)?;
            let dispatched = dispatching.as_mut().poll(context)?;
            // Again, so that what was assigned just now is on its way before anything else.
            self.poll(context)?;
            dispatched.map(Ok)
        })
        .await
    }

    /// Waits until all lanes have ended; returns the first one.
    pub(super) async fn end(mut self) -> Result<Option<Lane<S>>, DrainError> {
        poll_fn(|context| {
            self.poll(context)?;
            if self.running.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
        .map(|()| self.first)
    }

    /// Polls each lane once; the connections of those that have ended are closed, but not that of the first one.
    fn poll(&mut self, context: &mut Context<'_>) -> Result<(), DrainError> {
        let mut place = 0;
        while let Some(lane) = self.running.get_mut(place) {
            let Poll::Ready(ended) = lane.as_mut().poll(context) else {
                place += 1;
                continue;
            };
            drop(self.running.remove(place));
            let ended = ended?;
            if ended.number == 0 {
                self.first = Some(ended);
            }
        }
        Ok(())
    }
}
