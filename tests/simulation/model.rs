//! The shadow model: what clients were told and what the database got, held against each other.

use std::collections::BTreeSet;
use std::sync::Arc;

use forebay::queue::Queue;

/// What a record's body says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    /// Which request.
    pub request: u32,
    /// Which of its records.
    pub index: u32,
}

impl Body {
    pub fn write(self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0xEE; length.max(8)];
        bytes[..4].copy_from_slice(&self.request.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.index.to_le_bytes());
        bytes
    }

    pub fn read(bytes: &[u8]) -> Self {
        let number = |from: usize| u32::from_le_bytes(bytes[from..from + 4].try_into().unwrap());
        Self { request: number(0), index: number(4) }
    }
}

/// How a request stands with its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// None yet.
    None,
    /// Stored from this sequence on.
    Acknowledged(u64),
    /// Nothing was stored.
    Refused,
}

/// What a client has asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub client: usize,
    pub queue: usize,
    pub records: u32,
    pub has_key: bool,
    pub answer: Answer,
    /// Bit for each record that the database has.
    delivered: u64,
}

#[derive(Default)]
struct QueueModel {
    /// What clients were told, by sequence.
    acknowledged: Vec<Option<Body>>,
    /// What the database has, by sequence.
    rows: Vec<Option<Body>>,
    dead: BTreeSet<u64>,
    position: u64,
    /// Clients are answered before anything is on disk, so a crash may lose what they were told.
    answers_early: bool,
    /// The last request of each client that was delivered.
    last_requests: Vec<u32>,
}

/// All that was promised and kept.
pub struct Model {
    pub requests: Vec<Request>,
    queues: Vec<QueueModel>,
    /// Tickets that clients were given: queue, ticket, sequence.
    tickets: Vec<(usize, String, u64)>,
    /// Requests whose number is a multiple of this are refused by the sink; 0 for none.
    pub poison_every: u32,
    /// The disk has done what nobody can make good, so what it held may be gone, and nothing else may.
    pub is_damaged: bool,
    /// The first thing that went wrong.
    pub complaint: Option<String>,
}

fn at(list: &mut Vec<Option<Body>>, sequence: u64) -> &mut Option<Body> {
    let index = usize::try_from(sequence).unwrap();
    if list.len() <= index {
        list.resize(index + 1, None);
    }
    &mut list[index]
}

impl Model {
    /// `answers_early` says of each queue whether it answers before anything is on disk.
    pub fn new(answers_early: &[bool], clients: usize, poison_every: u32) -> Self {
        let queue = |answers_early: &bool| QueueModel {
            last_requests: vec![0; clients],
            answers_early: *answers_early,
            ..QueueModel::default()
        };
        let queues = answers_early.iter().map(queue).collect();
        Self { requests: Vec::new(), queues, tickets: Vec::new(), poison_every, is_damaged: false, complaint: None }
    }

    pub fn complain(&mut self, text: String) {
        self.complaint.get_or_insert(text);
    }

    /// Whether what a queue has told its clients may be gone.
    fn may_lose(&self, queue: usize) -> bool {
        self.is_damaged || self.queues[queue].answers_early
    }

    pub fn is_poison(&self, body: Body) -> bool {
        self.poison_every > 0 && body.request.is_multiple_of(self.poison_every)
    }

    /// A client makes up a request.
    pub fn add(&mut self, client: usize, queue: usize, records: u32, has_key: bool) -> u32 {
        let request = Request { client, queue, records, has_key, answer: Answer::None, delivered: 0 };
        self.requests.push(request);
        u32::try_from(self.requests.len() - 1).unwrap()
    }

    /// A client gets a 202.
    pub fn acknowledged(&mut self, number: u32, first_sequence: u64, count: u32) {
        let may_lose = self.may_lose(self.requests[number as usize].queue);
        let request = &mut self.requests[number as usize];
        if count != request.records {
            let text = format!("request {number} has {} records, and {count} were acknowledged", request.records);
            return self.complain(text);
        }
        match request.answer {
            Answer::Acknowledged(before) if before != first_sequence && !may_lose => {
                self.complain(format!("request {number} got {before} first and then {first_sequence}"));
            }
            Answer::Acknowledged(_) => {}
            Answer::None | Answer::Refused => {
                request.answer = Answer::Acknowledged(first_sequence);
                let queue = request.queue;
                for index in 0..count {
                    self.promise(queue, first_sequence + u64::from(index), Body { request: number, index });
                }
            }
        }
    }

    fn promise(&mut self, queue: usize, sequence: u64, body: Body) {
        let model = &mut self.queues[queue];
        let before = at(&mut model.acknowledged, sequence).replace(body);
        let row = *at(&mut model.rows, sequence);
        if self.may_lose(queue) {
            return;
        }
        if let Some(before) = before {
            self.complain(format!("queue {queue}: sequence {sequence} was given to {before:?} and to {body:?}"));
        } else if row.is_some_and(|row| row != body) {
            self.complain(format!("queue {queue}: sequence {sequence} is {body:?} and was delivered as {row:?}"));
        }
    }

