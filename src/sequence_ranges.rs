//! A set of sequences that costs what its gaps cost: a million in a row are one range.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize, Serializer};

use crate::record::Sequence;

/// Sequences as ranges, none of which overlaps or touches another. As JSON `[[first,last],…]`, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<(Sequence, Sequence)>")]
pub struct SequenceRanges {
    /// Each range's last sequence, by its first.
    lasts: BTreeMap<Sequence, Sequence>,
    count: u64,
}

/// A range that holds nothing, which nobody has written.
#[derive(Debug, thiserror::Error)]
#[error("the range {first} to {last} ends before it begins")]
pub struct Backward {
    first: Sequence,
    last: Sequence,
}

impl SequenceRanges {
    /// Adds all sequences of a range.
    pub fn insert(&mut self, range: RangeInclusive<Sequence>) {
        if range.is_empty() {
            return;
        }
        let (mut first, mut last) = range.into_inner();
        while let Some((from, to)) = self.lasts.range(..=last.saturating_add(1)).next_back() {
            let (from, to) = (*from, *to);
            if to.saturating_add(1) < first {
                break;
            }
            self.lasts.remove(&from);
            self.count -= width(from, to);
            (first, last) = (first.min(from), last.max(to));
        }
        self.lasts.insert(first, last);
        self.count = self.count.saturating_add(width(first, last));
    }

    /// Whether a sequence is among them.
    #[must_use]
    pub fn contains(&self, sequence: Sequence) -> bool {
        self.lasts.range(..=sequence).next_back().is_some_and(|(_, last)| *last >= sequence)
    }

    /// How many sequences they are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many ranges they make.
    #[must_use]
    pub fn ranges_count(&self) -> usize {
        self.lasts.len()
    }

    /// The highest of them.
    #[must_use]
    pub fn last(&self) -> Option<Sequence> {
        self.lasts.last_key_value().map(|(_, last)| *last)
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = RangeInclusive<Sequence>> {
        self.lasts.iter().map(|(first, last)| *first..=*last)
    }

    /// The ranges that begin at a sequence or behind it, as many as asked for.
    #[must_use]
    pub fn page(&self, from: Sequence, limit: usize) -> Self {
        self.lasts.range(from..).take(limit).map(|(first, last)| *first..=*last).collect()
    }
}

impl Extend<RangeInclusive<Sequence>> for SequenceRanges {
    fn extend<T: IntoIterator<Item = RangeInclusive<Sequence>>>(&mut self, ranges: T) {
        ranges.into_iter().for_each(|range| self.insert(range));
    }
}

impl FromIterator<RangeInclusive<Sequence>> for SequenceRanges {
    fn from_iter<T: IntoIterator<Item = RangeInclusive<Sequence>>>(ranges: T) -> Self {
        let mut all = Self::default();
        all.extend(ranges);
        all
    }
}

impl TryFrom<Vec<(Sequence, Sequence)>> for SequenceRanges {
    type Error = Backward;

    fn try_from(pairs: Vec<(Sequence, Sequence)>) -> Result<Self, Backward> {
        let mut all = Self::default();
        for (first, last) in pairs {
            if first > last {
                return Err(Backward { first, last });
            }
            all.insert(first..=last);
        }
        Ok(all)
    }
}

impl Serialize for SequenceRanges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.lasts.iter())
    }
}

/// All sequences there can be are one more than a `u64` counts, which is good enough for what nobody can have.
fn width(first: Sequence, last: Sequence) -> u64 {
    (last - first).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn they_hold_what_a_set_holds_in_as_few_ranges_as_there_are(
            inserted in prop::collection::vec((0_u64..60, 0_u64..9), 0..40),
            from in 0_u64..70,
            limit in 0_usize..9,
        ) {
            let mut set = BTreeSet::new();
            let mut ranges = SequenceRanges::default();
            for (first, width) in inserted {
                ranges.insert(first..=first + width);
                set.extend(first..=first + width);
            }
            prop_assert_eq!(ranges.iter().flatten().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!((ranges.count(), ranges.last()), (set.len() as u64, set.last().copied()));
            prop_assert!((0..80).all(|sequence| ranges.contains(sequence) == set.contains(&sequence)));
            let begins = |sequence: &&u64| **sequence == 0 || !set.contains(&(**sequence - 1));
            prop_assert_eq!(ranges.ranges_count(), set.iter().filter(begins).count());
            let page: Vec<_> = ranges.iter().filter(|range| *range.start() >= from).take(limit).collect();
            prop_assert_eq!(ranges.page(from, limit).iter().collect::<Vec<_>>(), page);
            let text = serde_json::to_string(&ranges).unwrap();
            prop_assert_eq!(serde_json::from_str::<SequenceRanges>(&text).unwrap(), ranges);
        }
    }

    #[test]
    fn the_ends_of_what_a_sequence_can_be_do_no_harm() {
        let mut ranges = SequenceRanges::default();
        ranges.extend([u64::MAX..=u64::MAX, 0..=0, 3..=u64::MAX - 1]);
        assert_eq!(serde_json::to_string(&ranges).unwrap(), "[[0,0],[3,18446744073709551615]]");
        assert!(ranges.contains(0) && !ranges.contains(1) && ranges.contains(u64::MAX));
        ranges.insert(0..=u64::MAX);
        ranges.insert(RangeInclusive::new(9, 4));
        assert_eq!((ranges.count(), ranges.ranges_count()), (u64::MAX, 1));
    }

    #[test]
    fn what_holds_nothing_is_refused() {
        let error = serde_json::from_str::<SequenceRanges>("[[1,2],[9,4]]").unwrap_err().to_string();
        assert!(error.contains("the range 9 to 4 ends before it begins"), "{error}");
    }
}
