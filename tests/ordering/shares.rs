//! Who leaves first: fair shares, priorities, keys and throttles.

use std::collections::BTreeMap;

use crate::server::eventually;
use crate::stage::{CLOCK_GRAIN_S, Kind, Stage, now_s, pause, resume, send, send_all};

fn order(tenant: &str, number: usize) -> String {
    format!(r#"{{"tenant":"{tenant}","number":{number}}}"#)
}

/// The headers that say in all three ways whose a record is.
fn whose(tenant: &str) -> [(&str, &str); 2] {
    [("x-tenant", tenant), ("forebay-key", tenant)]
}

pub fn two_thousand_records_of_one_tenant_do_not_delay_ten_of_another(kind: Kind) {
    for (fair_by, keeps) in [("header:X-Tenant", "none"), ("key", "key"), ("pointer:/tenant", "key")] {
        let options = format!("rate = \"unlimited\"\norder = \"{keeps}\"\nfair_by = \"{fair_by}\"");
        let stage = Stage::new(kind, &options);
        let server = stage.site.start();
        pause(&server);
        send_all(&server, &whose("crowd"), (0..2000).map(|number| order("crowd", number)));
        send_all(&server, &whose("few"), (0..10).map(|number| order("few", number)));
        resume(&server);
        let bodies = stage.until_bodies(2010);
        let few: Vec<_> = (0..2010).filter(|row| bodies[*row].contains("few")).collect();
        assert_eq!(few, (0..10).map(|turn| 2 * turn + 1).collect::<Vec<_>>(), "{fair_by}");
        for tenant in ["crowd", "few"] {
            let of_tenant: Vec<_> = bodies.iter().filter(|body| body.contains(tenant)).cloned().collect();
            assert_eq!(of_tenant, (0..of_tenant.len()).map(|number| order(tenant, number)).collect::<Vec<_>>());
        }
        stage.assert_all_in_order(2010);
        server.stop();
    }
}

pub fn weights_are_shares(kind: Kind) {
    for keeps in ["none", "key"] {
        let stage = Stage::new(
            kind,
            &format!(
                "rate = \"unlimited\"\norder = \"{keeps}\"\nfair_by = \"header:X-Tenant\"\nfair_weights = {{ large = 5, \
                 middle = 2 }}\nbatch = {{ records_max = 7 }}"
            ),
        );
        let server = stage.site.start();
        pause(&server);
        for tenant in ["large", "middle", "small"] {
            send_all(&server, &whose(tenant), (0..100).map(|number| order(tenant, number)));
        }
        resume(&server);
        let bodies = stage.until_bodies(300);
        let share = |tenant| bodies[..80].iter().filter(|body| body.contains(tenant)).count();
        assert_eq!(["large", "middle", "small"].map(share), [50, 20, 10], "{keeps}");
        server.stop();
    }
}

pub fn priorities_leave_first_and_the_order_of_keys_is_kept(kind: Kind) {
    let stage = Stage::new(kind, "rate = \"unlimited\"\norder = \"key\"\nbatch = { records_max = 2 }");
    let server = stage.site.start();
    pause(&server);
    for (body, key, priority) in [
        ("a, low", Some("a"), "0"),
        ("a, high behind low", Some("a"), "9"),
        ("b, high", Some("b"), "9"),
        ("no key, usual", None, ""),
        ("no key, low", None, "0"),
        ("no key, high", None, "9"),
    ] {
        let headers = key.map(|key| ("forebay-key", key)).into_iter();
        let headers: Vec<_> = headers.chain((!priority.is_empty()).then_some(("forebay-priority", priority))).collect();
        send(&server, &headers, body);
    }
    resume(&server);
    let wanted = ["b, high", "no key, high", "no key, usual", "a, low", "a, high behind low", "no key, low"];
    assert_eq!(stage.until_bodies(6), wanted);

    // Many, with whatever priority.
    pause(&server);
    for number in 6..300_usize {
        let (key, priority) = (format!("key-{}", number % 7), (number * 31 % 10).to_string());
        send(&server, &[("forebay-key", &key), ("forebay-priority", &priority)], &format!("{number:03}"));
    }
    resume(&server);
    let bodies = stage.until_bodies(300)[6..].to_vec();
    assert!(!bodies.is_sorted(), "nothing has overtaken anything");
    let mut of_key: BTreeMap<usize, Vec<&String>> = BTreeMap::new();
    for body in &bodies {
        of_key.entry(body.parse::<usize>().unwrap() % 7).or_default().push(body);
    }
    assert!(of_key.values().all(|bodies| bodies.is_sorted()), "{of_key:?}");
    stage.assert_all_in_order(300);
    server.stop();
}

/// The busy tenant's records would take a hundred seconds.
pub fn a_throttled_key_is_spaced_and_others_go_on(kind: Kind) {
    const INTERVAL_S: f64 = 0.05;
    let throttle = "throttle = { by = \"pointer:/tenant\", limit = 20 }";
    let stage = Stage::new(kind, &format!("rate = \"unlimited\"\norder = \"key\"\n{throttle}"));
    let server = stage.site.start();
    pause(&server);
    send_all(&server, &[], (0..2000).map(|number| order("busy", number)));
    let mut last = String::new();
    for number in 0..20 {
        last = send_all(&server, &[("forebay-key", "k")], [order(&format!("calm-{number}"), number)]);
    }
    // Whoever names no tenant is not throttled.
    let nobody = send_all(&server, &[("forebay-key", "n")], (0..20).map(|number| format!("{{\"number\":{number}}}")));
    let resumed_s = now_s();
    resume(&server);
    for ticket in [last, nobody] {
        server.until_delivered(&ticket);
    }
    let of_busy = || stage.bodies().iter().filter(|body| body.contains("busy")).count();
    assert!(of_busy() < 2000);
    eventually("thirty of the busy tenant", || (of_busy() >= 30).then_some(()));
    for number in 0..30 {
        let arrived_s = stage.arrivals_s(&order("busy", number));
        let earliest_s = resumed_s + number as f64 * INTERVAL_S;
        assert!(arrived_s[0] >= earliest_s - CLOCK_GRAIN_S, "{number}: {arrived_s:?}, not before {earliest_s}");
    }
    // Each calm tenant had one record and the limit of its own, and their key kept its order all the same.
    let calm: Vec<_> = stage.bodies().into_iter().filter(|body| body.contains("calm")).collect();
    assert_eq!(calm, (0..20).map(|number| order(&format!("calm-{number}"), number)).collect::<Vec<_>>());
    server.kill9();
}
