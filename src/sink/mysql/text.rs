//! Values as literals of SQL, and as fields of LOAD DATA.
//!
//! Nearly everything is sent as text, so that the server turns it into the column's type and refuses what doesn't fit.
//! What the server would take for something else than was meant is written as the column wants it.

use std::borrow::Cow;

use jiff::Timestamp;

use super::super::encoding::{RowFormat, append_line, find_special};
use super::super::mapping::Value;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// How a column or a parameter takes its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As they are, in UTF-8: text, JSON, and types that are written as text.
    Text,
    /// Whatever the bytes are: BINARY and BLOB.
    Bytes,
    /// A number; true is 1.
    Number,
    /// The same without a fraction, which the server would round and say nothing.
    Integer,
    /// BIT, to which text would be bits.
    Bit,
    /// A time without an offset, which no such column takes in every version: UTC, and no more than the column holds.
    Time(TimeShape),
    /// As a literal in SQL would be, for a parameter whose column nobody knows: 1 as a number, `true` as 1.
    Literal,
}

/// What a column holds of a moment, and how many digits of the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeShape {
    /// DATE.
    Date,
    /// TIME.
    Clock(usize),
    /// DATETIME and TIMESTAMP.
    Moment(usize),
}

/// Why a value has no text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    /// Text has to be UTF-8.
    #[error("it is not UTF-8, so MySQL keeps it only in a binary column")]
    NotUtf8,
    /// A column for integers has to get one.
    #[error("it is not written as an integer, and MySQL would round it")]
    NotInteger,
}

/// Appends a literal of SQL.
///
/// # Errors
///
/// What keeps the value from being text; `out` is then unchanged.
pub(super) fn literal(value: &Value<'_>, form: Form, out: &mut String) -> Result<(), Unfit> {
    match (value, form) {
        (Value::Number(number), Form::Bit) if !is_integer(number.as_bytes()) => return Err(Unfit::NotInteger),
        // A minus sign in front of it must not become the beginning of a comment.
        (Value::Number(number), Form::Bit | Form::Literal) => {
            out.push(' ');
            out.push_str(number);
        }
        (Value::Boolean(truth), Form::Bit | Form::Literal) => out.push(if *truth { '1' } else { '0' }),
        _ => match bytes(value, form)? {
            None => out.push_str("NULL"),
            Some(bytes) => match (std::str::from_utf8(&bytes), form) {
                (Ok(text), Form::Bytes) => {
                    out.push_str("_binary");
                    quote(text, out);
                }
                (Ok(text), _) => quote(text, out),
                (Err(_), _) => hex(&bytes, out),
            },
        },
    }
    Ok(())
}

/// Rows whose columns take their values so; a column without a form is text.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) forms: Vec<Form>,
}

impl RowFormat for Lines {
    type Unfit = Unfit;

    fn append(&self, row: &[Value<'_>], out: &mut Vec<u8>) -> Result<(), (usize, Unfit)> {
        let field = |value: &Value<'_>, number: usize, out: &mut Vec<u8>| {
            field(value, self.forms.get(number).copied().unwrap_or(Form::Text), out)
        };
        append_line(row, field, out)
    }
}

/// Appends a field of LOAD DATA, without the tab or newline that ends it.
///
/// # Errors
///
/// What keeps the value from being text; `out` is then unchanged.
pub(super) fn field(value: &Value<'_>, form: Form, out: &mut Vec<u8>) -> Result<(), Unfit> {
    match bytes(value, form)? {
        None => out.extend_from_slice(b"\\N"),
        Some(bytes) => escape(&bytes, out),
    }
    Ok(())
}

/// Text as a string literal, whose end no text can reach, whatever `sql_mode` says of backslashes.
pub(super) fn quoted_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    quote(text, &mut out);
    out
}

/// The bytes of a value in this form, or `None` for NULL.
fn bytes<'v>(value: &'v Value<'_>, form: Form) -> Result<Option<Cow<'v, [u8]>>, Unfit> {
    Ok(match (value, form) {
        (Value::Boolean(truth), Form::Number | Form::Integer) => Some(Cow::Borrowed(if *truth { b"1" } else { b"0" })),
        (Value::Text(text), Form::Time(shape)) => Some(time(text, shape)),
        (Value::Bytes(bytes), Form::Text | Form::Number | Form::Integer | Form::Bit | Form::Time(_))
            if std::str::from_utf8(bytes).is_err() =>
        {
            return Err(Unfit::NotUtf8);
        }
        (_, Form::Integer) if value.bytes().is_some_and(|bytes| !is_integer(bytes)) => return Err(Unfit::NotInteger),
        _ => value.bytes().map(Cow::Borrowed),
    })
}

/// Whether there is no fraction and no exponent; what is no number at all is left to the server.
fn is_integer(bytes: &[u8]) -> bool {
    !bytes.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E'))
}

/// A moment as the column takes it; what is no moment with an offset is left to the server.
fn time(text: &str, shape: TimeShape) -> Cow<'_, [u8]> {
    const DATE: usize = "2023-11-14".len();
    const SECOND: usize = "2023-11-14 22:13:20".len();
    let Ok(moment) = text.parse::<Timestamp>() else {
        return Cow::Borrowed(text.as_bytes());
    };
    let mut utc = moment.strftime("%Y-%m-%d %H:%M:%S.%6f").to_string();
    // Years before 0 have a sign and are none of the server's.
    if utc.starts_with('-') {
        return Cow::Borrowed(text.as_bytes());
    }
    let end = |digits: usize| if digits == 0 { SECOND } else { SECOND + 1 + digits.min(6) };
    match shape {
        TimeShape::Date => utc.truncate(DATE),
        TimeShape::Moment(digits) => utc.truncate(end(digits)),
        TimeShape::Clock(digits) => {
            utc.truncate(end(digits));
            utc.drain(..=DATE);
        }
    }
    Cow::Owned(utc.into_bytes())
}

