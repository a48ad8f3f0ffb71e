//! How far a queue was delivered when we last looked, in a small file.
//!
//! The sink's own position is what counts. This copy only says, until the sink has
//! answered, what is certainly delivered, so it need not be synced: if a crash loses or
//! garbles it, tickets of delivered records read as queued for a moment longer.

use std::io;
use std::path::Path;

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
    platform.rename(&growing, &directory.join(NAME))
}

/// Reads it back; 0 if there is none or it is garbled.
#[must_use]
pub fn load<P: Platform>(platform: &P, directory: &Path) -> Sequence {
    let read = || {
        let text = String::from_utf8(platform.read(&directory.join(NAME)).ok()?).ok()?;
        let (number, crc) = text.trim_end().split_once(' ')?;
        let expected = u32::from_str_radix(crc, 16).ok()?;
        if crc32c::crc32c(number.as_bytes()) == expected { number.parse().ok() } else { None }
    };
    read().unwrap_or(0)
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
