//! How far a queue is delivered, when records may leave out of order.
//!
//! The **position** is the sequence up to which everything is delivered. What is delivered
//! **beyond** it is a set of ranges, none of which touches the position or another. In a database
//! it is nothing if there are no ranges, and otherwise these bytes:
//!
//! ```text
//! version (1 byte) | gap | length | gap | length | ...
//! ```
//!
//! Each gap counts the sequences that are not delivered, from the position or the range before; each
//! length those that are. Both are LEB128 in as few bytes as they need, and neither is 0, so a set has
//! one encoding only.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::limits::BEYOND_BYTES_MAX;
use crate::record::Sequence;

/// The first byte of an encoded set.
const VERSION: u8 = 1;
/// Bits of a number that one byte of LEB128 holds.
const VARINT_BITS: u32 = 7;

/// What of a queue is delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    through: Sequence,
    /// First and last sequence of each range. The first one begins behind `through + 1`, each of the
    /// others behind the end of the one before and one more.
    beyond: BTreeMap<Sequence, Sequence>,
}

/// Why bytes are not what was delivered beyond a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgressError {
    /// More bytes than any set may have.
    #[error("{bytes} bytes are more than the {BEYOND_BYTES_MAX} that it may have")]
    TooLong {
        /// How many they are.
        bytes: usize,
    },
    /// Another version has written it.
    #[error("it has the format {version}, of which this version knows nothing")]
    Version {
        /// The first byte.
        version: u8,
    },
    /// The bytes end within a range, or hold none.
    #[error("it ends before a range does")]
    Short,
    /// A number that could have been written shorter, is 0, or leads beyond the last sequence.
    #[error("the number at byte {at} cannot be there")]
    Number {
        /// Where the number begins.
        at: usize,
    },
}

impl Progress {
    /// Everything up to `through` is delivered, and nothing beyond it.
    #[must_use]
    pub fn up_to(through: Sequence) -> Self {
        Self { through, beyond: BTreeMap::new() }
    }

    /// The position: everything up to it is delivered.
    #[must_use]
    pub fn through(&self) -> Sequence {
        self.through
    }

    /// The ranges that are delivered beyond the position, in order.
    #[must_use]
    pub fn beyond(&self) -> impl DoubleEndedIterator<Item = RangeInclusive<Sequence>> + '_ {
        self.beyond.iter().map(|(first, last)| *first..=*last)
    }

    /// Whether nothing is delivered beyond the position.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        self.beyond.is_empty()
    }

    /// Whether a record is delivered. Takes O(log ranges).
    #[must_use]
    pub fn contains(&self, sequence: Sequence) -> bool {
        sequence <= self.through
            || self.beyond.range(..=sequence).next_back().is_some_and(|(_, last)| sequence <= *last)
    }

    /// How many records between the position and `sequence`, both excluded, are delivered. Takes time
    /// with the ranges that lie between.
    #[must_use]
    pub fn count_beyond_below(&self, sequence: Sequence) -> u64 {
        self.beyond.range(..sequence).map(|(first, last)| (*last).min(sequence - 1) - first + 1).sum()
    }

    /// Notes that a record is delivered.
    pub fn mark(&mut self, sequence: Sequence) {
        self.mark_range(sequence..=sequence);
    }

    /// Notes that the records of a range are delivered; those that were so already may be among them.
    /// What follows on the position only moves it, in constant time; anything else takes
    /// O(log ranges), amortised, since each range that is merged had to be made.
    pub fn mark_range(&mut self, range: RangeInclusive<Sequence>) {
        let (mut first, mut last) = range.into_inner();
        if last < first || last <= self.through {
            return;
        }
        if first <= self.through.saturating_add(1) {
            self.through = last;
            self.absorb();
            return;
        }
        if let Some((&before, &end)) = self.beyond.range(..first).next_back()
            && end >= first - 1
        {
            (first, last) = (before, last.max(end));
        }
        while let Some((&next, &end)) = self.beyond.range(first..).next()
            && next <= last.saturating_add(1)
        {
            last = last.max(end);
            self.beyond.remove(&next);
        }
        self.beyond.insert(first, last);
    }

    /// Notes that everything is delivered that is so by another progress.
    pub fn merge(&mut self, other: &Self) {
        self.mark_range(0..=other.through);
        other.beyond().for_each(|range| self.mark_range(range));
    }

    /// Moves the position over the ranges that it has reached.
    fn absorb(&mut self) {
        while let Some(range) = self.beyond.first_entry()
            && *range.key() <= self.through.saturating_add(1)
        {
            self.through = self.through.max(range.remove());
        }
    }

    /// Bytes that [`encode_beyond`](Self::encode_beyond) appends at most; 0 if it appends none. Found
    /// anew in O(log ranges): N numbers of a known sum take the most bytes when all are equal.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        let Some((_, last)) = self.beyond.last_key_value() else { return 0 };
        let numbers = 2 * self.beyond.len() as u64;
        // The numbers are at least 1 and add up to this, so their mean is at least 1 too.
        let mean = (last - self.through).div_ceil(numbers);
        // The logarithm, rounded up.
        let bits = u64::from(u64::BITS - (mean - 1).leading_zeros());
        let bytes = 1 + numbers + (numbers * bits).div_ceil(u64::from(VARINT_BITS));
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Appends what is delivered beyond the position; nothing if that is nothing. Whoever stores it sees
    /// to it that [`encoded_bytes`](Self::encoded_bytes) stays within [`BEYOND_BYTES_MAX`]: more cannot be read back.
    pub fn encode_beyond(&self, out: &mut Vec<u8>) {
        if self.beyond.is_empty() {
            return;
        }
        out.push(VERSION);
        let mut end = self.through;
        for (first, last) in &self.beyond {
            push_varint(first - end - 1, out);
            push_varint(last - first + 1, out);
            end = *last;
        }
    }

    /// What [`encode_beyond`](Self::encode_beyond) has written of a progress with this position.
    ///
    /// # Errors
    ///
    /// Anything that it would not have written.
    pub fn decode(through: Sequence, bytes: &[u8]) -> Result<Self, ProgressError> {
        let mut progress = Self::up_to(through);
        if bytes.len() > BEYOND_BYTES_MAX {
            return Err(ProgressError::TooLong { bytes: bytes.len() });
        }
        let Some(&version) = bytes.first() else { return Ok(progress) };
        if version != VERSION {
            return Err(ProgressError::Version { version });
        }
        let mut numbers = Numbers { bytes, at: 1 };
        let mut end = through;
        loop {
            let before_first = numbers.add_to(end)?;
            let last = numbers.add_to(before_first)?;
            // A range begins behind its gap, and ends with the last of its own.
            progress.beyond.insert(before_first + 1, last);
            end = last;
            if numbers.at == bytes.len() {
                return Ok(progress);
            }
        }
    }
}

