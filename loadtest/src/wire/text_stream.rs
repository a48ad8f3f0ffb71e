//! A connection to a server that answers in lines and in blocks of a length that a line names.

use super::WireError;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest answer that is read, in bytes; what NATS says of a stream is a few thousand.
const ANSWER_MAX_BYTES: usize = 32 * 1024;

/// A buffered connection. It never holds more than one buffer of what the server sent.
pub struct TextStream {
    stream: TcpStream,
    buffer: Box<[u8]>,
    /// What has been read and not yet been given out is `buffer[start..end]`.
    start: usize,
    end: usize,
}

impl TextStream {
    /// Connects to a port of this machine.
    pub async fn open(port: u16) -> Result<Self, WireError> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; ANSWER_MAX_BYTES].into_boxed_slice(), start: 0, end: 0 })
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// The next line, without its end.
    pub async fn line(&mut self) -> Result<&[u8], WireError> {
        let mut searched = 0;
        loop {
            let unread = &self.buffer[self.start..self.end];
            if let Some(at) = unread[searched..].iter().position(|byte| *byte == b'\n') {
                let length = searched + at;
                let line = self.take(length + 1);
                return line[..length].strip_suffix(b"\r").ok_or(WireError::Protocol("a line without CR LF"));
            }
            searched = unread.len();
            self.fill().await?;
        }
    }

    /// The next `length` bytes, which a line end must follow.
    pub async fn block(&mut self, length: usize) -> Result<&[u8], WireError> {
        let whole = length.saturating_add(2);
        if whole > ANSWER_MAX_BYTES {
            return Err(WireError::TooLong { max_bytes: ANSWER_MAX_BYTES });
        }
        while self.end - self.start < whole {
            self.fill().await?;
        }
        self.take(whole).strip_suffix(b"\r\n").ok_or(WireError::Protocol("a block without CR LF after it"))
    }

    /// Gives out the next bytes, which must be there.
    fn take(&mut self, length: usize) -> &[u8] {
        let from = self.start;
        self.start += length;
        &self.buffer[from..from + length]
    }

    /// Reads more after what is there.
    async fn fill(&mut self) -> Result<(), WireError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            return Err(WireError::TooLong { max_bytes: ANSWER_MAX_BYTES });
        }
        let count = self.stream.read(&mut self.buffer[self.end..]).await?;
        if count == 0 {
            return Err(WireError::Closed);
        }
        self.end += count;
        Ok(())
    }
}

/// A decimal number of an answer.
pub fn number<N: std::str::FromStr>(text: &[u8]) -> Result<N, WireError> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or(WireError::Protocol("something else than the number that was due"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Lets a server send `pieces`, each in a packet of its own, and gives the stream to `read`.
    fn with_server(pieces: &'static [&'static [u8]], read: impl AsyncFnOnce(&mut TextStream)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                for piece in pieces {
                    // A client that has seen enough may be gone.
                    let _ = stream.write_all(piece).await;
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            };
            let client = async { read(&mut TextStream::open(port).await.unwrap()).await };
            tokio::join!(server, client);
        });
    }

    #[test]
    fn lines_and_blocks_come_out_of_any_pieces() {
        with_server(&[b"+O", b"K\r", b"\n$3\r\na", b"\r\n", b"\r\nlast\r\n"], async |stream| {
            assert_eq!(stream.line().await.unwrap(), b"+OK");
            assert_eq!(stream.line().await.unwrap(), b"$3");
            assert_eq!(stream.block(3).await.unwrap(), b"a\r\n");
            assert_eq!(stream.line().await.unwrap(), b"last");
            assert!(matches!(stream.line().await, Err(WireError::Closed)));
        });
    }

    #[test]
    fn what_a_server_may_send_is_bounded() {
        static ENDLESS: [u8; 2 * ANSWER_MAX_BYTES] = [b'x'; 2 * ANSWER_MAX_BYTES];
        static PIECES: [&[u8]; 1] = [&ENDLESS];
        with_server(&PIECES, async |stream| {
            assert!(matches!(stream.block(ANSWER_MAX_BYTES).await, Err(WireError::TooLong { .. })));
            assert!(matches!(stream.block(usize::MAX).await, Err(WireError::TooLong { .. })));
            assert!(matches!(stream.line().await, Err(WireError::TooLong { .. })));
        });
        with_server(&[b"a\nb--"], async |stream| {
            assert!(matches!(stream.line().await, Err(WireError::Protocol(_))));
            assert!(matches!(stream.block(1).await, Err(WireError::Protocol(_))));
        });
    }
}
