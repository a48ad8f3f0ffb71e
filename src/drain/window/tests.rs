use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn at(ns: u64) -> Now {
    Now { monotonic_ns: ns, unix_us: ns / 1000 }
}

fn waiting(sequence: Sequence) -> Waiting {
    Waiting { sequence, bytes: vec![0; 10].into(), start_byte: sequence * 10 }
}

fn window_of(records: impl IntoIterator<Item = Traits>) -> Window {
    let mut window = Window::new(None, false, at(0));
    for (sequence, traits) in (1..).zip(records) {
        window.add(traits, waiting(sequence), at(0));
    }
    window
}

fn pick(window: &mut Window, count: u64, now_ns: u64) -> Vec<Sequence> {
    window.pick(count, usize::MAX, at(now_ns)).records.iter().map(|waiting| waiting.sequence).collect()
}

fn of_flow(flow: u64) -> Traits {
    Traits { flow, weight: 1, ..Traits::default() }
}

#[test]
fn without_traits_records_leave_as_they_came() {
    let mut window = window_of([Traits::default(); 5]);
    assert_eq!(pick(&mut window, 3, 0), [1, 2, 3]);
    assert_eq!((window.len(), window.bytes(), window.start_byte()), (2, 20, Some(40)));
    assert_eq!(pick(&mut window, 3, 0), [4, 5]);
    assert!(window.is_empty() && window.start_byte().is_none());
}

#[test]
fn ninety_thousand_of_one_tenant_do_not_delay_ten_of_another() {
    let mut window = window_of((0..90_010).map(|number| of_flow(if number < 90_000 { 1 } else { 2 })));
    let first = pick(&mut window, 20, 0);
    assert_eq!(first.iter().filter(|sequence| **sequence > 90_000).count(), 10, "{first:?}");
    assert_eq!(window.len(), 89_990);
}

#[test]
fn weights_are_shares() {
    let tenant = |number: u64| Traits {
        flow: number % 3 + 1,
        weight: [1, 2, 5][usize::try_from(number % 3).unwrap()],
        ..Traits::default()
    };
    // A tenant whose records all have one key gets its share too, although they come one after the other.
    let of_one_key = |number| Traits { key: number % 3 + 1, ..tenant(number) };
    for mut window in [window_of((0..300).map(tenant)), window_of((0..300).map(of_one_key))] {
        // However many are picked at a time.
        let picked: Vec<Sequence> = [1, 3, 7, 13, 56].iter().flat_map(|count| pick(&mut window, *count, 0)).collect();
        let share = |flow: u64| picked.iter().filter(|sequence| (**sequence - 1) % 3 + 1 == flow).count();
        assert_eq!([share(1), share(2), share(3)], [10, 20, 50]);
    }
}

#[test]
fn higher_priorities_leave_first() {
    let mut window = window_of([4, 0, 9, 4, 9].map(|priority| Traits { priority, ..Traits::default() }));
    assert_eq!(pick(&mut window, 9, 0), [3, 5, 1, 4, 2]);
}

#[test]
fn a_delayed_record_holds_those_with_its_key_and_no_others() {
    let traits = |key, deliver_at_us| Traits { key, deliver_at_us, ..Traits::default() };
    let mut window =
        window_of([traits(1, Some(1_000_000)), traits(1, None), traits(2, None), traits(NONE, Some(500_000))]);
    assert_eq!(window.ready(at(0)), 1);
    assert_eq!(window.next_due_ns(at(0)), Some(SECOND / 2));
    assert_eq!(pick(&mut window, 9, SECOND / 2), [3, 4]);
    assert_eq!(window.next_due_ns(at(SECOND / 2)), Some(SECOND / 2));
    assert!(pick(&mut window, 9, SECOND - 1000).is_empty());
    assert_eq!(pick(&mut window, 9, SECOND), [1, 2], "both, in one batch");
}

