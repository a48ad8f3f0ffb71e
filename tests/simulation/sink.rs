//! The simulated database and the sink that writes to it.
//!
//! The fault model: it is slow; it is down; a transaction ends in a deadlock; the connection breaks behind the
//! commit and before the reply, or before the commit, in which case the transaction may still come through, or come
//! back with an old epoch long after somebody else has taken over; some records it refuses for good.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use forebay::drain::scheduler::Scheduler as _;
use forebay::journal::platform::Platform as _;
use forebay::limits::PACER_SLACK_MS;
use forebay::planted::{Bug, is_planted};
use forebay::queue::Queue;
use forebay::rate::Rate;
use forebay::sink::{Batch, Sink, SinkError, SinkFuture};

use crate::machine::Machine;
use crate::model::{Body, Model};

/// Earlier sends with which a new one is weighed against the rate.
const SENDS_KEPT: usize = 48;

/// How often things go wrong, in parts of 10,000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub is_down: bool,
    pub deadlock: u64,
    pub reply_lost: u64,
    pub connection_lost: u64,
    pub latency_us_max: u64,
}

struct Transaction {
    number: u64,
    part: usize,
    epoch: u64,
    after: u64,
    through: u64,
    rows: Vec<(u64, Body)>,
    /// Nobody waits for it any more.
    is_abandoned: bool,
}

/// A row of `forebay_position`, and what is known of the queue behind it.
#[derive(Default)]
struct Part {
    epoch: u64,
    position: u64,
    queue: Option<Arc<Queue>>,
    sends: VecDeque<(u64, u64)>,
}

/// What is in the database, and what is under way to it.
pub struct Database {
    pub faults: Faults,
    pub model: Model,
    parts: Vec<Part>,
    transactions: Vec<Transaction>,
    next_number: u64,
}

pub type Shared = Arc<Mutex<Database>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Committed,
    ReplyLost,
    ConnectionLost,
    Deadlock,
    Refused,
    Down,
}

impl Database {
    pub fn new(parts: usize, model: Model) -> Self {
        let parts = (0..parts).map(|_| Part::default()).collect();
        Self { faults: Faults::default(), model, parts, transactions: Vec::new(), next_number: 0 }
    }

    /// A process has started, and its drain serves this part.
    pub fn begin_life(&mut self, part: usize, queue: &Arc<Queue>) {
        let part = &mut self.parts[part];
        if part.queue.as_ref().is_some_and(|before| before.config.shaping.rate != queue.config.shaping.rate) {
            part.sends.clear();
        }
        part.queue = Some(Arc::clone(queue));
    }

    /// The process is gone; its transactions are not.
    pub fn end_life(&mut self) {
        self.transactions.iter_mut().for_each(|transaction| transaction.is_abandoned = true);
    }

    pub fn position(&self, part: usize) -> u64 {
        self.parts[part].position
    }

    /// A transaction that nobody waits for comes through or is given up.
    pub fn decide_one(&mut self, machine: &Machine) {
        let abandoned: Vec<_> = (0..self.transactions.len()).filter(|n| self.transactions[*n].is_abandoned).collect();
        if !abandoned.is_empty() {
            let (place, commits) = machine.draw(|random| (random.index(abandoned.len()), random.chance(7000)));
            let transaction = self.transactions.swap_remove(abandoned[place]);
            if commits {
                // Whether the fence lets it through is what is being tried.
                let _ = self.apply(&transaction);
            }
        }
    }

    /// Fence, rows and position in one step.
    fn apply(&mut self, transaction: &Transaction) -> Result<(), SinkError> {
        let part = &mut self.parts[transaction.part];
        let was_early = is_planted(Bug::PositionBeforeRows) && part.position == transaction.through;
        let holds = part.epoch == transaction.epoch && (part.position == transaction.after || was_early);
        if !holds {
            return Err(SinkError::Fenced("the position is another's".to_owned()));
        }
        part.position = transaction.through;
        let dead_letters = part.queue.as_ref().map(|queue| &queue.dead_letters);
        self.model.delivered(
            transaction.part,
            (transaction.after, transaction.through),
            &transaction.rows,
            |sequence| dead_letters.is_some_and(|index| index.contains(sequence)),
        );
        Ok(())
    }

