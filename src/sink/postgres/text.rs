//! Values in PostgreSQL's text formats: of `COPY … FROM STDIN` and of parameters.
//!
//! Everything is sent as text, so that the server's own input functions turn it
//! into the column's type and refuse what doesn't fit.

use tokio_postgres::types::{Kind, Type};

use super::super::encoding::{RowFormat, append_line, find_special};
use super::super::mapping::Value;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// How a column or a parameter takes its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As they are; every type but one.
    Plain,
    /// `bytea`: hexadecimal behind `\x`.
    Hex,
}

/// Why a value has no text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    /// Text in PostgreSQL ends at a zero byte.
    #[error("it holds a zero byte, which PostgreSQL keeps only in a bytea column")]
    Zero,
    /// Text has to be UTF-8.
    #[error("it is not UTF-8, so PostgreSQL keeps it only in a bytea column")]
    NotUtf8,
}

/// Rows whose columns take their values so.
#[derive(Debug)]
pub(super) struct Lines {
    forms: Vec<Form>,
}

impl Lines {
    pub(super) fn new<'t>(types: impl IntoIterator<Item = &'t Type>) -> Self {
        Self { forms: types.into_iter().map(form).collect() }
    }
}

impl RowFormat for Lines {
    type Unfit = Unfit;

    fn append(&self, row: &[Value<'_>], out: &mut Vec<u8>) -> Result<(), (usize, Unfit)> {
        let field = |value: &Value<'_>, number: usize, out: &mut Vec<u8>| {
            copy_field(value, self.forms.get(number).copied().unwrap_or(Form::Plain), out)
        };
        append_line(row, field, out)
    }
}

/// How values of a type are written.
pub(super) fn form(kind: &Type) -> Form {
    match kind.kind() {
        Kind::Domain(base) => form(base),
        _ if *kind == Type::BYTEA => Form::Hex,
        _ => Form::Plain,
    }
}

/// Appends a field of a COPY row, without the tab or newline that ends it.
///
/// # Errors
///
/// What keeps the value from being text; `out` then ends in the middle of a row.
pub(super) fn copy_field(value: &Value<'_>, form: Form, out: &mut Vec<u8>) -> Result<(), Unfit> {
    match (value.bytes(), form) {
        (None, _) => out.extend_from_slice(b"\\N"),
        (Some(bytes), Form::Hex) => {
            // The backslash is doubled for COPY.
            out.extend_from_slice(b"\\\\x");
            append_hex(bytes, out);
        }
        (Some(bytes), Form::Plain) => {
            fits(value, bytes)?;
            escape(bytes, out);
        }
    }
    Ok(())
}

/// Appends a parameter's text; returns whether there is one, since NULL has none.
///
/// # Errors
///
/// What keeps the value from being text; `out` is then unchanged.
pub(super) fn parameter(value: &Value<'_>, form: Form, out: &mut Vec<u8>) -> Result<bool, Unfit> {
    match (value.bytes(), form) {
        (None, _) => return Ok(false),
        (Some(bytes), Form::Hex) => {
            out.extend_from_slice(b"\\x");
            append_hex(bytes, out);
        }
        (Some(bytes), Form::Plain) => {
            fits(value, bytes)?;
            out.extend_from_slice(bytes);
        }
    }
    Ok(true)
}

fn fits(value: &Value<'_>, bytes: &[u8]) -> Result<(), Unfit> {
    if matches!(value, Value::Bytes(_)) && std::str::from_utf8(bytes).is_err() {
        return Err(Unfit::NotUtf8);
    }
    if bytes.contains(&0) { Err(Unfit::Zero) } else { Ok(()) }
}

