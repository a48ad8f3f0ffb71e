//! What a request's head asks for its records: when they are due, how urgent they are, whose they are.
//!
//! Pure: the head and the queue's settings in, and with the time of the receipt the attributes out.

use std::fmt::Display;

use hyper::header::{AsHeaderName, HeaderMap, HeaderName};
use jiff::{Span, SpanRelativeTo, Timestamp};

use super::problem::{Problem, Refusal};
use crate::config::{Order, Ordering};
use crate::limits::{FAIR_KEY_BYTES_MAX, TIME_FIELD_BYTES_MAX};
use crate::record::{AttributeValues, Headers, PRIORITY_MAX};

const DELIVER_AT: HeaderName = HeaderName::from_static("forebay-deliver-at");
const DELAY: HeaderName = HeaderName::from_static("forebay-delay");
const EXPIRES: HeaderName = HeaderName::from_static("forebay-expires");
const PRIORITY: HeaderName = HeaderName::from_static("forebay-priority");
/// The last second of the year 9999, behind which RFC 3339 has no notation. Whoever writes more has meant milliseconds.
const UNIX_S_MAX: u64 = 253_402_300_799;

/// The fields of a head that become attributes of its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttributeFields<'a> {
    deliver: Option<Moment>,
    expires: Option<Moment>,
    priority: Option<u8>,
    fair_key: &'a [u8],
    throttle_key: &'a [u8],
    request: RequestFields<'a>,
}

/// What of a request itself its records keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestFields<'a> {
    /// The method; empty if it is not kept.
    pub method: &'a [u8],
    /// The path with its query; empty if it is not kept.
    pub target: &'a [u8],
    /// Those headers that are kept.
    pub headers: Headers<'a>,
}

/// A time as a field has it, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Since the Unix epoch.
    At(u64),
    /// Since the receipt.
    After(u64),
}

impl Moment {
    fn at_us(self, received_at_us: u64) -> u64 {
        match self {
            Self::At(us) => us,
            Self::After(us) => received_at_us.saturating_add(us).min(UNIX_S_MAX * 1_000_000),
        }
    }
}

impl<'a> AttributeFields<'a> {
    /// Reads the fields of a request for a queue with this ordering.
    ///
    /// # Errors
    ///
    /// A field is malformed, contradicts another one, or asks for what the queue does not do.
    pub fn read(headers: &'a HeaderMap, ordering: &Ordering) -> Result<Self, Refusal> {
        let key_of = |name: Option<&str>| name.map_or(Ok(&b""[..]), |name| header(headers, name, FAIR_KEY_BYTES_MAX));
        let deliver = match (text(headers, &DELIVER_AT)?, text(headers, &DELAY)?) {
            (None, None) => None,
            (Some(_), Some(_)) => {
                return Err(refused(format!(
                    "{DELIVER_AT} and {DELAY} both say when the record is due; send one of them"
                )));
            }
            (Some(text), None) => Some(read_time(&DELIVER_AT, text)?),
            (None, Some(text)) => Some(Moment::After(read_delay(text)?)),
        };
        let expires = text(headers, &EXPIRES)?.map(read_expiry).transpose()?;
        let priority = text(headers, &PRIORITY)?.map(read_priority).transpose()?;
        let fields = Self {
            deliver,
            expires,
            priority,
            fair_key: key_of(ordering.fair_header())?,
            throttle_key: key_of(ordering.throttle_header())?,
            request: RequestFields::default(),
        };
        fields.check(ordering)?;
        Ok(fields)
    }

    /// The same with what the records keep of the request itself.
    #[must_use]
    pub fn with_request(self, request: RequestFields<'a>) -> Self {
        Self { request, ..self }
    }

    /// Whether all of the request is the record, which then need not have a body.
    #[must_use]
    pub fn is_whole_request(&self) -> bool {
        !self.request.method.is_empty()
    }

