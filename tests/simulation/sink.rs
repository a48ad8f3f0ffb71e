//! The simulated database and the sink that writes to it.
//!
//! The fault model: it is slow; it is down; a transaction ends in a deadlock; the connection breaks behind the
//! commit and before the reply, or before the commit, in which case the transaction may still come through, or come
//! back with an old epoch long after somebody else has taken over; some records it refuses for good. It may be set
//! back to an earlier state, rows, positions and epochs together, which ends all transactions. The drains of several
//! data directories may write to it as if each were the only one, and the answer to a take-over may be lost as any other. A
//! drain may have several lanes, each with a row, a connection and transactions of its own.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use forebay::drain::runner::SinkOpener;
use forebay::drain::scheduler::Scheduler as _;
use forebay::journal::platform::Platform as _;
use forebay::planted::{Bug, is_planted};
use forebay::progress::Progress;
use forebay::queue::{Outlet, Queue};
use forebay::rate::Rate;
use forebay::sink::encoded::Encoder;
use forebay::sink::{self, Batch, Claim, Sink, SinkError, SinkFuture, Subpart};

use crate::encoder::{Rows, rows_of};
use crate::machine::Machine;
use crate::model::{Body, Model};
use crate::pace::Pace;
use crate::random::Random;

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
    lane: usize,
    epoch: i64,
    /// The epoch behind it.
    next_epoch: i64,
    after: u64,
    through: u64,
    beyond: Option<Vec<u8>>,
    witnesses: Vec<Claim>,
    rows: Vec<(u64, Body)>,
    /// The drain that began it.
    from: Arc<Life>,
    /// Nobody waits for it any more.
    is_abandoned: bool,
}

/// The rows of `forebay_position` that one sink of a queue has, by lane. The parts of the main sinks come first, in the order
/// of queues, and then those of the second ones.
#[derive(Clone, Default)]
struct Part {
    lanes: Vec<Lane>,
    /// Who has taken the first row over last, and when; nobody in a backup, which says nothing of who is there now.
    holder: Option<Holder>,
}

/// A life of a drain, by its number, and since when it has had the first row, counted in take-overs.
#[derive(Clone, Copy)]
struct Holder {
    life: u64,
    since: u64,
}

/// One of these rows; there is none as long as the epoch is 0.
#[derive(Clone, Default)]
struct Lane {
    epoch: i64,
    position: u64,
    beyond: Vec<u8>,
}

impl Part {
    /// What is delivered: what any of the rows says.
    fn progress(&self) -> Progress {
        let mut progress = Progress::default();
        self.lanes.iter().for_each(|lane| progress.merge(&lane.progress()));
        progress
    }

    fn lane(&mut self, lane: usize) -> &mut Lane {
        if self.lanes.len() <= lane {
            self.lanes.resize_with(lane + 1, Lane::default);
        }
        &mut self.lanes[lane]
    }

    /// Whether a row is as far as it was.
    fn has_reached(&self, claim: &Claim) -> bool {
        let lane = self.lanes.get(claim.part.parse::<usize>().unwrap());
        lane.is_some_and(|lane| lane.epoch >= claim.epoch)
    }
}

impl Lane {
    fn progress(&self) -> Progress {
        Progress::decode(self.position, &self.beyond).unwrap()
    }
}

/// One life of the drain of one of a queue's sinks.
struct Life {
    number: u64,
    site: usize,
    part: usize,
    /// When it has first tried to take the first row over, counted in take-overs.
    tried_at: OnceLock<u64>,
    queue: Arc<Queue>,
    outlet: Arc<Outlet>,
}

/// What is known of the drain of one queue of one data directory.
#[derive(Default)]
struct Drain {
    pace: Pace,
    verdict: Verdict,
}

/// What is expected of a drain in its present life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    #[default]
    GoesOn,
    /// It goes on until it meets what was done behind its back, and halts then.
    MayHalt,
    /// It has met something with which it must not go on.
    MustHalt,
}

