//! Headers of a request, as a record keeps them.
//!
//! Encoded as a list of name's length (one byte), value's length (two bytes, little-endian), name and value, in the order in
//! which they came; a name may be there more than once.

/// Bytes of both lengths.
const ENTRY_HEADER_BYTES: usize = 3;

/// Headers, borrowed from wherever their bytes lie. The bytes are always a list that [`read`](Self::read) has accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    /// Takes an encoded list; `None` if it is none, or a name is empty.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut entries = Entries(bytes);
        let is_sound = entries.by_ref().all(|(name, _)| !name.is_empty());
        (is_sound && entries.0.is_empty()).then_some(Self(bytes))
    }

    /// Appends a header to an encoded list; `None`, and nothing is appended, if the name is empty or longer than 255 bytes, or
    /// the value than 65,535.
    #[must_use]
    pub fn append(list: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Option<()> {
        let name_length = u8::try_from(name.len()).ok().filter(|length| *length > 0)?;
        let value_length = u16::try_from(value.len()).ok()?;
        list.push(name_length);
        list.extend_from_slice(&value_length.to_le_bytes());
        list.extend_from_slice(name);
        list.extend_from_slice(value);
        Some(())
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

    /// Names and values, in order.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        Entries(self.0)
    }

    /// The values of one name, in order.
    pub fn values(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(given, _)| given.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }
}

/// Names and values of a list, as far as it is whole. What is left at the end is not.
struct Entries<'a>(&'a [u8]);

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let ([name, low, high], rest) = self.0.split_first_chunk::<ENTRY_HEADER_BYTES>()?;
        let (name, rest) = rest.split_at_checked(usize::from(*name))?;
        let (value, behind) = rest.split_at_checked(usize::from(u16::from_le_bytes([*low, *high])))?;
        self.0 = behind;
        Some((name, value))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
        let bytes = |least| prop::collection::vec(any::<u8>(), least..40);
        prop::collection::vec((bytes(1), bytes(0)), 0..5)
    }

    fn encode(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut list = Vec::new();
        for (name, value) in pairs {
            Headers::append(&mut list, name, value).unwrap();
        }
        list
    }

    /// Any list that can be written, encoded.
    pub fn encoded() -> impl Strategy<Value = Vec<u8>> {
        pairs().prop_map(|pairs| encode(&pairs))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(pairs in pairs()) {
            let list = encode(&pairs);
            let read = Headers::read(&list).unwrap();
            let back: Vec<_> = read.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            prop_assert_eq!(back, pairs);
            prop_assert_eq!(read.is_empty(), list.is_empty());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(0_u8..6, 0..40)) {
            let whole: usize = Entries(&bytes).map(|(name, value)| ENTRY_HEADER_BYTES + name.len() + value.len()).sum();
            let has_empty_name = Entries(&bytes).any(|(name, _)| name.is_empty());
            prop_assert_eq!(Headers::read(&bytes).is_some(), whole == bytes.len() && !has_empty_name);
        }
    }

    #[test]
    fn a_name_is_found_in_any_case_as_often_as_it_is_there() {
        let mut list = Vec::new();
        for (name, value) in [("x-a", "1"), ("x-b", "2"), ("X-A", "")] {
            Headers::append(&mut list, name.as_bytes(), value.as_bytes()).unwrap();
        }
        let found: Vec<_> = Headers::read(&list).unwrap().values("x-A").collect();
        assert_eq!(found, [b"1", &b""[..]]);
    }

    #[test]
    fn what_the_lengths_cannot_say_is_not_appended() {
        let mut list = Vec::new();
        for (name, value) in [(0, 1), (256, 1), (1, 65_536)] {
            assert_eq!(Headers::append(&mut list, &vec![b'n'; name], &vec![b'v'; value]), None);
        }
        assert!(list.is_empty());
        assert_eq!(Headers::append(&mut list, &[b'n'; 255], &vec![b'v'; 65_535]), Some(()));
        assert!(Headers::read(&list).is_some());
    }
}
