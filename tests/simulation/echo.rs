//! What the database has of a queue's second sink: all that the first one gets, from where the sink begins on.

use std::collections::BTreeSet;

use forebay::progress::Progress;

use crate::model::Body;
use crate::table::{Row, Table};

/// The name of a queue's second sink.
pub const SECOND: &str = "second";

/// What is known of it. There is one data directory, since of two copies nobody could say what the sink has of which.
pub struct Echo {
    table: Table,
    /// What had left the journal when the sink was added is not for it.
    pub begins_after: u64,
    is_strict: bool,
}

impl Echo {
    /// A sink that is added when the journal begins behind this sequence.
    pub fn new(begins_after: u64, is_strict: bool) -> Self {
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

    /// The database is what it was at a progress.
    pub fn set_back(&mut self, progress: &Progress) {
        self.table.set_back(progress);
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
