//! Values on their way into a database, and the types that a mapping may ask of them.
//!
//! Nothing here goes through a float or a tree: a number stays the text that it was, and is read digit by digit where its type
//! asks for that. What a value becomes in a column is the database's decision.

mod decimal;

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jiff::Timestamp;
use serde::de::IgnoredAny;

use self::decimal::Decimal;

/// The first microsecond of the year 1; databases disagree about what was before.
const UNIX_US_MIN: i64 = -62_135_596_800_000_000;
/// The last moment that is in the year 9999 in every time zone, to the second; behind that year RFC 3339 has no notation.
const UNIX_US_MAX: i64 = 253_402_207_200_000_000;

/// Clients disagree about whether base64 is padded.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A value on its way into a database, which decides what it becomes in a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// SQL's NULL, for JSON's null and for what a record doesn't have.
    Null,
    /// JSON's true or false.
    Boolean(bool),
    /// A number as it was written.
    Number(Cow<'a, str>),
    /// Text.
    Text(Cow<'a, str>),
    /// What a client sent: mostly text, but nobody promised it.
    Bytes(Cow<'a, [u8]>),
}

/// What a mapping asks of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// An integer of 64 bits, as a number or a string; `5.0` and `1e3` are integers.
    Integer,
    /// A number, or a string that says one; its notation is kept.
    Number,
    /// A string, a number or a boolean, as text.
    Text,
    /// `true` or `false`, as such or as strings, or the numbers 0 and 1.
    Boolean,
    /// An RFC 3339 string; becomes UTC with microseconds.
    Timestamp,
    /// Seconds since 1970, with a fraction or without; becomes the same.
    UnixS,
    /// Milliseconds since 1970; becomes the same.
    UnixMs,
    /// Any JSON, as JSON text.
    Json,
    /// A base64 string, as the bytes that it stands for.
    Bytes,
}

/// Why a value is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConversionError {
    /// It holds what no text can say, such as half a surrogate pair.
    #[error("it is not JSON: {0}")]
    NotJson(String),
    /// No value of this kind can be of the type.
    #[error("wants {wanted}, not {found}")]
    Kind {
        /// The type.
        wanted: &'static str,
        /// What JSON calls the value.
        found: &'static str,
    },
    /// Values of this kind can be of the type, but this one is not.
    #[error("wants {wanted}, and the {found} there is none")]
    Content {
        /// The type.
        wanted: &'static str,
        /// What JSON calls the value.
        found: &'static str,
    },
}

impl<'a> Value<'a> {
    /// The bytes that say this value, or `None` for NULL.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Null => None,
            Value::Boolean(true) => Some(b"true"),
            Value::Boolean(false) => Some(b"false"),
            Value::Number(text) | Value::Text(text) => Some(text.as_bytes()),
            Value::Bytes(bytes) => Some(bytes),
        }
    }

    /// The same value, without a copy of what it says.
    #[must_use]
    pub fn borrowed(&self) -> Value<'_> {
        match self {
            Value::Null => Value::Null,
            Value::Boolean(truth) => Value::Boolean(*truth),
            Value::Number(text) => Value::Number(Cow::Borrowed(text)),
            Value::Text(text) => Value::Text(Cow::Borrowed(text)),
            Value::Bytes(bytes) => Value::Bytes(Cow::Borrowed(bytes)),
        }
    }

    /// What JSON text says, if nobody asks for a type: an array or object is its text.
    ///
    /// # Errors
    ///
    /// [`ConversionError::NotJson`] for a string that says no characters.
    pub fn of_json(json: &'a str) -> Result<Self, ConversionError> {
        Ok(match json.as_bytes().first() {
            None | Some(b'n') => Value::Null,
            Some(b'"') => Value::Text(string(json)?),
            Some(b't') => Value::Boolean(true),
            Some(b'f') => Value::Boolean(false),
            Some(b'{' | b'[') => Value::Text(compact(json)),
            Some(_) => Value::Number(Cow::Borrowed(json)),
        })
    }
}

