//! The rings between executors and the journal: frames, the end of an executor, the pause.

use std::sync::Arc;

use forebay::ring::{Bell, JournalEnd, ring, wait_for_frames};

use crate::{PATIENCE, PREEMPTIONS_MAX, frame, hold, shared, spawn};

/// Takes what there is; returns how many frames.
fn take_all(journal: &mut JournalEnd) -> u64 {
    let mut frames = 0;
    while let Some(header) = journal.peek() {
        let mut records = vec![0; header.length.get() as usize];
        journal.take(&mut records);
        assert!(records.iter().all(|byte| *byte == records[0]) && records[0] > 0, "a frame is whole");
        frames += 1;
    }
    frames
}

fn everything_arrives_before_the_end() {
    let bell: Arc<Bell> = shared();
    let (mut ingress, mut journal) = ring(200, 2, Arc::clone(&bell));
    let executor = spawn(move || {
        ingress.submit(&frame(1, &[1; 8])).unwrap();
        ingress.submit(&frame(2, &[2; 3])).unwrap();
    });
    let taken = {
        let bell = Arc::clone(&bell);
        spawn(move || {
            let mut taken = 0;
            loop {
                taken += take_all(&mut journal);
                if journal.is_finished() {
                    return taken;
                }
                bell.sleep_unless(PATIENCE, || !journal.is_empty() || journal.is_finished());
            }
        })
    };
    executor.join().unwrap();
    bell.ring();
    assert_eq!(taken.join().unwrap(), 2, "every frame is taken");
}

fn enough_frames_end_a_pause() {
    let bell: Arc<Bell> = shared();
    let (executors, mut rings): (Vec<_>, Vec<_>) = [1, 2]
        .map(|slot| {
            let (mut ingress, journal) = ring(200, 2, Arc::clone(&bell));
            let executor = spawn(move || {
                for _ in 0..slot {
                    ingress.submit(&frame(slot, &[7; 3])).unwrap();
                }
                ingress
            });
            (executor, journal)
        })
        .into_iter()
        .unzip();
    let mut taken = [0, 0];
    // Each ring in turn is waited for, so that what wakes from one wait may come during the next.
    for (number, wanted) in [(0, 1), (1, 2)] {
        while taken[number] < wanted {
            wait_for_frames(&bell, PATIENCE, [(&rings[number], wanted - taken[number])].into_iter());
            for (taken, journal) in taken.iter_mut().zip(&mut rings) {
                *taken += take_all(journal);
            }
        }
    }
    for executor in executors {
        executor.join().unwrap();
    }
}

#[test]
fn everything_that_an_executor_sent_is_taken_before_its_end_is_believed() {
    hold(PREEMPTIONS_MAX, everything_arrives_before_the_end);
}

#[test]
fn a_pause_ends_once_there_are_frames_enough() {
    hold(PREEMPTIONS_MAX, enough_frames_end_a_pause);
}
