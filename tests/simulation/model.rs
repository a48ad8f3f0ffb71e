//! The shadow model: what clients were told and what the database got, held against each other.

use std::collections::{BTreeMap, BTreeSet};

use forebay::config::Order;
use forebay::progress::Progress;
use forebay::queue::Queue;

use crate::echo::Echoes;
use crate::extremes::Extremes;
use crate::ledger::{Bounds, Ledger, at};
use crate::table::{Row, Table};

/// What a record's body says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    /// Which request.
    pub request: u32,
    /// Which of its records.
    pub index: u32,
}

/// Bytes of the shortest body.
pub const BODY_BYTES_MIN: usize = 16;

impl Body {
    pub fn write(self, length: usize, out: &mut Vec<u8>) {
        let text = format!("{:08x}{:08x}", self.request, self.index);
        out.extend_from_slice(text.as_bytes());
        out.resize(out.len() + length.saturating_sub(BODY_BYTES_MIN), b'.');
    }

    /// What nobody has sent is of a request that nobody has made.
    pub fn read(bytes: &[u8]) -> Self {
        let number = |from: usize| {
            let text = std::str::from_utf8(bytes.get(from..from + 8)?).ok()?;
            u32::from_str_radix(text, 16).ok()
        };
        Self { request: number(0).unwrap_or(u32::MAX), index: number(8).unwrap_or(u32::MAX) }
    }
}

/// How a request stands with its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// None yet.
    None,
    /// Stored from this sequence on, with this ticket.
    Acknowledged(u64, String),
    /// Nothing was stored.
    Refused,
}

/// What a client has asked for.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
pub struct Request {
    pub site: usize,
    pub client: usize,
    pub queue: usize,
    pub records: u32,
    /// Bytes of each record's body.
    pub length: usize,
    pub has_key: bool,
    pub answer: Answer,
    /// All of it has arrived at least once, so it may be stored whatever comes of asking again: what is asked for beside the
    /// body is another each time, and may be too much once.
    pub has_arrived: bool,
    /// When its client began to ask for what is stored, for the first time and the last, and to ask again.
    first_asked_at: u64,
    stored_at: u64,
    asked_at: u64,
    /// What was durable then.
    asked_behind: u64,
    /// A crash has lost it behind its acknowledgement, which was allowed.
    was_lost: bool,
    /// Its records may be dropped one by one.
    pub may_expire: bool,
    /// It was stored again when its key was forgotten.
    was_repeated: bool,
    /// Bit for each record that the database has, of the copy that begins with this sequence.
    delivered: u64,
    copy: u64,
}

/// One data directory as its clients know it.
struct Site {
    ledgers: Vec<Ledger>,
    clock: Extremes,
}

/// All that was promised and kept.
pub struct Model {
    pub requests: Vec<Request>,
    sites: Vec<Site>,
    tables: Vec<Table>,
    /// What the second sinks have.
    pub echoes: Echoes,
    /// Requests whose number is a multiple of this are refused by the sink; 0 for none.
    pub poison_every: u32,
    /// The disk has done what nobody can make good, so what it held may be gone, and nothing else may.
    pub is_damaged: bool,
    /// The first thing that went wrong.
    pub complaint: Option<String>,
    /// How often something came up that does not come up in every seed.
    pub seen: BTreeMap<&'static str, u64>,
}

impl Model {
    /// One data directory with a queue for each of `bounds`.
    pub fn new(bounds: &[Bounds], poison_every: u32) -> Self {
        let ledgers = bounds.iter().map(|bounds| Ledger::new(*bounds)).collect();
        Self {
            requests: Vec::new(),
            sites: vec![Site { ledgers, clock: Extremes::default() }],
            tables: bounds.iter().map(|_| Table::default()).collect(),
            echoes: Echoes::new(bounds.len()),
            poison_every,
            is_damaged: false,
            complaint: None,
            seen: BTreeMap::new(),
        }
    }

    pub fn complain(&mut self, text: String) {
        self.complaint.get_or_insert(text);
    }

