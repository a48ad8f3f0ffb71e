//! Which records of a queue are dead letters, what has become of each, and where its lines stand in the file; and which
//! have expired, of which nothing is kept but that.

use std::collections::BTreeMap;
use std::io;
use std::sync::PoisonError;

use crate::limits::EXPIRED_RANGES_MAX;
use crate::rate::Rate;
use crate::record::Sequence;
use crate::sequence_ranges::SequenceRanges;
use crate::sync::{AtomicU64, Notify, Ordering, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A stretch of a queue's dead-letter file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spot {
    /// Offset of its first byte.
    pub offset: u64,
    /// Its length in bytes; 0 for what is no longer there.
    pub length: u32,
}

/// What has become of a dead letter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LetterState {
    /// It waits for somebody to look after it.
    #[default]
    Dead,
    /// It is to be delivered again, under this number.
    Redriving(u64),
    /// It was delivered, under this number.
    Redriven(u64),
    /// Somebody has given it up.
    Purged,
}

impl LetterState {
    /// Whether it is still a dead letter.
    #[must_use]
    pub fn is_here(self) -> bool {
        matches!(self, Self::Dead | Self::Redriving(_))
    }
}

/// A dead letter as the index knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// What has become of it.
    pub state: LetterState,
    /// Its line.
    pub line: Spot,
    /// The JSON string that says why it is dead, quotes included: the last one, if it was refused again.
    pub reason: Spot,
    /// The line with the body that somebody has put in the place of its own.
    pub edited: Option<Spot>,
}

/// What the holder of a record's ticket may know of a record that did not take the straight way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is a dead letter, for this reason.
    Dead(String),
    /// It was one, and is to be delivered again.
    Redriving,
    /// It was one, and has been delivered.
    Redriven,
    /// It was one, and somebody has given it up.
    Purged,
    /// It never was one: nobody wanted it any more when its turn came.
    Expired,
}

/// Fills the bytes from an offset of the dead-letter file.
pub type LetterReader = Box<dyn Fn(&mut [u8], u64) -> io::Result<()> + Send + Sync>;

/// The dead letters of a queue by sequence. The dead-letter file writes it; tickets, metrics, the drain and the admin
/// API read it. It is not on the way of a record, so a lock is fine, and as long as there is no letter none is taken.
#[derive(Default)]
pub struct DeadLetterIndex {
    table: RwLock<Table>,
    known: AtomicU64,
    counts: Counts,
    /// Rung when letters are to be delivered again.
    pub redrive_asked: Notify,
}

#[derive(Default)]
struct Counts {
    dead: AtomicU64,
    redriving: AtomicU64,
    redriven: AtomicU64,
    purged: AtomicU64,
    edits: AtomicU64,
    expired: AtomicU64,
}

#[derive(Default)]
struct Table {
    entries: BTreeMap<Sequence, Entry>,
    /// The letters to be delivered again, by number.
    redrives: BTreeMap<u64, Sequence>,
    redrive_rate: Option<Rate>,
    last_number: u64,
    /// Bytes of lines that nobody needs any more.
    gone_bytes: u64,
    reader: Option<LetterReader>,
    expired: Expired,
}

/// The records that were dropped since nobody wanted them any more.
#[derive(Default)]
struct Expired {
    sequences: SequenceRanges,
    /// When the last of them were dropped, in microseconds since the Unix epoch.
    at_us: u64,
    /// Bytes of the lines that tell of them.
    bytes: u64,
}

impl Expired {
    /// Bytes that a rewrite of their lines saves at least: each range is reckoned with as many digits as the highest
    /// sequence has, and each line with more than what stands around its ranges.
    fn gone_bytes(&self) -> u64 {
        const AROUND_BYTES_MAX: u64 = 64;
        let digits = self.sequences.last().map_or(0, |last| u64::from(last.max(1).ilog10()) + 1);
        let ranges = self.sequences.ranges_count();
        let lines = ranges.div_ceil(EXPIRED_RANGES_MAX) as u64;
        let kept = ranges as u64 * (2 * digits + "[,],".len() as u64) + lines * AROUND_BYTES_MAX;
        self.bytes.saturating_sub(kept)
    }
}

