//! What an answer of an HTTP service means for its record. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use hyper::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

/// What became of a request that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The service has it.
    Taken,
    /// It will not take it, however often it is sent.
    Refused,
    /// It may take it later.
    Failed,
    /// It has asked for less, and perhaps to be left alone for so many milliseconds.
    Throttled(Option<u64>),
}

/// Judges an answer by its head. The time, in microseconds since the Unix epoch, counts where the answer does not say its own.
pub(super) fn verdict(status: StatusCode, headers: &HeaderMap, now_us: u64) -> Verdict {
    match status.as_u16() {
        200..=299 => Verdict::Taken,
        429 => Verdict::Throttled(retry_after_ms(headers, now_us)),
        503 => match retry_after_ms(headers, now_us) {
            Some(ms) => Verdict::Throttled(Some(ms)),
            None => Verdict::Failed,
        },
        // Who we are is for our operator to mend (401, 403, 407), and a request that came too slowly (408) or too early in a TLS
        // handshake (425) may be in time when it comes again: nothing is wrong with the record.
        401 | 403 | 407 | 408 | 425 | 500..=599 => Verdict::Failed,
        _ => Verdict::Refused,
    }
}

/// `Retry-After` in milliseconds: seconds, or a date. A date is counted from that of the answer, whose clock it is by.
fn retry_after_ms(headers: &HeaderMap, now_us: u64) -> Option<u64> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let asked = text(RETRY_AFTER).filter(|asked| !asked.is_empty())?;
    if asked.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(asked.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(1000));
    }
    let until = httpdate::parse_http_date(asked).ok()?;
    let theirs = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    let now: SystemTime = theirs.unwrap_or(UNIX_EPOCH + Duration::from_micros(now_us));
    let wait = until.duration_since(now).unwrap_or_default();
    Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}

/// An answer in words, with the beginning of its body if that is text, on one line.
pub(super) fn words(status: StatusCode, body: &[u8]) -> String {
    let said = String::from_utf8_lossy(body);
    let said: String = said.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    match said.trim() {
        "" => status.to_string(),
        said => format!("{status}: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    const NOW_US: u64 = 1_700_000_000_000_000;

    fn judged(status: u16, headers: &[(HeaderName, &str)]) -> Verdict {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name, HeaderValue::from_str(value).unwrap());
        }
        verdict(StatusCode::from_u16(status).unwrap(), &map, NOW_US)
    }

    #[test]
    fn every_status_has_a_meaning() {
        for status in 100..1000 {
            let wanted = match status {
                200..=299 => Verdict::Taken,
                429 => Verdict::Throttled(None),
                401 | 403 | 407 | 408 | 425 | 500..=599 => Verdict::Failed,
                _ => Verdict::Refused,
            };
            assert_eq!(judged(status, &[]), wanted, "{status}");
        }
    }

    #[test]
    fn who_asks_for_less_says_for_how_long() {
        let retry = |value| [(RETRY_AFTER, value)];
        for status in [429, 503] {
            assert_eq!(judged(status, &retry("0")), Verdict::Throttled(Some(0)));
            assert_eq!(judged(status, &retry(" 120 ")), Verdict::Throttled(Some(120_000)));
            assert_eq!(judged(status, &retry("99999999999999999999")), Verdict::Throttled(Some(u64::MAX)));
            // Two seconds and a half behind NOW_US, which is 22:13:20.
            assert_eq!(judged(status, &retry("Tue, 14 Nov 2023 22:13:22 GMT")), Verdict::Throttled(Some(2000)));
            assert_eq!(judged(status, &retry("Tue, 14 Nov 2023 22:13:10 GMT")), Verdict::Throttled(Some(0)));
            let by_their_clock =
                [(RETRY_AFTER, "Tue, 14 Nov 2000 22:13:22 GMT"), (DATE, "Tue, 14 Nov 2000 22:13:12 GMT")];
            assert_eq!(judged(status, &by_their_clock), Verdict::Throttled(Some(10_000)));
        }
        for nonsense in ["soon", "-5", "1.5", ""] {
            assert_eq!(judged(429, &retry(nonsense)), Verdict::Throttled(None), "{nonsense}");
            assert_eq!(judged(503, &retry(nonsense)), Verdict::Failed, "{nonsense}");
        }
        assert_eq!(judged(500, &retry("120")), Verdict::Failed);
        assert_eq!(judged(413, &retry("120")), Verdict::Refused);
    }

    #[test]
    fn a_refusal_is_one_line() {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        assert_eq!(words(status, b" \n"), "422 Unprocessable Entity");
        assert_eq!(words(status, b"no\r\n\x1b[31mstock\xff"), "422 Unprocessable Entity: no   [31mstock\u{fffd}");
    }
}