    fn begin(&mut self, part: usize, epoch: u64, batch: &Batch<'_>, machine: &Machine) -> (u64, Fate, Duration) {
        let rows: Vec<_> = batch.deliveries.iter().map(|d| (d.sequence, Body::read(d.record.body))).collect();
        self.note_send(part, rows.len() as u64, machine.monotonic_ns());
        self.model.offered(part, &rows);
        let faults = self.faults;
        let refused = rows.iter().any(|(_, body)| self.model.is_poison(*body));
        let (fate, latency_us) = machine.draw(|random| {
            let fate = match () {
                () if faults.is_down => Fate::Down,
                () if random.chance(faults.connection_lost) => Fate::ConnectionLost,
                () if refused => Fate::Refused,
                () if random.chance(faults.deadlock) => Fate::Deadlock,
                () if random.chance(faults.reply_lost) => Fate::ReplyLost,
                () => Fate::Committed,
            };
            (fate, random.below(faults.latency_us_max + 1))
        });
        let number = self.next_number;
        self.next_number += 1;
        if !refused && fate != Fate::Down && fate != Fate::Deadlock {
            if is_planted(Bug::PositionBeforeRows) && self.parts[part].position == batch.after {
                self.parts[part].position = batch.through;
            }
            let (after, through) = (batch.after, batch.through);
            self.transactions.push(Transaction { number, part, epoch, after, through, rows, is_abandoned: false });
        }
        (number, fate, Duration::from_micros(latency_us))
    }

    fn finish(&mut self, number: u64, fate: Fate) -> Result<(), SinkError> {
        let place = self.transactions.iter().position(|transaction| transaction.number == number);
        match (fate, place) {
            (Fate::Committed, Some(place)) => {
                let transaction = self.transactions.swap_remove(place);
                self.apply(&transaction)
            }
            (Fate::ReplyLost, Some(place)) => {
                let transaction = self.transactions.swap_remove(place);
                self.apply(&transaction)?;
                Err(SinkError::Transient("the connection broke behind the commit".to_owned()))
            }
            (Fate::ConnectionLost, Some(place)) => {
                self.transactions[place].is_abandoned = true;
                Err(SinkError::Transient("the connection broke".to_owned()))
            }
            (Fate::Refused, _) => Err(SinkError::Permanent { message: "a constraint".to_owned() }),
            _ => Err(SinkError::Transient("not now".to_owned())),
        }
    }

    /// No window may see more rows than the pacer's bound.
    fn note_send(&mut self, part: usize, rows: u64, now_ns: u64) {
        let Part { queue: Some(queue), sends, .. } = &mut self.parts[part] else { return };
        let Rate::Limited { records, period_ns } = queue.config.shaping.rate else { return };
        if rows == 0 {
            return;
        }
        sends.push_back((now_ns, rows));
        if sends.len() > SENDS_KEPT {
            sends.pop_front();
        }
        let tolerance_ns = (queue.config.shaping.batch.linger_ms_max + PACER_SLACK_MS) * 1_000_000;
        let mut total = 0;
        for (from_ns, sent) in sends.iter().rev() {
            total += sent;
            let window_ns = now_ns - from_ns;
            let bound = u128::from(window_ns + tolerance_ns) * u128::from(records) / u128::from(period_ns) + 1;
            if u128::from(total) > bound {
                let text = format!("part {part}: {total} rows within {window_ns} ns, where {bound} may leave");
                return self.model.complain(text);
            }
        }
    }

    fn take_over(&mut self, part: usize, machine: &Machine) -> Result<(u64, u64), SinkError> {
        if self.faults.is_down {
            return Err(SinkError::Transient("the database is down".to_owned()));
        }
        // Whoever holds the row is waited for; whoever comes later meets the new epoch.
        if machine.draw(|random| random.chance(5000)) {
            self.decide_one(machine);
        }
        let part = &mut self.parts[part];
        part.epoch += 1;
        Ok((part.epoch, part.position))
    }
}

/// One drain's connection.
pub struct Connection {
    database: Shared,
    machine: Machine,
    part: usize,
    epoch: u64,
}

impl Connection {
    pub fn new(database: &Shared, machine: &Machine, part: usize) -> Self {
        Self { database: Arc::clone(database), machine: machine.clone(), part, epoch: 0 }
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap()
    }
}

impl Sink for Connection {
    fn take_over(&mut self) -> SinkFuture<'_, u64> {
        Box::pin(async {
            let latency_us_max = self.database().faults.latency_us_max;
            let latency_us = self.machine.draw(|random| random.below(latency_us_max + 1));
            self.machine.sleep(Duration::from_micros(latency_us)).await;
            let (epoch, position) = self.database().take_over(self.part, &self.machine)?;
            self.epoch = epoch;
            Ok(position)
        })
    }

    fn commit<'a>(&'a mut self, batch: Batch<'a>) -> SinkFuture<'a, ()> {
        Box::pin(async move {
            let (number, fate, latency) = self.database().begin(self.part, self.epoch, &batch, &self.machine);
            self.machine.sleep(latency).await;
            self.database().finish(number, fate)
        })
    }

    fn check(&mut self) -> SinkFuture<'_, Vec<String>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