    /// Refuses what the queue is not set up for.
    fn check(&self, ordering: &Ordering) -> Result<(), Refusal> {
        if ordering.order == Order::Strict && (self.deliver.is_some() || self.priority.is_some()) {
            let (name, also) = match self.deliver {
                Some(_) => ("a time of delivery", " and delay_ms_max"),
                None => ("a priority", ""),
            };
            return Err(refused(format!(
                "this queue keeps a strict order, so it takes no record with {name}; its operator would have to set \
                 order = \"key\" or order = \"none\"{also}"
            )));
        }
        if self.deliver.is_some() && ordering.delay_ms_max == 0 {
            let detail = "this queue takes no record with a time of delivery; its operator would have to set delay_ms_max, \
                          which is 0, to the longest delay in milliseconds";
            return Err(refused(detail));
        }
        Ok(())
    }

    /// The attributes of records that were received at this time, in microseconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// They would be due too late, or have expired by then.
    pub fn resolve(&self, received_at_us: u64, ordering: &Ordering) -> Result<AttributeValues<'a>, Refusal> {
        let deliver_at_us = self.deliver.map(|moment| moment.at_us(received_at_us));
        let expires_at_us = self.expires.map(|moment| moment.at_us(received_at_us));
        let delay_us = deliver_at_us.map_or(0, |at_us| at_us.saturating_sub(received_at_us));
        if delay_us > ordering.delay_ms_max.saturating_mul(1000) {
            return Err(refused(format!(
                "the record would be due in {} ms; this queue's delay_ms_max is {}",
                delay_us.div_ceil(1000),
                ordering.delay_ms_max
            )));
        }
        if expires_at_us.is_some_and(|at_us| at_us <= received_at_us) {
            return Err(refused(format!("the record has expired already, as {EXPIRES} says")));
        }
        if expires_at_us.zip(deliver_at_us).is_some_and(|(expires, deliver)| expires <= deliver) {
            return Err(refused(format!("the record would expire before it is due, as {EXPIRES} says")));
        }
        let Self { priority, fair_key, throttle_key, request, .. } = *self;
        let RequestFields { method, target, headers } = request;
        Ok(AttributeValues { deliver_at_us, expires_at_us, priority, fair_key, throttle_key, method, target, headers })
    }
}

fn refused(detail: impl Into<String>) -> Refusal {
    Refusal::new(Problem::BadRequest, detail)
}

/// A header that says a time, a duration or a priority, if it is there.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let value = std::str::from_utf8(header(headers, name, TIME_FIELD_BYTES_MAX)?);
    Ok(value.ok().filter(|text| !text.is_empty()))
}

/// A header's value, empty if it is not there.
///
/// # Errors
///
/// It is there and empty, there twice, too long, or not UTF-8.
pub fn header(
    headers: &HeaderMap,
    name: impl AsHeaderName + Copy + Display,
    bytes_max: usize,
) -> Result<&[u8], Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(b"") };
    let wrong = |what: String| refused(format!("{name} {what}"));
    if values.next().is_some() {
        return Err(wrong("stands in the request twice".to_owned()));
    }
    let bytes = value.as_bytes();
    if bytes.is_empty() {
        return Err(wrong("is empty; leave it out or give it a value".to_owned()));
    }
    if bytes.len() > bytes_max {
        return Err(wrong(format!("has {} bytes; at most {bytes_max} are taken", bytes.len())));
    }
    // The values reach the database as text, so they must be text.
    if std::str::from_utf8(bytes).is_err() {
        return Err(wrong("is not UTF-8".to_owned()));
    }
    Ok(bytes)
}

/// A moment of the calendar: RFC 3339, or whole seconds since the Unix epoch.
fn read_time(name: &HeaderName, text: &str) -> Result<Moment, Refusal> {
    let at_us = match whole_number(text) {
        Some(seconds) => Some(seconds).filter(|seconds| *seconds <= UNIX_S_MAX).map(|seconds| seconds * 1_000_000),
        None => text.parse::<Timestamp>().ok().and_then(|at| u64::try_from(at.as_microsecond()).ok()),
    };
    at_us.map(Moment::At).ok_or_else(|| {
        refused(format!(
            "{name} is no time between 1970 and 9999; write RFC 3339 with its offset, such as 2030-01-31T08:00:00+01:00, or \
             seconds since 1970"
        ))
    })
}