impl ValueType {
    /// The types by the words that a configuration has for them.
    pub const WORDS: [(&'static str, Self); 9] = [
        ("integer", Self::Integer),
        ("number", Self::Number),
        ("text", Self::Text),
        ("boolean", Self::Boolean),
        ("timestamp", Self::Timestamp),
        ("unix_s", Self::UnixS),
        ("unix_ms", Self::UnixMs),
        ("json", Self::Json),
        ("bytes", Self::Bytes),
    ];

    /// The word that a configuration has for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, other)| *other == self).map_or("", |(word, _)| word)
    }

    /// JSON text as a value of this type. Null is NULL.
    ///
    /// # Errors
    ///
    /// Why it is none.
    pub fn of_json(self, json: &str) -> Result<Value<'_>, ConversionError> {
        match json.as_bytes().first() {
            None | Some(b'n') => Ok(Value::Null),
            Some(_) if self == Self::Json => Ok(Value::Text(compact(json))),
            Some(b'"') => self.of_string(string(json)?),
            Some(b't') => self.of_boolean(true),
            Some(b'f') => self.of_boolean(false),
            Some(b'{') => Err(self.kind("an object")),
            Some(b'[') => Err(self.kind("an array")),
            Some(_) => self.of_number(Cow::Borrowed(json)),
        }
    }

    /// A value that is not from a body's JSON as a value of this type: a string says what it says, JSON is a whole text of
    /// JSON, and bytes are the bytes themselves.
    ///
    /// # Errors
    ///
    /// Why it is none.
    pub fn of_value(self, value: Value<'_>) -> Result<Value<'_>, ConversionError> {
        match (self, value) {
            (_, Value::Null) => Ok(Value::Null),
            (Self::Bytes, Value::Bytes(bytes)) => Ok(Value::Bytes(bytes)),
            (Self::Bytes, Value::Text(text) | Value::Number(text)) => Ok(Value::Bytes(match text {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            })),
            (Self::Json, Value::Text(text)) => {
                serde_json::from_str::<IgnoredAny>(&text).map_err(|_| self.content("text"))?;
                Ok(Value::Text(text))
            }
            (_, Value::Boolean(truth)) => self.of_boolean(truth),
            (_, Value::Number(text)) => self.of_number(text),
            (_, Value::Text(text)) => self.of_string(text),
            (_, Value::Bytes(bytes)) => {
                let text = match bytes {
                    Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
                    Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
                };
                self.of_value(Value::Text(text.ok_or_else(|| self.kind("bytes that are not UTF-8"))?))
            }
        }
    }

    fn of_string(self, text: Cow<'_, str>) -> Result<Value<'_>, ConversionError> {
        let none = || self.content("string");
        match self {
            Self::Text | Self::Json => Ok(Value::Text(text)),
            Self::Number if Decimal::parse(&text).is_some() => Ok(Value::Number(text)),
            Self::Boolean if text == "true" || text == "false" => Ok(Value::Boolean(text == "true")),
            Self::Number | Self::Boolean => Err(none()),
            Self::Integer => integer(&text).ok_or_else(none),
            Self::UnixS => unix(&text, 6).ok_or_else(none),
            Self::UnixMs => unix(&text, 3).ok_or_else(none),
            Self::Timestamp => timestamp(&text).ok_or_else(none),
            Self::Bytes => {
                BASE64.decode(text.as_bytes()).map(|bytes| Value::Bytes(Cow::Owned(bytes))).map_err(|_| none())
            }
        }
    }

    fn of_number(self, text: Cow<'_, str>) -> Result<Value<'_>, ConversionError> {
        let none = || self.content("number");
        match self {
            Self::Number => Ok(Value::Number(text)),
            Self::Text | Self::Json => Ok(Value::Text(text)),
            Self::Integer => integer(&text).ok_or_else(none),
            Self::UnixS => unix(&text, 6).ok_or_else(none),
            Self::UnixMs => unix(&text, 3).ok_or_else(none),
            Self::Boolean if text == "0" || text == "1" => Ok(Value::Boolean(text == "1")),
            Self::Boolean => Err(none()),
            Self::Timestamp | Self::Bytes => Err(self.kind("a number")),
        }
    }

    fn of_boolean(self, truth: bool) -> Result<Value<'static>, ConversionError> {
        match self {
            Self::Boolean => Ok(Value::Boolean(truth)),
            Self::Text | Self::Json => Ok(Value::Text(Cow::Borrowed(if truth { "true" } else { "false" }))),
            _ => Err(self.kind("a boolean")),
        }
    }

    fn wanted(self) -> &'static str {
        match self {
            Self::Integer => "an integer of 64 bits",
            Self::Number => "a number",
            Self::Text => "text",
            Self::Boolean => "a boolean",
            Self::Timestamp => "an RFC 3339 time",
            Self::UnixS => "a time in Unix seconds",
            Self::UnixMs => "a time in Unix milliseconds",
            Self::Json => "JSON",
            Self::Bytes => "a base64 string",
        }
    }

    fn kind(self, found: &'static str) -> ConversionError {
        ConversionError::Kind { wanted: self.wanted(), found }
    }

    fn content(self, found: &'static str) -> ConversionError {
        ConversionError::Content { wanted: self.wanted(), found }
    }
}

