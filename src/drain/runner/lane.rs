//! A lane: a connection to the sink, with one transaction at a time on its way there.
//!
//! Each lane has a row of its own in the sink. What it writes there is everything that is known to be delivered, by whichever lane,
//! and its own records; the union of all rows is what is delivered. So any number of lanes can go on where any other has ended.

use std::sync::Arc;

use super::DrainError;
use super::dispatch::{Assignment, Done, LaneEnd};
use super::shared::{Shared, Waiter};
use crate::drain::breaker::Breaker;
use crate::drain::retry::Attempts;
use crate::drain::scheduler::Scheduler;
use crate::progress::Progress;
use crate::queue::DrainState;
use crate::sink::{Batch, Claim, Sink, SinkError};

/// One of the lanes of a drain.
pub(super) struct Lane<S: Scheduler> {
    pub(super) number: usize,
    pub(super) sink: Box<dyn Sink>,
    pub(super) shared: Arc<Shared<S>>,
    pub(super) waiter: Waiter<S>,
    /// How much is sent to a sink that has failed.
    pub(super) breaker: Breaker,
    /// How often the record that comes next has failed by itself.
    pub(super) attempts: Attempts,
    /// What its row says, as of the last transaction whose fate is known.
    pub(super) said: Arc<Progress>,
}

/// What became of an attempt to write what all lanes have delivered.
pub(super) enum Spoken {
    /// The row says it.
    All,
    /// Nobody knows; it may be tried again.
    Failed(SinkError),
}

impl<S: Scheduler> Lane<S> {
    pub(super) fn new(number: usize, sink: Box<dyn Sink>, waiter: Waiter<S>) -> Self {
        let shared = Arc::clone(&waiter.shared);
        let breaker = Breaker::new(shared.state().course.failures_max());
        let said = Arc::new(Progress::up_to(0));
        Self { number, sink, shared, waiter, breaker, attempts: Attempts::default(), said }
    }

    /// Delivers lots until there are no more, or a stop.
    pub(super) async fn run(mut self, mut end: LaneEnd<S>) -> Result<Self, DrainError> {
        while let Some(assignment) = end.assignments.recv().await {
            let done = match assignment {
                Assignment::Deliver { lot, is_released } => {
                    if !self.deliver(&lot, is_released, &mut end).await? {
                        break;
                    }
                    Done::Delivered { lane: self.number, lot }
                }
                Assignment::Admit(lane) => {
                    let Some(admitted) = self.admit(lane).await? else { break };
                    if admitted.is_ok() {
                        self.works_again();
                    }
                    Done::Admitted(admitted)
                }
            };
            // Whoever stops does not ask what became of it.
            let _ = end.done.send(done).await;
        }
        Ok(self)
    }

    /// Admits the lane that waits for it, if one does, although a lot is not delivered: what holds that up may hold it up for
    /// long. `false` if a stop came first.
    pub(super) async fn admit_waiting(&mut self, end: &mut LaneEnd<S>) -> Result<bool, DrainError> {
        let Ok(Assignment::Admit(lane)) = end.assignments.try_recv() else { return Ok(true) };
        let Some(admitted) = self.admit(lane).await? else { return Ok(false) };
        let _ = end.done.send(Done::Admitted(admitted)).await;
        Ok(true)
    }

    /// Lets another lane take its row over, as the first lane that can say that this drain is the one that delivers. `None` if a
    /// stop came first.
    ///
    /// It says so before, since a drain that is fenced without knowing it must not fence the lanes of the other; if it is fenced
    /// between the two, the take-over is refused. It says so again, as a start does: whoever took the first row over before there
    /// was a row of the new lane has not asked for that.
    async fn admit(&mut self, mut lane: Box<Self>) -> Result<Option<Result<Box<Self>, SinkError>>, DrainError> {
        // From here on every transaction raises its epoch, by which others can tell what they speak for.
        self.shared.state().expect_claim(lane.number);
        match self.vouch().await? {
            Some(Ok(())) => {}
            Some(Err(error)) => return Ok(Some(Err(error))),
            None => return Ok(None),
        }
        match lane.sink.take_over().await {
            Ok(said) => lane.said = Arc::new(said),
            Err(fenced @ SinkError::Fenced(_)) => return Err(DrainError::Fenced(fenced)),
            Err(error) => return Ok(Some(Err(error))),
        }
        lane.note_session();
        Ok(self.vouch().await?.map(|vouched| vouched.map(|()| lane)))
    }

