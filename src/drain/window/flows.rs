//! Records that may leave, in flows that take turns.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::{PRIORITY_MAX, Traits};
use crate::record::Sequence;

/// Flows of all priorities.
#[derive(Debug)]
pub(super) struct Flows {
    /// By priority, the highest last.
    classes: Vec<Class>,
    records: u64,
}

/// Flows of one priority.
#[derive(Debug, Default)]
struct Class {
    /// Those that have something to send, and those that had it when their last turn ended.
    flows: HashMap<u64, Flow>,
    /// The first one's turn it is.
    turns: VecDeque<u64>,
}

/// Records with one fairness key.
#[derive(Debug)]
struct Flow {
    /// The oldest leaves first: whoever was held up by a delay or a throttle does not queue up again.
    records: BTreeSet<Sequence>,
    weight: u32,
    /// How many more it may send in its turn.
    deficit: u32,
}

impl Default for Flows {
    fn default() -> Self {
        Self { classes: (0..=PRIORITY_MAX).map(|_| Class::default()).collect(), records: 0 }
    }
}

impl Flows {
    pub(super) fn len(&self) -> u64 {
        self.records
    }

    pub(super) fn push(&mut self, sequence: Sequence, traits: &Traits) {
        let class = &mut self.classes[usize::from(traits.priority.min(PRIORITY_MAX))];
        let flow = class.flows.entry(traits.flow).or_insert_with(|| {
            class.turns.push_back(traits.flow);
            // A flow that comes and goes gets no more than one that stays.
            Flow { records: BTreeSet::new(), weight: traits.weight.max(1), deficit: 0 }
        });
        flow.records.insert(sequence);
        self.records += 1;
    }

    /// Takes a record out whose turn has not come; whether it was there. Its flow keeps its turn until that comes.
    pub(super) fn remove(&mut self, sequence: Sequence, traits: &Traits) -> bool {
        let class = &mut self.classes[usize::from(traits.priority.min(PRIORITY_MAX))];
        let was_there = class.flows.get_mut(&traits.flow).is_some_and(|flow| flow.records.remove(&sequence));
        self.records -= u64::from(was_there);
        was_there
    }

    /// Which record is next, and its priority.
    pub(super) fn peek(&mut self) -> Option<(usize, Sequence)> {
        self.classes.iter_mut().enumerate().rev().find_map(|(priority, class)| Some((priority, class.peek()?)))
    }

    /// Takes the record that [`peek`](Self::peek) has named with this priority. What comes behind it in its flow may have
    /// been pushed since: a flow goes on with its turn if it has something to send when its record has left.
    pub(super) fn pop(&mut self, priority: usize) {
        if self.classes.get_mut(priority).is_some_and(Class::pop) {
            self.records -= 1;
        }
    }
}

impl Class {
    fn peek(&mut self) -> Option<Sequence> {
        loop {
            let id = self.turns.front().copied()?;
            if let Some(sequence) = self.flows.get(&id).and_then(|flow| flow.records.first()) {
                return Some(*sequence);
            }
            // All of it was taken out.
            self.flows.remove(&id);
            self.turns.pop_front();
        }
    }

    fn pop(&mut self) -> bool {
        let Some(id) = self.turns.front().copied() else { return false };
        let Some(flow) = self.flows.get_mut(&id) else { return false };
        if flow.deficit == 0 {
            flow.deficit = flow.weight;
        }
        flow.deficit -= 1;
        let popped = flow.records.pop_first().is_some();
        if flow.records.is_empty() {
            self.flows.remove(&id);
            self.turns.pop_front();
        } else if flow.deficit == 0 {
            self.turns.rotate_left(1);
        }
        popped
    }
}
