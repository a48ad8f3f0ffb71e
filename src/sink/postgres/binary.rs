//! Rows in PostgreSQL's binary format of `COPY … FROM STDIN`, which the server takes faster than text: it has nothing to look for.
//!
//! Only values of which the server would make the same from their text are written: what is odd in any way (a number with
//! a fraction for an integer, spaces, another way to write a time) has no binary form here. Its batch then goes as text, so that the server's own
//! input functions turn it into the column's type or refuse it.

use jiff::Timestamp;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::encoding::RowFormat;
use super::super::mapping::Value;

/// Microseconds from the Unix epoch to PostgreSQL's, the year 2000.
const EPOCH_UNIX_US: i64 = 946_684_800_000_000;
/// The version with which the binary form of `jsonb` begins.
const JSONB_VERSION: u8 = 1;
/// The length of what is NULL.
const NULL: [u8; 4] = (-1_i32).to_be_bytes();

/// The type of a column that takes binary values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `text` and whatever has its bytes.
    Text,
    Jsonb,
    Bytea,
    Int2,
    Int4,
    Int8,
    Float8,
    Bool,
    Uuid,
    /// With or without a zone: times that are written with one are in UTC.
    Timestamp,
}

/// A value that has to go as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has no binary form")]
pub(super) struct TextOnly;

/// Rows whose columns have these types.
#[derive(Debug)]
pub(super) struct Tuples {
    forms: Vec<Form>,
    /// How many columns there are, as it stands before each row.
    width: [u8; 2],
}

impl Tuples {
    /// `None` if a column's values have to go as text.
    pub(super) fn new<'t>(types: impl IntoIterator<Item = &'t Type>) -> Option<Self> {
        let forms: Vec<_> = types.into_iter().map(form).collect::<Option<_>>()?;
        let width = i16::try_from(forms.len()).ok()?.to_be_bytes();
        Some(Self { forms, width })
    }
}

impl RowFormat for Tuples {
    type Unfit = TextOnly;

    /// Signature, no flags, no extension.
    const HEAD: &'static [u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
    const TAIL: &'static [u8] = &(-1_i16).to_be_bytes();

    fn append(&self, row: &[Value<'_>], out: &mut Vec<u8>) -> Result<(), (usize, TextOnly)> {
        out.extend_from_slice(&self.width);
        for (number, (value, form)) in row.iter().zip(&self.forms).enumerate() {
            field(value, *form, out).map_err(|why| (number, why))?;
        }
        Ok(())
    }
}

fn form(kind: &Type) -> Option<Form> {
    Some(match *kind {
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::JSON => Form::Text,
        Type::JSONB => Form::Jsonb,
        Type::BYTEA => Form::Bytea,
        Type::INT2 => Form::Int2,
        Type::INT4 => Form::Int4,
        Type::INT8 => Form::Int8,
        Type::FLOAT8 => Form::Float8,
        Type::BOOL => Form::Bool,
        Type::UUID => Form::Uuid,
        Type::TIMESTAMP | Type::TIMESTAMPTZ => Form::Timestamp,
        _ => return None,
    })
}

/// Appends a value with its length.
fn field(value: &Value<'_>, form: Form, out: &mut Vec<u8>) -> Result<(), TextOnly> {
    let Some(bytes) = value.bytes() else {
        out.extend_from_slice(&NULL);
        return Ok(());
    };
    match form {
        Form::Text => put(&[text(value, bytes)?], out),
        Form::Jsonb => put(&[&[JSONB_VERSION], text(value, bytes)?], out),
        Form::Bytea => put(&[bytes], out),
        Form::Int2 => put(&[&number::<i16>(bytes)?.to_be_bytes()], out),
        Form::Int4 => put(&[&number::<i32>(bytes)?.to_be_bytes()], out),
        Form::Int8 => put(&[&number::<i64>(bytes)?.to_be_bytes()], out),
        Form::Float8 => put(&[&float(bytes)?.to_be_bytes()], out),
        Form::Bool => match value {
            Value::Boolean(truth) => put(&[&[u8::from(*truth)]], out),
            _ => Err(TextOnly),
        },
        Form::Uuid => put(&[&uuid(bytes)?], out),
        Form::Timestamp => put(&[&timestamp(bytes)?.to_be_bytes()], out),
    }
}

fn put(parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), TextOnly> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    out.extend_from_slice(&i32::try_from(length).map_err(|_| TextOnly)?.to_be_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    Ok(())
}

/// What is text to PostgreSQL: UTF-8 without a zero byte.
fn text<'b>(value: &Value<'_>, bytes: &'b [u8]) -> Result<&'b [u8], TextOnly> {
    let is_utf8 = !matches!(value, Value::Bytes(_)) || std::str::from_utf8(bytes).is_ok();
    if is_utf8 && !bytes.contains(&0) { Ok(bytes) } else { Err(TextOnly) }
}

/// Digits, with a sign or without, as the server reads them.
fn number<N: std::str::FromStr>(bytes: &[u8]) -> Result<N, TextOnly> {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or(TextOnly)
}

/// A number that is no border case: beyond those the server says that it is out of range.
fn float(bytes: &[u8]) -> Result<f64, TextOnly> {
    let number: f64 = number(bytes)?;
    if number.is_normal() || bytes == b"0" { Ok(number) } else { Err(TextOnly) }
}

/// With hyphens where they belong.
fn uuid(bytes: &[u8]) -> Result<[u8; 16], TextOnly> {
    let is_usual = bytes.len() == 36;
    let parsed = Uuid::try_parse_ascii(bytes).ok().filter(|_| is_usual);
    parsed.map(Uuid::into_bytes).ok_or(TextOnly)
}

/// The moment that forebay writes so itself, in microseconds since PostgreSQL's epoch.
fn timestamp(bytes: &[u8]) -> Result<i64, TextOnly> {
    const SHAPE: &[u8; 27] = b"dddd-dd-ddTdd:dd:dd.ddddddZ";
    let has_shape = bytes.len() == SHAPE.len()
        && bytes.iter().zip(SHAPE).all(|(byte, like)| if *like == b'd' { byte.is_ascii_digit() } else { byte == like });
    // The year 0 and a 60th second are something else to the server.
    if !has_shape || bytes.starts_with(b"0000") || &bytes[17..19] == b"60" {
        return Err(TextOnly);
    }
    let moment: Timestamp = number(bytes)?;
    Ok(moment.as_microsecond() - EPOCH_UNIX_US)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn written(value: &Value<'_>, form: Form) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        field(value, form, &mut out).ok()?;
        let (length, bytes) = out.split_at(4);
        assert_eq!(i32::from_be_bytes(length.try_into().unwrap()), i32::try_from(bytes.len()).unwrap());
        Some(bytes.to_vec())
    }

    fn text(text: &str) -> Value<'_> {
        Value::Text(Cow::Borrowed(text))
    }

