//! Records that are not due yet.

use jiff::Timestamp;

use crate::server::Server;
use crate::stage::{CLOCK_GRAIN_S, Kind, Stage, now_s, send, send_all, ticket, until_waiting};

const HOURS: &str = "rate = \"unlimited\"\ndelay_ms_max = 86400000\norder = \"key\"";

pub fn nothing_leaves_before_it_is_due(kind: Kind) {
    let stage = Stage::new(kind, HOURS);
    let server = stage.site.start();
    let hour = send(&server, &[("forebay-delay", "1h"), ("forebay-key", "hour")], "in an hour");
    let behind = send(&server, &[("forebay-key", "hour")], "behind it");
    let sent_s = now_s();
    let at = Timestamp::from_microsecond((sent_s * 1e6) as i64 + 900_000).unwrap().to_string();
    send(&server, &[("forebay-delay", "700ms"), ("forebay-key", "k")], "delayed");
    send(&server, &[("forebay-key", "k")], "after the delayed");
    send(&server, &[("forebay-deliver-at", &at)], "at a time");
    send(&server, &[("forebay-deliver-at", "1000000000"), ("forebay-key", "j")], "long due");
    let bodies = stage.until_bodies(4);
    for (body, after_s) in [("delayed", 0.7), ("after the delayed", 0.7), ("at a time", 0.9)] {
        let arrived_s = stage.arrivals_s(body)[0];
        assert!(arrived_s >= sent_s + after_s - CLOCK_GRAIN_S, "{body}: {arrived_s}, sent at {sent_s}");
    }
    let place = |body| bodies.iter().position(|found| found == body).unwrap();
    assert!(place("delayed") < place("after the delayed"), "{bodies:?}");
    // Its key waits behind the one that is due in an hour, and the others have overtaken both.
    assert_eq!((ticket(&server, &hour).0, ticket(&server, &behind).0), ("queued".to_owned(), "queued".to_owned()));
    until_waiting(&server, 2, 4);
    server.stop();
}

pub fn what_is_due_later_outlives_a_kill_and_is_delivered_once(kind: Kind) {
    // A machine that is too busy to see what comes before is given more time.
    assert!(
        [4, 20, 45].into_iter().any(|delay_s| overtakes_a_delayed_one_and_is_killed(kind, delay_s)),
        "the delay was over each time before what should come before it had come"
    );
}

/// Returns whether there was time enough to see it.
fn overtakes_a_delayed_one_and_is_killed(kind: Kind, delay_s: u64) -> bool {
    let stage = Stage::new(kind, HOURS);
    let server = stage.site.start();
    let sent_s = now_s();
    let due_s = sent_s + delay_s as f64;
    let late = send(&server, &[("forebay-delay", &format!("{delay_s}s")), ("forebay-key", "k")], "late");
    let behind = send(&server, &[("forebay-key", "k")], "behind");
    server.until_delivered(&send_all(&server, &[], (0..100).map(|number| number.to_string())));
    let seen_before = stage.has_beyond();
    server.kill9();
    let server = stage.site.start();
    server.until_delivered(&send(&server, &[("forebay-key", "other")], "after the kill"));
    let seen_after = stage.has_beyond();
    if now_s() >= due_s {
        return false;
    }
    assert!(seen_before && seen_after, "the column has nothing, and two records wait");
    assert_eq!((stage.position(), stage.bodies().len()), (0, 101));
    assert_eq!((ticket(&server, &late), ticket(&server, &behind)), (queued(1), queued(2)));
    let bodies = stage.until_bodies(103);
    assert_eq!(bodies[101..], ["late", "behind"]);
    assert!(stage.arrivals_s("late")[0] >= due_s - CLOCK_GRAIN_S);
    for ticket in [late, behind] {
        server.until_delivered(&ticket);
    }
    stage.assert_all_in_order(103);
    until_waiting(&server, 0, 0);
    server.stop();
    true
}

fn queued(position: u64) -> (String, Option<u64>) {
    ("queued".to_owned(), Some(position))
}

pub fn tickets_say_what_is_delivered_and_count_what_is_not(kind: Kind) {
    let stage = Stage::new(kind, HOURS);
    let server = stage.site.start();
    // Every other one is delayed.
    let tickets: Vec<_> = (1..=9)
        .map(|number| {
            let delay: &[_] = if number % 2 == 1 { &[("forebay-delay", "1h")] } else { &[] };
            send(&server, delay, &number.to_string())
        })
        .collect();
    server.until_delivered(&tickets[7]);
    assert_eq!(stage.until_bodies(4), ["2", "4", "6", "8"]);
    let wanted: Vec<_> = (1..=9_u64)
        .map(|number| if number % 2 == 1 { queued(number.div_ceil(2)) } else { ("delivered".to_owned(), None) })
        .collect();
    let states = |server: &Server| tickets.iter().map(|given| ticket(server, given)).collect::<Vec<_>>();
    assert_eq!(states(&server), wanted);
    server.kill9();
    let server = stage.site.start();
    server.until_delivered(&tickets[7]);
    assert_eq!(states(&server), wanted);
    server.stop();
}
