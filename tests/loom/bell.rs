//! The bell by itself: two producers, one sleeper.

use std::sync::Arc;

use forebay::ring::Bell;
use loom::sync::atomic::{AtomicU64, Ordering};

use crate::{PATIENCE, PREEMPTIONS_MAX, hold, shared, spawn};

fn two_producers_wake_a_sleeper() {
    let bell: Arc<Bell> = shared();
    let pushed: Arc<[AtomicU64; 2]> = shared();
    let producers = [0, 1].map(|number| {
        let (bell, pushed) = (Arc::clone(&bell), Arc::clone(&pushed));
        spawn(move || {
            pushed[number].store(1, Ordering::Release);
            bell.ring();
        })
    });
    let count = || pushed.iter().map(|pushed| pushed.load(Ordering::Acquire)).sum::<u64>();
    let mut taken = 0;
    while taken < 2 {
        let now = count();
        if now > taken {
            taken = now;
        } else {
            bell.sleep_unless(PATIENCE, || count() > taken);
        }
    }
    for producer in producers {
        producer.join().unwrap();
    }
}

#[test]
fn no_wake_up_is_lost() {
    hold(PREEMPTIONS_MAX, two_producers_wake_a_sleeper);
}
