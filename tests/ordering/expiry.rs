//! Records that nobody wants any more when their turn comes.

use crate::server::eventually;
use crate::stage::{Kind, Stage, metric, now_s, pause, resume, send, send_all, ticket};

pub fn what_nobody_wants_any_more_is_dropped_and_costs_nothing_of_the_rate(kind: Kind) {
    for order in ["strict", "key"] {
        // If those that are dropped were paid for, it would take longer than a test waits.
        let stage = Stage::new(kind, &format!("rate = \"2/s\"\norder = \"{order}\""));
        let server = stage.site.start();
        pause(&server);
        let sent_s = now_s();
        let gone = send(&server, &[("forebay-expires", "+1500ms")], "gone");
        send_all(&server, &[("forebay-expires", "+1500ms")], (0..500).map(|number| format!("gone {number}")));
        let last = send(&server, &[("forebay-expires", "+1500ms")], "gone too");
        let wanted = send(&server, &[("forebay-expires", "+1h")], "wanted");
        let unlimited = send(&server, &[], "for good");
        eventually("the expiry", || (now_s() > sent_s + 2.0).then_some(()));
        assert_eq!(
            ticket(&server, &wanted),
            ("queued".to_owned(), Some(503)),
            "what has expired waits for its turn too"
        );
        resume(&server);
        let bodies = stage.until_bodies(2);
        assert_eq!(bodies, ["wanted", "for good"]);
        for ticket in [wanted, unlimited] {
            server.until_delivered(&ticket);
        }
        for gone in [gone, last] {
            assert_eq!(ticket(&server, &gone).0, "expired");
        }
        assert_eq!(metric(&server, "drain_expired_records_total"), 502);
        stage.assert_all_in_order(504);
        server.stop();
    }
}
