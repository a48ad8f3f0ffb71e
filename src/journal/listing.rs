//! Which files a queue's directory holds.

use std::io;
use std::path::{Path, PathBuf};

use super::platform::Platform;
use crate::record::Sequence;

/// The ending of a segment that a repair has not finished.
pub const UNFINISHED_REPAIR: &str = "repaired";

/// The files of a queue that are named after a segment's first sequence, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueFiles {
    /// Segments.
    pub segments: Vec<(Sequence, PathBuf)>,
    /// Idempotency keys.
    pub keys: Vec<(Sequence, PathBuf)>,
    /// Files of idempotency keys and repaired segments that were not finished. What they are made from is still there.
    pub unfinished: Vec<PathBuf>,
}

impl QueueFiles {
    /// Lists a queue's directory.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn list<P: Platform>(platform: &P, directory: &Path) -> io::Result<Self> {
        let mut files = Self::default();
        for path in platform.list(directory)? {
            let first = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            match (first, path.extension().and_then(|extension| extension.to_str())) {
                (Some(first), Some("seg")) => files.segments.push((first, path)),
                (Some(first), Some("keys")) => files.keys.push((first, path)),
                (Some(_), Some("keys-new" | UNFINISHED_REPAIR)) => files.unfinished.push(path),
                _ => {}
            }
        }
        files.segments.sort_unstable();
        files.keys.sort_unstable();
        files.unfinished.sort_unstable();
        Ok(files)
    }
}
