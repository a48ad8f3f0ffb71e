//! Which idempotency keys a queue has seen, and what it answered.
//!
//! Keys stand in the order in which they came, which is also the order in which they
//! expire; a hash table finds their place. An entry is 32 bytes in memory and on disk,
//! where each sealed segment has a file of its keys, so that a key outlives the segment
//! that its record was in. A key is remembered by a keyed 128-bit hash: two keys with
//! the same hash would lose an order, and nobody without the secret can make such a pair.

use std::collections::VecDeque;

use hashbrown::HashTable;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::planted::{Bug, is_planted};
use crate::record::Sequence;

/// What is remembered of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct KeyEntry {
    /// Keyed hash of the key.
    pub hash: [u8; 16],
    /// First record that was stored for it.
    pub first_sequence: U64,
    /// Records that were stored with it.
    pub count: U32,
    /// When: seconds since the Unix epoch (32 bits last until 2106).
    pub seen_at_s: U32,
}

/// Bytes of a [`KeyEntry`].
pub const KEY_ENTRY_BYTES: usize = size_of::<KeyEntry>();
const _: () = assert!(KEY_ENTRY_BYTES == 32);

/// The keys of one queue.
pub struct IdempotencyIndex {
    window_s: u64,
    keys_max: usize,
    /// Entry `i` has the number `first_number + i`.
    entries: VecDeque<KeyEntry>,
    first_number: u64,
    /// Numbers of entries, found by the entry's hash.
    table: HashTable<u64>,
    evicted: u64,
}

impl IdempotencyIndex {
    /// An empty index that remembers up to `keys_max` keys for `window_ms` milliseconds; with a
    /// window of 0 it remembers nothing.
    #[must_use]
    pub fn new(window_ms: u64, keys_max: usize) -> Self {
        Self {
            window_s: window_ms.div_ceil(1000),
            keys_max,
            entries: VecDeque::new(),
            first_number: 0,
            table: HashTable::new(),
            evicted: 0,
        }
    }

    /// Whether keys are remembered at all.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.window_s > 0 && self.keys_max > 0
    }

    /// What was stored for this key within the window.
    #[must_use]
    pub fn find(&self, hash: &[u8; 16], now_s: u64) -> Option<KeyEntry> {
        let number = self.table.find(short(hash), |number| self.entry(*number).is_some_and(|e| e.hash == *hash))?;
        self.entry(*number).copied().filter(|entry| !self.is_expired(entry, now_s))
    }

    /// Remembers a key, forgetting what has expired and, if there are too many, the oldest.
    pub fn insert(&mut self, entry: KeyEntry, now_s: u64) {
        if !self.is_enabled() {
            return;
        }
        self.expire(now_s);
        let keys_max = match () {
            () if is_planted(Bug::EvictKeysEarly) => self.keys_max.div_ceil(2),
            () if is_planted(Bug::KeepAllKeys) => usize::MAX,
            () => self.keys_max,
        };
        while self.entries.len() >= keys_max {
            self.evicted += 1;
            self.forget_oldest();
        }
        let number = self.first_number + self.entries.len() as u64;
        self.entries.push_back(entry);
        let Self { entries, first_number, table, .. } = self;
        let same = |known: &u64| nth(entries, *first_number, *known).is_some_and(|e| e.hash == entry.hash);
        // The key may stand in the table with an expired entry; the new one takes its place.
        if let Some(known) = table.find_mut(short(&entry.hash), same) {
            *known = number;
        } else {
            table.insert_unique(short(&entry.hash), number, |known| {
                nth(entries, *first_number, *known).map_or(0, |e| short(&e.hash))
            });
        }
    }

    /// Forgets what is older than the window.
    pub fn expire(&mut self, now_s: u64) {
        while self.entries.front().is_some_and(|oldest| self.is_expired(oldest, now_s)) {
            self.forget_oldest();
        }
    }

    /// The entries whose record is `first_sequence` or later, oldest first.
    pub fn since(&self, first_sequence: Sequence) -> impl Iterator<Item = &KeyEntry> {
        let from = self.entries.partition_point(|entry| entry.first_sequence.get() < first_sequence);
        self.entries.range(from..)
    }

    /// How many keys are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no key is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many keys were forgotten before their window ended.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.entries.pop_front() else { return };
        let number = self.first_number;
        self.first_number += 1;
        // The table may name a younger entry with the same key by now; that one stays.
        if let Ok(place) = self.table.find_entry(short(&oldest.hash), |known| *known == number) {
            place.remove();
        }
    }

    fn entry(&self, number: u64) -> Option<&KeyEntry> {
        nth(&self.entries, self.first_number, number)
    }

    fn is_expired(&self, entry: &KeyEntry, now_s: u64) -> bool {
        // The second in which it was seen had begun already, so a whole window ends within the next one.
        let window_s = if is_planted(Bug::ForgetKeyEarly) { self.window_s / 2 } else { self.window_s };
        u64::from(entry.seen_at_s.get()) + window_s < now_s
    }
}

