//! A request for one record costs no heap allocation, from its bytes to its response.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test that cannot go on should panic")]

#[path = "../benches/stand/mod.rs"]
mod stand;

use stand::way::Way;
use stand::{ORDER_BYTES, order, request};

const REQUESTS: usize = 10_000;
/// Requests after which every buffer has its size. The table of keys takes longest: it grows once more when the
/// places of forgotten keys have used up its room.
const WARM_UP: usize = 20_000;
/// Idempotency keys that are remembered; fewer than the warm-up brings, so that old ones are forgotten all the time.
const KEYS_MAX: usize = 512;

/// Sends each request through all stages on this thread; `in_flight` of them share a commit.
fn send(way: &mut Way, requests: &[Vec<u8>], in_flight: usize) {
    let mut waiting = std::array::from_fn::<_, 64, _>(|_| None);
    for chunk in requests.chunks(in_flight) {
        way.begin_turn();
        for (place, request) in waiting.iter_mut().zip(chunk) {
            *place = Some(way.submit(request));
        }
        way.gather();
        let sealed = way.seal();
        way.complete(&sealed);
        assert_eq!(way.hand_out(), chunk.len());
        for one in waiting.iter_mut().filter_map(Option::take) {
            assert!(way.respond(one) > 0);
        }
    }
}

fn allocations(requests: &[Vec<u8>], in_flight: usize) -> u64 {
    let mut way = Way::new(KEYS_MAX);
    let (warm_up, measured) = requests.split_at(WARM_UP);
    send(&mut way, warm_up, in_flight);
    assert_eq!(measured.len(), REQUESTS);
    allocation_counter::measure(|| send(&mut way, measured, in_flight)).count_total
}

#[test]
fn an_allocation_is_noticed() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1_u8))));
    assert_eq!(counted.count_total, 1);
}

#[test]
fn a_request_alone_allocates_nothing() {
    let requests = vec![request(&order(ORDER_BYTES), ""); WARM_UP + REQUESTS];
    assert_eq!(allocations(&requests, 1), 0);
}

#[test]
fn requests_that_share_a_commit_allocate_nothing() {
    let requests = vec![request(&order(ORDER_BYTES), ""); WARM_UP + REQUESTS];
    assert_eq!(allocations(&requests, 64), 0);
}

#[test]
fn requests_with_keys_allocate_nothing_once_old_keys_are_forgotten() {
    let requests: Vec<_> = (0..WARM_UP + REQUESTS)
        .map(|n| {
            request(&order(ORDER_BYTES), &format!("Idempotency-Key: order-{n}\r\nForebay-Key: customer-{}\r\n", n % 7))
        })
        .collect();
    assert_eq!(allocations(&requests, 64), 0);
}
