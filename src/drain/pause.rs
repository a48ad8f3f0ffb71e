//! The mark that a queue is paused: a small file, so that a restart does not deliver what somebody has stopped.
//!
//! Its being there is what counts. What it holds is for whoever wonders: who paused the queue, and when.

use std::io;
use std::path::{Path, PathBuf};

use crate::journal::platform::{Mode, Platform, RandomAccessFile};

const NAME: &str = "paused";

/// Pauses a queue's next starts; `by` says who asked.
///
/// # Errors
///
/// The mark is not durable.
pub fn mark<P: Platform>(platform: &P, directory: &Path, by: &str) -> io::Result<()> {
    let growing = directory.join("paused-new");
    let at = jiff::Timestamp::from_microsecond(i64::try_from(platform.unix_us()).unwrap_or(i64::MAX));
    let at = at.map_or_else(|_| String::new(), |at| at.to_string());
    let text = format!("{}\n", serde_json::json!({ "by": by, "at": at }));
    let file = platform.open(&growing, Mode::Replace { permissions: 0o666 })?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.sync_all()?;
    platform.rename(&growing, &path(directory))?;
    platform.sync_directory(directory)
}

/// Takes the mark away; it need not be there.
///
/// # Errors
///
/// It may still be there after a crash.
pub fn clear<P: Platform>(platform: &P, directory: &Path) -> io::Result<()> {
    match platform.remove(&path(directory)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| platform.sync_directory(directory)),
    }
}

/// Whether the mark is there.
///
/// # Errors
///
/// The file system cannot say.
pub fn is_marked<P: Platform>(platform: &P, directory: &Path) -> io::Result<bool> {
    match platform.metadata(&path(directory)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => found.map(|_| true),
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::platform::System;

    #[test]
    fn a_mark_stays_until_it_is_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let is_marked = || is_marked(&System, directory.path()).unwrap();
        assert!(!is_marked());
        clear(&System, directory.path()).unwrap();
        for by in ["ann", "ben"] {
            mark(&System, directory.path(), by).unwrap();
            assert!(is_marked());
        }
        let text = std::fs::read_to_string(path(directory.path())).unwrap();
        assert!(text.contains("\"by\":\"ben\"") && text.contains("\"at\":\"2"), "{text}");
        clear(&System, directory.path()).unwrap();
        assert!(!is_marked());
    }
}
