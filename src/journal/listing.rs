//! Which files a queue's directory holds.

use std::io;
use std::path::{Path, PathBuf};

use super::platform::Platform;
use crate::record::Sequence;

/// The files of a queue that are named after a segment's first sequence, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueFiles {
    /// Segments.
    pub segments: Vec<(Sequence, PathBuf)>,
    /// Idempotency keys.
    pub keys: Vec<(Sequence, PathBuf)>,
    /// Files of idempotency keys that were not finished.
    pub unfinished_keys: Vec<PathBuf>,
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
                (Some(_), Some("keys-new")) => files.unfinished_keys.push(path),
                _ => {}
            }
        }
        files.segments.sort_unstable();
        files.keys.sort_unstable();
        files.unfinished_keys.sort_unstable();
        Ok(files)
    }
}
