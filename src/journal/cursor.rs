//! How far a queue was delivered when we last looked, in a small file.
//!
//! The sink's own position is what counts. This copy only says, until the sink has
//! answered, what is certainly delivered, so it need not be synced: if a crash loses or
//! garbles it, tickets of delivered records read as queued for a moment longer.

use std::io;
use std::path::{Path, PathBuf};

use super::platform::{Mode, Platform, RandomAccessFile};
use crate::record::Sequence;

const NAME: &str = "cursor";

/// Stores the last delivered sequence.
///
/// # Errors
///
/// The file cannot be written.
pub fn save<P: Platform>(platform: &P, directory: &Path, delivered: Sequence) -> io::Result<()> {
    let growing = directory.join("cursor-new");
    let number = delivered.to_string();
    let text = format!("{number} {:08x}\n", crc32c::crc32c(number.as_bytes()));
    platform.open(&growing, Mode::Replace { permissions: 0o666 })?.write_all_at(text.as_bytes(), 0)?;
    platform.rename(&growing, &path(directory))
}

/// Where it is.
#[must_use]
pub fn path(directory: &Path) -> PathBuf {
    directory.join(NAME)
}

/// Reads it back; 0 if there is none or it is garbled.
#[must_use]
pub fn load<P: Platform>(platform: &P, directory: &Path) -> Sequence {
    read(platform, directory).ok().flatten().unwrap_or(0)
}

/// Reads it back; `None` if there is none, or if it is empty or zeros, which is what a cut of the power leaves of a file
/// that was not synced.
///
/// # Errors
///
/// The file cannot be read, or [`io::ErrorKind::InvalidData`] if it is garbled.
pub fn read<P: Platform>(platform: &P, directory: &Path) -> io::Result<Option<Sequence>> {
    let text = match platform.read(&path(directory)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    if text.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let parse = || {
        let (number, crc) = std::str::from_utf8(&text).ok()?.strip_suffix('\n')?.split_once(' ')?;
        let expected = format!("{:08x}", crc32c::crc32c(number.as_bytes()));
        if crc == expected { number.parse().ok() } else { None }
    };
    parse().map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the cursor is garbled"))
}

#[cfg(test)]
mod tests {
    use super::super::platform::System;
    use super::*;
    use std::fs;

    #[test]
    fn it_reads_back_and_garbage_is_zero() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(load(&System, directory.path()), 0);
        save(&System, directory.path(), 123_456).unwrap();
        assert_eq!(load(&System, directory.path()), 123_456);
        for garbage in ["", "12", "12 00000000", "é é\n"] {
            fs::write(directory.path().join(NAME), garbage).unwrap();
            assert_eq!(load(&System, directory.path()), 0, "{garbage:?}");
        }
    }
}
