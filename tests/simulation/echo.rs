//! What the database has of queues' second sinks: all that the first ones get, from where each begins on.

use std::collections::BTreeSet;

use forebay::progress::Progress;

use crate::model::Body;
use crate::table::{Row, Table};

/// The name of a queue's second sink.
pub const SECOND: &str = "second";

/// What is known of all second sinks.
pub struct Echoes(Vec<Option<Echo>>);

/// What is known of one. There is one data directory, since of two copies nobody could say what the sink has of which.
pub struct Echo {
    table: Table,
    /// What had left the journal when the sink was added is not for it.
    begins_after: u64,
    is_strict: bool,
}

impl Echoes {
    /// None yet, of so many queues.
    pub fn new(queues: usize) -> Self {
        Self((0..queues).map(|_| None).collect())
    }

    /// The parts of the main sinks come first, in the order of queues, and then those of the second ones.
    fn place(&self, part: usize) -> Option<usize> {
        part.checked_sub(self.0.len())
    }

    /// The one with this part, if it is a second sink's that was there at some time.
    pub fn of(&self, part: usize) -> Option<&Echo> {
        self.place(part).and_then(|place| self.0[place].as_ref())
    }

    /// The same, to be changed.
    pub fn of_mut(&mut self, part: usize) -> Option<&mut Echo> {
        self.place(part).and_then(|place| self.0[place].as_mut())
    }

    /// A life of one begins, and the journal begins behind this sequence. Returns whether it is the first.
    pub fn begin(&mut self, part: usize, trimmed: u64, is_strict: bool) -> bool {
        let Some(place) = self.place(part) else { return false };
        let is_new = self.0[place].is_none();
        self.0[place].get_or_insert_with(|| Echo::new(trimmed, is_strict));
        is_new
    }

    /// Up to where nothing was ever for a part.
    pub fn begins_after(&self, part: usize) -> u64 {
        self.of(part).map_or(0, |echo| echo.begins_after)
    }

    /// The database is what it was at a progress.
    pub fn set_back(&mut self, part: usize, progress: &Progress) {
        if let Some(echo) = self.of_mut(part) {
            echo.table.set_back(progress);
        }
    }
}

impl Echo {
    /// A sink that is added when the journal begins behind this sequence.
    fn new(begins_after: u64, is_strict: bool) -> Self {
        Self { table: Table::default(), begins_after, is_strict }
    }

    /// The database has committed rows, and what is delivered before and after them; returns what is wrong with that.
    /// `known` is what a sequence is known to hold.
    pub fn delivered(
        &mut self,
        (before, after): (&Progress, &Progress),
        rows: &[(u64, Body)],
        is_dead: impl Fn(u64) -> bool,
        known: impl Fn(u64) -> Option<Body>,
    ) -> Option<String> {
        let mut before = before.clone();
        before.merge(&Progress::up_to(self.begins_after));
        let last = after.beyond().next_back().map_or(after.through(), |range| *range.end());
        let is_new = |sequence: &u64| after.contains(*sequence) && !before.contains(*sequence);
        let mut expected = BTreeSet::new();
        for sequence in (before.through() + 1..=last).filter(is_new) {
            if is_dead(sequence) {
                self.table.set_aside(0, sequence);
            } else {
                expected.insert(sequence);
            }
        }
        if !rows.iter().map(|(sequence, _)| *sequence).collect::<BTreeSet<_>>().iter().eq(&expected) {
            return Some(format!("{rows:?} were committed where {expected:?} were expected"));
        }
        if self.is_strict && (!rows.is_sorted_by_key(|(sequence, _)| *sequence) || !after.is_in_order()) {
            return Some(format!("{rows:?} are out of order"));
        }
        for (sequence, body) in rows {
            if self.table.put(*sequence, Row { site: 0, body: *body }).is_some() {
                return Some(format!("sequence {sequence} was delivered before"));
            }
            if let Some(other) = known(*sequence).filter(|other| other != body) {
                return Some(format!("sequence {sequence} is {body:?}, and {other:?} elsewhere"));
            }
        }
        None
    }

    /// Whether a promise is kept here too.
    pub fn has(&self, sequence: u64, body: Body) -> bool {
        let row = self.table.row(sequence);
        sequence <= self.begins_after || row.is_some_and(|row| row.body == body) || self.table.is_dead(0, sequence)
    }

    /// Whether the record was set aside for this sink.
    pub fn is_dead(&self, sequence: u64) -> bool {
        self.table.is_dead(0, sequence)
    }
}