    #[test]
    fn a_row_has_its_width_and_its_nulls() {
        let tuples = Tuples::new(&[Type::TEXT, Type::INT2]).unwrap();
        let mut out = Vec::new();
        tuples.append(&[Value::Null, Value::Number(Cow::Borrowed("-2"))], &mut out).unwrap();
        assert_eq!(out, [0, 2, 255, 255, 255, 255, 0, 0, 0, 2, 255, 254]);
        assert_eq!(tuples.append(&[Value::Null, text("x")], &mut Vec::new()), Err((1, TextOnly)));
        assert!(Tuples::new(&[Type::TEXT, Type::NUMERIC]).is_none());
    }

    #[test]
    fn what_is_odd_goes_as_text() {
        for (odd, form) in [
            ("a\0b", Form::Text),
            ("32768", Form::Int2),
            ("1.0", Form::Int4),
            (" 1", Form::Int4),
            ("1e3", Form::Int8),
            ("", Form::Int8),
            ("1e999", Form::Float8),
            ("1e-320", Form::Float8),
            ("NaN", Form::Float8),
            ("-0.0", Form::Float8),
            ("t", Form::Bool),
            ("{67e55044-10b1-426f-9247-bb680e5fe0c8}", Form::Uuid),
            ("67e5504410b1426f9247bb680e5fe0c8", Form::Uuid),
            ("67e55044-10b1-426f-9247-bb680e5fe0cg", Form::Uuid),
            ("2023-11-14 22:13:20.000042Z", Form::Timestamp),
            ("2023-11-14T22:13:20Z", Form::Timestamp),
            ("2023-11-14T22:13:60.000042Z", Form::Timestamp),
            ("2023-02-29T22:13:20.000042Z", Form::Timestamp),
            ("0000-11-14T22:13:20.000042Z", Form::Timestamp),
        ] {
            assert_eq!(written(&text(odd), form), None, "{odd:?} as {form:?}");
        }
        assert_eq!(written(&Value::Bytes(Cow::Borrowed(b"\xff")), Form::Text), None);
        assert_eq!(written(&Value::Bytes(Cow::Borrowed(b"\xff\0")), Form::Bytea), Some(vec![255, 0]));
        assert_eq!(written(&Value::Boolean(true), Form::Int4), None);
    }

    #[test]
    fn moments_count_from_the_year_2000() {
        let written =
            |moment| written(&text(moment), Form::Timestamp).map(|bytes| i64::from_be_bytes(bytes.try_into().unwrap()));
        assert_eq!(written("2000-01-01T00:00:00.000000Z"), Some(0));
        assert_eq!(written("1999-12-31T23:59:59.999999Z"), Some(-1));
        assert_eq!(written("2023-11-14T22:13:20.000042Z"), Some(1_700_000_000_000_042 - EPOCH_UNIX_US));
    }
}
