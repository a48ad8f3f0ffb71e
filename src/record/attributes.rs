//! What a client asks for a record beyond its being stored (when it is due, how urgent it is, whose it is), and what of its
//! request is to be known where the record is delivered.
//!
//! Encoded as a list of tag (one byte), length (two bytes, little-endian) and value, in ascending order of the tags. A
//! record without attributes has an empty list. A tag that is not known was written by a later version and is skipped.

use super::{Headers, RecordError};
use crate::limits::ATTRIBUTES_BYTES_MAX;

/// Of a record that asks for no other one.
pub const PRIORITY_DEFAULT: u8 = 4;
/// The priority that leaves first.
pub const PRIORITY_MAX: u8 = 9;

const DELIVER_AT_US: u8 = 1;
const EXPIRES_AT_US: u8 = 2;
const PRIORITY: u8 = 3;
const FAIR_KEY: u8 = 4;
const THROTTLE_KEY: u8 = 5;
const METHOD: u8 = 6;
const TARGET: u8 = 7;
const HEADERS: u8 = 8;
/// Bytes of a tag and a length.
const ENTRY_HEADER_BYTES: usize = 3;

/// A record's attributes, borrowed from wherever its bytes lie. The bytes are always a list that
/// [`read`](Self::read) has accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Those of a record that has none.
    pub const NONE: Self = Attributes(b"");

    /// Takes an encoded list.
    ///
    /// # Errors
    ///
    /// [`RecordError::Attributes`] if it is cut short, longer than [`ATTRIBUTES_BYTES_MAX`], out of order, or a known
    /// tag has a value that it cannot have.
    pub fn read(bytes: &'a [u8]) -> Result<Self, RecordError> {
        if bytes.len() > ATTRIBUTES_BYTES_MAX {
            return Err(RecordError::Attributes);
        }
        let mut entries = Entries(bytes);
        let mut tag_before = None;
        for (tag, value) in entries.by_ref() {
            let is_sound = match tag {
                DELIVER_AT_US | EXPIRES_AT_US => value.len() == size_of::<u64>(),
                PRIORITY => matches!(value, [0..=PRIORITY_MAX]),
                FAIR_KEY | THROTTLE_KEY | METHOD | TARGET => !value.is_empty(),
                HEADERS => !value.is_empty() && Headers::read(value).is_some(),
                _ => true,
            };
            if !is_sound || tag_before >= Some(tag) {
                return Err(RecordError::Attributes);
            }
            tag_before = Some(tag);
        }
        if entries.0.is_empty() { Ok(Self(bytes)) } else { Err(RecordError::Attributes) }
    }

    /// The encoded list.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Before this the record may not leave: microseconds since the Unix epoch.
    #[must_use]
    pub fn deliver_at_us(self) -> Option<u64> {
        self.number(DELIVER_AT_US)
    }

    /// From this on the record is of no use any more: microseconds since the Unix epoch.
    #[must_use]
    pub fn expires_at_us(self) -> Option<u64> {
        self.number(EXPIRES_AT_US)
    }

    /// From 0 to 9, and 9 leaves first, as in JMS; [`PRIORITY_DEFAULT`] if the client asked for none.
    #[must_use]
    pub fn priority(self) -> u8 {
        self.priority_given().unwrap_or(PRIORITY_DEFAULT)
    }

    /// The priority that the client asked for.
    #[must_use]
    pub fn priority_given(self) -> Option<u8> {
        self.value(PRIORITY)?.first().copied()
    }

    /// The value of the header that the queue's `fair_by` names; empty for none.
    #[must_use]
    pub fn fair_key(self) -> &'a [u8] {
        self.value(FAIR_KEY).unwrap_or_default()
    }

    /// The value of the header that the queue's `throttle.by` names, if that is not the one of `fair_by`; empty for none.
    #[must_use]
    pub fn throttle_key(self) -> &'a [u8] {
        self.value(THROTTLE_KEY).unwrap_or_default()
    }

    /// The method of the request; empty if it was not kept.
    #[must_use]
    pub fn method(self) -> &'a [u8] {
        self.value(METHOD).unwrap_or_default()
    }

    /// The path of the request with its query; empty if it was not kept.
    #[must_use]
    pub fn target(self) -> &'a [u8] {
        self.value(TARGET).unwrap_or_default()
    }

    /// Those headers of the request that were kept.
    #[must_use]
    pub fn headers(self) -> Headers<'a> {
        self.value(HEADERS).and_then(Headers::read).unwrap_or_default()
    }

    fn value(self, wanted: u8) -> Option<&'a [u8]> {
        Entries(self.0).find(|(tag, _)| *tag == wanted).map(|(_, value)| value)
    }

    fn number(self, tag: u8) -> Option<u64> {
        self.value(tag)?.try_into().ok().map(u64::from_le_bytes)
    }
}

