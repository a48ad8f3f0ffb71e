//! kill -9 at random instants, of forebay and of the server that it delivers to.

use std::thread;

use rustix::process::Signal;

use crate::stage::{BATCH_RECORDS, Dice, Stage, bodies, failures, post, until_empty, until_failed};
use crate::station::{Server, Station};

const KILLS: usize = 6;
/// Requests between two kills, at most.
const REQUESTS: usize = 80;
const LANES: usize = 3;

pub fn kills_of_forebay_lose_and_double_nothing<S: Station>() {
    kill_again_and_again::<S>("", 1);
}

pub fn kills_of_forebay_with_several_lanes_lose_and_double_nothing<S: Station>() {
    kill_again_and_again::<S>("order = \"none\"\nconcurrency = 3\n", LANES);
}

fn kill_again_and_again<S: Station>(options: &str, lanes: usize) {
    let (stage, mut dice) = (Stage::<S>::new(Server::Shared), Dice::new());
    stage.configure(options, &stage.station.sink());
    let mut next = 0;
    for _ in 0..KILLS {
        let server = stage.site.start();
        // In some lives clients are gone before, and the drain goes on by itself.
        let count = if dice.below(4) == 0 { 5 } else { REQUESTS };
        next = thread::scope(|scope| {
            let client = scope.spawn(|| post(&server, next..next + count));
            dice.wait_ms_below(300);
            server.signal(Signal::KILL);
            client.join().unwrap()
        });
        server.kill9();
    }
    // The request that was not acknowledged is sent again.
    let server = stage.site.start();
    let end = post(&server, next..next + 5);
    until_empty(&server);
    server.stop();
    stage.until_arrived(bodies(0..end), KILLS * lanes * BATCH_RECORDS);
}

pub fn a_server_that_is_killed_and_comes_back_gets_everything_once<S: Station>() {
    let (mut stage, mut dice) = (Stage::<S>::impatient(Server::Own), Dice::new());
    let server = stage.site.start();
    let mut next = post(&server, 0..1);
    stage.until_arrived(bodies(0..1), 0);
    for _ in 0..3 {
        next = thread::scope(|scope| {
            let client = scope.spawn(|| post(&server, next..next + REQUESTS));
            dice.wait_ms_below(100);
            stage.station.take_away();
            client.join().unwrap()
        });
        // Something has to be sent to find out that nobody is there.
        let failures = failures(&server);
        next = post(&server, next..next + 1);
        until_failed(&server, failures);
        dice.wait_ms_below(100);
        stage.station.bring_back();
    }
    until_empty(&server);
    stage.until_arrived(bodies(0..next), 3 * BATCH_RECORDS);
    server.stop();
}

pub fn a_server_that_comes_after_forebay_gets_everything_once<S: Station>() {
    let mut stage = Stage::<S>::impatient(Server::Own);
    stage.station.take_away();
    let server = stage.site.start();
    let next = post(&server, 0..10);
    until_failed(&server, 0);
    stage.station.bring_back();
    until_empty(&server);
    stage.until_arrived(bodies(0..next), 0);
    server.stop();
}