/// What is in the database, and what is under way to it.
pub struct Database {
    pub faults: Faults,
    pub model: Model,
    parts: Vec<Part>,
    /// The state to which it may be set back.
    kept: Vec<Part>,
    /// By site and part.
    drains: Vec<Vec<Drain>>,
    transactions: Vec<Transaction>,
    next_number: u64,
    lives: u64,
    /// Take-overs that have come as far as the rows.
    take_overs: u64,
    /// Whether the backup was restored.
    was_set_back: bool,
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
    pub fn new(model: Model) -> Self {
        // Each queue may have a second sink.
        let parts = 2 * model.queue_count();
        let mut database = Self {
            faults: Faults::default(),
            model,
            parts: vec![Part::default(); parts],
            kept: Vec::new(),
            drains: Vec::new(),
            transactions: Vec::new(),
            next_number: 0,
            lives: 0,
            take_overs: 0,
            was_set_back: false,
        };
        database.add_site();
        database
    }

    /// The drains of another data directory will come.
    pub fn add_site(&mut self) {
        self.drains.push(self.parts.iter().map(|_| Drain::default()).collect());
    }

    /// A process has started, and its drain serves this part.
    fn begin_life(&mut self, life: &Life) {
        let drain = &mut self.drains[life.site][life.part];
        drain.pace.begin(life.outlet.config.shaping.rate);
        drain.verdict = Verdict::GoesOn;
        if life.outlet.name.is_some() {
            let is_strict = !life.outlet.config.ordering.is_reordering();
            self.model.begin_echo(life.part, life.queue.journal.trimmed.get(), is_strict);
        }
    }

    /// The process of a site is gone; its transactions are not.
    pub fn end_life(&mut self, site: usize) {
        for transaction in self.transactions.iter_mut().filter(|transaction| transaction.from.site == site) {
            transaction.is_abandoned = true;
        }
    }

    /// Up to where a part is delivered, with what was never for its sink.
    pub fn position(&self, part: usize) -> u64 {
        self.parts[part].progress().through().max(self.model.echoes.begins_after(part))
    }

    /// What is expected of a drain.
    pub fn verdict(&self, site: usize, part: usize) -> Verdict {
        self.drains[site][part].verdict
    }

    /// A backup is made.
    pub fn keep(&mut self) {
        self.kept.clone_from(&self.parts);
        self.kept.iter_mut().for_each(|part| part.holder = None);
        self.model.keep();
    }

    /// A site's directory is set back; whoever does that makes sure that nothing is left of its last process.
    pub fn directory_set_back(&mut self, site: usize) {
        self.transactions.retain(|transaction| transaction.from.site != site);
        self.model.directory_set_back(site);
    }

    /// A drain asks for something; one that must halt has nothing more to ask for.
    fn note_request(&mut self, from: &Life) {
        if self.drains[from.site][from.part].verdict == Verdict::MustHalt {
            let delivered = from.outlet.drain.delivered.get();
            self.model.complain(format!("part {}: the drain goes on at {delivered}, where it must halt", from.part));
        }
    }

    /// The backup is restored.
    pub fn set_back(&mut self) {
        self.was_set_back = true;
        self.parts.clone_from(&self.kept);
        self.transactions.clear();
        for (number, part) in self.parts.iter().enumerate() {
            self.model.database_set_back(number, &part.progress());
        }
        self.drains.iter_mut().flatten().for_each(|drain| drain.verdict = Verdict::MayHalt);
    }

    /// A transaction that nobody waits for comes through or is given up.
    pub fn decide_one(&mut self, machine: &Machine) {
        let abandoned: Vec<_> = (0..self.transactions.len()).filter(|n| self.transactions[*n].is_abandoned).collect();
        if !abandoned.is_empty() {
            let (place, commits) = machine.draw(|random| (random.index(abandoned.len()), random.chance(7000)));
            let transaction = self.transactions.swap_remove(abandoned[place]);
            if commits {
                // Whether the fence lets it through is what is being tried.
                let is_fenced = self.apply(&transaction).is_err();
                self.model.see(if is_fenced { "zombie fenced" } else { "zombie committed" });
            }
        }
    }