/// A time in UTC with microseconds; one out of the range of years becomes its nearest end.
#[must_use]
pub fn rfc3339(unix_us: u64) -> String {
    let unix_us = i64::try_from(unix_us).unwrap_or(i64::MAX).min(UNIX_US_MAX);
    written(unix_us).unwrap_or_default()
}

fn written(unix_us: i64) -> Option<String> {
    let time = Timestamp::from_microsecond(unix_us).ok()?;
    (UNIX_US_MIN..=UNIX_US_MAX).contains(&unix_us).then(|| format!("{time:.6}"))
}

fn timestamp(text: &str) -> Option<Value<'static>> {
    // Two forms that the parser takes beyond RFC 3339: a time without its date's separator, and a zone in brackets.
    if !matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' ')) || text.contains('[') {
        return None;
    }
    let time: Timestamp = text.parse().ok()?;
    Some(Value::Text(Cow::Owned(written(time.as_microsecond())?)))
}

/// A number of seconds or parts of them, of which there are 10 to the power of `shift` microseconds in one.
fn unix(text: &str, shift: i64) -> Option<Value<'static>> {
    let (unix_us, _) = Decimal::parse(text)?.scaled(shift)?;
    Some(Value::Text(Cow::Owned(written(unix_us)?)))
}

fn integer(text: &str) -> Option<Value<'static>> {
    let (integer, is_exact) = Decimal::parse(text)?.scaled(0)?;
    is_exact.then(|| Value::Number(Cow::Owned(integer.to_string())))
}

/// Whether this is a number in JSON's notation.
#[must_use]
pub fn is_number(text: &str) -> bool {
    Decimal::parse(text).is_some()
}

/// What a JSON string, quotes included, says.
///
/// # Errors
///
/// An escape that names no character, such as half a surrogate pair.
pub(crate) fn string(quoted: &str) -> Result<Cow<'_, str>, ConversionError> {
    match quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) if !inner.contains('\\') => Ok(Cow::Borrowed(inner)),
        _ => serde_json::from_str(quoted).map(Cow::Owned).map_err(|error| ConversionError::NotJson(error.to_string())),
    }
}

/// JSON text without the blanks between its tokens.
pub(crate) fn compact(json: &str) -> Cow<'_, str> {
    let mut kept = String::new();
    let (mut from, mut is_string, mut is_escape) = (0, false, false);
    for (at, byte) in json.bytes().enumerate() {
        if is_string {
            is_string = is_escape || byte != b'"';
            is_escape = !is_escape && byte == b'\\';
        } else if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            kept.push_str(json.get(from..at).unwrap_or_default());
            from = at + 1;
        } else {
            is_string = byte == b'"';
        }
    }
    if from == 0 {
        return Cow::Borrowed(json);
    }
    kept.push_str(json.get(from..).unwrap_or_default());
    Cow::Owned(kept)
}

#[cfg(test)]
mod tests {
    use super::ValueType::{Boolean, Bytes, Integer, Json, Number, Text, UnixMs, UnixS};
    use super::*;
    use proptest::prelude::*;

