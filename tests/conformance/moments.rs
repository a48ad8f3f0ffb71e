//! Chosen moments of a transaction: forebay is stopped there while another one takes over, or the connection is cut.

use crate::proxy::{Act, Proxy};
use crate::server::{self, Client};
use crate::stage::{
    Stage, bodies, configure, copy_of, failures, freeze, post, thaw, until_empty, until_failed, until_halted,
};
use crate::station::{Moment, Server, Transactional};

/// A stuck predecessor's lock is waited for that long.
const TAKE_OVER_SOON: &str = "connect_timeout_ms = 1000\n";
/// Far from what the others post.
const NEVER_DELIVERED: usize = 1_000;

/// A stage behind a proxy whose first records have arrived.
fn running<S: Transactional>(options: &str) -> (Stage<S>, Proxy, server::Server, usize) {
    let stage = Stage::<S>::new(Server::Shared);
    let proxy = Proxy::start(stage.station.address());
    stage.configure(options, &stage.station.sink_at(proxy.address()));
    let server = stage.site.start();
    let next = post(&server, 0..2);
    until_empty(&server);
    (stage, proxy, server, next)
}

/// Two processes with one identity: the one that was stopped at this moment commits nothing that the other one has.
fn stop_at<S: Transactional>(moment: Moment) {
    let (stage, proxy, older, next) = running::<S>("");
    proxy.set_trap(moment, Act::Hold);
    let next = post(&older, next..next + 5);
    proxy.until_sprung();
    freeze(&older);
    // As a snapshot of the machine would: the copy has everything that was acknowledged, under the same identity.
    let copy = copy_of(&stage.site, &(stage.station.sink() + TAKE_OVER_SOON));
    let younger = copy.start();
    until_empty(&younger);
    stage.until_arrived(bodies(0..next), 0);
    let next = post(&younger, next..next + 1);
    until_empty(&younger);
    thaw(&older);
    proxy.release();
    until_halted(&older);
    // Whatever the older one has lost meanwhile, the younger one still has the position.
    let next = post(&younger, next..next + 1);
    until_empty(&younger);
    stage.until_arrived(bodies(0..next), 0);
    older.stop();
    younger.stop();
    stage.until_arrived(bodies(0..next), 0);
}

pub fn a_zombie_of_before_its_transaction_commits_nothing<S: Transactional>() {
    stop_at::<S>(S::BEGIN);
}

pub fn a_zombie_of_behind_its_fence_commits_nothing<S: Transactional>() {
    stop_at::<S>(S::FENCED);
}

pub fn a_zombie_of_before_its_commit_commits_nothing<S: Transactional>() {
    stop_at::<S>(S::COMMIT);
}

/// A process that is woken without its connection makes a new one, and must not take over what another one has taken over
/// meanwhile; here that one has not even moved the position.
pub fn a_zombie_without_its_connection_leaves_the_other_one_alone<S: Transactional>() {
    let (stage, proxy, older, next) = running::<S>("");
    freeze(&older);
    proxy.cut();
    let copy = copy_of(&stage.site, &(stage.station.sink() + TAKE_OVER_SOON));
    let younger = copy.start();
    younger.until_said("delivering to the sink from here on");
    thaw(&older);
    // Accepted, and never delivered: only a restart of the older one would.
    post(&older, NEVER_DELIVERED..NEVER_DELIVERED + 1);
    until_halted(&older);
    older.until_said("another forebay has taken over this queue's position in the sink");
    let next = post(&younger, next..next + 2);
    until_empty(&younger);
    stage.until_arrived(bodies(0..next), 0);
    older.stop();
    younger.stop();
    stage.until_arrived(bodies(0..next), 0);
}

/// The row of a lane that is added says nothing of who holds the queue, and may be the other one's.
pub fn a_zombie_that_is_to_have_more_lanes_takes_none<S: Transactional>() {
    let (stage, proxy, older, next) = running::<S>("order = \"none\"\n");
    freeze(&older);
    proxy.cut();
    let sink = stage.station.sink() + TAKE_OVER_SOON;
    let copy = copy_of(&stage.site, &sink);
    configure(&copy, "order = \"none\"\nconcurrency = 3\n", &sink);
    let younger = copy.start();
    younger.until_said("delivering to the sink from here on");
    thaw(&older);
    let mut admin = Client::connect(older.admin()).unwrap();
    let told = admin.request("PATCH", "/v1/queues/orders", &[], Some(br#"{"concurrency":3}"#)).unwrap();
    assert_eq!(told.status, 200, "{told:?}");
    until_halted(&older);
    let next = post(&younger, next..next + 20);
    until_empty(&younger);
    stage.until_arrived(bodies(0..next), 0);
    older.stop();
    younger.stop();
}

/// Cuts the connection at a moment, again and again.
fn cut_at<S: Transactional>(moment: Moment) {
    let (stage, proxy, server, mut next) = running::<S>("");
    for _ in 0..5 {
        let failures = failures(&server);
        proxy.set_trap(moment, Act::Cut);
        next = post(&server, next..next + 3);
        proxy.until_sprung();
        until_failed(&server, failures);
        until_empty(&server);
    }
    stage.until_arrived(bodies(0..next), 0);
    server.stop();
}

pub fn a_commit_that_never_got_there_is_repeated<S: Transactional>() {
    cut_at::<S>(S::COMMIT);
}

pub fn a_commit_whose_answer_was_lost_is_not_repeated<S: Transactional>() {
    cut_at::<S>(S::COMMITTED);
}

pub fn a_batch_that_was_cut_behind_its_fence_is_repeated<S: Transactional>() {
    cut_at::<S>(S::FENCED);
}

/// The answer is lost, and with it the process: the next one asks the sink.
pub fn a_kill_behind_a_commit_whose_answer_was_lost_doubles_nothing<S: Transactional>() {
    let (stage, proxy, server, next) = running::<S>("");
    proxy.set_trap(S::COMMITTED, Act::Hold);
    let next = post(&server, next..next + 5);
    proxy.until_sprung();
    server.kill9();
    proxy.release();
    let server = stage.site.start();
    until_empty(&server);
    stage.until_arrived(bodies(0..next), 0);
    server.stop();
}