#[test]
fn a_wall_clock_that_is_set_forward_is_noticed_within_a_second() {
    let hour_us = 3_600_000_000;
    let mut window = window_of([Traits { deliver_at_us: Some(hour_us), ..Traits::default() }]);
    assert_eq!(window.next_due_ns(at(0)), Some(SECOND));
    let set = Now { monotonic_ns: SECOND, unix_us: hour_us };
    assert_eq!(window.next_due_ns(set), Some(0));
    assert_eq!(window.pick(9, usize::MAX, set).records.len(), 1);
}

#[test]
fn a_throttled_key_waits_and_the_others_go_on() {
    let mut window = Window::new(Some(Limit { interval_ns: SECOND / 2, burst: 2, keys_max: 1000 }), false, at(0));
    let start = 10 * SECOND;
    for sequence in 1..=8 {
        let throttle = if sequence <= 5 { 7 } else { 8 };
        window.add(Traits { throttle, ..Traits::default() }, waiting(sequence), at(start));
    }
    assert_eq!(pick(&mut window, 9, start), [1, 2, 6, 7], "each key's burst");
    assert_eq!(window.next_due_ns(at(start)), Some(SECOND / 2));
    assert_eq!(pick(&mut window, 9, start + SECOND / 2), [3, 8]);
    assert_eq!(pick(&mut window, 9, start + SECOND), [4]);
    assert_eq!(pick(&mut window, 9, start + 9 * SECOND), [5]);
}

#[test]
fn after_a_start_no_key_has_a_burst() {
    let mut window = Window::new(Some(Limit { interval_ns: SECOND, burst: 3, keys_max: 1000 }), false, at(0));
    for sequence in 1..=3 {
        window.add(Traits { throttle: 7, ..Traits::default() }, waiting(sequence), at(0));
    }
    let departures: Vec<_> =
        (0..40).flat_map(|tenth| pick(&mut window, 9, tenth * SECOND / 10).into_iter().map(move |_| tenth)).collect();
    assert_eq!(departures, [10, 20, 30]);
}

#[test]
fn a_key_of_a_lot_on_its_way_waits_and_no_other_one_does() {
    let traits = |key| Traits { key, flow: key % 2, weight: 1, ..Traits::default() };
    let mut window = Window::new(None, true, at(0));
    for (sequence, key) in (1..).zip([1, 1, 2, 1, 3, NONE]) {
        window.add(traits(key), waiting(sequence), at(0));
    }
    let first = window.pick(2, usize::MAX, at(0));
    assert_eq!(first.records.iter().map(|waiting| waiting.sequence).collect::<Vec<_>>(), [1, 3]);
    window.add(traits(2), waiting(7), at(0));
    assert_eq!(window.ready(at(0)), 2, "that without a key, and that of key 3");
    let second = window.pick(9, usize::MAX, at(0));
    assert_eq!((second.records.len(), second.keys), (2, vec![3]));
    assert_eq!((window.ready(at(0)), window.pick(9, usize::MAX, at(0)).records.len()), (0, 0));
    window.release(&first.keys);
    let mut third = pick(&mut window, 9, 0);
    third.sort_unstable();
    assert_eq!(third, [2, 4, 7]);
}

#[test]
fn a_batch_holds_its_bytes_and_at_least_one_record() {
    let mut window = window_of([Traits::default(); 5]);
    assert_eq!(window.pick(9, 25, at(0)).records.len(), 2);
    assert_eq!(window.pick(9, 1, at(0)).records.len(), 1);
}

fn any_traits() -> impl Strategy<Value = Traits> {
    (0..=PRIORITY_MAX, 0..4_u64, 0..4_u64, 1..4_u32, 0..3_u64, proptest::option::of(0..3_000_000_u64)).prop_map(
        |(priority, key, flow, weight, throttle, deliver_at_us)| Traits {
            priority,
            key,
            flow,
            weight,
            throttle,
            deliver_at_us,
        },
    )
}