    fn said(kind: ValueType, json: &str) -> Option<String> {
        let value = kind.of_json(json).ok()?;
        Some(String::from_utf8_lossy(value.bytes().unwrap_or(b"NULL")).into_owned())
    }

    #[test]
    fn a_type_takes_what_is_exactly_that() {
        for (kind, json, wanted) in [
            (Integer, "5", "5"),
            (Integer, "-5.00", "-5"),
            (Integer, "1e3", "1000"),
            (Integer, "\"12300e-2\"", "123"),
            (Integer, "-0.0e9", "0"),
            (Integer, "-9223372036854775808", "-9223372036854775808"),
            (Integer, "0.0000000000000000000000000000005e31", "5"),
            (Number, "\"19.90\"", "19.90"),
            (Number, "1e400", "1e400"),
            (Text, "\"a\\nb\"", "a\nb"),
            (Text, "19.90", "19.90"),
            (Text, "true", "true"),
            (Boolean, "\"false\"", "false"),
            (Boolean, "1", "true"),
            (ValueType::Timestamp, "\"2023-11-14T23:13:20.5+01:00\"", "2023-11-14T22:13:20.500000Z"),
            (ValueType::Timestamp, "\"2023-11-14T22:13:20Z\"", "2023-11-14T22:13:20.000000Z"),
            (UnixS, "1700000000", "2023-11-14T22:13:20.000000Z"),
            (UnixS, "\"1700000000.0000429\"", "2023-11-14T22:13:20.000042Z"),
            (UnixMs, "1700000000042", "2023-11-14T22:13:20.042000Z"),
            (UnixMs, "-1", "1969-12-31T23:59:59.999000Z"),
            (Json, " [1, \"a b\"]", "[1,\"a b\"]"),
            (Json, "\"x\"", "\"x\""),
            (Bytes, "\"aGk\"", "hi"),
            (Bytes, "\"aGk=\"", "hi"),
            (Integer, "null", "NULL"),
        ] {
            assert_eq!(said(kind, json).as_deref(), Some(wanted), "{kind:?} of {json}");
        }
    }

    #[test]
    fn what_is_not_exactly_that_is_refused_in_words() {
        for (kind, json, part) in [
            (Integer, "1.5", "wants an integer of 64 bits, and the number there is none"),
            (Integer, "9223372036854775808", "the number there is none"),
            (Integer, "1e99999999999999999999999", "the number there is none"),
            (Integer, "\"1_000\"", "the string there is none"),
            (Integer, "\" 1\"", "the string there is none"),
            (Integer, "\"\"", "the string there is none"),
            (Integer, "true", "not a boolean"),
            (Integer, "[1]", "not an array"),
            (Number, "\"0x10\"", "wants a number, and the string there is none"),
            (Number, "\"01\"", "the string there is none"),
            (Number, "\".5\"", "the string there is none"),
            (Text, "{}", "wants text, not an object"),
            (Boolean, "2", "the number there is none"),
            (Boolean, "\"yes\"", "wants a boolean, and the string there is none"),
            (ValueType::Timestamp, "1700000000", "wants an RFC 3339 time, not a number"),
            (ValueType::Timestamp, "\"2023-11-14\"", "the string there is none"),
            (ValueType::Timestamp, "\"2023-11-14T22:13:20\"", "the string there is none"),
            (ValueType::Timestamp, "\"2023-02-30T22:13:20Z\"", "the string there is none"),
            (ValueType::Timestamp, "\"0000-12-31T22:13:20Z\"", "the string there is none"),
            (UnixS, "1e300", "wants a time in Unix seconds, and the number there is none"),
            (UnixS, "253402300800", "the number there is none"),
            (Bytes, "\"a b\"", "wants a base64 string, and the string there is none"),
            (Text, "\"\\ud800\"", "not JSON"),
        ] {
            let error = kind.of_json(json).unwrap_err().to_string();
            assert!(error.contains(part), "{kind:?} of {json}: {error}");
        }
    }