fn read_expiry(text: &str) -> Result<Moment, Refusal> {
    let Some(duration) = text.strip_prefix('+') else { return read_time(&EXPIRES, text) };
    duration_us(duration).map(Moment::After).ok_or_else(|| {
        refused(format!("{EXPIRES} has no duration behind its +; write such as +30s, +500ms or +2h, or bare seconds"))
    })
}

fn read_delay(text: &str) -> Result<u64, Refusal> {
    duration_us(text)
        .ok_or_else(|| refused(format!("{DELAY} is no duration; write such as 30s, 500ms or 2h, or bare seconds")))
}

fn read_priority(text: &str) -> Result<u8, Refusal> {
    text.parse().ok().filter(|priority| text.len() == 1 && *priority <= PRIORITY_MAX).ok_or_else(|| {
        refused(format!("{PRIORITY} is none; write a digit from 0 to {PRIORITY_MAX}, which leaves first"))
    })
}

/// A duration with units of which the longest is a week, or whole seconds.
fn duration_us(text: &str) -> Option<u64> {
    if let Some(seconds) = whole_number(text) {
        return seconds.checked_mul(1_000_000);
    }
    // A sign, or "ago" behind it, would make it a time in the past.
    let span = text.parse::<Span>().ok().filter(|span| !span.is_negative() && !text.starts_with('+'))?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    u64::try_from(duration.as_micros()).ok()
}

