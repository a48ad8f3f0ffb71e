//! Tickets: what a client holds for a record that was acknowledged.
//!
//! A ticket names a queue and a sequence, and carries a check that only this
//! journal can make, so that nobody can walk through other people's tickets by
//! counting. The check also covers the epoch (the start of the process) in which
//! the sequence was given out. A sequence that a crash lost before it was durable
//! is given out again in the next epoch, and a ticket of the first one must not
//! name the record of the second.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::planted::{Bug, is_planted};
use crate::record::Sequence;

/// Makes and checks the tickets of one queue.
#[derive(Clone)]
pub struct TicketCodec {
    queue: String,
    secret: [u8; 16],
    /// First sequence of each epoch, ascending.
    epochs: Vec<EpochStart>,
}

/// From which sequence on an epoch gave sequences out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// Counts the starts of the process on this data directory, from 1.
    pub epoch: u64,
    /// The first sequence that this epoch could give out.
    pub first_sequence: Sequence,
}

/// A ticket that can be written out: `<queue>-<sequence>-<check>`, numbers in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket<'a> {
    queue: &'a str,
    /// The record that it names.
    pub sequence: Sequence,
    check: u64,
}

impl fmt::Display for Ticket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:x}-{:016x}", self.queue, self.sequence, self.check)
    }
}

/// The queue that a ticket claims to belong to, or `None` if the text is no ticket.
#[must_use]
pub fn queue_of(ticket: &str) -> Option<&str> {
    let (rest, _check) = ticket.rsplit_once('-')?;
    let (queue, _sequence) = rest.rsplit_once('-')?;
    Some(queue)
}

impl TicketCodec {
    /// A codec for `queue`; `epochs` must ascend in both fields.
    #[must_use]
    pub fn new(queue: &str, secret: [u8; 16], epochs: Vec<EpochStart>) -> Self {
        Self { queue: queue.to_owned(), secret, epochs }
    }

    /// The ticket for a sequence.
    #[must_use]
    pub fn ticket(&self, sequence: Sequence) -> Ticket<'_> {
        Ticket { queue: &self.queue, sequence, check: self.check(sequence) }
    }

    /// The sequence that a ticket names, or `None` if this journal never issued it.
    /// Whether the sequence is still to come is for the caller to see.
    #[must_use]
    pub fn read(&self, ticket: &str) -> Option<Sequence> {
        let rest = ticket.strip_prefix(self.queue.as_str())?.strip_prefix('-')?;
        let (sequence_text, check_text) = rest.split_once('-')?;
        let sequence = u64::from_str_radix(sequence_text, 16).ok()?;
        let check = u64::from_str_radix(check_text, 16).ok()?;
        // One sequence has one spelling; "+1" and "01" would be read as numbers too.
        let ours = self.ticket(sequence);
        (sequence > 0 && check == ours.check && ours.to_string() == ticket).then_some(sequence)
    }

    fn check(&self, sequence: Sequence) -> u64 {
        let index = self.epochs.partition_point(|start| start.first_sequence <= sequence);
        let epoch = index.checked_sub(1).map_or(0, |index| self.epochs[index].epoch);
        let epoch = if is_planted(Bug::TicketWithoutEpoch) { 0 } else { epoch };
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(self.queue.as_bytes());
        hasher.write_u64(epoch);
        hasher.write_u64(sequence);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codec(epochs: &[(u64, u64)]) -> TicketCodec {
        let epochs = epochs.iter().map(|&(epoch, first_sequence)| EpochStart { epoch, first_sequence }).collect();
        TicketCodec::new("flash-sale", [9; 16], epochs)
    }

    #[test]
    fn a_ticket_reads_back_and_others_do_not() {
        let codec = codec(&[(1, 1)]);
        for sequence in [1, 2, 255, u64::MAX] {
            let ticket = codec.ticket(sequence).to_string();
            assert_eq!(codec.read(&ticket), Some(sequence));
            assert_eq!(queue_of(&ticket), Some("flash-sale"));
        }
        let ticket = codec.ticket(10).to_string();
        for wrong in [
            ticket.replace("-a-", "-b-"),
            ticket.replace("-a-", "-0a-"),
            ticket.replace("-a-", "-A-"),
            ticket.replace("-a-", "-+a-"),
            ticket.replace("flash", "flush"),
            ticket[..ticket.len() - 1].to_owned(),
            format!("{ticket}0"),
            String::new(),
            "-".to_owned(),
            "--".to_owned(),
            "flash-sale-é-é".to_owned(),
        ] {
            assert_eq!(codec.read(&wrong), None, "{wrong}");
        }
        assert_eq!(codec.read(&codec.ticket(0).to_string()), None);
    }

    #[test]
    fn a_sequence_given_out_again_has_another_ticket() {
        let before = codec(&[(1, 1)]);
        let after = codec(&[(1, 1), (2, 100)]);
        assert_eq!(after.read(&before.ticket(99).to_string()), Some(99));
        assert_eq!(after.read(&before.ticket(100).to_string()), None);
    }
}