fn push_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 1 << VARINT_BITS {
        out.push(number.to_le_bytes()[0] | 1 << VARINT_BITS);
        number >>= VARINT_BITS;
    }
    out.push(number.to_le_bytes()[0]);
}

/// The numbers of an encoded set, from some byte on.
struct Numbers<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Numbers<'_> {
    /// The next number, added to a sequence.
    fn add_to(&mut self, sequence: Sequence) -> Result<Sequence, ProgressError> {
        let refused = ProgressError::Number { at: self.at };
        let mut number = 0_u64;
        let mut shift = 0;
        while let Some(&byte) = self.bytes.get(self.at) {
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if shift >= u64::BITS || bits << shift >> shift != bits {
                return Err(refused);
            }
            number |= bits << shift;
            shift += VARINT_BITS;
            if byte >> VARINT_BITS == 0 {
                // A last byte without a bit is a number that is 0, or one that could be shorter.
                let sum = sequence.checked_add(number).filter(|_| byte != 0);
                return sum.ok_or(refused);
            }
        }
        Err(ProgressError::Short)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The sequences of a test: few enough that ranges meet.
    const LAST: Sequence = 120;

    fn model_of(progress: &Progress) -> BTreeSet<Sequence> {
        (0..=progress.through()).chain(progress.beyond().flatten()).collect()
    }

    fn encoded(progress: &Progress) -> Vec<u8> {
        let mut bytes = Vec::new();
        progress.encode_beyond(&mut bytes);
        bytes
    }

    /// Gaps and lengths of every size, from any position that leaves room for them.
    fn sparse() -> impl Strategy<Value = Progress> {
        let number = (0_u32..24).prop_flat_map(|bits| 1..=1_u64 << bits);
        (0..1_u64 << 40, prop::collection::vec((number.clone(), number), 0..200)).prop_map(|(through, numbers)| {
            let mut progress = Progress::up_to(through);
            let mut end = through;
            for (gap, length) in numbers {
                progress.mark_range(end + gap + 1..=end + gap + length);
                end += gap + length;
            }
            progress
        })
    }

    proptest! {
        #[test]
        fn it_holds_what_a_set_of_sequences_holds(
            through in 0..20_u64,
            marks in prop::collection::vec((0..LAST, 0..8_u64), 0..80),
        ) {
            let mut progress = Progress::up_to(through);
            let mut model: BTreeSet<_> = (0..=through).collect();
            for (first, more) in marks {
                if more == 0 { progress.mark(first) } else { progress.mark_range(first..=first + more) }
                model.extend(first..=first + more);
                // All that leads on from the beginning is the position, and ranges do not touch.
                let reached = (0..=2 * LAST).find(|next| !model.contains(next)).unwrap() - 1;
                prop_assert_eq!(progress.through(), reached);
                let ranges: Vec<_> = progress.beyond().collect();
                prop_assert_eq!(progress.is_in_order(), ranges.is_empty());
                let mut end = reached;
                for range in ranges {
                    prop_assert!(*range.start() > end + 1 && range.start() <= range.end());
                    end = *range.end();
                }
                prop_assert_eq!(&model_of(&progress), &model);
            }
            for sequence in 0..LAST + 10 {
                prop_assert_eq!(progress.contains(sequence), model.contains(&sequence));
                let below = model.iter().filter(|&&marked| marked > progress.through() && marked < sequence).count();
                prop_assert_eq!(progress.count_beyond_below(sequence), below as u64);
            }
            let bytes = encoded(&progress);
            prop_assert!(bytes.len() <= progress.encoded_bytes());
            prop_assert_eq!(Progress::decode(progress.through(), &bytes), Ok(progress));
        }

        #[test]
        fn what_is_merged_holds_what_either_holds(one in sparse(), other in sparse()) {
            let mut merged = one.clone();
            merged.merge(&other);
            let mut backward = other.clone();
            backward.merge(&one);
            prop_assert_eq!(&merged, &backward);
            let ends = |progress: &Progress| progress.beyond().flat_map(|range| [*range.start(), *range.end()]).collect::<Vec<_>>();
            for end in [ends(&one), ends(&other), vec![one.through(), other.through()]].concat() {
                for sequence in [end.saturating_sub(1), end, end + 1] {
                    let holds = one.contains(sequence) || other.contains(sequence);
                    prop_assert_eq!(merged.contains(sequence), holds);
                }
            }
            merged.merge(&one);
            prop_assert_eq!(merged, backward);
        }

        #[test]
        fn what_is_encoded_is_decoded_and_no_longer_than_foretold(progress in sparse()) {
            let bytes = encoded(&progress);
            prop_assert!(bytes.len() <= progress.encoded_bytes());
            prop_assert_eq!(bytes.is_empty(), progress.is_in_order());
            prop_assert_eq!(Progress::decode(progress.through(), &bytes), Ok(progress));
        }

        #[test]
        fn what_is_decoded_is_encoded_in_the_same_bytes(
            through: u64,
            mut bytes in prop::collection::vec(prop_oneof![0..4_u8, any::<u8>()], 0..24),
        ) {
            if let Some(version) = bytes.first_mut() { *version = VERSION }
            if let Ok(progress) = Progress::decode(through, &bytes) {
                prop_assert_eq!(progress.through(), through);
                prop_assert_eq!(encoded(&progress), bytes);
            }
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut progress = Progress::up_to(10);
        progress.mark(12);
        progress.mark_range(313..=512);
        assert_eq!(encoded(&progress), [1, 1, 1, 0xac, 2, 0xc8, 1]);
        progress.mark(11);
        assert_eq!((progress.through(), encoded(&progress)), (12, vec![1, 0xac, 2, 0xc8, 1]));
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        let number = |at| Err(ProgressError::Number { at });
        for (bytes, wanted) in [
            (&[1][..], Err(ProgressError::Short)),
            (&[1, 5], Err(ProgressError::Short)),
            (&[1, 5, 0x80], Err(ProgressError::Short)),
            (&[1, 5, 1, 5], Err(ProgressError::Short)),
            (&[2, 5, 1], Err(ProgressError::Version { version: 2 })),
            (&[1, 0, 1], number(1)),
            (&[1, 1, 0], number(2)),
            (&[1, 0x85, 0, 1], number(1)),
            (&[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 1], number(1)),
            (&[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x81, 0, 1], number(1)),
            // The last sequence can be reached, and no further one.
            (&[1, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2], number(11)),
        ] {
            assert_eq!(Progress::decode(0, bytes), wanted, "{bytes:?}");
        }
        let bytes = BEYOND_BYTES_MAX + 1;
        assert_eq!(Progress::decode(0, &vec![1; bytes]), Err(ProgressError::TooLong { bytes }));
    }

    #[test]
    fn the_last_sequences_can_be_marked() {
        let mut progress = Progress::default();
        progress.mark(Sequence::MAX);
        progress.mark_range(Sequence::MAX - 3..=Sequence::MAX - 1);
        let bytes = encoded(&progress);
        assert!(bytes.len() <= progress.encoded_bytes());
        assert_eq!(Progress::decode(0, &bytes).as_ref(), Ok(&progress));
        assert_eq!(progress.count_beyond_below(Sequence::MAX), 3);
        progress.mark_range(1..=Sequence::MAX - 4);
        assert_eq!(progress, Progress::up_to(Sequence::MAX));
        progress.mark(Sequence::MAX);
        assert!(progress.is_in_order() && progress.contains(Sequence::MAX));
    }
}