/// Tags and values of a list, as far as it is whole. What is left at the end is not.
struct Entries<'a>(&'a [u8]);

impl<'a> Iterator for Entries<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let ([tag, low, high], rest) = self.0.split_first_chunk::<ENTRY_HEADER_BYTES>()?;
        let (value, behind) = rest.split_at_checked(usize::from(u16::from_le_bytes([*low, *high])))?;
        self.0 = behind;
        Some((*tag, value))
    }
}

/// Attributes that are to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttributeValues<'a> {
    /// As [`Attributes::deliver_at_us`].
    pub deliver_at_us: Option<u64>,
    /// As [`Attributes::expires_at_us`].
    pub expires_at_us: Option<u64>,
    /// As [`Attributes::priority_given`], at most [`PRIORITY_MAX`].
    pub priority: Option<u8>,
    /// As [`Attributes::fair_key`].
    pub fair_key: &'a [u8],
    /// As [`Attributes::throttle_key`].
    pub throttle_key: &'a [u8],
    /// As [`Attributes::method`].
    pub method: &'a [u8],
    /// As [`Attributes::target`].
    pub target: &'a [u8],
    /// As [`Attributes::headers`].
    pub headers: Headers<'a>,
}

impl AttributeValues<'_> {
    /// Writes the list into `buffer`, over what is there. Without any value nothing is written, and nothing allocated.
    ///
    /// # Errors
    ///
    /// [`RecordError::Attributes`] if it would be longer than [`ATTRIBUTES_BYTES_MAX`] or the priority is none.
    pub fn encode<'b>(&self, buffer: &'b mut Vec<u8>) -> Result<Attributes<'b>, RecordError> {
        buffer.clear();
        let mut write = |tag: u8, value: &[u8]| {
            let length = u16::try_from(value.len()).map_err(|_| RecordError::Attributes)?;
            buffer.push(tag);
            buffer.extend_from_slice(&length.to_le_bytes());
            buffer.extend_from_slice(value);
            Ok(())
        };
        for (tag, time_us) in [(DELIVER_AT_US, self.deliver_at_us), (EXPIRES_AT_US, self.expires_at_us)] {
            time_us.map_or(Ok(()), |us| write(tag, &us.to_le_bytes()))?;
        }
        self.priority.map_or(Ok(()), |priority| write(PRIORITY, &[priority]))?;
        for (tag, value) in [
            (FAIR_KEY, self.fair_key),
            (THROTTLE_KEY, self.throttle_key),
            (METHOD, self.method),
            (TARGET, self.target),
            (HEADERS, self.headers.bytes()),
        ] {
            if !value.is_empty() {
                write(tag, value)?;
            }
        }
        Attributes::read(buffer)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::headers;
    use super::*;
    use proptest::prelude::*;

    /// Any list that can be written, encoded.
    pub fn encoded() -> impl Strategy<Value = Vec<u8>> {
        let key = || prop::collection::vec(any::<u8>(), 0..40);
        let times = (any::<Option<u64>>(), any::<Option<u64>>());
        let values = (times, prop::option::of(0..=PRIORITY_MAX), key(), key(), key(), headers::tests::encoded());
        values.prop_map(|((deliver_at_us, expires_at_us), priority, fair_key, throttle_key, target, headers)| {
            let values = AttributeValues {
                deliver_at_us,
                expires_at_us,
                priority,
                fair_key: &fair_key,
                throttle_key: &throttle_key,
                method: &target,
                target: &target,
                headers: Headers::read(&headers).unwrap(),
            };
            let mut buffer = Vec::new();
            values.encode(&mut buffer).unwrap();
            buffer
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            deliver_at_us: Option<u64>,
            expires_at_us: Option<u64>,
            priority in prop::option::of(0..=PRIORITY_MAX),
            fair_key in prop::collection::vec(any::<u8>(), 0..300),
            throttle_key in prop::collection::vec(any::<u8>(), 0..300),
            target in prop::collection::vec(any::<u8>(), 0..300),
            headers in headers::tests::encoded(),
            later in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let values = AttributeValues {
                deliver_at_us, expires_at_us, priority, fair_key: &fair_key, throttle_key: &throttle_key,
                method: &throttle_key, target: &target, headers: Headers::read(&headers).unwrap(),
            };
            let mut buffer = vec![7; 3];
            let written = values.encode(&mut buffer).unwrap();
            prop_assert_eq!(written.is_empty(), values == AttributeValues::default());
            let mut bytes = written.bytes().to_vec();
            // A later version has a tag that this one does not know.
            bytes.extend_from_slice(&[200, u8::try_from(later.len()).unwrap(), 0]);
            bytes.extend_from_slice(&later);
            for read in [written, Attributes::read(&bytes).unwrap()] {
                prop_assert_eq!((read.deliver_at_us(), read.expires_at_us()), (deliver_at_us, expires_at_us));
                prop_assert_eq!((read.priority_given(), read.priority()), (priority, priority.unwrap_or(4)));
                prop_assert_eq!((read.fair_key(), read.throttle_key()), (&fair_key[..], &throttle_key[..]));
                prop_assert_eq!((read.method(), read.target()), (&throttle_key[..], &target[..]));
                prop_assert_eq!(read.headers().bytes(), &headers);
            }
        }

        /// Whatever is accepted can be read to its end, and a list that is cut is refused or has an entry less.
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(0_u8..12, 0..60)) {
            if let Ok(read) = Attributes::read(&bytes) {
                prop_assert!(read.priority() <= PRIORITY_MAX);
                let entries = Entries(&bytes).map(|(_, value)| ENTRY_HEADER_BYTES + value.len());
                prop_assert_eq!(entries.sum::<usize>(), bytes.len());
            }
        }

        #[test]
        fn a_cut_list_is_refused_or_ends_with_a_whole_entry(bytes in encoded(), cut in any::<prop::sample::Index>()) {
            let end = cut.index(bytes.len() + 1);
            let mut whole = Entries(&bytes).scan(0, |end, (_, value)| {
                *end += ENTRY_HEADER_BYTES + value.len();
                Some(*end)
            });
            prop_assert_eq!(Attributes::read(&bytes[..end]).is_ok(), end == 0 || whole.any(|border| border == end));
        }
    }

    #[test]
    fn without_values_nothing_is_allocated() {
        let mut buffer = Vec::new();
        assert_eq!(AttributeValues::default().encode(&mut buffer), Ok(Attributes::NONE));
        assert_eq!(buffer.capacity(), 0);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for (bytes, why) in [
            (&b"\x01"[..], "no length"),
            (b"\x01\x08\0short", "a value that is cut"),
            (b"\x01\x01\0x", "a time of one byte"),
            (b"\x03\x01\0\x0a", "a priority above 9"),
            (b"\x03\0\0", "a priority without a value"),
            (b"\x04\0\0", "an empty key"),
            (b"\x03\x01\0\x01\x03\x01\0\x02", "a tag twice"),
            (b"\x04\x01\0k\x03\x01\0\x01", "tags in another order"),
            (b"\x06\0\0", "an empty method"),
            (b"\x07\0\0", "an empty target"),
            (b"\x08\0\0", "headers without any"),
            (b"\x08\x04\0\x02\0\0a", "headers that are no list"),
            (&[vec![9, 0, 128], vec![0; 32_768]].concat(), "more than the bound"),
        ] {
            assert_eq!(Attributes::read(bytes), Err(RecordError::Attributes), "{why}");
        }
        let too_long = AttributeValues { fair_key: &vec![b'k'; ATTRIBUTES_BYTES_MAX], ..AttributeValues::default() };
        assert_eq!(too_long.encode(&mut Vec::new()), Err(RecordError::Attributes));
        let no_priority = AttributeValues { priority: Some(10), ..AttributeValues::default() };
        assert_eq!(no_priority.encode(&mut Vec::new()), Err(RecordError::Attributes));
    }
}