    pub fn see(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// The wall clock of a site stands there.
    pub fn note_time(&mut self, site: usize, unix_us: u64) {
        self.sites[site].clock.note(unix_us);
    }

    /// The moment that it is at a site.
    pub fn moment(&self, site: usize) -> u64 {
        self.sites[site].clock.now()
    }

    /// The journal of a site counts this much as durable.
    pub fn note_durable(&mut self, site: usize, queue: usize, durable: u64) {
        self.sites[site].ledgers[queue].durable = durable;
    }

    /// Whether several data directories have written to the database.
    fn is_forked(&self) -> bool {
        self.sites.len() > 1
    }

    pub fn is_poison(&self, body: Body) -> bool {
        self.poison_every > 0 && body.request.is_multiple_of(self.poison_every)
    }

    /// A client makes up a request.
    pub fn add(
        &mut self,
        (site, client): (usize, usize),
        queue: usize,
        (records, length): (u32, usize),
        has_key: bool,
    ) {
        let moment = self.moment(site);
        self.requests.push(Request {
            site,
            client,
            queue,
            records,
            length,
            has_key,
            answer: Answer::None,
            has_arrived: false,
            first_asked_at: moment,
            stored_at: moment,
            asked_at: moment,
            asked_behind: 0,
            was_lost: false,
            may_expire: false,
            was_repeated: false,
            delivered: 0,
            copy: 0,
        });
    }

    /// A client gets a 202 with a ticket that names its first record.
    pub fn acknowledged(&mut self, number: u32, (ticket, first_sequence): (&str, u64), count: u32) {
        let request = &self.requests[number as usize];
        let (site, queue) = (request.site, request.queue);
        if count != request.records {
            let text = format!("request {number} has {} records, and {count} were acknowledged", request.records);
            return self.complain(text);
        }
        if let Answer::Acknowledged(before, with) = &request.answer {
            if *before == first_sequence && with == ticket {
                return self.remembered(number, first_sequence);
            }
            let (before, stored_at) = (*before, request.stored_at);
            let ledger = &self.sites[site].ledgers[queue];
            let known = ledger.acknowledged.get(usize::try_from(first_sequence).unwrap()).copied().flatten();
            if first_sequence < before && known == Some(Body { request: number, index: 0 }) {
                // A key whose window had passed, and has not any more now that the clock was set back.
                return self.see("key remembered again");
            }
            if self.may_have_forgotten((site, queue), number, stored_at, (before, first_sequence)) {
                self.requests[number as usize].was_repeated = true;
                self.see("key forgotten");
            } else if !self.is_damaged {
                return self.complain(format!("request {number} got {before} first and then {first_sequence}"));
            }
        }
        let request = &mut self.requests[number as usize];
        request.stored_at = request.asked_at;
        request.answer = Answer::Acknowledged(first_sequence, ticket.to_owned());
        for index in 0..count {
            self.promise((site, queue), first_sequence + u64::from(index), Body { request: number, index });
        }
    }

    /// Whether a request that was stored under one sequence may be stored again under another: its key's window has
    /// passed by any reading of the clock, or so many keys came behind it that it had to make room.
    fn may_have_forgotten(
        &self,
        (site, queue): (usize, usize),
        number: u32,
        stored_at: u64,
        (first, second): (u64, u64),
    ) -> bool {
        if !self.requests[number as usize].has_key || second <= first {
            return false;
        }
        let ledger = &self.sites[site].ledgers[queue];
        let (low_us, high_us) = self.sites[site].clock.since(stored_at);
        if high_us > low_us + ledger.bounds.window_us {
            return true;
        }
        // What nobody was told of may have had a key.
        let had_key = |sequence: u64| match ledger.acknowledged.get(usize::try_from(sequence).unwrap()) {
            Some(Some(body)) => body.index == 0 && self.requests[body.request as usize].has_key,
            _ => true,
        };
        let keys = (first + 1..second).filter(|sequence| had_key(*sequence)).count();
        keys as u64 >= ledger.bounds.keys_max
    }

    /// A key was known. That must not be, if as many as are remembered had come behind it before it was used again.
    fn remembered(&mut self, number: u32, first_sequence: u64) {
        let Request { site, queue, asked_behind, stored_at, .. } = self.requests[number as usize];
        let ledger = &self.sites[site].ledgers[queue];
        let (low_us, high_us) = self.sites[site].clock.since(stored_at);
        // A key whose window may have passed makes room without being counted.
        if high_us > low_us + ledger.bounds.window_us || self.is_damaged || ledger.diverged_at.is_some() {
            return;
        }
        let range = usize::try_from(first_sequence).unwrap() + 1..usize::try_from(asked_behind + 1).unwrap();
        let behind = ledger.acknowledged.get(range).unwrap_or_default();
        let has_key = |body: &&Body| body.index == 0 && self.requests[body.request as usize].has_key;
        let keys = behind.iter().flatten().filter(has_key).count() as u64;
        if keys >= ledger.bounds.keys_max {
            self.complain(format!("the key of request {number} is still known when {keys} have come behind it"));
        }
    }

    /// A client begins to ask, or to ask again.
    pub fn ask(&mut self, number: u32) {
        let Request { site, queue, .. } = self.requests[number as usize];
        let (moment, durable) = (self.moment(site), self.sites[site].ledgers[queue].durable);
        let request = &mut self.requests[number as usize];
        (request.asked_at, request.asked_behind) = (moment, durable);
    }

    fn promise(&mut self, (site, queue): (usize, usize), sequence: u64, body: Body) {
        let ledger = &mut self.sites[site].ledgers[queue];
        if ledger.is_stale(sequence) {
            return;
        }
        let before = at(&mut ledger.acknowledged, sequence).replace(body);
        let row = self.tables[queue].row(sequence).filter(|row| row.site == site);
        if self.is_damaged {
            return;
        }
        if let Some(before) = before.filter(|before| *before != body) {
            self.complain(format!("queue {queue}: sequence {sequence} was given to {before:?} and to {body:?}"));
        } else if row.is_some_and(|row| row.body != body) {
            self.complain(format!("queue {queue}: sequence {sequence} is {body:?} and was delivered as {row:?}"));
        }
    }

    /// How many queues there are.
    pub fn queue_count(&self) -> usize {
        self.tables.len()
    }

    /// A life of a second sink begins, and the journal begins behind this sequence.
    pub fn begin_echo(&mut self, part: usize, trimmed: u64, is_strict: bool) {
        if self.echoes.begin(part, trimmed, is_strict) && trimmed > 0 {
            self.see("sink added when records had gone");
        }
    }

    /// The sink is asked to take these rows.
    pub fn offered(&mut self, (site, part): (usize, usize), rows: &[(u64, Body)]) {
        let is_dead = |sequence: u64| match self.tables.get(part) {
            Some(table) => table.is_dead(site, sequence),
            None => self.echoes.of(part).is_some_and(|echo| echo.is_dead(sequence)),
        };
        if let Some((sequence, _)) = rows.iter().find(|(sequence, _)| is_dead(*sequence)) {
            self.complain(format!("part {part}: sequence {sequence} is a dead letter and was offered again"));
        }
    }

    /// As [`delivered`](Self::delivered), of a second sink.
    fn echoed(
        &mut self,
        part: usize,
        progress: (&Progress, &Progress),
        rows: &[(u64, Body)],
        is_dead: impl Fn(u64) -> bool,
    ) {
        let queue = part - self.tables.len();
        let (table, ledger) = (&self.tables[queue], &self.sites[0].ledgers[queue]);
        let known = |sequence: u64| {
            let promised = ledger.acknowledged.get(usize::try_from(sequence).unwrap()).copied().flatten();
            promised.or(table.row(sequence).map(|row| row.body))
        };
        let Some(echo) = self.echoes.of_mut(part) else { return };
        let complaint = echo.delivered(progress, rows, is_dead, known);
        if let Some(what) = complaint.filter(|_| !self.is_damaged) {
            self.complain(format!("part {part}: {what}"));
        }
        if !rows.is_empty() {
            self.see("delivered to a second sink");
        }
    }

    /// The database has committed the rows of a site, and what is delivered before and after it.
    pub fn delivered(
        &mut self,
        (site, queue): (usize, usize),
        (before, after): (&Progress, &Progress),
        rows: &[(u64, Body)],
        is_dead: impl Fn(u64) -> bool,
    ) {
        if queue >= self.tables.len() {
            return self.echoed(queue, (before, after), rows, is_dead);
        }
        let through = after.beyond().next_back().map_or(after.through(), |range| *range.end());
        let is_new = |sequence: &u64| after.contains(*sequence) && !before.contains(*sequence);
        let (mut expected, mut is_in_order) = (Vec::new(), true);
        for sequence in (before.through() + 1..=through).filter(is_new) {
            if is_dead(sequence) {
                self.tables[queue].set_aside(site, sequence);
            } else {
                expected.push(sequence);
            }
        }
        if self.sites[site].ledgers[queue].bounds.order == Order::Strict {
            if let Some(range) = after.beyond().next() {
                self.complain(format!("queue {queue}: {range:?} was committed beyond {}", after.through()));
            }
        } else {
            // In the order in which they are there; whether that is one that may be is for each row to say.
            let given: BTreeSet<u64> = rows.iter().map(|(sequence, _)| *sequence).collect();
            if given.iter().eq(&expected) && given.len() == rows.len() {
                is_in_order = rows.is_sorted_by_key(|(sequence, _)| *sequence);
                expected = rows.iter().map(|(sequence, _)| *sequence).collect();
            }
            if !is_in_order || !after.is_in_order() {
                self.see("delivered out of order");
            }
        }
        let mut rows_left = rows.iter();
        for sequence in expected {
            match rows_left.next() {
                Some((found, body)) if *found == sequence => self.row((site, queue), sequence, *body),
                found => {
                    self.complain(format!("queue {queue}: {found:?} was committed where {sequence} was expected"));
                }
            }
        }
        if let Some(row) = rows_left.next() {
            self.complain(format!("queue {queue}: {row:?} is beyond {through}"));
        }
        self.tables[queue].position = after.through();
    }

    fn row(&mut self, (site, queue): (usize, usize), sequence: u64, body: Body) {
        let is_of_somebody = |request: &&Request| request.queue == queue && body.index < request.records;
        let Some(request) = self.requests.get(body.request as usize).filter(is_of_somebody).cloned() else {
            return self.complain(format!("queue {queue}: sequence {sequence} is of nobody: {body:?}"));
        };
        let ledger = &self.sites[site].ledgers[queue];
        let copy = sequence - u64::from(body.index);
        let copies = (copy.min(request.copy), copy.max(request.copy));
        let is_another_copy = request.delivered != 0 && copy != request.copy;
        // Behind the end of an earlier copy of the directory nobody knows what was stored before.
        let is_diverged = ledger.diverged_at.is_some_and(|end| request.copy > end || copy > end) || self.is_forked();
        let may_be_again = self.is_damaged
            || is_diverged
            || request.was_lost
            || self.may_have_forgotten((site, queue), body.request, request.first_asked_at, copies);
        let promised = ledger.acknowledged.get(usize::try_from(sequence).unwrap()).copied().flatten();
        let has_no_order = self.is_damaged
            || is_diverged
            || request.was_lost
            || request.was_repeated
            || is_another_copy
            || request.may_expire
            || ledger.bounds.order == Order::None;
        let last = self.tables[queue].deliver((request.site, request.client), body.request);
        let had_row = self.tables[queue].put(sequence, Row { site, body }).is_some();
        let whole = (1 << request.records) - 1;
        // Of several copies only the last one's records are known, and a database that is set back may have cut any.
        let is_strict = ledger.bounds.order == Order::Strict;
        let is_known = !self.is_damaged && !is_diverged && !request.was_repeated && is_strict && !request.may_expire;
        let what = match () {
            () if had_row && !self.is_damaged => "was delivered before",
            () if is_another_copy && !may_be_again => "holds a record that was delivered before",
            () if is_another_copy && request.delivered != whole && is_known => {
                "begins a request again that was delivered in part"
            }
            () if request.answer == Answer::Refused => "was refused",
            () if promised.is_some_and(|promised| promised != body) && !self.is_damaged => "was promised to another",
            () if last > body.request && !has_no_order => "comes after a later request of its client",
            () => {
                let request = &mut self.requests[body.request as usize];
                let before = if copy == request.copy { request.delivered } else { 0 };
                request.was_repeated |= is_another_copy;
                (request.copy, request.delivered) = (copy, before | 1 << body.index);
                return;
            }
        };
        self.complain(format!("queue {queue}: sequence {sequence} ({body:?}) {what}"));
    }

    /// A client remembers its ticket.
    pub fn keep_ticket(&mut self, (site, queue): (usize, usize), ticket: &str, sequence: u64) {
        self.sites[site].ledgers[queue].keep_ticket(ticket, sequence);
    }

    /// Whether a queue answers before anything is on disk.
    pub fn answers_early(&self, queue: usize) -> bool {
        self.sites[0].ledgers[queue].bounds.answers_early
    }

    /// After a start nothing that was acknowledged may be missing, and every ticket still names its record. A queue
    /// that answers early may lose what was not counted as durable, and no more of it than one batch.
    pub fn recovered(&mut self, site: usize, queue: usize, marks: &Queue) {
        let requests = &self.requests;
        let of = |number: u32| {
            let request = &requests[number as usize];
            (request.length as u64 * u64::from(request.records), request.records)
        };
        let ledger = &mut self.sites[site].ledgers[queue];
        let was_set_back = ledger.is_set_back;
        let lost = ledger.recovered(marks, self.is_damaged, of);
        let (early, is_damaged) = (ledger.bounds.answers_early, self.is_damaged);
        if was_set_back {
            self.tables[queue].forget_dead(site);
            let ledger = &mut self.sites[site].ledgers[queue];
            ledger.stale_through = ledger.stale_through.max(self.tables[queue].position);
        } else if early && !lost.requests.is_empty() && !is_damaged {
            self.see("acknowledged from memory and lost");
        }
        if let Some(complaint) = lost.complaint {
            self.complain(format!("queue {queue}: {complaint}"));
        }
        for number in lost.requests {
            let request = &mut self.requests[number as usize];
            // What another copy has lost, its own clients still have.
            if request.site == site {
                (request.answer, request.was_lost) = (Answer::None, true);
            }
        }
    }

    /// A site goes on delivering from this position, which its journal has.
    pub fn taken_over(&mut self, site: usize, queue: usize, position: u64) {
        if queue >= self.tables.len() {
            return;
        }
        let ledger = &mut self.sites[site].ledgers[queue];
        let Some(end) = ledger.diverged_at else { return };
        // Under these sequences the database has what another copy has delivered.
        ledger.stale_through = ledger.stale_through.max(position);
        for sequence in end + 1..=position {
            *at(&mut ledger.acknowledged, sequence) = None;
        }
    }

    /// A backup is made of the first site's directory.
    pub fn keep(&mut self) {
        self.sites[0].ledgers.iter_mut().for_each(|ledger| ledger.kept = ledger.durable);
    }

    /// The directory of a site is an earlier copy.
    pub fn directory_set_back(&mut self, site: usize) {
        self.sites[site].ledgers.iter_mut().for_each(|ledger| ledger.is_set_back = true);
    }

    /// Another process gets a copy of the first one's directory.
    pub fn fork(&mut self) {
        let Site { ledgers, clock } = &self.sites[0];
        let copy = Site { ledgers: ledgers.clone(), clock: clock.clone() };
        self.sites.push(copy);
        let site = self.sites.len() - 1;
        self.directory_set_back(site);
        // Neither knows what the other stores.
        self.sites[0].ledgers.iter_mut().for_each(|ledger| ledger.diverge_at(ledger.kept));
    }

    /// The database is what it was at a position of a queue.
    pub fn database_set_back(&mut self, queue: usize, progress: &Progress) {
        if queue >= self.tables.len() {
            return self.echoes.set_back(queue, progress);
        }
        for row in self.tables[queue].set_back(progress) {
            self.requests[row.body.request as usize].delivered &= !(1 << row.body.index);
        }
        let left: Vec<_> = self.tables[queue].rows().collect();
        for Row { body, .. } in left {
            let request = &self.requests[body.request as usize];
            self.tables[queue].deliver((request.site, request.client), body.request);
        }
    }

    /// Whether every promise of a part is kept; otherwise the first that is not.
    pub fn missing(&self, site: usize, part: usize) -> Option<String> {
        if part < self.tables.len() {
            return self.missing_in_main(site, part);
        }
        let echo = self.echoes.of(part)?;
        let promises = (0..).zip(&self.sites[0].ledgers[part - self.tables.len()].acknowledged);
        let mut promises = promises.filter_map(|(sequence, body)| Some((sequence, (*body)?)));
        let missing = promises.find(|(sequence, body)| !echo.has(*sequence, *body));
        missing.map(|(sequence, body)| format!("{body:?} at {sequence} in a second sink"))
    }

    fn missing_in_main(&self, site: usize, queue: usize) -> Option<String> {
        let (ledger, table) = (&self.sites[site].ledgers[queue], &self.tables[queue]);
        let is_kept = |sequence: u64, body: Body| {
            table.row(sequence).is_some_and(|row| row.body == body)
                || table.is_dead_anywhere(sequence, self.sites.len())
        };
        let promises = (0..).zip(&ledger.acknowledged).filter_map(|(sequence, body)| Some((sequence, (*body)?)));
        let missing = |(sequence, body)| (!is_kept(sequence, body)).then(|| format!("{body:?} at {sequence}"));
        promises.into_iter().find_map(missing).or_else(|| self.torn(queue))
    }

    /// A request of which the database has some records and not the others.
    fn torn(&self, queue: usize) -> Option<String> {
        let is_torn = |request: &&Request| {
            let is_part = request.delivered != 0 && request.delivered != (1 << request.records) - 1;
            request.queue == queue && is_part && !request.was_repeated && !request.may_expire
        };
        let torn = self.requests.iter().find(is_torn)?;
        let is_diverged = self.sites.iter().any(|site| site.ledgers[queue].diverged_at.is_some());
        (!is_diverged).then(|| format!("a part of {torn:?}"))
    }

    /// Records that the database has.
    pub fn row_count(&self) -> usize {
        self.tables.iter().map(|table| table.rows().count()).sum()
    }
}
