//! A growable set of order indices, one bit each: ten million orders take 1.25 MB.

/// A set of indices kept as bits, so that what was acknowledged and what was delivered can be compared exactly.
#[derive(Clone, Debug, Default)]
pub struct IndexSet {
    words: Vec<u64>,
    len: u64,
}

impl IndexSet {
    /// Makes an empty set, which allocates nothing until the first insertion.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `index` and says whether it was absent before.
    ///
    /// Memory grows to `index / 8` bytes: callers bound indices that come from outside.
    pub fn insert(&mut self, index: u32) -> bool {
        let (word, mask) = position(index);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let absent = self.words[word] & mask == 0;
        self.words[word] |= mask;
        self.len += u64::from(absent);
        absent
    }

    /// Says whether `index` is in the set.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        let (word, mask) = position(index);
        self.words.get(word).is_some_and(|bits| bits & mask != 0)
    }

    /// The number of indices in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Says whether the set holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds every index of `other`.
    pub fn union_with(&mut self, other: &Self) {
        if other.words.len() > self.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine |= theirs;
        }
        self.len = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
    }

    /// The indices of this set that `other` lacks, in ascending order.
    pub fn difference<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u32> + 'a {
        self.words.iter().enumerate().flat_map(move |(position, word)| {
            let missing = word & !other.words.get(position).copied().unwrap_or(0);
            set_bits(missing).map(move |bit| word_start(position) + bit)
        })
    }

    /// The indices of this set, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words
            .iter()
            .enumerate()
            .flat_map(|(position, word)| set_bits(*word).map(move |bit| word_start(position) + bit))
    }
}

impl PartialEq for IndexSet {
    /// Two sets are equal when they hold the same indices, however far each has grown.
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.difference(other).next().is_none()
    }
}

impl Eq for IndexSet {}

impl FromIterator<u32> for IndexSet {
    fn from_iter<I: IntoIterator<Item = u32>>(indices: I) -> Self {
        let mut set = Self::new();
        for index in indices {
            set.insert(index);
        }
        set
    }
}

fn position(index: u32) -> (usize, u64) {
    ((index / 64) as usize, 1 << (index % 64))
}

/// The first index that the word at `position` holds; every word was made for a `u32` index, so this fits.
#[allow(clippy::cast_possible_truncation)]
fn word_start(position: usize) -> u32 {
    position as u32 * 64
}

fn set_bits(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let bit = word.trailing_zeros();
        word &= word - 1;
        Some(bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(left in prop::collection::vec(0u32..5000, 0..300),
                              right in prop::collection::vec(0u32..5000, 0..300)) {
            let (a, b): (IndexSet, IndexSet) = (left.iter().copied().collect(), right.iter().copied().collect());
            let (sa, sb): (BTreeSet<u32>, BTreeSet<u32>) = (left.into_iter().collect(), right.into_iter().collect());
            prop_assert_eq!(a.len(), sa.len() as u64);
            prop_assert!(a.iter().eq(sa.iter().copied()));
            prop_assert!(a.difference(&b).eq(sa.difference(&sb).copied()));
            let mut both = a.clone();
            both.union_with(&b);
            prop_assert!(both.iter().eq(sa.union(&sb).copied()));
            prop_assert_eq!(both.len(), sa.union(&sb).count() as u64);
        }
    }

    #[test]
    fn inserting_twice_counts_once() {
        let mut set = IndexSet::new();
        assert!(set.insert(64));
        assert!(!set.insert(64));
        assert_eq!(set.len(), 1);
        assert!(set.contains(64) && !set.contains(63) && !set.contains(1_000_000));
    }

    #[test]
    fn equality_ignores_spare_capacity() {
        let small: IndexSet = [1].into_iter().collect();
        let mut grown: IndexSet = [1].into_iter().collect();
        grown.words.resize(100, 0);
        assert_eq!(small, grown);
    }
}
