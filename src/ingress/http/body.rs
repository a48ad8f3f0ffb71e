//! Reading a request's body within its bounds of size, memory and time.

use std::rc::Rc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};

use super::problem::{Problem, Refusal};
use crate::ingress::connection::{ConnectionState, Phase};
use crate::ingress::core::{Core, HeldBody};

/// A body and the room that it takes.
pub struct HeldBytes {
    /// The bytes.
    pub bytes: Bytes,
    /// Gives the room back.
    _held: HeldBody,
}

/// Looks at the head for what can be refused before the body has come. Returns the length
/// that the client announces, if it does.
///
/// # Errors
///
/// No length, too long, or an encoding that we do not undo.
pub fn check_head(headers: &HeaderMap, bytes_max: usize) -> Result<Option<u64>, Refusal> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let detail = "forebay stores bodies as they come and hands them on to the database; send the body unencoded";
        let refusal = Refusal::new(Problem::UnsupportedEncoding, detail);
        return Err(refusal.header(hyper::header::ACCEPT_ENCODING, "identity").close());
    }
    let length = check_length(headers, bytes_max)?;
    if length.is_none() && !headers.contains_key(TRANSFER_ENCODING) {
        let detail = "send Content-Length, or Transfer-Encoding: chunked";
        return Err(Refusal::new(Problem::LengthRequired, detail));
    }
    Ok(length)
}

/// The length that the client announces, if it does.
///
/// # Errors
///
/// It is too long.
pub fn check_length(headers: &HeaderMap, bytes_max: usize) -> Result<Option<u64>, Refusal> {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    Ok(length)
}

fn too_large(bytes_max: usize) -> Refusal {
    Refusal::new(Problem::TooLarge, format!("at most {bytes_max} bytes are taken here")).close()
}

/// What a client is told for whose body there is no memory now.
#[must_use]
pub fn no_room() -> Refusal {
    let detail = "the bodies that are arriving fill the memory that is set aside for them";
    Refusal::new(Problem::Busy, detail).retry_after(1).close()
}

/// What a client is told whose body came too slowly.
#[must_use]
pub fn timed_out() -> Refusal {
    Refusal::new(Problem::BodyTimeout, "the body did not come within body_timeout_ms").close()
}

/// Reads the whole body.
///
/// # Errors
///
/// It is too large or too slow, breaks off, or there is no memory for it now.
pub async fn read(
    core: &Rc<Core>,
    connection: &ConnectionState,
    mut body: Incoming,
    bytes_max: usize,
) -> Result<HeldBytes, Refusal> {
    let mut held = core.hold_body();
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    connection.enter(Phase::Body);
    loop {
        let data = next_data(connection, &mut body).await?;
        let Some(data) = data else { break };
        if first.len() + rest.len() + data.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        if !held.grow(data.len()) {
            return Err(no_room());
        }
        // Nearly every body comes in one piece, which needs no copy.
        if first.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
        if body.is_end_stream() {
            break;
        }
    }
    connection.enter(Phase::Answer);
    let bytes = if rest.is_empty() { first } else { [first, rest.freeze()].concat().into() };
    Ok(HeldBytes { bytes, _held: held })
}

async fn next_data(connection: &ConnectionState, body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
    std::future::poll_fn(|cx| {
        if connection.is_timed_out() {
            connection.forgive();
            return Poll::Ready(Err(timed_out()));
        }
        loop {
            return match std::pin::Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => Poll::Ready(Ok(None)),
                Poll::Ready(Some(Err(error))) => {
                    let detail = format!("the body broke off: {error}");
                    Poll::Ready(Err(Refusal::new(Problem::BadRequest, detail).close()))
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => Poll::Ready(Ok(Some(data))),
                    // Trailers say nothing that we use.
                    Err(_) => continue,
                },
            };
        }
    })
    .await
}
