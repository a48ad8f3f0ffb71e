//! How a runner hands lots to its lanes and gets their memory back.

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio::sync::mpsc;

use super::DrainError;
use super::lane::Lane;
use crate::drain::lot::Lot;
use crate::drain::scheduler::Scheduler;

/// A lot for a lane.
pub(super) struct Assignment {
    pub(super) lot: Lot,
    /// Whether the pacer has said that it may leave.
    pub(super) is_released: bool,
}

/// A lot whose fate is decided.
pub(super) struct Done {
    pub(super) lane: usize,
    pub(super) lot: Lot,
}

/// What a lane has of this.
pub(super) struct LaneEnd {
    pub(super) assignments: mpsc::Receiver<Assignment>,
    pub(super) done: mpsc::Sender<Done>,
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
pub(super) struct Dispatcher {
    lanes: Vec<Assigned>,
    done: mpsc::Receiver<Done>,
}

struct Assigned {
    assignments: mpsc::Sender<Assignment>,
    in_flight: Option<InFlight>,
}

impl Dispatcher {
    /// With so many lanes, at least one, all of them idle.
    pub(super) fn new(lanes: usize) -> (Self, Vec<LaneEnd>) {
        let (done_in, done) = mpsc::channel(lanes);
        let pair = |_| {
            let (assignments_in, assignments) = mpsc::channel(1);
            let assigned = Assigned { assignments: assignments_in, in_flight: None };
            (assigned, LaneEnd { assignments, done: done_in.clone() })
        };
        let (lanes, ends) = (0..lanes).map(pair).unzip();
        (Self { lanes, done }, ends)
    }

    /// A lane that has nothing to do: the first one, so that a queue with little to do keeps to one connection.
    pub(super) fn idle(&self) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.in_flight.is_none())
    }

    /// Gives an idle lane a lot.
    pub(super) fn assign(&mut self, lane: usize, assignment: Assignment, in_flight: InFlight) {
        if let Some(assigned) = self.lanes.get_mut(lane) {
            assigned.in_flight = Some(in_flight);
            // A lane that takes nothing any more has seen the stop, and so will we.
            let _ = assigned.assignments.try_send(assignment);
        }
    }

    /// A lot that a lane has finished since; `None` if there is none.
    pub(super) fn try_done(&mut self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    /// The next lot that a lane finishes. Nothing is lost by a wait that is given up.
    pub(super) async fn next_done(&mut self) -> Done {
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

/// Runs a runner's own part beside its lanes, until all of them have ended; returns the lanes. The first error ends them all.
/// Whoever wakes one of them wakes this, and all are polled in a fixed order, so that nothing is left to chance.
pub(super) async fn run_together<S: Scheduler>(
    dispatching: impl Future<Output = Result<(), DrainError>>,
    lanes: Vec<impl Future<Output = Result<Lane<S>, DrainError>>>,
) -> Result<Vec<Lane<S>>, DrainError> {
    let mut dispatching = pin!(dispatching);
    let mut is_dispatching = true;
    let mut running: Vec<_> = lanes.into_iter().map(|lane| Some(Box::pin(lane))).collect();
    let mut ended = Vec::new();
    poll_fn(|context| {
        let mut poll_lanes = |context: &mut std::task::Context<'_>| {
            for slot in &mut running {
                let Some(lane) = slot else { continue };
                if let Poll::Ready(lane) = Pin::as_mut(lane).poll(context) {
                    *slot = None;
                    ended.push(lane?);
                }
            }
            Ok(running.iter().all(Option::is_none))
        };
        if let Err(error) = poll_lanes(context) {
            return Poll::Ready(Err(error));
        }
        if is_dispatching && let Poll::Ready(result) = dispatching.as_mut().poll(context) {
            is_dispatching = false;
            if let Err(error) = result {
                return Poll::Ready(Err(error));
            }
        }
        // Again, so that what was assigned just now is on its way before anything else.
        match poll_lanes(context) {
            Err(error) => Poll::Ready(Err(error)),
            Ok(true) if !is_dispatching => Poll::Ready(Ok(())),
            Ok(_) => Poll::Pending,
        }
    })
    .await?;
    ended.sort_by_key(|lane| lane.number);
    Ok(ended)
}
