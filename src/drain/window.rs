//! The window: records that have been read from the journal and not been sent, and which of them goes next.
//!
//! Invariants: a record that was added is picked exactly once; records with one key are picked in the order of
//! their sequences, if the queue keeps it; none is picked before it is due, nor sooner than its throttle lets it;
//! a flow that has something to send gets its share of every round, whatever the others have waiting. If several lots are on
//! their way at a time, records with one key are in one of them at most, if the queue keeps their order: what has the key of a
//! lot on its way is held until that lot is released.
//!
//! A record passes up to four places: behind its predecessor with the same key, on the timer of its delay, on the timer
//! of its throttle, and in its flow. Flows of one priority take turns by deficit round robin (Shreedhar and Varghese,
//! SIGCOMM 1995) with a cost of one for each record, since it is records that the rate counts.
//! Nothing here reads a clock or a file.

mod flows;
pub mod selectors;
mod throttle;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};

use self::flows::Flows;
pub use self::throttle::Limit;
use self::throttle::Throttle;
use crate::limits::WALL_CLOCK_LOOK_MS;
use crate::record::Sequence;

/// Stands for a record that has no key of a kind.
pub const NONE: u64 = 0;

/// The moment of a decision, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Nanoseconds on the monotonic clock, which throttles count in.
    pub monotonic_ns: u64,
    /// Microseconds since the Unix epoch, which delays are given in.
    pub unix_us: u64,
}

/// By what records are told apart; keys are hashes, or [`NONE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// Higher ones leave first; at most [`PRIORITY_MAX`].
    pub priority: u8,
    /// Records with the same one leave in order.
    pub key: u64,
    /// Whose share it counts against.
    pub flow: u64,
    /// How many records that flow may send in a round, at least one.
    pub weight: u32,
    /// What limits it beside the queue's rate.
    pub throttle: u64,
    /// Not before this moment, in microseconds since the Unix epoch.
    pub deliver_at_us: Option<u64>,
}

/// The highest priority.
pub const PRIORITY_MAX: u8 = 9;

/// A record that waits in the window.
#[derive(Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its number in the queue.
    pub sequence: Sequence,
    /// Its bytes.
    pub bytes: Box<[u8]>,
    /// Bytes of all the queue's records before it.
    pub start_byte: u64,
}

/// Records that have been read and not been sent.
#[derive(Debug)]
pub struct Window {
    waiting: BTreeMap<Sequence, (Traits, Waiting)>,
    bytes: usize,
    /// Records behind one with the same key that has not been picked. That one is not among them, but its key is.
    chains: HashMap<u64, VecDeque<Sequence>>,
    /// Records that are not due, by the wall clock.
    delayed: BinaryHeap<Reverse<(u64, Sequence)>>,
    /// Records that their throttle holds back, by the monotonic clock, and whether it has given them that departure or
    /// is to be asked again then.
    throttled: BinaryHeap<Reverse<(u64, Sequence, bool)>>,
    throttle: Option<Throttle>,
    /// Records that may leave.
    flows: Flows,
    /// Keys of the lots that are on their way, if there may be several, and the record of each that could leave otherwise.
    held: HashMap<u64, Option<Sequence>>,
    holds_keys: bool,
}

/// Records that leave together.
#[derive(Debug, Default)]
pub struct Picked {
    /// In the order in which they are to leave.
    pub records: Vec<Waiting>,
    /// Their keys, which are held until [`Window::release`].
    pub keys: Vec<u64>,
}

impl Window {
    /// An empty window; `holds_keys` if several of its lots may be on their way.
    #[must_use]
    pub fn new(limit: Option<Limit>, holds_keys: bool, now: Now) -> Self {
        Self {
            waiting: BTreeMap::new(),
            bytes: 0,
            chains: HashMap::new(),
            delayed: BinaryHeap::new(),
            throttled: BinaryHeap::new(),
            throttle: limit.map(|limit| Throttle::new(limit, now.monotonic_ns)),
            flows: Flows::default(),
            held: HashMap::new(),
            holds_keys,
        }
    }

    /// Adds a record; sequences must come in ascending order.
    pub fn add(&mut self, traits: Traits, waiting: Waiting, now: Now) {
        let sequence = waiting.sequence;
        self.bytes += waiting.bytes.len();
        self.waiting.insert(sequence, (traits, waiting));
        if traits.key != NONE {
            if let Some(behind) = self.chains.get_mut(&traits.key) {
                behind.push_back(sequence);
                return;
            }
            self.chains.insert(traits.key, VecDeque::new());
        }
        self.admit(sequence, traits, now);
    }

