//! The chunked transfer coding, read to find where a body ends; the content itself is not kept.

use super::response::ResponseError;

/// The longest chunk-size line and the longest trailer section that are read, in bytes.
const FRAMING_MAX_BYTES: u32 = 8 * 1024;

/// Reads one chunked body.
pub struct ChunkedBody {
    state: State,
    total: u64,
    framing: u32,
}

enum State {
    Size { value: u64, digits: u8 },
    Extension { size: u64 },
    SizeEnd { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
}

impl ChunkedBody {
    pub fn new() -> Self {
        Self { state: State::Size { value: 0, digits: 0 }, total: 0, framing: 0 }
    }

    /// Returns how many bytes of `input` belong to the body, and whether it is complete.
    pub fn advance(&mut self, input: &[u8], max_bytes: u64) -> Result<(usize, bool), ResponseError> {
        let mut used = 0;
        while let Some(byte) = input.get(used) {
            if let State::Data { left } = &mut self.state {
                let available = (input.len() - used) as u64;
                let taken = available.min(*left);
                *left -= taken;
                if *left == 0 {
                    self.state = State::DataCr;
                }
                // At most what is in `input`, so it fits.
                used += usize::try_from(taken).unwrap_or(input.len() - used);
                continue;
            }
            used += 1;
            if self.framing_byte(*byte, max_bytes)? {
                return Ok((used, true));
            }
        }
        Ok((used, false))
    }

    /// Takes one byte of framing and says whether it ends the body.
    fn framing_byte(&mut self, byte: u8, max_bytes: u64) -> Result<bool, ResponseError> {
        self.framing += 1;
        if self.framing > FRAMING_MAX_BYTES {
            return Err(ResponseError::Chunk);
        }
        self.state = match (&self.state, byte) {
            (State::Size { value, digits }, _) if byte.is_ascii_hexdigit() && *digits < 15 => {
                State::Size { value: value * 16 + hex_digit(byte), digits: digits + 1 }
            }
            (State::Size { value, digits: 1.. }, b'\r') => State::SizeEnd { size: *value },
            (State::Size { value, digits: 1.. }, b';' | b' ' | b'\t') => State::Extension { size: *value },
            (State::Extension { size }, b'\r') => State::SizeEnd { size: *size },
            (State::Extension { size }, other) if other != b'\n' => State::Extension { size: *size },
            (State::SizeEnd { size }, b'\n') => {
                let size = *size;
                self.start_chunk(size, max_bytes)?
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.framing = 0;
                State::Size { value: 0, digits: 0 }
            }
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::Trailer, other) if other != b'\n' && other != b'\r' => State::Trailer,
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => return Ok(true),
            _ => return Err(ResponseError::Chunk),
        };
        Ok(false)
    }

    fn start_chunk(&mut self, size: u64, max_bytes: u64) -> Result<State, ResponseError> {
        self.framing = 0;
        self.total = self.total.saturating_add(size);
        if self.total > max_bytes {
            return Err(ResponseError::BodyTooLarge);
        }
        Ok(if size == 0 { State::TrailerStart } else { State::Data { left: size } })
    }
}

/// The value of a byte known to be a hexadecimal digit.
fn hex_digit(byte: u8) -> u64 {
    u64::from(match byte {
        b'0'..=b'9' => byte - b'0',
        _ => (byte | 0x20) - b'a' + 10,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_body_in_any_pieces_ends_where_it_ends(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            piece in 1usize..50,
        ) {
            let mut text = Vec::new();
            for chunk in &chunks {
                text.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            let end = text.len();
            text.extend_from_slice(b"HTTP/1.1");
            let (mut body, mut at) = (ChunkedBody::new(), 0);
            for piece in text.chunks(piece) {
                let (used, complete) = body.advance(piece, 1000).unwrap();
                at += used;
                if complete {
                    break;
                }
            }
            prop_assert_eq!(at, end);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ChunkedBody::new().advance(&bytes, 1000);
        }
    }

    #[test]
    fn malformed_framing_is_refused() {
        for text in ["\r\n", ";\r\n", "1\n", "1\r\nab", "1\r\na\n", "0\r\n\n", "0\r\nA: b\n", "FFFFFFFFFFFFFFFF\r\n"] {
            assert!(ChunkedBody::new().advance(text.as_bytes(), 100).is_err(), "{text:?}");
        }
        let endless = "x".repeat(9000);
        for text in [format!("1;{endless}"), format!("0\r\n{endless}")] {
            assert_eq!(ChunkedBody::new().advance(text.as_bytes(), 100), Err(ResponseError::Chunk));
        }
    }
}