    /// The sink is asked to take these rows.
    pub fn offered(&mut self, queue: usize, rows: &[(u64, Body)]) {
        if let Some((sequence, _)) = rows.iter().find(|(sequence, _)| self.queues[queue].dead.contains(sequence)) {
            self.complain(format!("queue {queue}: sequence {sequence} is a dead letter and was offered again"));
        }
    }

    /// The drain has set a record aside.
    pub fn set_aside(&mut self, queue: usize, sequence: u64) {
        self.queues[queue].dead.insert(sequence);
    }

    /// The database has committed the rows between two positions.
    pub fn delivered(
        &mut self,
        queue: usize,
        (after, through): (u64, u64),
        rows: &[(u64, Body)],
        is_dead: impl Fn(u64) -> bool,
    ) {
        let mut rows_left = rows.iter();
        for sequence in after + 1..=through {
            if is_dead(sequence) {
                self.set_aside(queue, sequence);
                continue;
            }
            match rows_left.next() {
                Some((found, body)) if *found == sequence => self.row(queue, sequence, *body),
                found => {
                    self.complain(format!("queue {queue}: {found:?} was committed where {sequence} was expected"));
                }
            }
        }
        if let Some(row) = rows_left.next() {
            self.complain(format!("queue {queue}: {row:?} is beyond {through}"));
        }
        self.queues[queue].position = through;
    }

    fn row(&mut self, queue: usize, sequence: u64, body: Body) {
        let (damaged, may_lose) = (self.is_damaged, self.may_lose(queue));
        let Some(request) = self.requests.get_mut(body.request as usize).filter(|request| request.queue == queue)
        else {
            return self.complain(format!("queue {queue}: sequence {sequence} is of nobody: {body:?}"));
        };
        let bit = 1 << body.index;
        let is_second = request.delivered & bit != 0;
        request.delivered |= bit;
        let was_refused = request.answer == Answer::Refused && !request.has_key;
        let client = request.client;
        let model = &mut self.queues[queue];
        let last = std::mem::replace(&mut model.last_requests[client], body.request);
        let promised = *at(&mut model.acknowledged, sequence);
        let had_row = at(&mut model.rows, sequence).replace(body).is_some();
        let what = match () {
            () if had_row && !damaged => "was delivered before",
            () if is_second && !damaged => "holds a record that was delivered before",
            () if was_refused => "was refused",
            () if promised.is_some_and(|promised| promised != body) && !may_lose => "was promised to another",
            () if last > body.request && !may_lose => "comes after a later request of its client",
            () => return,
        };
        self.complain(format!("queue {queue}: sequence {sequence} ({body:?}) {what}"));
    }

    /// A client remembers its ticket.
    pub fn keep_ticket(&mut self, request: u32, sequence: u64, queues: &[Arc<Queue>]) {
        let queue = self.requests[request as usize].queue;
        self.tickets.push((queue, queues[queue].tickets.ticket(sequence).to_string(), sequence));
    }

    /// After a start nothing that was acknowledged may be missing, and every ticket still names its record.
    pub fn recovered(&mut self, queue: usize, marks: &Queue) {
        let durable = marks.journal.durable.get();
        let stray = self
            .tickets
            .iter()
            .find(|(of, ticket, sequence)| *of == queue && marks.tickets.read(ticket) != Some(*sequence));
        if let Some((_, ticket, _)) = stray.filter(|_| !self.may_lose(queue)).cloned() {
            self.complain(format!("queue {queue}: the ticket {ticket} names nothing any more"));
        }
        let last = self.queues[queue].acknowledged.len().saturating_sub(1);
        if !self.may_lose(queue) && (last as u64) > durable {
            self.complain(format!("queue {queue}: {last} was acknowledged, and {durable} is the last after a start"));
        }
    }

    /// Whether every promise is kept; otherwise the first that is not.
    pub fn missing(&self) -> Option<(usize, u64)> {
        let missing = |(number, queue): (usize, &QueueModel)| {
            let kept = |sequence: usize| {
                queue.acknowledged[sequence].is_none()
                    || queue.answers_early
                    || queue.rows.get(sequence).is_some_and(Option::is_some)
                    || queue.dead.contains(&(sequence as u64))
            };
            (0..queue.acknowledged.len()).find(|sequence| !kept(*sequence)).map(|sequence| (number, sequence as u64))
        };
        self.queues.iter().enumerate().find_map(missing)
    }

    /// Records that the database has.
    pub fn row_count(&self) -> usize {
        self.queues.iter().flat_map(|queue| &queue.rows).flatten().count()
    }
}
