//! What the stages publish of a queue, and in which order others see it.

use std::sync::Arc;

use forebay::dead_letter_index::{DeadLetterIndex, LetterState, Spot};
use forebay::queue::Queue;
use forebay::ticket::{EpochStart, TicketCodec};

use crate::executor::CONFIG;
use crate::{PREEMPTIONS_MAX, hold, spawn};

const REASON: &[u8] = b"\"no such shop\"";

fn queue() -> Arc<Queue> {
    let tickets = TicketCodec::new("orders", [7; 16], vec![EpochStart { epoch: 1, first_sequence: 1 }]);
    Arc::new(Queue::new(0, 7, "orders", CONFIG.queues["orders"].clone(), tickets))
}

/// The journal, the drain behind it, and somebody who looks at both.
fn marks_are_seen_in_order() {
    let queue = queue();
    let journal = {
        let queue = Arc::clone(&queue);
        spawn(move || {
            queue.journal.appended.set(1);
            queue.journal.durable_bytes.set(100);
            queue.journal.durable.set(1);
        })
    };
    let drain = {
        let queue = Arc::clone(&queue);
        spawn(move || {
            let durable = queue.journal.durable.get();
            queue.main.drain.released.set(durable);
            queue.main.drain.delivered_bytes.set(durable * 100);
            queue.main.drain.delivered.set(durable);
        })
    };
    let delivered = queue.main.drain.delivered.get();
    let released = queue.main.drain.released.get();
    let durable = queue.journal.durable.get();
    let appended = queue.journal.appended.get();
    assert!(delivered <= released && released <= durable && durable <= appended, "a mark is ahead of its cause");
    assert!(queue.journal.durable_bytes.get() >= durable * 100, "bytes are published before their records");
    assert!(queue.main.drain.delivered_bytes.get() >= delivered * 100, "bytes are published before their records");
    journal.join().unwrap();
    drain.join().unwrap();
}

fn attach_reasons(letters: &DeadLetterIndex) {
    letters.attach(Box::new(|text, _| {
        text.copy_from_slice(REASON);
        Ok(())
    }));
}

fn set_aside(letters: &DeadLetterIndex) {
    let spot = Spot { offset: 0, length: u32::try_from(REASON.len()).unwrap() };
    letters.insert(1, spot, spot);
}

/// The drain notes what has become of a record and passes it, while a client asks for its ticket.
fn what_is_passed_over_is_never_taken_for_delivered(pass_over: fn(&DeadLetterIndex)) {
    let queue = queue();
    attach_reasons(&queue.main.dead_letters);
    let drain = {
        let queue = Arc::clone(&queue);
        spawn(move || {
            pass_over(&queue.main.dead_letters);
            queue.main.drain.delivered.set(1);
        })
    };
    let (position, fate) = queue.main.position_and_fate(1).unwrap();
    assert!(position == 1 || fate.is_some(), "what the drain has passed over is taken for delivered");
    drain.join().unwrap();
}

/// A letter is purged and the file rewritten without it, while a client asks for its ticket.
fn a_purged_letter_has_a_fate_at_every_moment() {
    let queue = queue();
    attach_reasons(&queue.main.dead_letters);
    set_aside(&queue.main.dead_letters);
    queue.main.drain.delivered.set(1);
    let purge = {
        let queue = Arc::clone(&queue);
        spawn(move || {
            queue.main.dead_letters.settle(&[1], LetterState::Purged);
            let rewritten = DeadLetterIndex::default();
            attach_reasons(&rewritten);
            rewritten.settle(&[1], LetterState::Purged);
            queue.main.dead_letters.replace(rewritten);
        })
    };
    let fate = queue.main.position_and_fate(1).unwrap().1;
    assert!(fate.is_some(), "a purged letter is taken for delivered");
    purge.join().unwrap();
}

fn expire(index: &DeadLetterIndex) {
    index.expire(&std::iter::once(1..=1).collect(), 1, 64);
}

#[test]
fn the_marks_of_a_queue_keep_their_order_for_everybody() {
    hold(PREEMPTIONS_MAX, marks_are_seen_in_order);
}

#[test]
fn the_ticket_of_a_dead_letter_never_says_delivered() {
    hold(PREEMPTIONS_MAX, || what_is_passed_over_is_never_taken_for_delivered(set_aside));
}

#[test]
fn the_ticket_of_what_has_expired_never_says_delivered() {
    hold(PREEMPTIONS_MAX, || what_is_passed_over_is_never_taken_for_delivered(expire));
}

#[test]
fn the_ticket_of_a_letter_that_is_purged_can_always_be_read() {
    hold(PREEMPTIONS_MAX, a_purged_letter_has_a_fate_at_every_moment);
}
