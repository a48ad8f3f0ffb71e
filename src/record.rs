//! A record: the bytes that a client sent, and what forebay must know of them.
//!
//! The same encoding travels through the ring, lies in the segment and reaches
//! the drain, so a record is encoded and checksummed once, on the core that
//! received it, and checked once, by the drain that delivers it:
//!
//! ```text
//! header (48 bytes) | key | idempotency key | content type | attributes | body
//! ```
//!
//! A record does not hold its own sequence: a batch names its first one, and
//! sequences are dense. All integers are little-endian and unaligned.

mod attributes;
mod headers;

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use attributes::{AttributeValues, Attributes, PRIORITY_DEFAULT, PRIORITY_MAX};
pub use headers::Headers;

/// The number of a record within its queue: dense, from 1, never reused.
pub type Sequence = u64;

/// A hash that stands for no key.
pub const NO_KEY: [u8; 16] = [0; 16];

/// Together with an empty idempotency key, which no record with a hash has: stands for a record that is lost.
const LOST: [u8; 16] = [0xff; 16];

/// Hashes an idempotency key of a queue. Never [`NO_KEY`].
#[must_use]
pub fn hash_key(secret: &[u8; 16], queue_id: u64, key: &[u8]) -> [u8; 16] {
    let mut hasher = SipHasher24::new_with_key(secret);
    hasher.write_u64(queue_id);
    hasher.write(key);
    let hash = hasher.finish128().as_bytes();
    if hash == NO_KEY { [1; 16] } else { hash }
}

/// What precedes a record's bytes, in the ring and on disk.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RecordHeader {
    /// Bytes of the whole record, this header included.
    pub length: U32,
    /// CRC32C (Castagnoli, RFC 3720 appendix B.4) of everything behind this field.
    pub crc32c: U32,
    /// When the front door had the whole request: microseconds since the Unix epoch.
    pub received_at_us: U64,
    /// Keyed 128-bit hash of the idempotency key; all zero if the request had none.
    pub idempotency_hash: [u8; 16],
    /// Records that were submitted together, on the first of them; 0 on the others.
    pub group_count: U32,
    /// Bytes of the body.
    pub body_length: U32,
    /// Bytes of the ordering key.
    pub key_length: U16,
    /// Bytes of the idempotency key.
    pub idempotency_key_length: U16,
    /// Bytes of the content type.
    pub content_type_length: U16,
    /// Bytes of the attributes; 0 for none.
    pub attributes_length: U16,
}

/// Bytes of a [`RecordHeader`].
pub const RECORD_HEADER_BYTES: usize = size_of::<RecordHeader>();
const CRC_FROM: usize = 8;
const _: () = assert!(RECORD_HEADER_BYTES == 48);

/// The parts of a record, borrowed from wherever its bytes lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// Microseconds since the Unix epoch.
    pub received_at_us: u64,
    /// Keyed hash of the idempotency key, all zero for none.
    pub idempotency_hash: [u8; 16],
    /// Records submitted together, on the first of them; 0 on the others.
    pub group_count: u32,
    /// The ordering key (`Forebay-Key`), empty for none.
    pub key: &'a [u8],
    /// The idempotency key as the client wrote it, empty for none.
    pub idempotency_key: &'a [u8],
    /// The content type, empty for none.
    pub content_type: &'a [u8],
    /// What the client asked for beyond storing it.
    pub attributes: Attributes<'a>,
    /// What the client sent.
    pub body: &'a [u8],
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than the header, or than the header says.
    #[error("the record is cut short")]
    Short,
    /// The lengths in the header contradict each other.
    #[error("the lengths in the record's header contradict each other")]
    Lengths,
    /// The checksum does not fit the bytes.
    #[error("the record's checksum does not match its bytes")]
    Checksum,
    /// The attributes are no list of tags and values that these may have.
    #[error("the record's attributes are malformed")]
    Attributes,
    /// A part is longer than the format can say.
    #[error("a part of the record is longer than the format allows")]
    TooLong,
}

impl<'a> Record<'a> {
    /// What stands in the place of a record whose bytes the disk has lost, so that those behind it keep
    /// their sequences. `body` takes the room that must be filled.
    #[must_use]
    pub fn lost(now_us: u64, body: &'a [u8]) -> Self {
        Self {
            received_at_us: now_us,
            idempotency_hash: LOST,
            group_count: 0,
            key: b"",
            idempotency_key: b"",
            content_type: b"",
            attributes: Attributes::NONE,
            body,
        }
    }

