//! What a window must know of a record, found in the record.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::{Limit, NONE, Traits};
use crate::config::{Order, Ordering, Selector};
use crate::planted::{Bug, is_planted};
use crate::record::Record;
use crate::sink::mapping::Lookup;

/// Finds out by what a queue's records are told apart.
#[derive(Debug)]
pub struct Selectors {
    keeps_key_order: bool,
    fair_by: Option<Source>,
    /// Hashes of the keys whose weight is not 1.
    weights: std::collections::HashMap<u64, u32>,
    throttle_by: Option<Source>,
    seed: (u64, u64),
}

/// Where a key stands.
#[derive(Debug)]
enum Source {
    Key,
    FairKey,
    ThrottleKey,
    Body(Lookup),
}

impl Selectors {
    /// Those of a sink with this ordering, whose queue keeps of each record what `kept` names. `seed` keeps clients from
    /// choosing keys that count as one.
    #[must_use]
    pub fn new(ordering: &Ordering, kept: &Ordering, seed: (u64, u64)) -> Self {
        let fair_by = ordering.fair_by.as_ref().map(|selector| Source::new(selector, kept));
        let throttle_by = ordering.throttle.as_ref().map(|throttle| Source::new(&throttle.by, kept));
        let weights =
            ordering.fair_weights.iter().map(|(name, weight)| (hash(seed, name.as_bytes()), *weight)).collect();
        Self {
            keeps_key_order: ordering.order == Order::Key && !is_planted(Bug::OvertakeKey),
            fair_by,
            weights,
            throttle_by,
            seed,
        }
    }

    /// What the window must know of a record.
    #[must_use]
    pub fn traits(&self, record: &Record<'_>) -> Traits {
        let flow = self.find(self.fair_by.as_ref(), record);
        Traits {
            priority: record.attributes.priority(),
            key: if self.keeps_key_order { hash(self.seed, record.key) } else { NONE },
            flow,
            weight: self.weights.get(&flow).copied().unwrap_or(1),
            throttle: self.find(self.throttle_by.as_ref(), record),
            deliver_at_us: record.attributes.deliver_at_us(),
        }
    }

    fn find(&self, source: Option<&Source>, record: &Record<'_>) -> u64 {
        let bytes = match source {
            None => return NONE,
            Some(Source::Key) => record.key,
            Some(Source::FairKey) => record.attributes.fair_key(),
            Some(Source::ThrottleKey) => record.attributes.throttle_key(),
            Some(Source::Body(lookup)) => {
                return lookup.find(record.body).map_or(NONE, |text| hash(self.seed, text.as_bytes()));
            }
        };
        hash(self.seed, bytes)
    }
}

impl Source {
    fn new(selector: &Selector, kept: &Ordering) -> Self {
        match selector {
            Selector::Key => Self::Key,
            // The front door keeps a header's value once.
            Selector::Header(name) if kept.fair_header() == Some(name) => Self::FairKey,
            Selector::Header(_) => Self::ThrottleKey,
            Selector::Pointer(pointer) => Self::Body(Lookup::new(pointer)),
        }
    }
}

/// The limit of each key, if the queue has one.
#[must_use]
pub fn limit(ordering: &Ordering) -> Option<Limit> {
    let throttle = ordering.throttle.as_ref()?;
    Some(Limit {
        // Rounded up: a key must not get more than its limit.
        interval_ns: throttle.period_ms.saturating_mul(1_000_000).div_ceil(throttle.limit.max(1)),
        burst: u32::try_from(throttle.burst).unwrap_or(u32::MAX),
        keys_max: throttle.keys_max,
    })
}

fn hash((one, other): (u64, u64), bytes: &[u8]) -> u64 {
    if bytes.is_empty() {
        return NONE;
    }
    let mut hasher = SipHasher13::new_with_keys(one, other);
    hasher.write(bytes);
    hasher.finish().max(NONE + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::record::AttributeValues;

    fn ordering(rest: &str) -> Ordering {
        let text = format!("[[listeners]]\naddress = \"0.0.0.0:80\"\n[queues.orders]\norder = \"key\"\n{rest}");
        config::parse(&text, "forebay.toml", &|_| None, &crate::sink::KINDS).unwrap().queues["orders"].ordering.clone()
    }

    fn record<'a>(key: &'a [u8], body: &'a [u8]) -> Record<'a> {
        Record { key, body, ..Record::lost(0, b"") }
    }

    #[test]
    fn records_are_told_apart_by_key_and_body() {
        let ordering = ordering(
            "fair_by = \"pointer:/tenant\"\nfair_weights = { acme = 5 }\n[queues.orders.throttle]\nby = \"key\"\nlimit = 3\n",
        );
        assert_eq!(limit(&ordering).unwrap().interval_ns, 333_333_334);
        let selectors = Selectors::new(&ordering, &ordering, (1, 2));
        let [acme, escaped, other, none, no_json] = [
            &br#"{"tenant":"acme"}"#[..],
            br#"{"tenant":"\u0061cme"}"#,
            br#"{"tenant":7}"#,
            br#"{"tenant":null}"#,
            b"{",
        ]
        .map(|body| selectors.traits(&record(b"k", body)));
        assert_eq!(acme, escaped);
        assert_eq!((acme.weight, other.weight), (5, 1));
        assert_ne!(acme.flow, other.flow);
        assert_eq!((none.flow, no_json.flow), (NONE, NONE));
        assert_eq!(acme.key, acme.throttle);
        assert_eq!(selectors.traits(&record(b"", b"")).key, NONE);
    }

    #[test]
    fn one_header_may_serve_both() {
        let text = "fair_by = \"header:x-tenant\"\n[queues.orders.throttle]\nby = \"header:X-Tenant\"\nlimit = 3\n";
        let ordering = ordering(text);
        let selectors = Selectors::new(&ordering, &ordering, (1, 2));
        let mut bytes = Vec::new();
        let attributes =
            AttributeValues { fair_key: b"acme", ..AttributeValues::default() }.encode(&mut bytes).unwrap();
        let traits = selectors.traits(&Record { attributes, ..record(b"", b"") });
        assert!(traits.flow != NONE && traits.flow == traits.throttle);
    }
}
