//! How long a process may go on taking a part over, and how it learns that it may not any more.
//!
//! A process takes its part over when it starts, and again whenever a connection is lost. The first time it wins over whoever was
//! there. Afterwards it must not: a process that was stopped, and whose part another one took over meanwhile, would on waking make
//! a new connection, raise the epoch over the other one's, and so end the one that delivers. So a take-over looks, in its
//! transaction and before it writes anything, at the epoch that the **first row** of the queue has, that of the part itself, and is
//! refused if it is a stranger's.
//!
//! **An epoch says whose it is.** Its upper bits count, and its lowest [`OWNER_BITS`] are the owner: a random number that each
//! process draws for each of its parts. A take-over writes the next count with its own owner; a batch that raises the epoch writes
//! the next count and leaves the owner. So epochs rise, and the owner in a row is that of the process that has taken it over last.
//! A process that knows that its last take-over or batch has left the epoch H there finds one of these later on:
//!
//! - H, or a lower count. No take-over has come after ours, since counts rise: the row is as we left it, or the database was set back.
//! - More than H, with our owner. It is ours, whether or not we have heard so: the answer to a take-over or to a batch was lost. That a
//!   stranger wrote the same count behind an attempt of ours that came to nothing is no matter, since its owner is another. But
//!   a machine that was copied with its memory is two processes with one owner, so what is above all that this process has ever tried
//!   to write is the copy's.
//! - The count of H or more, with another owner: a stranger has taken over since, for none but our own writes could keep our owner. If
//!   the count is the same, the database was set back to what we had found, and the stranger has counted on from there as we had.
//!
//! Two processes draw the same owner once in 2²⁰ pairs. Then the older one is refused here only if it has never tried to write an
//! epoch that high; otherwise it takes over once more. So it does, unless its queue may have lanes, where a database was set back to
//! before what it had found, and another process has then taken over at a lower count. Nothing is doubled: the other one is fenced,
//! and the older one halts if the position has moved. But if that has moved just as far as a batch whose answer the older one lacks
//! would have moved it, that batch passes for delivered.
//!
//! **Before the first take-over is known to have gone through**, nothing is ours yet but attempts, which have our owner. Besides
//! those, and the epoch that was there at the first of them, a batch of the predecessor may have raised that, one that waited
//! behind the row's lock while our own attempt came to nothing: it has the predecessor's owner. Anything else is a stranger's, who
//! has come after us.
//!
//! **Other rows** (lanes, redrives) say nothing of who holds the queue: whoever adds a lane may find a row that is new, its own, or
//! left behind by either side. But they are only taken over by who holds the first row, so that one is looked at, while the
//! lock of the other row is held. If it is ours then, whoever takes it over later comes to the other row after us. If
//! somebody had come to the other row before us, the first row was theirs by then, and we see it.
//!
//! **A row that was set back** to before what this process has held of it is refused too if its queue may have lanes. The others go on
//! speaking for what was delivered as long as the row has the epoch that they know of, and take-overs whose answers are lost would
//! raise it to that again. A queue of one row goes on if its position is where it was. Before the first take-over is known to have
//! gone through, no lane speaks for anything, and any row is taken over as it is found, whatever an attempt has found before.
//!
//! Epochs of forebays before this have counts in their lowest bits too. Any number can be taken over by a process that starts, and the
//! epoch behind it is above it. After 2⁴³ take-overs and batches a row can be taken over no more: 270 years of a thousand each second.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Batch, Part, SinkError};
use crate::planted::{Bug, is_planted};

/// Bits of an epoch that say whose it is.
const OWNER_BITS: u32 = 20;
/// From one count to the next.
const COUNT_STEP: i64 = 1 << OWNER_BITS;

/// What a process knows of its hold on a part.
#[derive(Debug)]
pub(super) struct Tenure {
    /// Below [`COUNT_STEP`].
    owner: i64,
    state: Mutex<State>,
    /// The epoch of each row but the first, as was last known, by its part: of lanes, of which there are
    /// [`CONCURRENCY_MAX`](crate::limits::CONCURRENCY_MAX) at most but for those of earlier lives, and redrives.
    others: Mutex<BTreeMap<String, i64>>,
}

/// What it knows of the first row.
#[derive(Clone, Copy, Debug)]
enum State {
    /// It has not tried to write there.
    New,
    /// It has, and does not know of any success.
    Trying {
        /// What was there at the first attempt.
        found: i64,
        /// The highest epoch that it has tried to write.
        reach: i64,
    },
    /// It has taken it over.
    Held {
        /// The epoch that is known to have been there last.
        epoch: i64,
        /// The highest epoch that it has tried to write.
        reach: i64,
    },
}

