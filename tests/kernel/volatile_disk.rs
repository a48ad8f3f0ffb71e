//! A disk in memory, behind FUSE: what was written is lost at a cut of the power unless it was synced, and reads,
//! writes and syncs fail when a test says so.
//!
//! It holds either forebay's files themselves or the image of a file system on a loop device. Fault model:
//!
//! - A write is visible to reads at once and durable after the next sync of its file.
//! - A cut loses each 512-byte sector that was not synced, or keeps it, as the seed decides.
//! - A sync that fails loses everything that it should have made durable, as Linux drops the pages whose write-back
//!   failed; the page cache of the kernel above goes on showing it.
//! - Names and sizes are durable at once. Where that matters, there is a real file system between forebay and this disk.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{BackgroundSession, Config, Errno, FileAttr, FileType, INodeNo, MountOption};

use super::fuse::Files;
use super::random::Random;

const BLOCK: usize = 4096;
const SECTOR: usize = 512;
type Blocks = BTreeMap<u64, Box<[u8; BLOCK]>>;

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
    Sync,
}

/// What happens instead of the operation.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    /// This error.
    Error(Errno),
    /// A write ends in the middle.
    Short,
}

/// Files with this ending fail in this way until the disk is healed.
struct Fault {
    operation: Operation,
    ending: &'static str,
    failure: Failure,
}

/// What the disk can do.
#[derive(Clone, Copy, Default)]
pub struct Abilities {
    /// Files can be opened with `O_DIRECT`.
    pub direct: bool,
    /// The kernel's page cache outlives the closing of a file.
    pub keeps_cache: bool,
    /// How long a sync takes; a disk that takes no time for it has hardly anything to lose at a cut.
    pub sync_pause: Duration,
}

#[derive(Default)]
pub struct Contents {
    pub name: String,
    pub bytes: u64,
    durable: Blocks,
    unsynced: Blocks,
}

pub enum Node {
    Directory(BTreeMap<String, u64>),
    File(Contents),
}

pub struct State {
    pub nodes: BTreeMap<u64, Node>,
    next_node: u64,
    faults: Vec<Fault>,
    is_off: bool,
}

/// The disk as the test holds it; it is mounted until it is dropped.
pub struct VolatileDisk {
    state: Arc<Mutex<State>>,
    session: Option<BackgroundSession>,
}

pub fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap()
}

impl VolatileDisk {
    /// Mounts an empty disk on a directory.
    pub fn mount(mount_point: &Path, abilities: Abilities) -> Self {
        let root = Node::Directory(BTreeMap::new());
        let state = State { nodes: BTreeMap::from([(1, root)]), next_node: 2, faults: Vec::new(), is_off: false };
        let state = Arc::new(Mutex::new(state));
        let files = Files { state: Arc::clone(&state), abilities };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("forebay-test".to_owned())];
        let session = fuser::spawn_mount(files, mount_point, &config).unwrap_or_else(|error| {
            panic!("FUSE cannot be mounted: {error}; {}", super::mount::HOW_TO_GO_ON);
        });
        Self { state, session: Some(session) }
    }

    /// From now on an operation on files whose names end so fails.
    pub fn fail(&self, operation: Operation, ending: &'static str, failure: Failure) {
        lock(&self.state).faults.push(Fault { operation, ending, failure });
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        lock(&self.state).faults.clear();
    }

    /// The power is cut: of what is not synced, each sector is lost or kept, and nothing works any more. Returns how
    /// many sectors are lost.
    pub fn cut(&self, random: &mut Random) -> usize {
        let mut lost = 0;
        let mut state = lock(&self.state);
        state.is_off = true;
        for node in state.nodes.values_mut() {
            let Node::File(file) = node else { continue };
            for (index, block) in std::mem::take(&mut file.unsynced) {
                let durable = file.durable.entry(index).or_insert_with(|| Box::new([0; BLOCK]));
                for (from, to) in block.chunks_exact(SECTOR).zip(durable.chunks_exact_mut(SECTOR)) {
                    if random.below(2) == 0 {
                        to.copy_from_slice(from);
                    } else {
                        lost += usize::from(from != to);
                    }
                }
            }
        }
        lost
    }

    /// The power is back. What the kernel still held in its page cache is gone, as after a real cut.
    pub fn restore(&self) {
        let mut state = lock(&self.state);
        state.is_off = false;
        let nodes: Vec<_> = state.nodes.keys().copied().collect();
        drop(state);
        let notifier = self.session.as_ref().unwrap().notifier();
        for node in nodes {
            // A node that the kernel does not know has nothing in its cache.
            let _ = notifier.inval_inode(INodeNo(node), 0, 0);
        }
    }
}

