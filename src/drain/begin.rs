//! From where on a sink counts that was added to a queue with a past: a small file in the sink's directory, made with it.
//!
//! A new sink starts with the oldest record that the journal still has. Its position in the database is 0 then, as it is
//! in a database that was set back; this file tells the two apart, since it says what the sink could never have had.

use std::io;
use std::path::{Path, PathBuf};

use crate::journal::platform::{Mode, Platform, RandomAccessFile};
use crate::planted::{Bug, is_planted};
use crate::record::Sequence;

const NAME: &str = "begin";

/// Where the sink with this directory begins: behind which sequence. If nothing says so yet, the sink is new and begins
/// behind `trimmed`, from now on and for good.
///
/// # Errors
///
/// The directory cannot be made, or the file cannot be read or made durable; [`io::ErrorKind::InvalidData`] if it is garbled.
pub fn load_or_store<P: Platform>(platform: &P, directory: &Path, trimmed: Sequence) -> io::Result<Sequence> {
    if let Some(begins_after) = read(platform, directory)?
        && !is_planted(Bug::BeginAnew)
    {
        return Ok(begins_after);
    }
    make_directory(platform, directory)?;
    let growing = directory.join("begin-new");
    let number = trimmed.to_string();
    let text = format!("{number} {:08x}\n", crc32c::crc32c(number.as_bytes()));
    let file = platform.open(&growing, Mode::Replace { permissions: 0o666 })?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.sync_all()?;
    platform.rename(&growing, &path(directory))?;
    platform.sync_directory(directory)?;
    Ok(trimmed)
}

/// Reads it back; `None` if there is none.
///
/// # Errors
///
/// The file cannot be read, or [`io::ErrorKind::InvalidData`] if it is garbled.
pub fn read<P: Platform>(platform: &P, directory: &Path) -> io::Result<Option<Sequence>> {
    let text = match platform.read(&path(directory)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let parse = || {
        let (number, crc) = std::str::from_utf8(&text).ok()?.strip_suffix('\n')?.split_once(' ')?;
        let expected = format!("{:08x}", crc32c::crc32c(number.as_bytes()));
        if crc == expected { number.parse().ok() } else { None }
    };
    let garbled = || {
        let what = format!("{} is garbled; restore it from a copy", path(directory).display());
        io::Error::new(io::ErrorKind::InvalidData, what)
    };
    parse().map(Some).ok_or_else(garbled)
}

/// Where it is.
#[must_use]
pub fn path(directory: &Path) -> PathBuf {
    directory.join(NAME)
}

/// Makes the directory of a sink, with the one that holds those of all sinks of its queue.
fn make_directory<P: Platform>(platform: &P, directory: &Path) -> io::Result<()> {
    platform.create_directory(directory)?;
    for above in directory.ancestors().skip(1).take(2) {
        platform.sync_directory(above)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::platform::System;

    #[test]
    fn what_a_sink_began_with_stays() {
        let queue = tempfile::tempdir().unwrap();
        let directory = queue.path().join("sinks").join("analytics");
        assert_eq!(read(&System, &directory).unwrap(), None);
        for trimmed in [41, 97] {
            assert_eq!(load_or_store(&System, &directory, trimmed).unwrap(), 41);
        }
        for garbage in ["", "41", "41 00000000\n", "\0\0\0"] {
            std::fs::write(path(&directory), garbage).unwrap();
            let error = load_or_store(&System, &directory, 97).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{garbage:?}");
        }
    }
}