impl Tenure {
    /// A tenure that has not begun, with an owner made of a random number.
    pub(super) fn new(random: u64) -> Self {
        let owner = i64::try_from(random >> (u64::BITS - OWNER_BITS)).unwrap_or_default();
        Self { owner, state: Mutex::new(State::New), others: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn others(&self) -> MutexGuard<'_, BTreeMap<String, i64>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether an epoch of the first row is that of somebody who has taken over since.
    fn is_strangers(self, owner: i64, epoch: i64) -> bool {
        if is_planted(Bug::TakeBackWhenFenced) || is_planted(Bug::TakeOverAgain) {
            return false;
        }
        let is_ours = |reach| owner_of(epoch) == owner && epoch <= reach;
        match self {
            Self::New => false,
            Self::Trying { found, reach } => epoch > found && !is_ours(reach) && owner_of(epoch) != owner_of(found),
            Self::Held { epoch: held, reach } => count_of(epoch) >= count_of(held) && !is_ours(reach),
        }
    }

    /// An attempt to write an epoch, where another one was found.
    fn attempted(self, found: i64, next: i64) -> Self {
        match self {
            Self::New => Self::Trying { found, reach: next },
            Self::Trying { found, reach } => Self::Trying { found, reach: reach.max(next) },
            Self::Held { epoch, reach } => Self::Held { epoch, reach: reach.max(next) },
        }
    }

    /// A success.
    fn holding(self, epoch: i64) -> Self {
        let reach = match self {
            Self::New => epoch,
            Self::Trying { reach, .. } | Self::Held { reach, .. } => reach.max(epoch),
        };
        Self::Held { epoch, reach }
    }

    /// The last epoch that it knows to have been there.
    fn known(self) -> i64 {
        match self {
            Self::New => 0,
            Self::Trying { found, .. } => found,
            Self::Held { epoch, .. } => epoch,
        }
    }

    /// The epoch below which the row was set back under us. Before the first success no lane speaks for anything yet, and positions
    /// decide.
    fn held(self) -> Option<i64> {
        match self {
            Self::New | Self::Trying { .. } => None,
            Self::Held { epoch, .. } => Some(epoch),
        }
    }
}

impl Part {
    /// The epoch with which this process takes its row over. `found` is the epoch that the row has and `first` that of the queue's
    /// [first row](Part::first), each 0 for a row that is not there, as read in the transaction that is to write.
    ///
    /// # Errors
    ///
    /// [`SinkError::Fenced`] if another process has taken the queue over since this one has, or the row was set back; nothing may
    /// be written then.
    pub fn succeed(&self, found: i64, first: i64) -> Result<i64, SinkError> {
        let mut state = self.tenure.state();
        let known = if self.is_first() { state.held() } else { self.tenure.others().get(&self.id).copied() };
        if let Some(known) = known.filter(|known| self.reorders && found < *known) {
            return Err(SinkError::Fenced(format!(
                "{} had come to epoch {known}, the sink says epoch {found}: the database was set back",
                self.id
            )));
        }
        self.refuse_strangers(*state, first)?;
        let count = count_of(found) + 1;
        let next = count.checked_mul(COUNT_STEP).map(|count| count | self.tenure.owner);
        let next =
            next.ok_or_else(|| SinkError::Transient(format!("{}: there is no epoch behind epoch {found}", self.id)))?;
        if self.is_first() {
            *state = state.attempted(found, next);
        }
        Ok(next)
    }

    /// Whether the queue is still this process's to take over, as far as the epoch of its first row says, which may have changed by
    /// the time of a write: for what is to be done to others before one.
    ///
    /// # Errors
    ///
    /// [`SinkError::Fenced`] if another process has taken the queue over since this one has.
    pub fn look_at_first(&self, first: i64) -> Result<(), SinkError> {
        let state = *self.tenure.state();
        self.refuse_strangers(state, first)
    }

    fn refuse_strangers(&self, state: State, first: i64) -> Result<(), SinkError> {
        if !state.is_strangers(self.tenure.owner, first) {
            return Ok(());
        }
        let (row, known) = (self.first().unwrap_or(&self.id), state.known());
        Err(SinkError::Fenced(format!("{row}: we knew of epoch {known}, the sink says epoch {first}")))
    }

    /// Its row has this epoch, as is known to us: a take-over or a batch has gone through.
    pub fn hold(&self, epoch: i64) {
        if self.is_first() {
            let mut state = self.tenure.state();
            *state = state.holding(epoch);
        } else {
            self.tenure.others().insert(self.id.clone(), epoch);
        }
    }

    /// The epoch of a row behind a batch that is sent when it has this one: a batch that changes what is beyond the position raises it.
    #[must_use]
    pub fn epoch_behind(&self, batch: &Batch<'_>, epoch: i64) -> i64 {
        if batch.beyond.is_none() {
            return epoch;
        }
        let next = epoch.saturating_add(COUNT_STEP);
        if self.is_first() {
            let mut state = self.tenure.state();
            *state = state.attempted(epoch, next);
        }
        next
    }

    fn is_first(&self) -> bool {
        self.first.is_none()
    }
}

fn count_of(epoch: i64) -> i64 {
    epoch >> OWNER_BITS
}

fn owner_of(epoch: i64) -> i64 {
    epoch & (COUNT_STEP - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Subpart;

    /// The part of a process that has drawn this owner.
    fn part(owner: u64) -> Part {
        Part::new("orders".to_owned(), None, "orders/1".to_owned(), false, owner << (u64::BITS - OWNER_BITS))
    }

    /// Takes the row over as if nothing could go wrong.
    fn take_over(part: &Part, row: &mut i64) -> Result<(), SinkError> {
        *row = part.succeed(*row, *row)?;
        part.hold(*row);
        Ok(())
    }

    fn is_fenced<T>(outcome: &Result<T, SinkError>) -> bool {
        matches!(outcome, Err(SinkError::Fenced(_)))
    }

    fn raising() -> Batch<'static> {
        Batch { after: 0, through: 0, beyond: Some(&[]), deliveries: &[], witnesses: &[], ahead: None }
    }

    #[test]
    fn whoever_starts_takes_over_and_whoever_was_taken_over_does_not() {
        for mut row in [0, 1, 37, COUNT_STEP, 5 * COUNT_STEP + 9, -1] {
            let (older, younger, before) = (part(7), part(8), row);
            take_over(&older, &mut row).unwrap();
            assert!(row > before);
            take_over(&older, &mut row).unwrap();
            take_over(&younger, &mut row).unwrap();
            let then = row;
            assert!(is_fenced(&take_over(&older, &mut row)) && row == then);
            take_over(&younger, &mut row).unwrap();
            // A restart of the older one is another process.
            take_over(&part(7 + 2), &mut row).unwrap();
            assert!(is_fenced(&take_over(&younger, &mut row)));
        }
    }

    #[test]
    fn a_take_over_of_ours_whose_answer_was_lost_is_ours() {
        let (ours, mut row) = (part(7), 3);
        // The very first, twice over, and one in between that came to nothing.
        row = ours.succeed(row, row).unwrap();
        row = ours.succeed(row, row).unwrap();
        ours.succeed(row, row).unwrap();
        take_over(&ours, &mut row).unwrap();
        row = ours.succeed(row, row).unwrap();
        take_over(&ours, &mut row).unwrap();
    }

    #[test]
    fn a_stranger_with_the_same_count_behind_an_attempt_that_came_to_nothing_is_a_stranger() {
        let (older, younger, mut row) = (part(7), part(8), 0);
        take_over(&older, &mut row).unwrap();
        let came_to_nothing = older.succeed(row, row).unwrap();
        take_over(&younger, &mut row).unwrap();
        assert_eq!(count_of(row), count_of(came_to_nothing));
        assert!(is_fenced(&take_over(&older, &mut row)));
        // The same behind a first attempt.
        let (late, younger) = (part(9), part(10));
        late.succeed(row, row).unwrap();
        take_over(&younger, &mut row).unwrap();
        assert!(is_fenced(&take_over(&late, &mut row)));
        take_over(&younger, &mut row).unwrap();
    }

    #[test]
    fn a_batch_whose_answer_was_lost_is_ours_and_one_of_the_predecessor_does_not_stop_us() {
        let (older, younger, mut row) = (part(7), part(8), 0);
        take_over(&older, &mut row).unwrap();
        row = older.epoch_behind(&raising(), row);
        take_over(&older, &mut row).unwrap();
        // The attempt came to nothing, and a batch had waited behind its lock.
        younger.succeed(row, row).unwrap();
        row = older.epoch_behind(&raising(), row);
        take_over(&younger, &mut row).unwrap();
        assert!(is_fenced(&take_over(&older, &mut row)));
        assert_eq!(younger.epoch_behind(&Batch { beyond: None, ..raising() }, row), row);
    }

    #[test]
    fn a_copy_with_the_memory_of_a_process_is_a_stranger_to_it() {
        let (ours, copy, mut row) = (part(7), part(7), 0);
        take_over(&ours, &mut row).unwrap();
        copy.hold(row);
        take_over(&copy, &mut row).unwrap();
        row = copy.epoch_behind(&raising(), row);
        assert!(is_fenced(&take_over(&ours, &mut row)));
        take_over(&copy, &mut row).unwrap();
    }

    #[test]
    fn a_database_that_was_set_back_is_for_positions_to_decide() {
        let (ours, mut row) = (part(7), 9);
        take_over(&part(3), &mut row).unwrap();
        let before = row;
        take_over(&ours, &mut row).unwrap();
        for set_back in [before, 0] {
            row = set_back;
            take_over(&ours, &mut row).unwrap();
            // What comes behind that counts from there.
            let mut stranger = row;
            take_over(&part(8), &mut stranger).unwrap();
            assert!(is_fenced(&take_over(&ours, &mut stranger)));
        }
    }

    #[test]
    fn whoever_counts_on_from_where_we_did_is_a_stranger() {
        for stranger in [6, 8] {
            let (ours, mut row) = (part(7), 9);
            take_over(&part(3), &mut row).unwrap();
            let before = row;
            take_over(&ours, &mut row).unwrap();
            row = before;
            take_over(&part(stranger), &mut row).unwrap();
            assert!(is_fenced(&take_over(&ours, &mut row)), "{stranger}");
        }
    }

    #[test]
    fn other_rows_go_with_the_first_one() {
        let (older, younger, mut first) = (part(7), part(8), 0);
        let lane = |part: &Part| part.subpart(Subpart::Lane(1));
        take_over(&older, &mut first).unwrap();
        let of_older = lane(&older).succeed(0, first).unwrap();
        assert!(of_older > 0);
        take_over(&younger, &mut first).unwrap();
        // Whether the row is its own, another's, or is not there.
        let of_younger = lane(&younger).succeed(of_older, first).unwrap();
        for row in [0, of_older, of_younger] {
            assert!(is_fenced(&lane(&older).succeed(row, first)));
            assert!(is_fenced(&older.subpart(Subpart::Redrive("a")).succeed(row, first)));
            lane(&younger).succeed(row, first).unwrap();
        }
        // They change nothing of what is known of the first one.
        lane(&younger).hold(i64::MAX);
        take_over(&younger, &mut first).unwrap();
    }

    #[test]
    fn a_row_that_others_speak_for_is_not_taken_over_where_it_was_set_back() {
        let first_of = |reorders| Part::new("orders".to_owned(), None, "orders/1".to_owned(), reorders, 0);
        let (strict, ours, mut row) = (first_of(false), first_of(true), 0);
        take_over(&ours, &mut row).unwrap();
        let before = row;
        row = ours.epoch_behind(&raising(), row);
        ours.hold(row);
        assert!(is_fenced(&ours.succeed(before, before)));
        take_over(&ours, &mut row).unwrap();
        let lane = ours.subpart(Subpart::Lane(1));
        let taken = lane.succeed(0, row).unwrap();
        lane.hold(taken);
        // One that is opened anew knows of it too, whether the row is older or not there.
        let again = ours.subpart(Subpart::Lane(1));
        assert!(is_fenced(&again.succeed(taken - 1, row)) && is_fenced(&again.succeed(0, row)));
        again.succeed(taken, row).unwrap();
        ours.subpart(Subpart::Lane(2)).succeed(0, row).unwrap();
        // One row alone says all by its position.
        strict.hold(row);
        strict.succeed(before, before).unwrap();
        let redrive = ours.subpart(Subpart::Redrive("a"));
        redrive.hold(row);
        redrive.succeed(0, row).unwrap();
    }

    #[test]
    fn the_last_epoch_of_all_is_not_passed() {
        let ours = part(7);
        assert!(matches!(ours.succeed(i64::MAX, i64::MAX), Err(SinkError::Transient(_))));
        assert_eq!(ours.epoch_behind(&raising(), i64::MAX), i64::MAX);
    }
}
