//! What is done with dead letters while a server runs: by the admin API, and so by the command line.
//!
//! Each action is logged with who asked for it, and is a line of the dead-letter file before it is answered.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Control, ControlError};
use crate::clock;
use crate::dead_letter_index::{Entry, LetterState};
use crate::drain::dead_letters::{Changed, DeadLetter, Request, Selection};
use crate::limits::{DEAD_LETTERS_PAGE, DEAD_LETTERS_PAGE_BYTES, DEAD_LETTERS_PAGE_MAX, REDRIVE_RATE};
use crate::queue::Queue;
use crate::rate::Rate;
use crate::record::Sequence;

/// Which letters, as a request says it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    all: bool,
    sequences: Option<Vec<Sequence>>,
    rate: Option<String>,
}

impl Asked {
    fn read(body: &Value) -> Result<Self, ControlError> {
        let read = serde_json::from_value(body.clone());
        read.map_err(|error| refused(format!("{error}; send {{\"all\": true}} or {{\"sequences\": [4, 9]}}")))
    }

    /// Nothing is taken for everything.
    fn selection(&mut self) -> Result<Selection, ControlError> {
        match (self.all, self.sequences.take()) {
            (true, None) => Ok(Selection::All),
            (false, Some(sequences)) if !sequences.is_empty() => Ok(Selection::These(sequences)),
            _ => Err(refused("say which letters: either {\"all\": true} or {\"sequences\": [4, 9]}".to_owned())),
        }
    }
}

impl Control {
    /// A page of a queue's dead letters behind a sequence, without their bodies.
    ///
    /// # Errors
    ///
    /// There is no such queue, or a letter cannot be read.
    pub fn list_letters(&self, name: &str, after: Sequence, limit: Option<usize>) -> Result<Value, ControlError> {
        let of = self.find(name)?;
        let limit = limit.unwrap_or(DEAD_LETTERS_PAGE).clamp(1, DEAD_LETTERS_PAGE_MAX);
        let letters = of.dead_letters.page(after, limit, DEAD_LETTERS_PAGE_BYTES).map_err(ControlError::Letter)?;
        let last = letters.last().map(|(_, letter)| letter.sequence);
        let next_after = last.filter(|last| !of.queue.dead_letters.page(*last, 1).is_empty());
        let mut value = counts(&of.queue);
        value["next_after"] = json!(next_after);
        value["dead_letters"] = letters.iter().map(|(entry, letter)| head(*entry, letter)).collect();
        Ok(value)
    }

    /// One dead letter with its body and headers.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be read.
    pub fn show_letter(&self, name: &str, sequence: Sequence) -> Result<Value, ControlError> {
        let (entry, letter) = self.find(name)?.dead_letters.letter(sequence).map_err(ControlError::Letter)?;
        let mut value = head(entry, &letter);
        let parts = letter.parts;
        for (key, part) in [("body", parts.body), ("body_base64", parts.body_base64)] {
            if let Some(part) = part {
                value[key] = json!(part);
            }
        }
        if !parts.headers.is_empty() {
            value["headers"] = json!(parts.headers);
        }
        Ok(value)
    }

    /// Puts another body in the place of a dead letter's.
    ///
    /// # Errors
    ///
    /// Nothing was changed.
    pub fn edit_letter(&self, name: &str, sequence: Sequence, body: &[u8], by: &str) -> Result<Value, ControlError> {
        let of = self.find(name)?;
        if body.is_empty() {
            return Err(refused("the body is what the letter is to have, and it is empty".to_owned()));
        }
        of.dead_letters.edit(sequence, body, now(by)).map_err(ControlError::Letter)?;
        tracing::info!(queue = of.queue.name, by, sequence, bytes = body.len(), "a dead letter has another body");
        self.show_letter(name, sequence)
    }

