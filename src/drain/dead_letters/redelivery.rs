//! Letters on their way to the sink once more: how each is sent, and what is noted of what came of it.
//!
//! A letter that was sent may be in the sink until the sink's position says that it is not, so nobody can cancel it
//! meanwhile.

use std::io;

use super::lines::{DeadLetter, Event};
use super::{DeadLetterError, DeadLetterFile};
use crate::journal::platform::Platform;
use crate::limits::REDRIVE_RATE;
use crate::record::{AttributeValues, Attributes, Headers, NO_KEY, Record, Sequence};
use crate::sink::Delivery;

/// A letter on its way to the sink once more.
#[derive(Debug)]
pub struct Redelivery {
    letter: DeadLetter,
    /// What of its request is delivered with it; when it was due, and to whose share it belonged, counts no more.
    attributes: Vec<u8>,
    body: Vec<u8>,
}

impl Redelivery {
    fn new(letter: DeadLetter) -> io::Result<Self> {
        let body = letter.parts.body()?;
        let headers = letter.parts.encoded_headers();
        let values = AttributeValues {
            method: text(letter.parts.method.as_ref()),
            target: text(letter.parts.path.as_ref()),
            headers: Headers::read(&headers).unwrap_or_default(),
            ..AttributeValues::default()
        };
        let mut attributes = Vec::new();
        values.encode(&mut attributes).map_err(io::Error::other)?;
        Ok(Self { letter, attributes, body })
    }

    /// As the sink takes it: under its own sequence and ticket. No key stands in its way, since it does not pass the
    /// journal again.
    #[must_use]
    pub fn delivery(&self) -> Delivery<'_> {
        let parts = &self.letter.parts;
        let record = Record {
            received_at_us: self.letter.received_at_us,
            idempotency_hash: NO_KEY,
            group_count: u32::from(!self.letter.shares_idempotency_key),
            key: text(parts.key.as_ref()),
            idempotency_key: text(parts.idempotency_key.as_ref()),
            content_type: text(parts.content_type.as_ref()),
            attributes: Attributes::read(&self.attributes).unwrap_or_default(),
            body: &self.body,
        };
        Delivery { sequence: self.letter.sequence, record, ticket: &self.letter.ticket }
    }
}

impl<P: Platform> DeadLetterFile<P> {
    /// What names the position of the redrives in the sink; `None` as long as there was none.
    #[must_use]
    pub fn redrive_id(&self) -> Option<String> {
        self.lock().id.clone()
    }

    /// The sink's position of the redrives is known: what is behind it has not been sent.
    pub fn decided(&self, position: u64) {
        self.lock().sent_through = position;
    }

    /// The letter with this number is about to be sent; `None` if somebody has cancelled it.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn send(&self, number: u64, sequence: Sequence) -> Result<Option<Redelivery>, DeadLetterError> {
        let mut inner = self.lock();
        if self.index.next_redrive() != Some((number, sequence)) {
            return Ok(None);
        }
        let letter = Redelivery::new(self.read_letter(sequence)?).map_err(self.io())?;
        inner.sent_through = number;
        Ok(Some(letter))
    }

    /// The sink has committed this letter.
    ///
    /// # Errors
    ///
    /// It could not be noted; the sink's position says it all the same.
    pub fn redriven(&self, number: u64, sequence: Sequence, at_us: u64) -> Result<(), DeadLetterError> {
        self.write(&mut self.lock(), &Event::Redriven { sequence, number, at_us })
    }

    /// The sink has refused this letter again.
    ///
    /// # Errors
    ///
    /// It could not be noted; it will be tried again then.
    pub fn refused(&self, number: u64, sequence: Sequence, reason: &str, at_us: u64) -> Result<(), DeadLetterError> {
        let reason = reason.to_owned();
        self.write(&mut self.lock(), &Event::Refused { sequence, reason, number, at_us })
    }

    /// Has letters delivered once more that the sink had committed, and no longer has. Returns how many of them cannot
    /// be, since their bodies have left the file.
    ///
    /// # Errors
    ///
    /// It could not be noted.
    pub fn revive(&self, position: u64, at_us: u64) -> Result<usize, DeadLetterError> {
        let mut inner = self.lock();
        let lost = self.index.redriven_behind(position);
        let (whole, gone): (Vec<_>, Vec<_>) = lost.into_iter().partition(|(_, _, entry)| entry.line.length > 0);
        for (first_number, sequence, _) in whole {
            let rate = self.index.redrive_rate().unwrap_or(REDRIVE_RATE).to_string();
            let by = "forebay: the database was set back".to_owned();
            self.write(&mut inner, &Event::Redrive { first_number, sequences: vec![sequence], rate, at_us, by })?;
        }
        Ok(gone.len())
    }
}

fn text(part: Option<&String>) -> &[u8] {
    part.map_or(b"", |part| part.as_bytes())
}
