//! What the clients of one queue of one data directory were told.

use std::collections::BTreeMap;

use forebay::config::Order;
use forebay::queue::Queue;

use crate::model::Body;

/// Bounds that the configuration sets to what a queue remembers and may lose.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Which order its records keep.
    pub order: Order,
    /// Clients are answered before anything is on disk, so a crash may lose the last batch.
    pub answers_early: bool,
    /// Bytes of a batch.
    pub commit_bytes_max: u64,
    /// Time for which a key is remembered, in microseconds.
    pub window_us: u64,
    /// Keys that are remembered.
    pub keys_max: u64,
}

/// A place where a sequence may have something.
pub fn at<T: Copy>(list: &mut Vec<Option<T>>, sequence: u64) -> &mut Option<T> {
    let index = usize::try_from(sequence).unwrap();
    if list.len() <= index {
        list.resize(index + 1, None);
    }
    &mut list[index]
}

#[derive(Clone)]
pub struct Ledger {
    pub bounds: Bounds,
    /// What clients were told, by sequence.
    pub acknowledged: Vec<Option<Body>>,
    /// Tickets that clients hold, and their sequences.
    tickets: Vec<(String, u64)>,
    /// The last sequence that the journal has counted as durable.
    pub durable: u64,
    /// The same when the backup was made.
    pub kept: u64,
    /// The directory has become the backup.
    pub is_set_back: bool,
    /// Where an earlier copy ended: behind it another timeline gave the same sequences out.
    pub diverged_at: Option<u64>,
    /// Up to here the database has what the other timeline delivered.
    pub stale_through: u64,
}

/// What a start has lost.
#[derive(Default)]
pub struct Lost {
    /// Requests whose records are gone, as far as their clients know.
    pub requests: Vec<u32>,
    /// What is wrong about it.
    pub complaint: Option<String>,
}

impl Ledger {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            acknowledged: Vec::new(),
            tickets: Vec::new(),
            durable: 0,
            kept: 0,
            is_set_back: false,
            diverged_at: None,
            stale_through: 0,
        }
    }

    /// Behind this sequence another timeline has given the same ones out.
    pub fn diverge_at(&mut self, end: u64) {
        self.diverged_at = Some(self.diverged_at.map_or(end, |before| before.min(end)));
    }

    /// Whether the database holds something else under this sequence, as far as this copy knows.
    pub fn is_stale(&self, sequence: u64) -> bool {
        self.diverged_at.is_some_and(|end| sequence > end && sequence <= self.stale_through)
    }

    pub fn keep_ticket(&mut self, ticket: &str, sequence: u64) {
        self.tickets.push((ticket.to_owned(), sequence));
    }

    /// Holds what a start has found against what is known; `bytes` gives the bytes of a request's bodies and how many.
    pub fn recovered(&mut self, marks: &Queue, is_damaged: bool, request: impl Fn(u32) -> (u64, u32)) -> Lost {
        let durable = marks.journal.durable.get();
        let counted = std::mem::replace(&mut self.durable, durable);
        // What the backup holds besides had not been synced, and may have been lost and given out again since.
        let known = if self.is_set_back { durable.min(self.kept) } else { durable };
        let end = usize::try_from(known).unwrap() + 1;
        let gone: Vec<Body> = self.acknowledged.iter().skip(end).flatten().copied().collect();
        // Without a key, what is sent twice is stored twice.
        let mut bodies: BTreeMap<u32, u32> = BTreeMap::new();
        for body in &gone {
            *bodies.entry(body.request).or_default() += 1;
        }
        let mut lost = Lost { requests: bodies.keys().copied().collect(), complaint: None };
        self.acknowledged.truncate(end);
        if std::mem::take(&mut self.is_set_back) {
            self.diverge_at(known);
            self.tickets.retain(|(_, sequence)| *sequence <= known);
            return lost;
        }
        if is_damaged {
            self.tickets.clear();
            return lost;
        }
        let (mut bytes, mut is_torn) = (0, false);
        for (number, count) in bodies {
            let (request_bytes, records) = request(number);
            bytes += request_bytes * u64::from(count / records.max(1));
            is_torn |= !count.is_multiple_of(records.max(1));
        }
        lost.complaint = if durable < counted {
            Some(format!("{counted} was counted as durable, and {durable} is the last after a start"))
        } else if !gone.is_empty() && !self.bounds.answers_early {
            Some(format!("{} was acknowledged, and {durable} is the last after a start", durable + gone.len() as u64))
        } else if bytes > self.bounds.commit_bytes_max {
            Some(format!("{bytes} bytes were lost, which is more than one batch"))
        } else if is_torn && self.diverged_at.is_none() {
            Some(format!("a part of a request was lost: {gone:?}"))
        } else {
            self.stray_ticket(marks, durable)
        };
        self.tickets.retain(|(_, sequence)| *sequence <= durable);
        lost
    }

    /// Tickets name their records, or nothing if those were lost; whatever gets their sequences next.
    fn stray_ticket(&self, marks: &Queue, durable: u64) -> Option<String> {
        let names = |(ticket, sequence): &&(String, u64)| {
            marks.tickets.read(ticket) != Some(*sequence).filter(|sequence| *sequence <= durable)
        };
        let (ticket, sequence) = self.tickets.iter().find(names)?;
        Some(format!("the ticket {ticket} of sequence {sequence} names {:?}", marks.tickets.read(ticket)))
    }
}