    /// Fence, rows, position and what is beyond it in one step.
    fn apply(&mut self, transaction: &Transaction) -> Result<(), SinkError> {
        let Life { site, part: number, ref outlet, .. } = *transaction.from;
        let before = self.parts[number].progress();
        let are_witnessed = transaction.witnesses.iter().all(|claim| self.parts[number].has_reached(claim));
        let lane = self.parts[number].lane(transaction.lane);
        let was_early = is_planted(Bug::PositionBeforeRows) && lane.position == transaction.through;
        let holds = lane.epoch == transaction.epoch && (lane.position == transaction.after || was_early);
        if !holds || !are_witnessed {
            if !transaction.is_abandoned {
                self.must_halt(site, number, "drain fenced");
            }
            return Err(SinkError::Fenced("the position is another's".to_owned()));
        }
        lane.position = transaction.through;
        if let Some(beyond) = &transaction.beyond {
            lane.beyond.clone_from(beyond);
            lane.epoch = transaction.next_epoch;
        } else if !lane.beyond.is_empty() {
            self.model.complain(format!("part {number}: the position moves without what is beyond it"));
        }
        let after = self.parts[number].progress();
        if transaction.lane > 0 && !transaction.rows.is_empty() {
            self.model.see("delivered in another lane");
        }
        let is_dead = |sequence| outlet.dead_letters.contains(sequence);
        self.model.delivered((site, number), (&before, &after), &transaction.rows, is_dead);
        Ok(())
    }

    fn must_halt(&mut self, site: usize, part: usize, why: &'static str) {
        let verdict = &mut self.drains[site][part].verdict;
        // If nobody but this drain was ever there, it has no reason to halt, and its halt is a failure.
        if *verdict == Verdict::MayHalt || why != "drain fenced" {
            *verdict = Verdict::MustHalt;
            self.model.see(why);
        }
    }

