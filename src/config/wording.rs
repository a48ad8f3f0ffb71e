//! How messages show keys, values, sizes and suggestions.

use crate::limits::{GIB, KIB, MIB};

/// Characters of a user's text that a message shows before it is cut.
const SHOWN_CHARS_MAX: usize = 60;
/// Above this length nothing is near: the comparison takes time and memory with the product of both lengths.
const COMPARED_CHARS_MAX: usize = 64;

/// Text on one line and not too much of it, so that no input can forge or flood a message.
pub(super) fn one_line(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    // Quotes need no escape, since they end nothing here.
    shown.replace("\\\"", "\"").replace("\\'", "'")
}

/// A key as it stands in a file: bare if it may be, else in quotes.
pub(super) fn shown_key(key: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !key.is_empty() && key.bytes().all(bare) { one_line(key) } else { format!("\"{}\"", one_line(key)) }
}

/// Bytes in the largest unit that shows them exactly, as a file may have them.
pub(super) fn bytes_text(bytes: u64) -> String {
    [("PiB", 1024 * 1024 * GIB), ("TiB", 1024 * GIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)]
        .into_iter()
        .find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor))
        .map_or_else(|| bytes.to_string(), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// The candidate that was probably meant, if one is near enough.
pub(crate) fn nearest<'c>(given: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let length = given.chars().count();
    if length > COMPARED_CHARS_MAX {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(given, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (length.max(candidate.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Names for a sentence: `` `a`, `b` or `c` `` with `or` as the word between.
pub(super) fn listed(names: &[&str], between: &str) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} {between} {last}", others.join(", ")),
        None => String::new(),
    }
}
