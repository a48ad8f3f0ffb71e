//! Redis: each order is an entry of one stream. Of RESP only what XADD and XLEN need.

use super::WireError;
use super::clients::Client;
use super::text_stream::{TextStream, number};
use crate::order::write_decimal;

/// Everything of `XADD orders * order <order>` up to the length of the order.
const XADD: &[u8] = b"*5\r\n$4\r\nXADD\r\n$6\r\norders\r\n$1\r\n*\r\n$5\r\norder\r\n$";
const XLEN: &[u8] = b"*2\r\n$4\r\nXLEN\r\n$6\r\norders\r\n";

pub struct Redis {
    stream: TextStream,
    request: Vec<u8>,
}

impl Redis {
    async fn connect(port: u16) -> Result<Self, WireError> {
        Ok(Self { stream: TextStream::open(port).await?, request: Vec::new() })
    }

    async fn length(&mut self) -> Result<u64, WireError> {
        self.stream.send(XLEN).await?;
        match self.stream.line().await? {
            [b':', count @ ..] => number(count),
            other => Err(refusal(other)),
        }
    }
}

impl Client for Redis {
    async fn open(port: u16, count: usize) -> Result<Vec<Self>, WireError> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            clients.push(Self::connect(port).await?);
        }
        Ok(clients)
    }

    async fn publish(&mut self, order: &[u8]) -> Result<(), WireError> {
        self.request.clear();
        self.request.extend_from_slice(XADD);
        write_decimal(order.len() as u64, &mut self.request);
        self.request.extend_from_slice(b"\r\n");
        self.request.extend_from_slice(order);
        self.request.extend_from_slice(b"\r\n");
        self.stream.send(&self.request).await?;
        let id_length = match self.stream.line().await? {
            [b'$', length @ ..] => number(length)?,
            other => return Err(refusal(other)),
        };
        self.stream.block(id_length).await?;
        Ok(())
    }

    /// XADD makes the stream; what has to be seen is that the server answers.
    async fn prepare(port: u16) -> Result<(), WireError> {
        Self::connect(port).await?.length().await?;
        Ok(())
    }

    async fn held(port: u16) -> Result<u64, WireError> {
        Self::connect(port).await?.length().await
    }
}

/// An answer that is not the one that was due.
fn refusal(line: &[u8]) -> WireError {
    match line {
        [b'-', text @ ..] => WireError::Refused(String::from_utf8_lossy(text).into_owned()),
        _ => WireError::Protocol("an answer of the wrong type"),
    }
}
