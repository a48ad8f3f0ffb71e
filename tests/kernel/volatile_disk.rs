//! A disk in memory, behind FUSE: what was written is lost at a cut of the power unless it was synced, and reads,
//! writes and syncs fail when a test says so.
//!
//! It holds either forebay's files themselves or the image of a file system on a loop device. Fault model:
//!
//! - A write is visible to reads at once and durable after the next sync of its file.
//! - A cut loses each 512-byte sector that was not synced, or keeps it, as the seed decides.
//! - A sync that fails loses everything that it should have made durable, as Linux drops the pages whose write-back
//!   failed; the page cache of the kernel above goes on showing it.
//! - Names and sizes are durable at once, which spares the tests nothing: forebay syncs its directories anyhow.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use super::random::Random;

const BLOCK: usize = 4096;
const SECTOR: usize = 512;
/// Nothing changes behind the kernel's back, but for what a failed sync or a cut loses.
const KEPT: Duration = Duration::from_hours(1);

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
struct Contents {
    name: String,
    bytes: u64,
    durable: Blocks,
    unsynced: Blocks,
}

enum Node {
    Directory(BTreeMap<String, u64>),
    File(Contents),
}

struct State {
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    faults: Vec<Fault>,
    is_off: bool,
}

/// The disk as the test holds it; it is mounted until it is dropped.
pub struct VolatileDisk {
    state: Arc<Mutex<State>>,
    session: Option<BackgroundSession>,
}

struct Files {
    state: Arc<Mutex<State>>,
    abilities: Abilities,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
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
    fn file(&mut self, node: INodeNo) -> Option<&mut Contents> {
        match self.nodes.get_mut(&node.0)? {
            Node::File(file) => Some(file),
            Node::Directory(_) => None,
        }
    }

    fn directory(&mut self, node: INodeNo) -> Option<&mut BTreeMap<String, u64>> {
        match self.nodes.get_mut(&node.0)? {
            Node::Directory(entries) => Some(entries),
            Node::File(_) => None,
        }
    }

    fn find(&mut self, parent: INodeNo, name: &OsStr) -> Option<u64> {
        self.directory(parent)?.get(name.to_str()?).copied()
    }

    fn add(&mut self, parent: INodeNo, name: &OsStr, node: Node) -> Option<FileAttr> {
        let name = name.to_str()?.to_owned();
        let number = self.next_node;
        self.directory(parent)?.insert(name, number);
        self.next_node += 1;
        self.nodes.insert(number, node);
        self.attributes(INodeNo(number))
    }

    fn remove(&mut self, parent: INodeNo, name: &OsStr) -> Option<()> {
        // An open file keeps its contents until the end of the test.
        self.directory(parent)?.remove(name.to_str()?).map(|_| ())
    }