fn nth(entries: &VecDeque<KeyEntry>, first_number: u64, number: u64) -> Option<&KeyEntry> {
    entries.get(usize::try_from(number.checked_sub(first_number)?).ok()?)
}

/// The hash is keyed and uniform, so its first half serves the table.
fn short(hash: &[u8; 16]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::hash_key;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn entry(key: u8, sequence: u64, seen_at_s: u32) -> KeyEntry {
        KeyEntry {
            hash: hash_key(&[0; 16], 0, &[key]),
            first_sequence: U64::new(sequence),
            count: U32::new(1),
            seen_at_s: U32::new(seen_at_s),
        }
    }

    #[test]
    fn a_key_is_found_until_its_window_ends() {
        let mut index = IdempotencyIndex::new(10_000, 100);
        index.insert(entry(1, 7, 100), 100);
        let hash = hash_key(&[0; 16], 0, &[1]);
        assert_eq!(index.find(&hash, 110).unwrap().first_sequence.get(), 7);
        assert_eq!(index.find(&hash, 111), None);
        index.insert(entry(1, 8, 111), 111);
        assert_eq!(index.find(&hash, 112).unwrap().first_sequence.get(), 8);
        assert_eq!(index.len(), 1);
    }

    #[test]
    fn too_many_keys_push_out_the_oldest_and_are_counted() {
        let mut index = IdempotencyIndex::new(10_000, 2);
        for key in 1..=3 {
            index.insert(entry(key, u64::from(key), 100), 100);
        }
        assert_eq!(index.find(&hash_key(&[0; 16], 0, &[1]), 100), None);
        assert!(index.find(&hash_key(&[0; 16], 0, &[3]), 100).is_some());
        assert_eq!(index.evicted(), 1);
    }

    #[test]
    fn queues_do_not_share_keys() {
        assert_ne!(hash_key(&[0; 16], 0, b"k"), hash_key(&[0; 16], 1, b"k"));
        assert_ne!(hash_key(&[0; 16], 0, b"k"), hash_key(&[1; 16], 0, b"k"));
    }

    proptest! {
        /// Against a model that keeps everything and computes what must be found.
        #[test]
        fn it_finds_what_a_model_finds(
            steps in prop::collection::vec((0_u8..20, 0_u32..4), 1..300),
            window_s in 1_u64..30,
        ) {
            let mut index = IdempotencyIndex::new(window_s * 1000, 1000);
            let mut model: HashMap<u8, KeyEntry> = HashMap::new();
            let mut now = 1000_u32;
            for (sequence, (key, pause)) in steps.into_iter().enumerate() {
                now += pause;
                let hash = hash_key(&[0; 16], 0, &[key]);
                let expected = model.get(&key).filter(|e| u64::from(e.seen_at_s.get()) + window_s >= u64::from(now));
                prop_assert_eq!(index.find(&hash, u64::from(now)), expected.copied());
                if expected.is_none() {
                    let fresh = entry(key, sequence as u64, now);
                    index.insert(fresh, u64::from(now));
                    model.insert(key, fresh);
                }
            }
            let sequences: Vec<_> = index.since(5).map(|e| e.first_sequence.get()).collect();
            prop_assert!(sequences.iter().all(|s| *s >= 5) && sequences.is_sorted());
        }
    }
}
