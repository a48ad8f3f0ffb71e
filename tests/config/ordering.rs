//! Which orders a queue may keep, and what holds single keys back.

use forebay::config::{Order, Ordering, Selector, Throttle, Window};

use super::*;

fn ordering(keys: &str) -> Ordering {
    accepted(&format!("[queues.q]\n{keys}")).queues["q"].ordering.clone()
}

fn concurrency(keys: &str) -> u32 {
    accepted(&format!("[queues.q]\n{keys}")).queues["q"].shaping.concurrency
}

#[test]
fn a_queue_is_strict_and_fair_to_nobody_unless_it_says_so() {
    let window = Window { records_max: 100_000, bytes_max: 128 << 20 };
    let usual = Ordering {
        order: Order::Strict,
        fair_by: None,
        fair_weights: [].into(),
        throttle: None,
        delay_ms_max: 0,
        window,
    };
    assert_eq!(ordering(""), usual);
    assert_eq!((concurrency(""), concurrency("order = \"none\"\nconcurrency = 16")), (1, 16));
    assert_eq!(ordering("order = \"strict\"\ndelay_ms_max = 0\nconcurrency = 1\n[queues.q.window]"), usual);
    let full = ordering(
        "order = \"none\"\nfair_by = \"header:X-Tenant\"\nfair_weights = { \"tenant-a\" = 5, \"\" = 1000 }\n\
         delay_ms_max = 2592000000\nconcurrency = 16\n[queues.q.throttle]\nby = \"pointer:/a~1b/0\"\nlimit = 7\nperiod_ms = 60000\n\
         burst = 3\nkeys_max = 10\n[queues.q.window]\nrecords_max = 1\nbytes_max = \"4KiB\"",
    );
    let by = Selector::Pointer("/a~1b/0".to_owned());
    let wanted = Ordering {
        order: Order::None,
        fair_by: Some(Selector::Header("x-tenant".to_owned())),
        fair_weights: [("tenant-a".to_owned(), 5), (String::new(), 1000)].into(),
        throttle: Some(Throttle { by, limit: 7, period_ms: 60_000, burst: 3, keys_max: 10 }),
        delay_ms_max: 2_592_000_000,
        window: Window { records_max: 1, bytes_max: 4096 },
    };
    assert_eq!(full, wanted);
    assert_eq!((full.fair_header(), full.throttle_header()), (Some("x-tenant"), None));
    let throttle = |by: &str| format!("[queues.q.throttle]\nby = \"{by}\"\nlimit = 1\n");
    let short = ordering(&format!("order = \"key\"\nfair_by = \"key\"\n{}", throttle("header:A")));
    let wanted = Throttle { by: Selector::Header("a".into()), limit: 1, period_ms: 1000, burst: 1, keys_max: 100_000 };
    assert_eq!((&short.fair_by, &short.throttle), (&Some(Selector::Key), &Some(wanted)));
    assert_eq!((short.fair_header(), short.throttle_header()), (None, Some("a")));
    // A header that both name is kept once.
    let same = ordering(&format!("order = \"key\"\nfair_by = \"header:a\"\n{}", throttle("header:A")));
    assert_eq!((same.fair_header(), same.throttle_header()), (Some("a"), None));
}

#[test]
fn a_strict_order_lets_nothing_overtake() {
    for keys in [
        "fair_by = \"key\"",
        "delay_ms_max = 1",
        "concurrency = 2",
        "[queues.q.throttle]\nby = \"key\"\nlimit = 1",
        "order = \"strict\"\n[queues.q.throttle]\nby = \"key\"\nlimit = 1",
    ] {
        let line = if keys.starts_with("order") { 3 } else { 2 };
        one_error(&format!("[queues.q]\n{keys}"), line, &["write `order = \"key\"`", "or `order = \"none\"`"]);
        ordering(&format!("order = \"key\"\n{}", keys.trim_start_matches("order = \"strict\"\n")));
    }
    let all = "fair_by = \"key\"\ndelay_ms_max = 5\n[queues.q.throttle]\nby = \"key\"\nlimit = 1";
    assert_eq!(errors(&format!("[queues.q]\n{all}")).len(), 3);
}