    #[test]
    fn what_is_not_from_json_says_what_it_says() {
        let text = |text: &'static str| Value::Text(Cow::Borrowed(text));
        let bytes = |bytes: &'static [u8]| Value::Bytes(Cow::Borrowed(bytes));
        assert_eq!(Integer.of_value(bytes(b"7")), Ok(Value::Number(Cow::Borrowed("7"))));
        assert_eq!(Json.of_value(bytes(b"{ }")), Ok(text("{ }")));
        assert_eq!(Bytes.of_value(text("a b")), Ok(bytes(b"a b")));
        assert_eq!(Bytes.of_value(bytes(b"\xff")), Ok(bytes(b"\xff")));
        assert_eq!(Text.of_value(Value::Null), Ok(Value::Null));
        assert!(Json.of_value(text("{")).unwrap_err().to_string().contains("wants JSON"));
        assert!(Text.of_value(bytes(b"\xff")).unwrap_err().to_string().contains("not UTF-8"));
    }

    #[test]
    fn compact_text_keeps_strings_whole() {
        assert_eq!(compact("{ \"a b\" :\n[ 1 , \"x\\\" y\" ] }"), r#"{"a b":[1,"x\" y"]}"#);
        assert_eq!(compact("[1]"), "[1]");
    }

    #[test]
    fn a_time_out_of_range_is_no_panic() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339(1_700_000_000_000_042), "2023-11-14T22:13:20.000042Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-30T22:00:00.000000Z");
    }

    proptest! {
        #[test]
        fn an_integer_is_one_however_it_is_written(integer: i64, zeros in 0_usize..25) {
            let padding = "0".repeat(zeros);
            let (sign, digits) = if integer < 0 { ("-", integer.unsigned_abs()) } else { ("", integer.unsigned_abs()) };
            let wanted = Some(integer.to_string());
            for written in [format!("{integer}"), format!("{integer}.{padding}0"), format!("{integer}{padding}e-{zeros}"),
                format!("{sign}0.{padding}{digits}E+{}", zeros + digits.to_string().len()), format!("\"{integer}\"")] {
                prop_assert_eq!(&said(Integer, &written), &wanted, "{}", written);
            }
        }

        #[test]
        fn a_time_is_the_same_moment_in_every_notation(unix_ms in -62_135_596_800_000_i64..253_402_207_200_000, hours in -14_i32..=14) {
            let wanted = said(UnixMs, &unix_ms.to_string());
            prop_assert!(wanted.is_some());
            let seconds = format!("{}{}.{:03}", if unix_ms < 0 { "-" } else { "" }, unix_ms.unsigned_abs() / 1000,
                unix_ms.unsigned_abs() % 1000);
            prop_assert_eq!(&said(UnixS, &seconds), &wanted);
            let zone = jiff::tz::Offset::from_seconds(hours * 3600).unwrap().to_time_zone();
            let there = Timestamp::from_millisecond(unix_ms).unwrap().to_zoned_datetime(zone);
            prop_assume!((1..=9999).contains(&there.year()));
            let text = there.strftime("\"%Y-%m-%dT%H:%M:%S%.3f%:z\"").to_string();
            prop_assert_eq!(&said(ValueType::Timestamp, &text), &wanted, "{}", text);
        }

        #[test]
        fn bytes_get_back_through_base64(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let json = format!("\"{}\"", BASE64.encode(&bytes));
            prop_assert_eq!(Bytes.of_json(&json), Ok(Value::Bytes(Cow::Owned(bytes))));
        }

        #[test]
        fn any_text_is_taken_without_a_panic(text in any::<String>(), number in "-?[0-9.]{0,30}([eE][+-]?[0-9]{0,30})?") {
            for (_, kind) in ValueType::WORDS {
                for text in [&text, &number] {
                    let quoted = serde_json::to_string(text).unwrap();
                    let _ = kind.of_json(&quoted);
                    let _ = kind.of_value(Value::Text(Cow::Borrowed(text)));
                    let _ = kind.of_value(Value::Bytes(Cow::Borrowed(text.as_bytes())));
                }
            }
            prop_assert_eq!(is_number(&number), serde_json::from_str::<IgnoredAny>(&number).is_ok());
        }
    }
}