    /// Shows that its row is still held, by writing what all lanes have delivered; `None` if a stop came first. After a failure
    /// it holds its row anew.
    async fn vouch(&mut self) -> Result<Option<Result<(), SinkError>>, DrainError> {
        let known = self.shared.progress();
        let Spoken::Failed(error) = self.speak_for_all().await? else { return Ok(Some(Ok(()))) };
        self.note_failure();
        if !self.waiter.pause_after(&error).await {
            return Ok(None);
        }
        let Some(found) = self.take_over().await? else { return Ok(None) };
        if found == *known {
            self.said = known;
        } else if found != *self.said {
            let (after, through) = (self.said.through(), known.through());
            return Err(DrainError::Moved { position: found.through(), after, through });
        }
        Ok(Some(Err(error)))
    }

    /// Connects and learns what its row says; `None` if a stop came first.
    ///
    /// # Errors
    ///
    /// Another process has taken over meanwhile.
    pub(super) async fn take_over(&mut self) -> Result<Option<Progress>, DrainError> {
        loop {
            let error = match self.sink.take_over().await {
                Ok(progress) => {
                    self.note_session();
                    return Ok(Some(progress));
                }
                Err(fenced @ SinkError::Fenced(_)) => return Err(DrainError::Fenced(fenced)),
                Err(error) => error,
            };
            self.note_failure();
            if !self.waiter.pause_after(&error).await {
                return Ok(None);
            }
        }
    }

    /// Keeps in mind how far its row has come, and what its sink encodes with.
    pub(super) fn note_session(&self) {
        let mut state = self.shared.state();
        if let (Some(claim), Some(known)) = (self.sink.claim(), state.claims.get_mut(self.number)) {
            *known = Some(claim);
        }
        if self.number == 0 {
            state.encoder = self.sink.encoder();
        }
    }

    /// The rows of the other lanes: what this one says of their records is not true where they are not as far.
    pub(super) fn witnesses(&self) -> Vec<Claim> {
        let state = self.shared.state();
        let others = state.claims.iter().enumerate().filter(|(lane, _)| *lane != self.number);
        others.filter_map(|(_, claim)| claim.clone()).collect()
    }

    /// Whether its transactions say, each with a new epoch, what is beyond the position although nothing is: the other lanes
    /// tell its states apart by their epochs.
    pub(super) fn always_says_beyond(&self) -> bool {
        self.shared.state().claims.len() > 1
    }

    /// Writes into its row what all lanes have delivered.
    ///
    /// # Errors
    ///
    /// Another process holds a lane, or the database was set back.
    pub(super) async fn speak_for_all(&mut self) -> Result<Spoken, DrainError> {
        let (known, mut beyond) = (self.shared.progress(), Vec::new());
        known.encode_beyond(&mut beyond);
        let is_in_order = known.is_in_order() && self.said.is_in_order() && !self.always_says_beyond();
        let batch = Batch {
            after: self.said.through(),
            through: known.through(),
            beyond: (!is_in_order).then_some(&beyond),
            deliveries: &[],
            witnesses: &self.witnesses(),
            ahead: None,
        };
        match self.sink.commit(batch).await {
            Ok(()) => {
                self.said = known;
                self.note_session();
                Ok(Spoken::All)
            }
            Err(fenced @ SinkError::Fenced(_)) => Err(DrainError::Fenced(fenced)),
            Err(error) => Ok(Spoken::Failed(error)),
        }
    }

    /// The sink has failed, in a way that may pass.
    pub(super) fn note_failure(&mut self) {
        {
            let course = &mut self.shared.state().course;
            course.adaptive.failed(self.shared.platform.monotonic_ns());
            self.breaker.change(course.failures_max());
        }
        if self.breaker.fail() {
            let (queue, lane) = (&self.shared.queue.name, self.number);
            tracing::warn!(queue, lane, "many failures in a row: single records will be tried until one goes through");
        }
    }

    /// The sink takes records.
    pub(super) fn works_again(&mut self) {
        self.waiter.works_again();
        self.breaker.close();
        let Shared { queue, outlet, .. } = &*self.shared;
        if outlet.drain.state() == DrainState::Retrying {
            tracing::info!(queue = queue.name, "the sink takes records again");
            outlet.drain.set_state(DrainState::Running);
        }
    }
}
