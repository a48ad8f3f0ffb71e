//! The volatile disk as the kernel sees it: a FUSE file system.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::volatile_disk::{Abilities, Contents, Failure, Node, Operation, State, lock};

/// Nothing changes behind the kernel's back, but for what a failed sync or a cut loses.
const KEPT: Duration = Duration::from_hours(1);

pub struct Files {
    pub state: Arc<Mutex<State>>,
    pub abilities: Abilities,
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
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        // As on many a network file system, names cannot be exchanged.
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
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
        let contents = Contents::named(name);
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
        if let Some(Failure::Error(error)) = failure {
            file.lose_unsynced();
            return reply.error(error);
        }
        file.sync();
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
