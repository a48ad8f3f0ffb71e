//! The simulated disk: files as a machine would find them after its power was cut.
//!
//! The fault model:
//!
//! - **Contents.** A write is in the file's `view` at once (what a read gets) and durable once a sync of the file has
//!   succeeded. A power cut applies the unsynced writes in any order: each of them is lost, kept, or torn, which means
//!   that any subset of its sectors of 512 bytes is kept. A sector itself is never torn. A process that is killed loses
//!   nothing: its writes stay on their way to the disk.
//! - **Failed sync.** Each unsynced write has become durable, is still on its way, or is gone, and a read says so
//!   (`O_DIRECT`; a page cache that goes on showing what was lost is not modelled). A later sync succeeds and brings
//!   nothing of it back.
//! - **Names.** Creating, renaming and removing are one journal of the file system: a sync of any directory makes all
//!   of it durable, and a power cut keeps some beginning of the rest. Renames are atomic.
//! - **Errors.** Reads, writes and changes of length fail with EIO, alone or several in a row; writes are cut short; syncs fail; making and
//!   extending files fails with ENOSPC while the disk is full, and a new name may. Space that was taken stays.
//! - **Damage.** A bit flips in a segment or in a file of keys; a write of a segment goes to another block of the same or of another file,
//!   and its own place keeps what it had. Both are silent.
//! - **Recycled files** keep the contents of their former lives.
//! - **Copies.** All files may become what they were at an earlier moment, or begin a life on another machine from there.
//! - **Several files at once** (`io_uring`) complete in any order, each sync behind its own complete write.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::random::Random;

const SECTOR_BYTES: usize = 512;
const BLOCK_BYTES: usize = 4096;

/// How often things go wrong, in parts of 10,000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub read_error: u64,
    pub write_error: u64,
    pub short_write: u64,
    pub sync_error: u64,
    pub misdirected_write: u64,
    pub stop_at_operation: u64,
    /// Behind an error, up to so many operations are likely to fail as well.
    pub streak_max: u64,
    pub full: bool,
}

/// Something that is not durable yet.
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Default)]
struct Inode {
    view: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    modified_us: u64,
}

#[derive(Clone)]
enum NameChange {
    Link(String, usize),
    Unlink(String),
    Rename(String, String),
    Exchange(String, String),
}

/// All files.
#[derive(Default)]
pub struct Disk {
    pub faults: Faults,
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
    /// Whether a bit has flipped or a write has gone astray since the beginning.
    pub is_damaged: bool,
    /// Whether the process was killed, or the power cut, in the midst of something.
    pub has_stopped: bool,
    pub operations: u64,
    /// Segments that were made in the pool.
    pub segments_made: u64,
    streak_left: u64,
}

pub fn io_error() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn full() -> io::Error {
    io::Error::from_raw_os_error(28)
}

fn name_of(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, written) => {
            let end = offset + written.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset..end].copy_from_slice(written);
        }
        Change::Length(length) => bytes.resize(*length, 0),
    }
}

fn apply_name(names: &mut BTreeMap<String, usize>, change: NameChange) {
    match change {
        NameChange::Link(name, inode) => {
            names.insert(name, inode);
        }
        NameChange::Unlink(name) => {
            names.remove(&name);
        }
        NameChange::Rename(from, to) => {
            if let Some(inode) = names.remove(&from) {
                names.insert(to, inode);
            }
        }
        NameChange::Exchange(one, other) => {
            if let (Some(&first), Some(&second)) = (names.get(&one), names.get(&other)) {
                names.insert(one, second);
                names.insert(other, first);
            }
        }
    }
}