impl Drop for VolatileDisk {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // If it is still in use, it goes when that ends.
            let _ = session.umount_and_join();
        }
    }
}

impl State {
    pub fn file(&mut self, node: INodeNo) -> Option<&mut Contents> {
        match self.nodes.get_mut(&node.0)? {
            Node::File(file) => Some(file),
            Node::Directory(_) => None,
        }
    }

    pub fn directory(&mut self, node: INodeNo) -> Option<&mut BTreeMap<String, u64>> {
        match self.nodes.get_mut(&node.0)? {
            Node::Directory(entries) => Some(entries),
            Node::File(_) => None,
        }
    }

    pub fn find(&mut self, parent: INodeNo, name: &OsStr) -> Option<u64> {
        self.directory(parent)?.get(name.to_str()?).copied()
    }

    pub fn add(&mut self, parent: INodeNo, name: &OsStr, node: Node) -> Option<FileAttr> {
        let name = name.to_str()?.to_owned();
        let number = self.next_node;
        self.directory(parent)?.insert(name, number);
        self.next_node += 1;
        self.nodes.insert(number, node);
        self.attributes(INodeNo(number))
    }

    pub fn remove(&mut self, parent: INodeNo, name: &OsStr) -> Option<()> {
        // An open file keeps its contents until the end of the test.
        self.directory(parent)?.remove(name.to_str()?).map(|_| ())
    }

    pub fn attributes(&self, node: INodeNo) -> Option<FileAttr> {
        let (kind, bytes, permissions) = match self.nodes.get(&node.0)? {
            Node::Directory(_) => (FileType::Directory, 0, 0o755),
            Node::File(file) => (FileType::RegularFile, file.bytes, 0o644),
        };
        Some(FileAttr {
            ino: node,
            size: bytes,
            blocks: bytes.div_ceil(SECTOR as u64),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: permissions,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    pub fn failure(&mut self, operation: Operation, node: INodeNo) -> Option<Failure> {
        if self.is_off {
            return Some(Failure::Error(Errno::EIO));
        }
        let name = self.file(node)?.name.clone();
        let fault = self.faults.iter().find(|fault| fault.operation == operation && name.ends_with(fault.ending));
        fault.map(|fault| fault.failure)
    }
}

impl Contents {
    pub fn named(name: &OsStr) -> Self {
        Self { name: name.to_string_lossy().into_owned(), ..Self::default() }
    }

    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = self.bytes.min(offset + length as u64);
        let mut out = Vec::with_capacity(length);
        let mut at = offset;
        while at < end {
            let (index, from) = (at / BLOCK as u64, at as usize % BLOCK);
            let count = (BLOCK - from).min((end - at) as usize);
            match self.unsynced.get(&index).or_else(|| self.durable.get(&index)) {
                Some(block) => out.extend_from_slice(&block[from..from + count]),
                None => out.resize(out.len() + count, 0),
            }
            at += count as u64;
        }
        out
    }

    pub fn write(&mut self, offset: u64, mut bytes: &[u8]) {
        let mut at = offset;
        while !bytes.is_empty() {
            let (index, from) = (at / BLOCK as u64, at as usize % BLOCK);
            let count = (BLOCK - from).min(bytes.len());
            let durable = &self.durable;
            let block = self.unsynced.entry(index).or_insert_with(|| match durable.get(&index) {
                Some(block) => block.clone(),
                None => Box::new([0; BLOCK]),
            });
            block[from..from + count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            at += count as u64;
        }
        self.bytes = self.bytes.max(at);
    }

    /// Everything written becomes durable.
    pub fn sync(&mut self) {
        let unsynced = std::mem::take(&mut self.unsynced);
        self.durable.extend(unsynced);
    }

    /// Everything that is not durable is lost.
    pub fn lose_unsynced(&mut self) {
        self.unsynced.clear();
    }

    pub fn cut_to(&mut self, bytes: u64) {
        let first_gone = bytes.div_ceil(BLOCK as u64);
        for blocks in [&mut self.durable, &mut self.unsynced] {
            blocks.split_off(&first_gone);
            if let Some(block) = blocks.get_mut(&(bytes / BLOCK as u64)) {
                block[bytes as usize % BLOCK..].fill(0);
            }
        }
        self.bytes = bytes;
    }
}