#[test]
fn what_says_whose_a_record_is_has_three_forms() {
    let long = "x".repeat(65);
    for (value, part) in [
        ("", "write \"key\" for Forebay-Key"),
        ("tenant", "such as \"header:X-Tenant\""),
        ("$key", "\"pointer:/tenant\""),
        ("header:", "of at most 64 bytes"),
        ("header:x tenant", "the name of an HTTP header"),
        ("header:ä", "the name of an HTTP header"),
        (&format!("header:{long}"), "of at most 64 bytes"),
        ("pointer:", "begins with `/`"),
        ("pointer:tenant", "begins with `/`"),
        ("pointer:/a~2", "write `~0` for `~`"),
    ] {
        one_error(&format!("[queues.q]\norder = \"key\"\nfair_by = \"{value}\""), 3, &["`queues.q.fair_by`", part]);
        let throttle = format!("[queues.q]\norder = \"key\"\n[queues.q.throttle]\nlimit = 1\nby = \"{value}\"");
        one_error(&throttle, 5, &["`queues.q.throttle.by`", part]);
    }
    ordering(&format!("order = \"key\"\nfair_by = \"header:{}\"", &long[1..]));
}

#[test]
fn weights_and_throttles_have_bounds_and_need_what_they_belong_to() {
    let fair = |weights: &str| format!("[queues.q]\norder = \"none\"\nfair_by = \"key\"\nfair_weights = {weights}");
    for (weights, part) in [
        ("{ a = 0 }", "must be an integer from 1 to 1000"),
        ("{ a = 1001 }", "must be an integer from 1 to 1000"),
        ("{ a = \"5\" }", "`queues.q.fair_weights.a` must be an integer"),
        ("5", "must be a table"),
        (&format!("{{ {} = 2 }}", "k".repeat(257)), "at most 256 are taken"),
    ] {
        one_error(&fair(weights), 4, &[part]);
    }
    let many = |count: usize| {
        let list: Vec<String> = (0..count).map(|n| format!("k{n} = 2")).collect();
        fair(&format!("{{ {} }}", list.join(", ")))
    };
    accepted(&many(10_000));
    one_error(&many(10_001), 4, &["more than 10000 entries"]);
    one_error("[queues.q]\norder = \"none\"\nfair_weights = { a = 2 }", 3, &["needs `fair_by`"]);
    let throttle = |keys: &str| format!("[queues.q]\norder = \"none\"\n[queues.q.throttle]\n{keys}");
    one_error(&throttle("limit = 1"), 3, &["`queues.q.throttle.by` is missing"]);
    one_error(&throttle("by = \"key\""), 3, &["`queues.q.throttle.limit` is missing"]);
    for (key, max) in
        [("limit", 1_000_000_000_u64), ("period_ms", 86_400_000), ("burst", 1_000_000_000), ("keys_max", 10_000_000)]
    {
        for wrong in [0, max + 1] {
            let needed = if key == "limit" { "by = \"key\"" } else { "by = \"key\"\nlimit = 1" };
            let line = throttle(needed).lines().count() + 1;
            one_error(&throttle(&format!("{needed}\n{key} = {wrong}")), line, &[&format!("from 1 to {max}")]);
        }
    }
    one_error("[queues.q]\norder = \"fifo\"", 2, &["write `strict`, `key` or `none`"]);
    one_error("[queues.q]\norder = \"none\"\ndelay_ms_max = 2592000001", 3, &["from 0 to 2592000000"]);
    for wrong in [0, 17] {
        let text = format!("[queues.q]\norder = \"none\"\nconcurrency = {wrong}");
        one_error(&text, 3, &["`queues.q.concurrency`", "from 1 to 16"]);
    }
    one_error("[queues.q.window]\nrecords_max = 0", 2, &["from 1 to 150000"]);
    one_error("[queues.q.window]\nbytes_max = 1", 2, &["from 4KiB to 64GiB"]);
}
