//! What the database has of one queue.

use std::collections::BTreeSet;

use forebay::progress::Progress;

use crate::ledger::at;
use crate::model::Body;

/// A row, and which data directory's drain has written it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub site: usize,
    pub body: Body,
}

#[derive(Default)]
pub struct Table {
    rows: Vec<Option<Row>>,
    /// Records that a data directory's drain has set aside.
    dead: BTreeSet<(usize, u64)>,
    pub position: u64,
    /// The last request of each client that was delivered, by site and client.
    last_requests: Vec<((usize, usize), u32)>,
}

impl Table {
    pub fn row(&self, sequence: u64) -> Option<Row> {
        self.rows.get(usize::try_from(sequence).unwrap()).copied().flatten()
    }

    /// Puts a row there; returns the one that was there.
    pub fn put(&mut self, sequence: u64, row: Row) -> Option<Row> {
        at(&mut self.rows, sequence).replace(row)
    }

    /// Notes that a request of a client was delivered; returns the one before.
    pub fn deliver(&mut self, client: (usize, usize), request: u32) -> u32 {
        if let Some((_, last)) = self.last_requests.iter_mut().find(|(of, _)| *of == client) {
            return std::mem::replace(last, request);
        }
        self.last_requests.push((client, request));
        0
    }

    pub fn set_aside(&mut self, site: usize, sequence: u64) {
        self.dead.insert((site, sequence));
    }

    /// Whether the drain of this site has set the record aside.
    pub fn is_dead(&self, site: usize, sequence: u64) -> bool {
        self.dead.contains(&(site, sequence))
    }

    /// Whether the record of a sequence was set aside by anybody.
    pub fn is_dead_anywhere(&self, sequence: u64, sites: usize) -> bool {
        (0..sites).any(|site| self.is_dead(site, sequence))
    }

    /// A site's directory was set back, and its file of dead letters with it.
    pub fn forget_dead(&mut self, site: usize) {
        let position = self.position;
        self.dead.retain(|(of, sequence)| *of != site || *sequence <= position);
    }

    /// The database is what it was at a progress; returns the rows that are gone.
    pub fn set_back(&mut self, progress: &Progress) -> Vec<Row> {
        self.position = progress.through();
        self.last_requests.clear();
        let gone = (0..).zip(&mut self.rows).filter(|(sequence, _)| !progress.contains(*sequence));
        gone.filter_map(|(_, row)| row.take()).collect()
    }

    /// Rows that are left.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.rows.iter().flatten().copied()
    }
}