    fn begin(
        &mut self,
        (from, lane): (&Arc<Life>, usize),
        (epoch, next_epoch): (i64, i64),
        (batch, encoder): (&Batch<'_>, &Arc<Rows>),
        machine: &Machine,
    ) -> (u64, Fate, Duration) {
        let (rows, are_ahead) = rows_of(encoder, batch);
        if are_ahead {
            self.model.see("encoded ahead");
        }
        self.note_request(from);
        self.note_send(from, rows.len() as u64, machine.monotonic_ns());
        self.model.offered((from.site, from.part), &rows);
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
            let row = self.parts[from.part].lane(lane);
            if is_planted(Bug::PositionBeforeRows) && row.position == batch.after {
                row.position = batch.through;
            }
            let (after, through, from) = (batch.after, batch.through, Arc::clone(from));
            let beyond = batch.beyond.map(<[u8]>::to_vec);
            let witnesses = batch.witnesses.to_vec();
            self.transactions.push(Transaction {
                number,
                lane,
                epoch,
                next_epoch,
                after,
                through,
                beyond,
                witnesses,
                rows,
                from,
                is_abandoned: false,
            });
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

    fn note_send(&mut self, from: &Life, rows: u64, now_ns: u64) {
        let pace = &mut self.drains[from.site][from.part].pace;
        if let Some(wrong) = pace.send(&from.outlet, rows, now_ns) {
            self.model.complain(format!("part {}: {wrong}", from.part));
        }
    }

    /// A drain is told another rate, or to pause, or to go on.
    pub fn told(&mut self, site: usize, part: usize, rate: Rate, now_ns: u64) {
        self.drains[site][part].pace.told(rate, now_ns);
    }

    fn take_over(
        &mut self,
        from: &Life,
        (row, lane): (&sink::Part, usize),
        machine: &Machine,
    ) -> Result<(i64, Progress), SinkError> {
        if self.faults.is_down {
            return Err(SinkError::Transient("the database is down".to_owned()));
        }
        self.note_request(from);
        // Whoever holds the row is waited for; whoever comes later meets the new epoch.
        if machine.draw(|random| random.chance(5000)) {
            self.decide_one(machine);
        }
        let Life { site, part: number, ref queue, ref outlet, .. } = *from;
        let epoch = self.succeed(from, (row, lane))?;
        let faults = self.faults;
        let (is_lost, is_unheard) =
            machine.draw(|random| (random.chance(faults.connection_lost), random.chance(faults.reply_lost)));
        if is_lost {
            return Err(SinkError::Transient("the connection broke before the epoch was raised".to_owned()));
        }
        self.parts[number].lane(lane).epoch = epoch;
        if lane == 0 && self.parts[number].holder.is_none_or(|holder| holder.life != from.number) {
            self.parts[number].holder = Some(Holder { life: from.number, since: self.take_overs });
        }
        let progress = self.parts[number].lane(lane).progress();
        let rows = self.parts[number].lanes.iter().filter(|lane| lane.epoch > 0).count();
        let has_lanes = rows > 1 || outlet.drain.lanes.get() > 1;
        let position = self.position(number);
        for (other, drains) in self.drains.iter_mut().enumerate() {
            if other != site && drains[number].verdict == Verdict::GoesOn {
                drains[number].verdict = Verdict::MayHalt;
            }
        }
        if is_unheard {
            return Err(SinkError::Transient("the connection broke behind the epoch".to_owned()));
        }
        row.hold(epoch);
        // Whether the journal has what is missing is looked at once all lanes are known.
        let verdict = &mut self.drains[site][number].verdict;
        if *verdict == Verdict::GoesOn && position < queue.journal.trimmed.get() {
            *verdict = Verdict::MayHalt;
        }
        if has_lanes {
            return Ok((epoch, progress));
        }
        // The drain looks at the same marks before anybody else gets the processor.
        if position > queue.journal.durable.get() {
            self.must_halt(site, number, "position beyond the journal");
        } else {
            self.model.taken_over(site, number, position);
        }
        Ok((epoch, progress))
    }

    /// The epoch with which a row is taken over. A drain must be refused once another one has come after it, and
    /// at no other time, unless the database was set back.
    fn succeed(&mut self, from: &Life, (row, lane): (&sink::Part, usize)) -> Result<i64, SinkError> {
        let part = &mut self.parts[from.part];
        let (first, found) = (part.lane(0).epoch, part.lane(lane).epoch);
        self.take_overs += 1;
        // The first row is always the first that is taken over.
        let tried_at = *from.tried_at.get_or_init(|| self.take_overs);
        let has_come_after = |holder: Holder| holder.life != from.number && holder.since > tried_at;
        let is_over = part.holder.is_some_and(has_come_after);
        let outcome = row.succeed(found, first);
        match &outcome {
            Err(SinkError::Fenced(_)) if is_over => self.must_halt(from.site, from.part, "take-over refused"),
            Err(SinkError::Fenced(_)) if self.was_set_back => self.must_halt(from.site, from.part, "drain fenced"),
            Err(error) => self.model.complain(format!("part {}: a take-over was refused: {error}", from.part)),
            Ok(_) if is_over => {
                let what = "a drain takes over once more what another one has taken over since";
                self.model.complain(format!("part {}: {what}", from.part));
            }
            Ok(_) => {}
        }
        outcome
    }

    /// Which lanes besides the first one have rows.
    fn lanes(&mut self, from: &Life, epoch: i64) -> Result<Vec<u32>, SinkError> {
        if self.faults.is_down {
            return Err(SinkError::Transient("the database is down".to_owned()));
        }
        let Life { site, part: number, ref queue, ref outlet, .. } = *from;
        let position = self.position(number);
        let part = &self.parts[number];
        let lanes = (0..).zip(&part.lanes).skip(1).filter(|(_, lane)| lane.epoch > 0);
        let lanes: Vec<_> = lanes.map(|(lane, _)| lane).collect();
        let is_alone = lanes.is_empty() && outlet.drain.lanes.get() == 1;
        let is_as_taken = part.lanes.first().is_some_and(|first| first.epoch == epoch);
        // The first row is then all that the drain has to ask for, and it looks before anybody else gets the processor.
        if is_alone && is_as_taken && position < queue.journal.trimmed.get() {
            self.must_halt(site, number, "position before the journal");
        }
        Ok(lanes)
    }
}

/// The connection of a drain's lane.
pub struct Connection {
    database: Shared,
    machine: Machine,
    life: Arc<Life>,
    row: sink::Part,
    lane: usize,
    epoch: i64,
    /// Another one after each take-over.
    encoder: Arc<Rows>,
}

impl Connection {
    /// A life of a drain begins; `site` is its data directory.
    pub fn new(
        database: &Shared,
        machine: &Machine,
        (site, part): (usize, usize),
        known: (&Arc<Queue>, &Arc<Outlet>),
    ) -> Self {
        let (queue, outlet) = (Arc::clone(known.0), Arc::clone(known.1));
        let reorders = outlet.config.ordering.is_reordering();
        let random = machine.draw(Random::next);
        let row = sink::Part::new(queue.name.clone(), outlet.name.clone(), part.to_string(), reorders, random);
        let mut shared = database.lock().unwrap();
        shared.lives += 1;
        let life = Arc::new(Life { number: shared.lives, site, part, tried_at: OnceLock::new(), queue, outlet });
        shared.begin_life(&life);
        drop(shared);
        Self {
            database: Arc::clone(database),
            machine: machine.clone(),
            life,
            row,
            lane: 0,
            epoch: 0,
            encoder: Arc::new(Rows),
        }
    }

    /// Opens the connections of the other lanes. Nobody redrives dead letters here.
    pub fn opener(&self) -> SinkOpener {
        let (database, machine, life) = (Arc::clone(&self.database), self.machine.clone(), Arc::clone(&self.life));
        let first = self.row.clone();
        Box::new(move |subpart| {
            let Subpart::Lane(lane) = subpart else { panic!("nobody has asked for a redrive") };
            let (database, machine, life) = (Arc::clone(&database), machine.clone(), Arc::clone(&life));
            let (row, lane, encoder) = (first.subpart(subpart), lane as usize, Arc::new(Rows));
            Box::new(Self { database, machine, life, row, lane, epoch: 0, encoder })
        })
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap()
    }
}

impl Sink for Connection {
    fn take_over(&mut self) -> SinkFuture<'_, Progress> {
        Box::pin(async {
            let latency_us_max = self.database().faults.latency_us_max;
            let latency_us = self.machine.draw(|random| random.below(latency_us_max + 1));
            self.machine.sleep(Duration::from_micros(latency_us)).await;
            let (epoch, progress) = self.database().take_over(&self.life, (&self.row, self.lane), &self.machine)?;
            self.epoch = epoch;
            self.encoder = Arc::new(Rows);
            Ok(progress)
        })
    }

    fn lanes(&mut self) -> SinkFuture<'_, Vec<u32>> {
        Box::pin(async {
            let latency_us_max = self.database().faults.latency_us_max;
            let latency_us = self.machine.draw(|random| random.below(latency_us_max + 1));
            self.machine.sleep(Duration::from_micros(latency_us)).await;
            self.database().lanes(&self.life, self.epoch)
        })
    }

    fn claim(&self) -> Option<Claim> {
        (self.epoch > 0).then(|| Claim { part: self.lane.to_string().into(), epoch: self.epoch })
    }

    fn encoder(&self) -> Option<Encoder> {
        Some(Arc::clone(&self.encoder) as Encoder)
    }

    fn commit<'a>(&'a mut self, batch: Batch<'a>) -> SinkFuture<'a, ()> {
        Box::pin(async move {
            let next_epoch = self.row.epoch_behind(&batch, self.epoch);
            let epochs = (self.epoch, next_epoch);
            let (from, sent) = ((&self.life, self.lane), (&batch, &self.encoder));
            let (number, fate, latency) = self.database().begin(from, epochs, sent, &self.machine);
            self.machine.sleep(latency).await;
            let outcome = self.database().finish(number, fate);
            if outcome.is_ok() {
                self.epoch = next_epoch;
                self.row.hold(next_epoch);
            }
            outcome
        })
    }

    fn check(&mut self) -> SinkFuture<'_, Vec<String>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