impl Disk {
    /// A copy of all files as they are this moment, all of it durable.
    pub fn copy(&self) -> Self {
        let copy = |inode: &Inode| Inode {
            view: inode.view.clone(),
            durable: inode.view.clone(),
            unsynced: Vec::new(),
            modified_us: inode.modified_us,
        };
        let mut copied = Self::default();
        for (name, inode) in &self.names {
            copied.names.insert(name.clone(), copied.inodes.len());
            copied.inodes.push(copy(&self.inodes[*inode]));
        }
        copied.durable_names.clone_from(&copied.names);
        copied
    }

    /// The files become those of a copy that was made before.
    pub fn set_back(&mut self, copy: &Self) {
        let Self { inodes, names, durable_names, .. } = copy.copy();
        (self.inodes, self.names, self.durable_names) = (inodes, names, durable_names);
        self.unsynced_names.clear();
    }

    /// An operation begins; it may be one that does not come about any more.
    fn begin(&mut self, random: &mut Random) -> io::Result<()> {
        self.operations += 1;
        if self.has_stopped || random.chance(self.faults.stop_at_operation) {
            self.has_stopped = true;
            return Err(io_error());
        }
        Ok(())
    }

    /// Whether an operation fails that does so in `part` of 10,000 cases.
    fn fails(&mut self, random: &mut Random, part: u64) -> bool {
        if part > 0 && self.streak_left > 0 {
            self.streak_left -= 1;
            return random.chance(6000);
        }
        let fails = random.chance(part);
        if fails {
            self.streak_left = random.below(self.faults.streak_max + 1);
        }
        fails
    }

    fn change_names(&mut self, change: NameChange) {
        apply_name(&mut self.names, change.clone());
        self.unsynced_names.push(change);
    }

    pub fn open(&mut self, random: &mut Random, path: &Path, create: bool, truncate: bool) -> io::Result<usize> {
        self.begin(random)?;
        let name = name_of(path);
        if let Some(&inode) = self.names.get(&name) {
            if truncate {
                self.inodes[inode].view.clear();
                self.inodes[inode].unsynced.push(Change::Length(0));
            }
            return Ok(inode);
        }
        if !create {
            return Err(io::ErrorKind::NotFound.into());
        }
        if self.faults.full {
            return Err(full());
        }
        self.segments_made += u64::from(name.contains("/pool/"));
        self.inodes.push(Inode::default());
        let inode = self.inodes.len() - 1;
        self.change_names(NameChange::Link(name, inode));
        Ok(inode)
    }

    pub fn list(&mut self, random: &mut Random, directory: &Path) -> io::Result<Vec<PathBuf>> {
        self.begin(random)?;
        let prefix = format!("{}/", directory.to_str().unwrap());
        let inside = |name: &&String| name.starts_with(&prefix) && !name[prefix.len()..].contains('/');
        let from = self.names.range(prefix.clone()..).map(|(name, _)| name);
        Ok(from.take_while(|name| name.starts_with(&prefix)).filter(inside).map(PathBuf::from).collect())
    }

    pub fn metadata(&mut self, random: &mut Random, path: &Path) -> io::Result<(usize, u64, u64)> {
        self.begin(random)?;
        let inode = *self.names.get(path.to_str().unwrap()).ok_or(io::ErrorKind::NotFound)?;
        Ok((inode, self.inodes[inode].view.len() as u64, self.inodes[inode].modified_us))
    }

