//! What crosses threads, in every order in which threads can run and with every value that the memory model lets a
//! load return, as far as loom looks. `docs/testing.md` says how far that is.
//!
//! Patience has no end here, so a lost wake-up is a deadlock, which loom reports. Each model is run once as it must
//! hold, and again with each planted bug that it must find.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a model that does not hold must end")]

mod bell;
mod executor;
mod marks;
mod rings;
mod way;

#[path = "../simulation/disk.rs"]
#[expect(dead_code, reason = "the models' disk has no faults")]
mod disk;
#[path = "../simulation/machine.rs"]
#[expect(dead_code, reason = "the models' machine has one life")]
mod machine;
#[path = "../simulation/random.rs"]
mod random;

use std::env::current_exe;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use forebay::planted::{Bug, plant};
use forebay::ring::FrameHeader;
use loom::thread::JoinHandle;
use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

/// How often threads are preempted, at most, where they could have gone on; `LOOM_MAX_PREEMPTIONS` changes it.
const PREEMPTIONS_MAX: usize = 2;
/// The same for whole stages, which have many more steps.
const PREEMPTIONS_OF_STAGES_MAX: usize = 1;
/// Steps of one execution. A model that takes more does not end.
const STEPS_MAX: usize = 100_000;
/// A thread of a model runs all of a stage, unoptimised; in words.
const STACK_WORDS: usize = 0x2_0000;
/// What loom says if every thread waits for another.
const DEADLOCK: &str = "deadlock";
/// Names the bug that a process plants.
const PLANTED: &str = "FOREBAY_LOOM_PLANTED";
/// Time is no matter here.
const PATIENCE: Duration = Duration::MAX;

/// Runs a model in every order.
fn hold(preemptions_max: usize, model: fn()) {
    // Loom's threads take turns on this one, so that a bug is planted into all of them.
    let planted = std::env::var(PLANTED).ok();
    plant(Bug::BETWEEN_THREADS.into_iter().find(|bug| planted == Some(format!("{bug:?}"))));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions_max);
    builder.max_branches = STEPS_MAX;
    builder.check(move || spawn(model).join().unwrap());
}

/// The proof that the models can fail.
#[test]
fn every_planted_bug_is_found() {
    for bug in Bug::BETWEEN_THREADS {
        let (model, words) = match bug {
            Bug::RingWithoutFence | Bug::ArmWithoutFence | Bug::ArmWithoutRelease | Bug::LookBeforeArming => {
                ("bell::no_wake_up_is_lost", DEADLOCK)
            }
            Bug::PauseWithoutFence => ("rings::a_pause_ends_once_there_are_frames_enough", DEADLOCK),
            Bug::EndWithoutFence => {
                ("rings::everything_that_an_executor_sent_is_taken_before_its_end_is_believed", "every frame is taken")
            }
            Bug::LookBeforeRegistering => ("executor::an_executor_sleeps_through_no_answer", DEADLOCK),
            Bug::WakeBeforeStop => ("executor::an_executor_sleeps_through_no_stop", DEADLOCK),
            Bug::FateBeforePosition => (
                "marks::the_ticket_of_a_dead_letter_never_says_delivered",
                "what the drain has passed over is taken for delivered",
            ),
            Bug::LoseWakeUp | Bug::IgnoreEnds | Bug::DurableBeforeHot => {
                ("way::a_record_goes_all_the_way_and_everything_ends", DEADLOCK)
            }
            other => panic!("no model is said to find {other:?}"),
        };
        // In a process of its own, since a model that ends in the midst of something may abort.
        let mut command = Command::new(current_exe().unwrap());
        command.args([model, "--exact", "--nocapture"]).env(PLANTED, format!("{bug:?}")).env("RUST_BACKTRACE", "0");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{bug:?} is not found by {model}");
        assert!(said.contains(words), "{bug:?} was found as something else: {said}");
    }
}

fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    loom::thread::Builder::new().stack_size(STACK_WORDS).spawn(run).unwrap()
}

/// A frame that is said to hold one record.
fn frame(slot: u32, record: &[u8]) -> Vec<u8> {
    let mut header = FrameHeader::new_zeroed();
    header.length = U32::new(u32::try_from(record.len()).unwrap());
    header.count = U32::new(1);
    header.slot = U32::new(slot);
    [header.as_bytes(), record].concat()
}

fn shared<T: Default>() -> Arc<T> {
    Arc::default()
}