/// Digits and nothing else.
fn whole_number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Window;
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    const NOW_US: u64 = 1_700_000_000_500_000;
    const DAY_MS: u64 = 86_400_000;

    fn ordering() -> Ordering {
        Ordering {
            order: Order::None,
            fair_by: None,
            fair_weights: [].into(),
            throttle: None,
            delay_ms_max: DAY_MS,
            window: Window { records_max: 1, bytes_max: 1 },
            concurrency: 1,
        }
    }

    /// When a record is due and expires, and its priority.
    type Given = (Option<u64>, Option<u64>, Option<u8>);

    /// The attributes of a record with these fields, received at `NOW_US`.
    fn values(fields: &[(&'static str, &str)]) -> Result<Given, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let ordering = ordering();
        let read = AttributeFields::read(&headers, &ordering).and_then(|fields| fields.resolve(NOW_US, &ordering));
        let detail = |refusal: Refusal| String::from_utf8(refusal.into_response().into_body().to_vec()).unwrap();
        read.map(|read| (read.deliver_at_us, read.expires_at_us, read.priority)).map_err(detail)
    }

    #[test]
    fn times_and_durations_have_several_forms() {
        for (text, delay_us) in [
            ("0", 0),
            ("30", 30_000_000),
            ("30s", 30_000_000),
            ("500ms", 500_000),
            ("2h", 7_200_000_000),
            ("1d", 86_400_000_000),
            ("1h30m", 5_400_000_000),
            ("1h 30m", 5_400_000_000),
            ("1.5s", 1_500_000),
            ("PT30S", 30_000_000),
        ] {
            assert_eq!(values(&[("forebay-delay", text)]), Ok((Some(NOW_US + delay_us), None, None)), "{text}");
            if delay_us > 0 {
                let expires = format!("+{text}");
                assert_eq!(
                    values(&[("forebay-expires", &expires)]),
                    Ok((None, Some(NOW_US + delay_us), None)),
                    "{text}"
                );
            }
        }
        for (text, at_us) in [
            ("1700000001", 1_700_000_001_000_000),
            ("2023-11-14T22:13:21Z", 1_700_000_001_000_000),
            ("2023-11-15T00:13:21.000007+02:00", 1_700_000_001_000_007),
        ] {
            for name in ["forebay-deliver-at", "forebay-expires"] {
                let wanted =
                    if name == "forebay-expires" { (None, Some(at_us), None) } else { (Some(at_us), None, None) };
                assert_eq!(values(&[(name, text)]), Ok(wanted), "{text}");
            }
        }
        assert_eq!(duration_us("1w 1d"), Some(8 * DAY_MS * 1000));
        // Whatever stays for longer than the calendar goes on expires with it.
        let never = values(&[("forebay-expires", "+18446744073709")]);
        assert_eq!(never, Ok((None, Some(UNIX_S_MAX * 1_000_000), None)));
        // What was due before now is due now.
        assert_eq!(values(&[("forebay-deliver-at", "1")]), Ok((Some(1_000_000), None, None)));
    }

    #[test]
    fn what_is_malformed_or_contradicts_itself_is_refused_in_words() {
        let (due, expires) = ("forebay-deliver-at", "forebay-expires");
        for (fields, part) in [
            (&[("forebay-delay", "soon")][..], "forebay-delay is no duration"),
            (&[("forebay-delay", "-5s")], "forebay-delay is no duration"),
            (&[("forebay-delay", "+5s")], "forebay-delay is no duration"),
            (&[("forebay-delay", "5s ago")], "forebay-delay is no duration"),
            (&[("forebay-delay", "1 month")], "forebay-delay is no duration"),
            (&[("forebay-delay", "18446744073709551615s 1000000000ns")], "forebay-delay is no duration"),
            (&[("forebay-delay", "99999999999999999999")], "forebay-delay is no duration"),
            (&[("forebay-delay", "86401")], "due in 86401000 ms; this queue's delay_ms_max is 86400000"),
            (&[("forebay-delay", "18446744073709")], "delay_ms_max is 86400000"),
            (&[("forebay-delay", "1"), ("forebay-delay", "1")], "forebay-delay stands in the request twice"),
            (&[("forebay-delay", "")], "forebay-delay is empty"),
            (&[("forebay-delay", "1"), (due, "1700000001")], "send one of them"),
            (&[(due, "2023-11-14T22:13:21")], "forebay-deliver-at is no time"),
            (&[(due, "1700000001000000")], "forebay-deliver-at is no time"),
            (&[(due, "1969-12-31T23:59:59Z")], "forebay-deliver-at is no time"),
            (&[(due, "+30s")], "forebay-deliver-at is no time"),
            (&[(due, "2123-01-01T00:00:00Z")], "delay_ms_max is 86400000"),
            (&[(due, &"1".repeat(65))], "forebay-deliver-at has 65 bytes; at most 64"),
            (&[(expires, "+")], "forebay-expires has no duration"),
            (&[(expires, "++5s")], "forebay-expires has no duration"),
            (&[(expires, "30s")], "forebay-expires is no time"),
            (&[(expires, "+0")], "expired already"),
            (&[(expires, "1700000000")], "expired already"),
            (&[(expires, "+10"), ("forebay-delay", "10")], "expire before it is due"),
            (&[(expires, "1700000005"), (due, "1700000006")], "expire before it is due"),
            (&[("forebay-priority", "10")], "a digit from 0 to 9"),
            (&[("forebay-priority", "+1")], "a digit from 0 to 9"),
            (&[("forebay-priority", "high")], "a digit from 0 to 9"),
        ] {
            let detail = values(fields).unwrap_err();
            assert!(detail.contains(part), "{part:?} is not in {detail}");
        }
        assert_eq!(values(&[(expires, "+10"), ("forebay-delay", "9"), ("forebay-priority", "0")]).unwrap().2, Some(0));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[ -~]{1,40}", number in "[-+]?[0-9]{1,30} ?[a-zA-Zµ]{0,4}") {
            for text in [&text, &number] {
                let _ = (duration_us(text), read_time(&EXPIRES, text), read_expiry(text), read_priority(text));
            }
        }

        /// What is taken is due within the bound and expires behind that.
        #[test]
        fn what_is_taken_is_within_its_bounds(delay_s in 0..200_000_u64, expires_s in 0..200_000_u64) {
            let (delay, expires) = (delay_s.to_string(), format!("+{expires_s}"));
            let taken = values(&[("forebay-delay", &delay), ("forebay-expires", &expires)]);
            prop_assert_eq!(taken.is_ok(), delay_s * 1000 <= DAY_MS && expires_s > delay_s);
        }
    }
}