    pub fn rename(&mut self, random: &mut Random, from: &Path, to: &Path) -> io::Result<()> {
        self.begin(random)?;
        if !self.names.contains_key(from.to_str().unwrap()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // A new name may need another block of the directory.
        if self.faults.full && !self.names.contains_key(to.to_str().unwrap()) && random.chance(5000) {
            return Err(full());
        }
        self.change_names(NameChange::Rename(name_of(from), name_of(to)));
        Ok(())
    }

    pub fn exchange(&mut self, random: &mut Random, one: &Path, other: &Path) -> io::Result<()> {
        self.begin(random)?;
        if !self.names.contains_key(one.to_str().unwrap()) || !self.names.contains_key(other.to_str().unwrap()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change_names(NameChange::Exchange(name_of(one), name_of(other)));
        Ok(())
    }

    pub fn link(&mut self, random: &mut Random, from: &Path, to: &Path) -> io::Result<()> {
        self.begin(random)?;
        let inode = *self.names.get(from.to_str().unwrap()).ok_or(io::ErrorKind::NotFound)?;
        if self.names.contains_key(to.to_str().unwrap()) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if self.faults.full {
            return Err(full());
        }
        self.change_names(NameChange::Link(name_of(to), inode));
        Ok(())
    }

    pub fn remove(&mut self, random: &mut Random, path: &Path) -> io::Result<()> {
        self.begin(random)?;
        if !self.names.contains_key(path.to_str().unwrap()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change_names(NameChange::Unlink(name_of(path)));
        Ok(())
    }

    pub fn sync_names(&mut self, random: &mut Random) -> io::Result<()> {
        self.begin(random)?;
        if self.fails(random, self.faults.sync_error) {
            return Err(io_error());
        }
        for change in self.unsynced_names.drain(..) {
            apply_name(&mut self.durable_names, change);
        }
        Ok(())
    }

    pub fn read_at(&mut self, random: &mut Random, inode: usize, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.begin(random)?;
        if self.fails(random, self.faults.read_error) {
            return Err(io_error());
        }
        let view = &self.inodes[inode].view;
        let start = usize::try_from(offset).unwrap().min(view.len());
        let length = out.len().min(view.len() - start);
        out[..length].copy_from_slice(&view[start..start + length]);
        Ok(length)
    }

    pub fn write_at(
        &mut self,
        random: &mut Random,
        inode: usize,
        bytes: &[u8],
        offset: u64,
        now_us: u64,
    ) -> io::Result<usize> {
        self.begin(random)?;
        let offset = usize::try_from(offset).unwrap();
        // Small files are written seldom.
        let is_small = !bytes.len().is_multiple_of(BLOCK_BYTES);
        let part = if is_small { 20 * self.faults.write_error } else { self.faults.write_error };
        if self.fails(random, part) {
            // What an error leaves behind is anybody's guess.
            let unit = if is_small { 1 } else { SECTOR_BYTES };
            let some = random.index(bytes.len() + 1) / unit * unit;
            self.write(inode, &bytes[..some], offset);
            return Err(io_error());
        }
        if self.faults.full && offset + bytes.len() > self.inodes[inode].view.len() {
            return Err(full());
        }
        let is_short = random.chance(self.faults.short_write);
        let length = if is_short { bytes.len() / 2 } else { bytes.len() };
        if bytes.len() >= BLOCK_BYTES && random.chance(self.faults.misdirected_write) {
            self.misdirect(random, inode, bytes);
            return Ok(length);
        }
        self.inodes[inode].modified_us = now_us;
        self.write(inode, &bytes[..length], offset);
        Ok(length)
    }

    fn write(&mut self, inode: usize, bytes: &[u8], offset: usize) {
        let change = Change::Write(offset, bytes.to_vec());
        apply(&mut self.inodes[inode].view, &change);
        self.inodes[inode].unsynced.push(change);
    }

    /// The bytes land somewhere else among the segments.
    fn misdirect(&mut self, random: &mut Random, inode: usize, bytes: &[u8]) {
        let target = if random.chance(5000) { inode } else { self.file(random, ".seg").unwrap_or(inode) };
        let blocks = (self.inodes[target].view.len() / BLOCK_BYTES).max(1);
        let offset = random.index(blocks) * BLOCK_BYTES;
        let length = bytes.len().min(self.inodes[target].view.len().saturating_sub(offset));
        self.is_damaged = true;
        self.write(target, &bytes[..length], offset);
    }

    /// One of the queues' files whose name ends so.
    fn file(&self, random: &mut Random, ending: &str) -> Option<usize> {
        let is_one = |name: &str| name.contains("/queues/") && name.strip_suffix(ending).is_some();
        let files: Vec<_> = self.names.iter().filter(|(name, _)| is_one(name)).map(|(_, inode)| *inode).collect();
        (!files.is_empty()).then(|| files[random.index(files.len())])
    }

    pub fn set_bytes(&mut self, random: &mut Random, inode: usize, bytes: u64) -> io::Result<()> {
        self.begin(random)?;
        if self.fails(random, 20 * self.faults.write_error) {
            return Err(io_error());
        }
        let length = usize::try_from(bytes).unwrap();
        if self.faults.full && length > self.inodes[inode].view.len() {
            return Err(full());
        }
        let change = Change::Length(length);
        apply(&mut self.inodes[inode].view, &change);
        self.inodes[inode].unsynced.push(change);
        Ok(())
    }

    pub fn bytes(&mut self, random: &mut Random, inode: usize) -> io::Result<u64> {
        self.begin(random)?;
        Ok(self.inodes[inode].view.len() as u64)
    }

    pub fn sync(&mut self, random: &mut Random, inode: usize) -> io::Result<()> {
        self.begin(random)?;
        let failed = self.fails(random, self.faults.sync_error);
        let inode = &mut self.inodes[inode];
        if !failed {
            for change in inode.unsynced.drain(..) {
                apply(&mut inode.durable, &change);
            }
            return Ok(());
        }
        let mut left = Vec::new();
        for change in inode.unsynced.drain(..) {
            match random.below(3) {
                0 => apply(&mut inode.durable, &change),
                1 => left.push(change),
                _ => {}
            }
        }
        inode.view.clone_from(&inode.durable);
        for change in &left {
            apply(&mut inode.view, change);
        }
        inode.unsynced = left;
        Err(io_error())
    }

    /// Flips a bit in a segment or in a file of keys; whether there was one.
    pub fn rot(&mut self, random: &mut Random) -> bool {
        let in_keys = random.chance(1500);
        let found = if in_keys { self.file(random, ".keys") } else { self.file(random, ".seg") };
        let Some(inode) = found else { return false };
        let inode = &mut self.inodes[inode];
        if inode.durable.is_empty() {
            return false;
        }
        // Mostly where there is something to lose.
        let used = inode.durable.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        let (byte, bit) = (random.index(used), random.below(8));
        inode.durable[byte] ^= 1 << bit;
        if byte < inode.view.len() {
            inode.view[byte] ^= 1 << bit;
        }
        self.is_damaged = true;
        true
    }

    /// The power is cut, or it was and comes back: what is left is what was durable and some of the rest.
    pub fn cut_power(&mut self, random: &mut Random) {
        let kept = random.index(self.unsynced_names.len() + 1);
        for change in self.unsynced_names.drain(..).take(kept) {
            apply_name(&mut self.durable_names, change);
        }
        self.names.clone_from(&self.durable_names);
        for inode in &mut self.inodes {
            if inode.unsynced.is_empty() {
                continue;
            }
            while !inode.unsynced.is_empty() {
                let next = random.index(inode.unsynced.len());
                let change = inode.unsynced.swap_remove(next);
                keep_some(random, &mut inode.durable, &change);
            }
            inode.view.clone_from(&inode.durable);
        }
    }

    /// Files below a directory whose name ends so.
    pub fn count(&self, directory: &str, ending: &str) -> usize {
        self.names.keys().filter(|name| name.starts_with(directory) && name.ends_with(ending)).count()
    }
}

/// Keeps all, nothing or some sectors of a change.
fn keep_some(random: &mut Random, durable: &mut Vec<u8>, change: &Change) {
    match (random.below(3), change) {
        (0, _) => {}
        (1, Change::Write(offset, bytes)) => {
            for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                if random.chance(5000) {
                    apply(durable, &Change::Write(offset + index * SECTOR_BYTES, sector.to_vec()));
                }
            }
        }
        _ => apply(durable, change),
    }
}
