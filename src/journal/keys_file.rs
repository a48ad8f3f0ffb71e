//! The idempotency keys of a sealed segment, in a file of their own beside it.
//!
//! The file outlives the segment, until the window of its youngest key has ended.
//! It is written under another name, synced and renamed, so it is whole or absent.

use std::io;
use std::path::{Path, PathBuf};

use zerocopy::{FromBytes, IntoBytes};

use super::idempotency::{KEY_ENTRY_BYTES, KeyEntry};
use super::platform::{Mode, Platform, RandomAccessFile};
use crate::record::Sequence;

/// The format that this code writes.
pub const FORMAT_VERSION: u8 = 1;
const MAGIC: [u8; 8] = [b'F', b'B', b'k', b'e', b'y', b's', b'0' + FORMAT_VERSION, b'\n'];
/// Where in the magic bytes the version is.
const VERSION_AT: usize = 6;
const HEADER_BYTES: usize = 16;

/// Where the keys of the segment with this first sequence are.
#[must_use]
pub fn path(directory: &Path, first_sequence: Sequence) -> PathBuf {
    directory.join(format!("{first_sequence:020}.keys"))
}

/// Writes the file and makes it durable.
///
/// # Errors
///
/// Any step failed; there is then no file of that name, or the former one.
pub fn save<P: Platform>(
    platform: &P,
    directory: &Path,
    first_sequence: Sequence,
    entries: &[KeyEntry],
) -> io::Result<()> {
    let path = path(directory, first_sequence);
    let growing = path.with_extension("keys-new");
    let body = entries.as_bytes();
    let crc = crc32c::crc32c(body);
    let count = u32::try_from(entries.len()).map_err(io::Error::other)?;
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&count.to_le_bytes());
    header[12..].copy_from_slice(&crc.to_le_bytes());
    let file = platform.open(&growing, Mode::Replace { permissions: 0o666 })?;
    file.write_all_at(&header, 0)?;
    file.write_all_at(body, HEADER_BYTES as u64)?;
    file.sync_all()?;
    platform.rename(&growing, &path)?;
    platform.sync_directory(directory)
}

/// Reads a file back.
///
/// # Errors
///
/// The file cannot be read, or [`io::ErrorKind::InvalidData`] if it is damaged, or [`io::ErrorKind::Unsupported`] if it
/// is whole and of another version.
pub fn load<P: Platform>(platform: &P, path: &Path) -> io::Result<Vec<KeyEntry>> {
    let bytes = platform.read(path)?;
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the file of idempotency keys is damaged");
    let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(damaged)?;
    let number = |from: usize| header[from..from + 4].iter().rev().fold(0_u32, |n, byte| n << 8 | u32::from(*byte));
    let whole = number(8) as usize * KEY_ENTRY_BYTES == body.len();
    if !whole || crc32c::crc32c(body) != number(12) {
        return Err(damaged());
    }
    let version = header[VERSION_AT];
    let of_another_version = MAGIC.iter().enumerate().all(|(at, byte)| at == VERSION_AT || *byte == header[at]);
    if of_another_version && version.is_ascii_digit() && version != MAGIC[VERSION_AT] {
        let found = char::from(version);
        let said = format!(
            "format version {found} of idempotency keys is not readable by this forebay, which reads version {FORMAT_VERSION}"
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, said));
    }
    if header[..8] != MAGIC {
        return Err(damaged());
    }
    Ok(body.chunks_exact(KEY_ENTRY_BYTES).filter_map(|entry| KeyEntry::read_from_bytes(entry).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::super::platform::System;
    use super::*;
    use std::fs;
    use zerocopy::little_endian::{U32, U64};

    #[test]
    fn keys_read_back_and_damage_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let entries: Vec<_> = (0..5_u8)
            .map(|n| KeyEntry {
                hash: [n; 16],
                first_sequence: U64::new(u64::from(n)),
                count: U32::new(1),
                seen_at_s: U32::new(9),
            })
            .collect();
        save(&System, directory.path(), 77, &entries).unwrap();
        let path = path(directory.path(), 77);
        assert_eq!(load(&System, &path).unwrap(), entries);
        let whole = fs::read(&path).unwrap();
        for index in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[index] ^= 4;
            fs::write(&path, &damaged).unwrap();
            assert!(load(&System, &path).is_err(), "byte {index}");
            fs::write(&path, &whole[..index]).unwrap();
            assert!(load(&System, &path).is_err(), "cut at {index}");
        }
    }
}