impl Table {
    /// Of how many records something is known, ranges counted once.
    fn known(&self) -> u64 {
        (self.entries.len() + self.expired.sequences.ranges_count()) as u64
    }
}

impl Table {
    /// Reads a stretch of the file that this table describes and makes something of it.
    fn read<T>(&self, spot: Spot, parse: impl Fn(&[u8]) -> io::Result<T>) -> io::Result<T> {
        let (1.., Some(read)) = (spot.length, &self.reader) else { return Err(io::ErrorKind::NotFound.into()) };
        let mut text = vec![0; spot.length as usize];
        read(&mut text, spot.offset)?;
        parse(&text)
    }
}

impl DeadLetterIndex {
    /// How many there are, those to be delivered again included.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.dead.load(Ordering::Acquire) + self.redriving()
    }

    /// How many of them are to be delivered again.
    #[must_use]
    pub fn redriving(&self) -> u64 {
        self.counts.redriving.load(Ordering::Acquire)
    }

    /// How many have been delivered, since the file was made.
    #[must_use]
    pub fn redriven(&self) -> u64 {
        self.counts.redriven.load(Ordering::Acquire)
    }

    /// How many were given up, since the file was made.
    #[must_use]
    pub fn purged(&self) -> u64 {
        self.counts.purged.load(Ordering::Acquire)
    }

    /// How often a body was replaced, since the start.
    #[must_use]
    pub fn edits(&self) -> u64 {
        self.counts.edits.load(Ordering::Acquire)
    }

    /// How many records have expired, since the file was made. They are no dead letters, and never were.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.counts.expired.load(Ordering::Acquire)
    }

    /// Whether this record is, or was, a dead letter, or has expired: the drain has nothing to do with it any more.
    #[must_use]
    pub fn contains(&self, sequence: Sequence) -> bool {
        if self.known.load(Ordering::Acquire) == 0 {
            return false;
        }
        let table = self.read_table();
        table.entries.contains_key(&sequence) || table.expired.sequences.contains(sequence)
    }

    /// Whether this record has expired.
    #[must_use]
    pub fn has_expired(&self, sequence: Sequence) -> bool {
        self.expired() > 0 && self.read_table().expired.sequences.contains(sequence)
    }

    /// The expired records in the ranges that begin at a sequence or behind it, as many ranges as asked for; and when the
    /// last of all were dropped, in microseconds since the Unix epoch.
    #[must_use]
    pub fn expired_page(&self, from: Sequence, limit: usize) -> (SequenceRanges, u64) {
        let table = self.read_table();
        (table.expired.sequences.page(from, limit), table.expired.at_us)
    }

    /// What is known of a dead letter.
    #[must_use]
    pub fn entry(&self, sequence: Sequence) -> Option<Entry> {
        if self.known.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.read_table().entries.get(&sequence).copied()
    }

    /// What has become of a record, or `None` if it never was a dead letter and has not expired.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or holds something else at that place.
    pub fn fate(&self, sequence: Sequence) -> io::Result<Option<Fate>> {
        if self.known.load(Ordering::Acquire) == 0 {
            return Ok(None);
        }
        // Under one lock: between two, a letter could be purged and its reason leave the file.
        let table = self.read_table();
        let Some(entry) = table.entries.get(&sequence) else {
            return Ok(table.expired.sequences.contains(sequence).then_some(Fate::Expired));
        };
        Ok(Some(match entry.state {
            LetterState::Dead => Fate::Dead(table.read(entry.reason, reason)?),
            LetterState::Redriving(_) => Fate::Redriving,
            LetterState::Redriven(_) => Fate::Redriven,
            LetterState::Purged => Fate::Purged,
        }))
    }

    /// Why a record is a dead letter, or `None` if it never was one.
    ///
    /// # Errors
    ///
    /// As [`fate`](Self::fate), and if the letter is gone.
    pub fn reason(&self, sequence: Sequence) -> io::Result<Option<String>> {
        if self.entry(sequence).is_none() {
            return Ok(None);
        }
        self.read_of(sequence, |entry| entry.reason, reason).map(Some)
    }

    /// Reads a stretch of a letter's lines and makes something of it. The file may be replaced at any time, so both
    /// happen under one lock.
    ///
    /// # Errors
    ///
    /// There is no such stretch, or it cannot be read.
    pub fn read_of<T>(
        &self,
        sequence: Sequence,
        pick: impl Fn(&Entry) -> Spot,
        parse: impl Fn(&[u8]) -> io::Result<T>,
    ) -> io::Result<T> {
        let table = self.read_table();
        let spot = table.entries.get(&sequence).map(pick).unwrap_or_default();
        table.read(spot, parse)
    }

    /// The dead letters behind a sequence, as many as asked for.
    #[must_use]
    pub fn page(&self, after: Sequence, limit: usize) -> Vec<(Sequence, Entry)> {
        let table = self.read_table();
        let behind = table.entries.range(after.saturating_add(1)..).filter(|(_, entry)| entry.state.is_here());
        behind.take(limit).map(|(sequence, entry)| (*sequence, *entry)).collect()
    }

    /// The letter that is delivered next: its number and its sequence.
    #[must_use]
    pub fn next_redrive(&self) -> Option<(u64, Sequence)> {
        if self.redriving() == 0 {
            return None;
        }
        self.read_table().redrives.first_key_value().map(|(number, sequence)| (*number, *sequence))
    }

    /// The letters to be delivered again, by number.
    #[must_use]
    pub fn redrives(&self) -> Vec<(u64, Sequence)> {
        self.read_table().redrives.iter().map(|(number, sequence)| (*number, *sequence)).collect()
    }

    /// The letters that were delivered under a number above this one.
    #[must_use]
    pub fn redriven_behind(&self, number: u64) -> Vec<(u64, Sequence, Entry)> {
        let table = self.read_table();
        let redriven = table.entries.iter().filter_map(|(sequence, entry)| match entry.state {
            LetterState::Redriven(own) if own > number => Some((own, *sequence, *entry)),
            _ => None,
        });
        redriven.collect()
    }

    /// How fast they are delivered, as the last request says.
    #[must_use]
    pub fn redrive_rate(&self) -> Option<Rate> {
        self.read_table().redrive_rate
    }

    /// The last number that was given to a redrive, 0 for none.
    #[must_use]
    pub fn last_number(&self) -> u64 {
        self.read_table().last_number
    }

    /// Bytes of lines of which no letter has need any more.
    #[must_use]
    pub fn gone_bytes(&self) -> u64 {
        self.read_table().gone_bytes
    }

    /// Bytes that a rewrite saves at least of the lines about what has expired.
    #[must_use]
    pub fn expired_gone_bytes(&self) -> u64 {
        self.read_table().expired.gone_bytes()
    }

    /// A letter that has no line although it is still here, which damage of the file leaves.
    #[must_use]
    pub fn without_line(&self) -> Option<Sequence> {
        let table = self.read_table();
        let mut here = table.entries.iter().filter(|(_, entry)| entry.state.is_here());
        here.find(|(_, entry)| entry.line.length == 0).map(|(sequence, _)| *sequence)
    }

    /// Says how the file is read from now on.
    pub fn attach(&self, reader: LetterReader) {
        self.write_table().reader = Some(reader);
    }

    /// Takes over everything of `other`, which describes the file that has taken the old one's place.
    pub fn replace(&self, other: Self) {
        let mut table = self.write_table();
        *table = other.table.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.count_again(&table);
    }

    /// Adds a dead letter; the first line of a sequence counts.
    pub fn insert(&self, sequence: Sequence, line: Spot, reason: Spot) {
        let mut table = self.write_table();
        let entry = Entry { state: LetterState::Dead, line, reason, edited: None };
        if table.entries.contains_key(&sequence) || table.expired.sequences.contains(sequence) {
            return;
        }
        table.entries.insert(sequence, entry);
        self.known.store(table.known(), Ordering::Release);
        self.counts.dead.fetch_add(1, Ordering::AcqRel);
    }

    /// Records have expired, at a time in microseconds since the Unix epoch; a line of `bytes` bytes says so.
    pub fn expire(&self, sequences: &SequenceRanges, at_us: u64, bytes: u64) {
        let mut table = self.write_table();
        table.expired.sequences.extend(sequences.iter());
        table.expired.at_us = table.expired.at_us.max(at_us);
        table.expired.bytes += bytes;
        self.known.store(table.known(), Ordering::Release);
        self.counts.expired.store(table.expired.sequences.count(), Ordering::Release);
    }

    /// Another body counts.
    pub fn edit(&self, sequence: Sequence, line: Spot) {
        let mut table = self.write_table();
        let before = table.entries.entry(sequence).or_default().edited.replace(line);
        table.gone_bytes += before.map_or(0, |spot| u64::from(spot.length));
    }

    /// Counts an edit.
    pub fn note_edit(&self) {
        self.counts.edits.fetch_add(1, Ordering::AcqRel);
    }

    /// Letters are to be delivered again, under numbers from `first_number` on.
    pub fn redrive(&self, first_number: u64, sequences: &[Sequence], rate: Rate) {
        {
            let mut table = self.write_table();
            for (number, sequence) in (first_number..).zip(sequences) {
                self.change(&mut table, *sequence, LetterState::Redriving(number));
                table.last_number = table.last_number.max(number);
            }
            table.redrive_rate = Some(rate);
        }
        self.redrive_asked.notify_one();
    }

    /// The sink has refused a letter again.
    pub fn refuse(&self, sequence: Sequence, reason: Spot) {
        let mut table = self.write_table();
        self.change(&mut table, sequence, LetterState::Dead);
        table.entries.entry(sequence).or_default().reason = reason;
    }

    /// These letters have come to this state.
    pub fn settle(&self, sequences: &[Sequence], state: LetterState) {
        let mut table = self.write_table();
        for sequence in sequences {
            self.change(&mut table, *sequence, state);
        }
    }

    /// Numbers up to this one are taken.
    pub fn take_numbers(&self, last_number: u64) {
        let mut table = self.write_table();
        table.last_number = table.last_number.max(last_number);
    }

    fn change(&self, table: &mut Table, sequence: Sequence, state: LetterState) {
        let is_new = !table.entries.contains_key(&sequence);
        let entry = table.entries.entry(sequence).or_default();
        let before = std::mem::replace(&mut entry.state, state);
        let lines = u64::from(entry.line.length) + entry.edited.map_or(0, |spot| u64::from(spot.length));
        if before.is_here() && !state.is_here() {
            table.gone_bytes += lines;
        }
        if !before.is_here() && state.is_here() {
            table.gone_bytes = table.gone_bytes.saturating_sub(lines);
        }
        if let LetterState::Redriving(number) = before {
            table.redrives.remove(&number);
        }
        if let LetterState::Redriving(number) = state {
            table.redrives.insert(number, sequence);
        }
        if !is_new {
            self.counter(before).fetch_sub(1, Ordering::AcqRel);
        }
        self.counter(state).fetch_add(1, Ordering::AcqRel);
        self.known.store(table.known(), Ordering::Release);
    }

    fn counter(&self, state: LetterState) -> &AtomicU64 {
        match state {
            LetterState::Dead => &self.counts.dead,
            LetterState::Redriving(_) => &self.counts.redriving,
            LetterState::Redriven(_) => &self.counts.redriven,
            LetterState::Purged => &self.counts.purged,
        }
    }

    fn count_again(&self, table: &Table) {
        for state in [LetterState::Dead, LetterState::Redriving(0), LetterState::Redriven(0), LetterState::Purged] {
            let same = |entry: &&Entry| std::mem::discriminant(&entry.state) == std::mem::discriminant(&state);
            self.counter(state).store(table.entries.values().filter(same).count() as u64, Ordering::Release);
        }
        self.counts.expired.store(table.expired.sequences.count(), Ordering::Release);
        self.known.store(table.known(), Ordering::Release);
    }

    fn read_table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_table(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reason(text: &[u8]) -> io::Result<String> {
    Ok(serde_json::from_slice(text)?)
}