fn append_hex(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(2 * bytes.len());
    for byte in bytes {
        out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}

/// The digits of `bytes`, for a literal.
pub(super) fn hex_digits(bytes: &[u8]) -> impl Iterator<Item = char> {
    let digit = |half: u8| char::from(HEX[usize::from(half)]);
    bytes.iter().flat_map(move |byte| [digit(byte >> 4), digit(byte & 15)])
}

/// Appends `bytes` with a backslash before whatever means something to COPY, and every
/// other control character in octal, so that a row is one printable line.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let is_special = |byte: u8| byte < b' ' || byte == b'\\' || byte == 0x7f;
    let mut rest = bytes;
    while let Some(length) = find_special(rest, is_special) {
        out.extend_from_slice(&rest[..length]);
        match rest[length] {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => out.extend([b'\\', b'0' + (control >> 6), b'0' + (control >> 3 & 7), b'0' + (control & 7)]),
        }
        rest = &rest[length + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use proptest::prelude::*;

    /// The rules of PostgreSQL's manual for COPY's text format, written independently of the encoder.
    fn decode(line: &[u8]) -> Vec<Option<Vec<u8>>> {
        line.split(|byte| *byte == b'\t').map(decode_field).collect()
    }

    fn decode_field(field: &[u8]) -> Option<Vec<u8>> {
        if field == b"\\N" {
            return None;
        }
        let mut decoded = Vec::new();
        let mut bytes = field.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            if byte != b'\\' {
                decoded.push(byte);
                continue;
            }
            decoded.push(match bytes.next().unwrap() {
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 11,
                digit @ b'0'..=b'7' => {
                    let mut number = u32::from(digit - b'0');
                    for _ in 0..2 {
                        if let Some(next) = bytes.next_if(|next| (b'0'..=b'7').contains(next)) {
                            number = number * 8 + u32::from(next - b'0');
                        }
                    }
                    u8::try_from(number & 0xff).unwrap()
                }
                other => other,
            });
        }
        Some(decoded)
    }

    fn value() -> impl Strategy<Value = Value<'static>> {
        let tricky = "[\\\\nNtrx01.\u{1}\u{8}\u{b}\u{7f}\n\r\t,é🦀 ]{0,12}";
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Boolean),
            any::<i64>().prop_map(|number| Value::Number(Cow::Owned(number.to_string()))),
            any::<String>().prop_map(|text| Value::Text(Cow::Owned(text))),
            tricky.prop_map(|text| Value::Text(Cow::Owned(text))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_decoder_of_copy_gets_the_values_back(row in prop::collection::vec(value(), 1..5)) {
            let mut line = Vec::new();
            let mut wanted = Vec::new();
            for value in &row {
                if !line.is_empty() || !wanted.is_empty() { line.push(b'\t'); }
                match copy_field(value, Form::Plain, &mut line) {
                    Ok(()) => wanted.push(value.bytes().map(<[u8]>::to_vec)),
                    Err(unfit) => {
                        prop_assert_eq!(unfit, Unfit::Zero);
                        prop_assert!(value.bytes().unwrap().contains(&0));
                        return Ok(());
                    }
                }
            }
            prop_assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
            prop_assert_ne!(line.as_slice(), b"\\.");
            prop_assert_eq!(decode(&line), wanted);
        }

        #[test]
        fn bytes_get_back_through_hex(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut field = Vec::new();
            copy_field(&Value::Bytes(Cow::Borrowed(&bytes)), Form::Hex, &mut field).unwrap();
            let text = decode_field(&field).unwrap();
            let mut as_parameter = Vec::new();
            prop_assert!(parameter(&Value::Bytes(Cow::Borrowed(&bytes)), Form::Hex, &mut as_parameter).unwrap());
            prop_assert_eq!(&text, &as_parameter);
            let digits = String::from_utf8(text).unwrap().split_off(2);
            let pairs = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
            prop_assert_eq!(pairs.collect::<Vec<_>>(), bytes);
        }
    }

    #[test]
    fn what_is_not_text_is_refused() {
        let mut out = Vec::new();
        assert_eq!(copy_field(&Value::Bytes(Cow::Borrowed(b"a\xff")), Form::Plain, &mut out), Err(Unfit::NotUtf8));
        assert_eq!(copy_field(&Value::Text(Cow::Borrowed("a\0")), Form::Plain, &mut out), Err(Unfit::Zero));
        assert_eq!(parameter(&Value::Bytes(Cow::Borrowed(b"a\0")), Form::Plain, &mut out), Err(Unfit::Zero));
        assert_eq!(parameter(&Value::Null, Form::Hex, &mut out), Ok(false));
        assert!(out.is_empty());
    }

    #[test]
    fn null_and_the_text_that_looks_like_it_differ() {
        let encoded = |value: Value<'_>| {
            let mut out = Vec::new();
            copy_field(&value, Form::Plain, &mut out).unwrap();
            out
        };
        assert_eq!(encoded(Value::Null), b"\\N");
        assert_eq!(encoded(Value::Text(Cow::Borrowed("\\N"))), b"\\\\N");
        assert_eq!(encoded(Value::Text(Cow::Borrowed("\\."))), b"\\\\.");
        assert_eq!(encoded(Value::Text(Cow::Borrowed("a\tb\u{1}1"))), b"a\\tb\\0011");
    }
}