    /// Picks up to `count` records, and up to `bytes_max` bytes of them but at least one.
    pub fn pick(&mut self, count: u64, bytes_max: usize, now: Now) -> Picked {
        self.wake(now);
        let mut picked: Vec<Waiting> = Vec::new();
        // The keys that were picked, and the record of each that may leave next.
        let mut next_of_key: BTreeMap<u64, Option<Sequence>> = BTreeMap::new();
        let mut bytes = 0;
        while (picked.len() as u64) < count {
            let Some((priority, sequence)) = self.flows.peek() else { break };
            let length = self.waiting.get(&sequence).map_or(0, |(_, waiting)| waiting.bytes.len());
            if !picked.is_empty() && bytes + length > bytes_max {
                break;
            }
            if let Some((traits, waiting)) = self.waiting.remove(&sequence) {
                bytes += length;
                self.bytes -= length;
                picked.push(waiting);
                // Before its turn ends: a flow of one key has its next record only now.
                let next = self.follow(traits.key, now);
                if self.holds_keys && traits.key != NONE {
                    next_of_key.insert(traits.key, next);
                }
            }
            self.flows.pop(priority);
        }
        let keys = next_of_key.keys().copied().collect();
        for (key, next) in next_of_key {
            self.hold(key, next);
        }
        Picked { records: picked, keys }
    }

    /// The lot with these keys is no longer on its way.
    pub fn release(&mut self, keys: &[u64]) {
        for key in keys {
            if let Some(Some(next)) = self.held.remove(key)
                && let Some((traits, _)) = self.waiting.get(&next)
            {
                self.flows.push(next, traits);
            }
        }
    }

    /// Keeps the records of a key back, and the one that could leave now.
    fn hold(&mut self, key: u64, next: Option<Sequence>) {
        let is_ready =
            |next: &Sequence| self.waiting.get(next).is_some_and(|(traits, _)| self.flows.remove(*next, traits));
        let next = next.filter(is_ready);
        self.held.insert(key, next);
    }

    /// A record may leave, unless a lot with its key is on its way.
    fn enter(&mut self, sequence: Sequence, traits: Traits) {
        match self.held.get_mut(&traits.key) {
            Some(next) => *next = Some(sequence),
            None => self.flows.push(sequence, &traits),
        }
    }

    /// How many records may leave now.
    pub fn ready(&mut self, now: Now) -> u64 {
        self.wake(now);
        self.flows.len()
    }

    /// In how many nanoseconds to look again whether a record may leave that may not now. The wall clock may be set and goes on
    /// while the machine sleeps, so a delay is never waited for in one go.
    #[must_use]
    pub fn next_due_ns(&self, now: Now) -> Option<u64> {
        let delayed = self.delayed.peek().map(|Reverse((at_us, _))| {
            at_us.saturating_sub(now.unix_us).min(WALL_CLOCK_LOOK_MS * 1000).saturating_mul(1000)
        });
        let throttled = self.throttled.peek().map(|Reverse((at_ns, ..))| at_ns.saturating_sub(now.monotonic_ns));
        delayed.into_iter().chain(throttled).min()
    }

    /// How many records wait here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of the records that wait here.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of all the queue's records before the oldest one here.
    #[must_use]
    pub fn start_byte(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|(_, (_, waiting))| waiting.start_byte)
    }

    /// Lets those go on whose time has come.
    fn wake(&mut self, now: Now) {
        while let Some(Reverse((at_us, sequence))) = self.delayed.peek().copied()
            && at_us <= now.unix_us
        {
            self.delayed.pop();
            if let Some((traits, _)) = self.waiting.get(&sequence) {
                self.limit(sequence, *traits, now);
            }
        }
        while let Some(Reverse((at_ns, sequence, is_reserved))) = self.throttled.peek().copied()
            && at_ns <= now.monotonic_ns
        {
            self.throttled.pop();
            match self.waiting.get(&sequence) {
                Some((traits, _)) if is_reserved => self.enter(sequence, *traits),
                Some((traits, _)) => self.limit(sequence, *traits, now),
                None => {}
            }
        }
    }

    /// A record of this key was picked: the next one's turn has come. Returns that.
    fn follow(&mut self, key: u64, now: Now) -> Option<Sequence> {
        if key == NONE {
            return None;
        }
        let Some(next) = self.chains.get_mut(&key)?.pop_front() else {
            self.chains.remove(&key);
            return None;
        };
        if let Some((traits, _)) = self.waiting.get(&next) {
            self.admit(next, *traits, now);
        }
        Some(next)
    }

    /// A record that waits for no other one.
    fn admit(&mut self, sequence: Sequence, traits: Traits, now: Now) {
        match traits.deliver_at_us {
            Some(at_us) if at_us > now.unix_us => self.delayed.push(Reverse((at_us, sequence))),
            _ => self.limit(sequence, traits, now),
        }
    }

    /// A record that is due.
    fn limit(&mut self, sequence: Sequence, traits: Traits, now: Now) {
        let now_ns = now.monotonic_ns;
        let Some(throttle) = self.throttle.as_mut().filter(|_| traits.throttle != NONE) else {
            return self.enter(sequence, traits);
        };
        match throttle.reserve(traits.throttle, now_ns) {
            Some(departure_ns) if departure_ns <= now_ns => self.enter(sequence, traits),
            Some(departure_ns) => self.throttled.push(Reverse((departure_ns, sequence, true))),
            None => self.throttled.push(Reverse((throttle.retry_ns(now_ns), sequence, false))),
        }
    }
}

#[cfg(test)]
mod tests;