proptest! {
    #[test]
    fn every_record_leaves_once_in_time_and_in_the_order_of_its_key(
        records in proptest::collection::vec((any_traits(), 0..50_u64), 1..60),
        counts in proptest::collection::vec(0..5_u64, 1..20),
        interval_ms in 1..400_u64,
        burst in 1..4_u32,
        lots_max in 1..5_usize,
    ) {
        let limit = Limit { interval_ns: interval_ms * 1_000_000, burst, keys_max: 1000 };
        let mut window = Window::new(Some(limit), lots_max > 1, at(0));
        let mut on_their_way: VecDeque<Vec<u64>> = VecDeque::new();
        let mut now_ns = 0;
        let (mut left, mut added) = (Vec::new(), records.iter().zip(1..).peekable());
        let mut counts = counts.iter().cycle();
        let mut turns = 0;
        while added.peek().is_some() || !window.is_empty() {
            if let Some(((traits, pause_ms), sequence)) = added.next() {
                window.add(*traits, waiting(sequence), at(now_ns));
                now_ns += pause_ms * 1_000_000;
            } else {
                now_ns += window.next_due_ns(at(now_ns)).unwrap_or(0);
            }
            turns += 1;
            prop_assert!(turns < 10_000, "it goes on for ever");
            let count = *counts.next().unwrap() + u64::from(turns > 60);
            if on_their_way.len() == lots_max || window.ready(at(now_ns)) == 0 {
                window.release(&on_their_way.pop_front().unwrap_or_default());
            }
            let ready = window.ready(at(now_ns));
            let picked = window.pick(count, usize::MAX, at(now_ns));
            prop_assert!(picked.records.len() as u64 >= ready.min(count));
            for waiting in &picked.records {
                let key = records[usize::try_from(waiting.sequence - 1).unwrap()].0.key;
                prop_assert!(on_their_way.iter().all(|keys| !keys.contains(&key)), "a key is in two lots");
                prop_assert!(lots_max == 1 || key == NONE || picked.keys.contains(&key));
            }
            left.extend(picked.records.iter().map(|waiting| (waiting.sequence, now_ns)));
            on_their_way.push_back(picked.keys);
        }
        prop_assert_eq!(left.iter().map(|(sequence, _)| *sequence).collect::<BTreeSet<_>>().len(), records.len());
        prop_assert_eq!(left.len(), records.len());
        let traits = |sequence: Sequence| records[usize::try_from(sequence - 1).unwrap()].0;
        for (number, (sequence, left_ns)) in left.iter().enumerate() {
            let of = traits(*sequence);
            prop_assert!(of.deliver_at_us.is_none_or(|at_us| left_ns / 1000 >= at_us));
            for (other, _) in &left[..number] {
                prop_assert!(of.key == NONE || traits(*other).key != of.key || other < sequence);
            }
        }
        prop_assert!(window.chains.is_empty() && window.delayed.is_empty() && window.throttled.is_empty());
    }

    #[test]
    fn a_throttle_lets_no_more_through_than_it_should(
        asks in proptest::collection::vec((0..3_u64, 0..700_000_000_u64), 1..80),
        burst in 1..5_u32,
    ) {
        let limit = Limit { interval_ns: SECOND / 4, burst, keys_max: 1000 };
        let mut throttle = Throttle::new(limit, 0);
        let (mut now_ns, mut departures) = (0, Vec::new());
        for (key, pause_ns) in asks {
            now_ns += pause_ns;
            let departure_ns = throttle.reserve(key, now_ns).unwrap();
            prop_assert!(departure_ns >= now_ns);
            departures.push((key, departure_ns));
        }
        for (number, (key, from_ns)) in departures.iter().enumerate() {
            let mut total = 0;
            for (other, to_ns) in &departures[number..] {
                if other == key {
                    total += 1;
                    prop_assert!(to_ns >= from_ns, "departures of a key are in order");
                    prop_assert!(total <= (to_ns - from_ns) / limit.interval_ns + u64::from(burst));
                }
            }
        }
    }
}