    /// Has dead letters delivered again.
    ///
    /// # Errors
    ///
    /// Nothing was changed.
    pub fn redrive_letters(&self, name: &str, body: &Value, by: &str) -> Result<Value, ControlError> {
        let of = self.find(name)?;
        let mut asked = Asked::read(body)?;
        let which = asked.selection()?;
        let rate = asked.rate.map_or(Ok(REDRIVE_RATE), |rate| rate.parse());
        let rate: Rate = rate.map_err(|error| refused(format!("`rate`: {error}")))?;
        let changed = of.dead_letters.redrive(&which, rate, now(by)).map_err(ControlError::Letter)?;
        tracing::info!(queue = of.queue.name, by, count = changed.count, %rate, "dead letters are to be redriven");
        let mut value = answer(&of.queue, changed);
        value["rate"] = json!(rate.to_string());
        Ok(value)
    }

    /// Leaves the dead letters where they are that wait to be delivered again.
    ///
    /// # Errors
    ///
    /// Nothing was changed.
    pub fn cancel_redrive(&self, name: &str, by: &str) -> Result<Value, ControlError> {
        let of = self.find(name)?;
        let changed = of.dead_letters.cancel(now(by)).map_err(ControlError::Letter)?;
        if changed.count > 0 {
            tracing::info!(queue = of.queue.name, by, count = changed.count, "a redrive was cancelled");
        }
        Ok(answer(&of.queue, changed))
    }

    /// Gives dead letters up, as a request's body says.
    ///
    /// # Errors
    ///
    /// Nothing was changed.
    pub fn purge_letters(&self, name: &str, body: &Value, by: &str) -> Result<Value, ControlError> {
        let mut asked = Asked::read(body)?;
        if asked.rate.is_some() {
            return Err(refused("a purge has no `rate`".to_owned()));
        }
        self.purge(name, &asked.selection()?, by)
    }

    /// Gives one dead letter up.
    ///
    /// # Errors
    ///
    /// Nothing was changed.
    pub fn purge_letter(&self, name: &str, sequence: Sequence, by: &str) -> Result<Value, ControlError> {
        self.purge(name, &Selection::These(vec![sequence]), by)
    }

    /// Bytes of the body that a letter may be given.
    #[must_use]
    pub fn letter_bytes_max(&self) -> usize {
        self.lock().ingress.record_bytes_max
    }

    fn purge(&self, name: &str, which: &Selection, by: &str) -> Result<Value, ControlError> {
        let of = self.find(name)?;
        let changed = of.dead_letters.purge(which, now(by)).map_err(ControlError::Letter)?;
        tracing::warn!(queue = of.queue.name, by, count = changed.count, ?which, "dead letters were purged");
        Ok(answer(&of.queue, changed))
    }
}

fn now(by: &str) -> Request<'_> {
    Request { by, at_us: clock::unix_us() }
}

fn refused(why: String) -> ControlError {
    ControlError::Refused(vec![why])
}

fn answer(queue: &Queue, changed: Changed) -> Value {
    let mut value = counts(queue);
    value["count"] = json!(changed.count);
    value["skipped"] = json!(changed.skipped);
    value
}

/// How many letters there are, and what became of the others.
fn counts(queue: &Queue) -> Value {
    let letters = &queue.dead_letters;
    json!({
        "queue": queue.name,
        "dead": letters.count().saturating_sub(letters.redriving()),
        "redriving": letters.redriving(),
        "redriven": letters.redriven(),
        "purged": letters.purged(),
    })
}

fn head(entry: Entry, letter: &DeadLetter) -> Value {
    let mut value = json!({
        "sequence": letter.sequence,
        "ticket": letter.ticket,
        "state": if entry.state == LetterState::Dead { "dead" } else { "redriving" },
        "reason": letter.reason,
        "received_at_us": letter.received_at_us,
        "body_bytes": letter.parts.body().map_or(0, |body| body.len()),
        "is_edited": entry.edited.is_some(),
    });
    let parts = &letter.parts;
    for (key, part) in [
        ("key", &parts.key),
        ("idempotency_key", &parts.idempotency_key),
        ("content_type", &parts.content_type),
        ("method", &parts.method),
        ("path", &parts.path),
    ] {
        if let Some(part) = part {
            value[key] = json!(part);
        }
    }
    value
}