fn quote(text: &str, out: &mut String) {
    out.reserve(text.len() + 2);
    out.push('\'');
    let mut rest = text;
    while let Some(length) = rest.bytes().position(|byte| matches!(byte, b'\'' | b'\\' | 0)) {
        out.push_str(&rest[..length]);
        out.push_str(match rest.as_bytes()[length] {
            b'\'' => "''",
            b'\\' => "\\\\",
            _ => "\\0",
        });
        rest = &rest[length + 1..];
    }
    out.push_str(rest);
    out.push('\'');
}

/// Appends bytes as a hexadecimal literal, which is a binary string.
pub(super) fn hex(bytes: &[u8], out: &mut String) {
    out.reserve(2 * bytes.len() + 3);
    out.push_str("x'");
    for byte in bytes {
        out.push(char::from(HEX[usize::from(byte >> 4)]));
        out.push(char::from(HEX[usize::from(byte & 15)]));
    }
    out.push('\'');
}

/// Appends `bytes` with a backslash before whatever means something to LOAD DATA, and before some that mean nothing, which it takes
/// away again: two comparisons are all that is looked for.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let is_special = |byte: u8| byte <= b'\n' || byte == b'\\';
    let mut rest = bytes;
    while let Some(length) = find_special(rest, is_special) {
        out.extend_from_slice(&rest[..length]);
        out.push(b'\\');
        out.push(match rest[length] {
            b'\t' => b't',
            b'\n' => b'n',
            0 => b'0',
            other => other,
        });
        rest = &rest[length + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &Value<'_>, form: Form) -> String {
        let mut out = String::new();
        literal(value, form, &mut out).unwrap();
        out
    }

    fn loaded(value: &Value<'_>, form: Form) -> Vec<u8> {
        let mut out = Vec::new();
        field(value, form, &mut out).unwrap();
        out
    }

    fn text(text: &str) -> Value<'_> {
        Value::Text(Cow::Borrowed(text))
    }

    #[test]
    fn literals_are_what_their_columns_take() {
        assert_eq!(written(&Value::Null, Form::Bit), "NULL");
        assert_eq!(written(&text("it's \\ \0 é"), Form::Text), "'it''s \\\\ \\0 é'");
        assert_eq!(written(&Value::Bytes(b"{}".as_slice().into()), Form::Bytes), "_binary'{}'");
        assert_eq!(written(&Value::Bytes(b"'\xff".as_slice().into()), Form::Bytes), "x'27ff'");
        assert_eq!(written(&Value::Bytes(b"'\xff".as_slice().into()), Form::Literal), "x'27ff'");
        for (form, truth, number) in [
            (Form::Number, "'1'", "'-5'"),
            (Form::Integer, "'1'", "'-5'"),
            (Form::Bit, "1", " -5"),
            (Form::Literal, "1", " -5"),
            (Form::Text, "'true'", "'-5'"),
        ] {
            assert_eq!(written(&Value::Boolean(true), form), truth);
            assert_eq!(written(&Value::Number(Cow::Borrowed("-5")), form), number);
        }
        assert_eq!(
            literal(&Value::Bytes(b"\xff".as_slice().into()), Form::Text, &mut String::new()),
            Err(Unfit::NotUtf8)
        );
        for form in [Form::Integer, Form::Bit] {
            assert_eq!(literal(&Value::Number(Cow::Borrowed("1.5")), form, &mut String::new()), Err(Unfit::NotInteger));
        }
        assert_eq!(written(&text("-15"), Form::Integer), "'-15'");
    }

    #[test]
    fn fields_end_where_they_end() {
        assert_eq!(loaded(&Value::Null, Form::Text), b"\\N");
        assert_eq!(loaded(&text("\\N"), Form::Text), b"\\\\N");
        assert_eq!(
            loaded(&Value::Bytes(b"a\tb\nc\0\r\\\xff".as_slice().into()), Form::Bytes),
            b"a\\tb\\nc\\0\r\\\\\xff"
        );
        assert_eq!(loaded(&Value::Boolean(false), Form::Number), b"0");
        assert_eq!(field(&Value::Bytes(b"\xff".as_slice().into()), Form::Text, &mut Vec::new()), Err(Unfit::NotUtf8));
    }

    #[test]
    fn moments_are_in_utc_and_as_fine_as_their_column() {
        let moment = text("2023-11-15T00:13:20.000042+02:00");
        for (shape, wanted) in [
            (TimeShape::Moment(6), "'2023-11-14 22:13:20.000042'"),
            (TimeShape::Moment(3), "'2023-11-14 22:13:20.000'"),
            (TimeShape::Moment(0), "'2023-11-14 22:13:20'"),
            (TimeShape::Clock(0), "'22:13:20'"),
            (TimeShape::Date, "'2023-11-14'"),
        ] {
            assert_eq!(written(&moment, Form::Time(shape)), wanted);
        }
        for other in ["2023-11-14 22:13:20", "tomorrow", "", "-000001-01-01T00:00:00Z"] {
            assert_eq!(written(&text(other), Form::Time(TimeShape::Moment(6))), format!("'{other}'"));
        }
    }
}