    fn attributes(&self, node: INodeNo) -> Option<FileAttr> {
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

    fn failure(&mut self, operation: Operation, node: INodeNo) -> Option<Failure> {
        if self.is_off {
            return Some(Failure::Error(Errno::EIO));
        }
        let name = self.file(node)?.name.clone();
        let fault = self.faults.iter().find(|fault| fault.operation == operation && name.ends_with(fault.ending));
        fault.map(|fault| fault.failure)
    }
}

impl Contents {
    fn read(&self, offset: u64, length: usize) -> Vec<u8> {
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

    fn write(&mut self, offset: u64, mut bytes: &[u8]) {
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

    fn cut_to(&mut self, bytes: u64) {
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

impl Files {
    fn opened(&self, flags: i32) -> Result<FopenFlags, Errno> {
        if flags & libc::O_DIRECT != 0 && !self.abilities.direct {
            return Err(Errno::EINVAL);
        }
        Ok(if self.abilities.keeps_cache { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() })
    }
}

/// Answers with what was found, or that there is none.
fn entry(reply: ReplyEntry, found: Option<FileAttr>) {
    match found {
        Some(attributes) => reply.entry(&KEPT, &attributes, Generation(0)),
        None => reply.error(Errno::ENOENT),
    }
}

fn done(reply: ReplyEmpty, found: Option<()>) {
    match found {
        Some(()) => reply.ok(),
        None => reply.error(Errno::ENOENT),
    }
}

impl Filesystem for Files {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Several writes may be in flight to one file that is open with O_DIRECT.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = lock(&self.state);
        let found = state.find(parent, name);
        entry(reply, found.and_then(|node| state.attributes(INodeNo(node))));
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match lock(&self.state).attributes(node) {
            Some(attributes) => reply.attr(&KEPT, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        bytes: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = lock(&self.state);
        if let (Some(bytes), Some(file)) = (bytes, state.file(node)) {
            file.cut_to(bytes);
        }
        match state.attributes(node) {
            Some(attributes) => reply.attr(&KEPT, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        entry(reply, lock(&self.state).add(parent, name, Node::Directory(BTreeMap::new())));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, lock(&self.state).remove(parent, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, lock(&self.state).remove(parent, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = lock(&self.state);
        let moved = state.find(parent, name).and_then(|number| {
            let new_name = new_name.to_str()?.to_owned();
            state.remove(parent, name)?;
            if let Some(file) = state.file(INodeNo(number)) {
                file.name.clone_from(&new_name);
            }
            state.directory(new_parent)?.insert(new_name, number);
            Some(())
        });
        done(reply, moved);
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.opened(flags.0) {
            Ok(opened) => reply.opened(FileHandle(0), opened),
            Err(error) => reply.error(error),
        }
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, flags: i32, reply: ReplyCreate) {
        let opened = match self.opened(flags) {
            Ok(opened) => opened,
            Err(error) => return reply.error(error),
        };
        let contents = Contents { name: name.to_string_lossy().into_owned(), ..Contents::default() };
        match lock(&self.state).add(parent, name, Node::File(contents)) {
            Some(attributes) => reply.created(&KEPT, &attributes, Generation(0), FileHandle(0), opened),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = lock(&self.state);
        match (state.failure(Operation::Read, node), state.file(node)) {
            (Some(Failure::Error(error)), _) => reply.error(error),
            (_, Some(file)) => reply.data(&file.read(offset, length as usize)),
            (_, None) => reply.error(Errno::ENOENT),
        }
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = lock(&self.state);
        let taken = match state.failure(Operation::Write, node) {
            Some(Failure::Error(error)) => return reply.error(error),
            Some(Failure::Short) => &bytes[..bytes.len() / 2],
            None => bytes,
        };
        let Some(file) = state.file(node) else { return reply.error(Errno::ENOENT) };
        file.write(offset, taken);
        reply.written(taken.len() as u32);
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        std::thread::sleep(self.abilities.sync_pause);
        let mut state = lock(&self.state);
        let failure = state.failure(Operation::Sync, node);
        let Some(file) = state.file(node) else { return reply.error(Errno::ENOENT) };
        let unsynced = std::mem::take(&mut file.unsynced);
        if let Some(Failure::Error(error)) = failure {
            return reply.error(error);
        }
        file.durable.extend(unsynced);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        // Zeroing and punching are what a loop device asks for when it discards; it can do without.
        if mode & !libc::FALLOC_FL_KEEP_SIZE != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let mut state = lock(&self.state);
        let Some(file) = state.file(node) else { return reply.error(Errno::ENOENT) };
        if mode == 0 {
            file.bytes = file.bytes.max(offset + bytes);
        }
        reply.ok();
    }

    fn readdir(&self, _: &Request, node: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = lock(&self.state);
        let Some(Node::Directory(entries)) = state.nodes.get(&node.0) else { return reply.error(Errno::ENOTDIR) };
        let of = |number: &u64| match state.nodes.get(number) {
            Some(Node::Directory(_)) => FileType::Directory,
            _ => FileType::RegularFile,
        };
        let entries = entries.iter().map(|(name, number)| (*number, of(number), name.as_str()));
        let dots = [(node.0, FileType::Directory, "."), (1, FileType::Directory, "..")];
        for (next, (number, kind, name)) in (1..).zip(dots.into_iter().chain(entries)).skip(offset as usize) {
            if reply.add(INodeNo(number), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // A terabyte, all of it free.
        let blocks = 1 << 28;
        reply.statfs(blocks, blocks, blocks, 1 << 20, 1 << 20, 4096, 255, 4096);
    }
}
