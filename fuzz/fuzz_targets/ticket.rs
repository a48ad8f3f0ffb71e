//! Tickets: each reads back, and no other text does.
#![no_main]

use arbitrary::Arbitrary;
use forebay::ticket::{EpochStart, TicketCodec, queue_of};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    sequence: u64,
    secret: [u8; 16],
    /// How many starts and sequences lie between one start and the next.
    steps: Vec<(u8, u16)>,
    /// A byte of the ticket that changes.
    change: (u8, u8),
    text: &'a [u8],
}

/// Names that a queue may have, among them such as look like parts of a ticket.
const QUEUES: [&str; 6] = ["orders", "flash-sale", "a-1-0000000000000000", "0", "a-", "a_b"];

fuzz_target!(|input: Input<'_>| {
    let queue = QUEUES[input.text.len() % QUEUES.len()];
    let epochs = epochs(&input.steps);
    let codec = TicketCodec::new(queue, input.secret, epochs.clone());
    let ticket = codec.ticket(input.sequence).to_string();
    assert_eq!(codec.read(&ticket), (input.sequence > 0).then_some(input.sequence));
    assert_eq!(queue_of(&ticket), Some(queue));
    check_text(&codec, queue, &String::from_utf8_lossy(input.text));
    check_text(&codec, queue, &format!("{queue}-{}", String::from_utf8_lossy(input.text)));
    check_altered(&codec, &ticket, input.change);
    check_others(&codec, queue, &input, &epochs, &ticket);
});

/// Starts that ascend in both fields, as a queue's do.
fn epochs(steps: &[(u8, u16)]) -> Vec<EpochStart> {
    let mut start = EpochStart { epoch: 0, first_sequence: 0 };
    let mut epochs = Vec::new();
    for (starts, sequences) in steps.iter().take(32) {
        start.epoch += 1 + u64::from(*starts);
        start.first_sequence += 1 + u64::from(*sequences);
        epochs.push(start);
    }
    epochs
}

/// Text is the very ticket that was given out, or none.
fn check_text(codec: &TicketCodec, queue: &str, text: &str) {
    if let Some(sequence) = codec.read(text) {
        assert!(sequence > 0);
        assert_eq!(codec.ticket(sequence).to_string(), text, "a sequence has one ticket");
        assert_eq!(queue_of(text), Some(queue));
    }
    if let Some(queue) = queue_of(text) {
        assert!(text.starts_with(queue));
    }
}

/// A ticket in which a character was changed, was left out, or is too many names nothing.
fn check_altered(codec: &TicketCodec, ticket: &str, (at, byte): (u8, u8)) {
    let at = usize::from(at) % ticket.len();
    let mut bytes = ticket.as_bytes().to_vec();
    bytes[at] = byte;
    let changed = String::from_utf8_lossy(&bytes).into_owned();
    if changed != ticket {
        assert_eq!(codec.read(&changed), None, "{ticket} and {changed}");
    }
    bytes.remove(at);
    let character = char::from(byte % 128);
    let others = [
        String::from_utf8_lossy(&bytes).into_owned(),
        ticket[..at].to_owned(),
        format!("{ticket}{character}"),
        format!("{character}{ticket}"),
        ticket.to_ascii_uppercase(),
    ];
    for other in others {
        assert!(other == ticket || codec.read(&other).is_none(), "{ticket} and {other}");
    }
}

/// Without the secret, in another queue, or once the sequence was given out again, it names nothing.
fn check_others(codec: &TicketCodec, queue: &str, input: &Input<'_>, epochs: &[EpochStart], ticket: &str) {
    let mut secret = input.secret;
    secret[usize::from(input.change.0) % 16] ^= input.change.1 | 1;
    assert_eq!(TicketCodec::new(queue, secret, epochs.to_vec()).read(ticket), None);
    for other in QUEUES.into_iter().filter(|other| *other != queue) {
        assert_eq!(TicketCodec::new(other, input.secret, epochs.to_vec()).read(ticket), None);
    }
    let last = epochs.last().copied().unwrap_or(EpochStart { epoch: 0, first_sequence: 0 });
    if input.sequence > last.first_sequence {
        let again = EpochStart { epoch: last.epoch + 1, first_sequence: input.sequence };
        let later = TicketCodec::new(queue, input.secret, [epochs, &[again]].concat());
        assert_eq!(later.read(ticket), None);
        assert_eq!(later.read(&later.ticket(input.sequence).to_string()), Some(input.sequence));
        // What was durable before keeps its ticket.
        let before = input.sequence - 1;
        assert_eq!(later.ticket(before), codec.ticket(before));
    }
}