    /// Whether it stands in the place of a lost one. No client can make such a record: a hash comes with its key.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.idempotency_hash == LOST && self.idempotency_key.is_empty()
    }

    /// Whether it was the only record of its request, so that the idempotency key is its alone.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.group_count == 1
    }

    /// What stands behind the header, in its order.
    fn parts(&self) -> [&'a [u8]; 5] {
        [self.key, self.idempotency_key, self.content_type, self.attributes.bytes(), self.body]
    }

    /// Bytes that [`encode`](Self::encode) appends.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.parts().iter().map(|part| part.len()).sum::<usize>()
    }

    /// Appends the record to `out`.
    ///
    /// # Errors
    ///
    /// [`RecordError::TooLong`] if a length does not fit its field; `out` is then unchanged.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let narrow = |length: usize| u16::try_from(length).map(U16::new).map_err(|_| RecordError::TooLong);
        let wide = |length: usize| u32::try_from(length).map(U32::new).map_err(|_| RecordError::TooLong);
        let mut header = RecordHeader {
            length: wide(self.encoded_bytes())?,
            crc32c: U32::ZERO,
            received_at_us: U64::new(self.received_at_us),
            idempotency_hash: self.idempotency_hash,
            group_count: U32::new(self.group_count),
            body_length: wide(self.body.len())?,
            key_length: narrow(self.key.len())?,
            idempotency_key_length: narrow(self.idempotency_key.len())?,
            content_type_length: narrow(self.content_type.len())?,
            attributes_length: narrow(self.attributes.bytes().len())?,
        };
        let mut crc = crc32c::crc32c(&header.as_bytes()[CRC_FROM..]);
        // Most records lack most parts, and the checksum of nothing has its price too.
        for part in self.parts().into_iter().filter(|part| !part.is_empty()) {
            crc = crc32c::crc32c_append(crc, part);
        }
        header.crc32c = U32::new(crc);
        out.extend_from_slice(header.as_bytes());
        for part in self.parts() {
            out.extend_from_slice(part);
        }
        Ok(())
    }

    /// Reads the record at the start of `bytes` and checks its checksum; also
    /// returns how many bytes it takes.
    ///
    /// # Errors
    ///
    /// Anything that is not a whole and undamaged record.
    pub fn decode(bytes: &'a [u8]) -> Result<(Self, usize), RecordError> {
        let (header, _) = RecordHeader::read_from_prefix(bytes).map_err(|_| RecordError::Short)?;
        let length = header.length.get() as usize;
        let whole = bytes.get(..length).ok_or(RecordError::Short)?;
        let of = |length: U16| usize::from(length.get());
        let (key, idempotency_key) = (of(header.key_length), of(header.idempotency_key_length));
        let (content_type, attributes) = (of(header.content_type_length), of(header.attributes_length));
        let before_body = RECORD_HEADER_BYTES + key + idempotency_key + content_type + attributes;
        if before_body + header.body_length.get() as usize != length {
            return Err(RecordError::Lengths);
        }
        if crc32c::crc32c(&whole[CRC_FROM..]) != header.crc32c.get() {
            return Err(RecordError::Checksum);
        }
        let (key, rest) = whole[RECORD_HEADER_BYTES..].split_at(key);
        let (idempotency_key, rest) = rest.split_at(idempotency_key);
        let (content_type, rest) = rest.split_at(content_type);
        let (attributes, body) = rest.split_at(attributes);
        let record = Record {
            received_at_us: header.received_at_us.get(),
            idempotency_hash: header.idempotency_hash,
            group_count: header.group_count.get(),
            key,
            idempotency_key,
            content_type,
            // Nearly always there are none, and a call would cost more than the look.
            attributes: if attributes.is_empty() { Attributes::NONE } else { Attributes::read(attributes)? },
            body,
        };
        Ok((record, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            received_at_us: u64,
            idempotency_hash: [u8; 16],
            group_count: u32,
            key in prop::collection::vec(any::<u8>(), 0..64),
            idempotency_key in prop::collection::vec(any::<u8>(), 0..64),
            content_type in prop::collection::vec(any::<u8>(), 0..64),
            attributes in attributes::tests::encoded(),
            body in prop::collection::vec(any::<u8>(), 0..512),
            behind in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let record = Record {
                received_at_us, idempotency_hash, group_count,
                key: &key, idempotency_key: &idempotency_key, content_type: &content_type,
                attributes: Attributes::read(&attributes).unwrap(), body: &body,
            };
            let mut bytes = Vec::new();
            record.encode(&mut bytes).unwrap();
            prop_assert_eq!(bytes.len(), record.encoded_bytes());
            let length = bytes.len();
            bytes.extend_from_slice(&behind);
            prop_assert_eq!(Record::decode(&bytes), Ok((record, length)));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(Record::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_lost_record_is_known_as_such_and_no_other_is() {
        let lost = Record::lost(7, &[0; 5]);
        let mut bytes = Vec::new();
        lost.encode(&mut bytes).unwrap();
        assert!(Record::decode(&bytes).unwrap().0.is_lost());
        assert!(!Record { idempotency_key: b"k", ..lost }.is_lost());
        assert!(!Record { idempotency_hash: NO_KEY, ..lost }.is_lost());
    }

    #[test]
    fn malformed_attributes_are_an_error_of_the_record() {
        // The same bytes are a content type in one record and attributes in the other, whose checksum is right too.
        let record = Record { content_type: b"\x03\x01\0\x0a", ..Record::lost(7, b"body") };
        let mut bytes = Vec::new();
        record.encode(&mut bytes).unwrap();
        bytes.swap(44, 46);
        let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Record::decode(&bytes), Err(RecordError::Attributes));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let record = Record {
            received_at_us: 7,
            idempotency_hash: [3; 16],
            group_count: 1,
            key: b"k",
            idempotency_key: b"i",
            content_type: b"t",
            attributes: Attributes::read(b"\x03\x01\0\x07").unwrap(),
            body: b"body",
        };
        let mut bytes = Vec::new();
        record.encode(&mut bytes).unwrap();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
