//! Single values of a section: strings, words, numbers, sizes.
//!
//! One that is not sound is reported here. In its place there is the default or [`Refused`], and the rest of the file is read all
//! the same.

use std::ops::RangeInclusive;

use bytesize::ByteSize;
use toml::de::DeValue;

use super::{Section, a, unsigned};
use crate::config::context::{Refused, Text};
use crate::config::wording::{bytes_text, listed, nearest, one_line};
use crate::value::{Value, is_number};

/// A number or a choice with where it came from.
#[derive(Clone, Copy)]
pub(in crate::config) struct Field<T> {
    /// The value to use: the file's if it is sound, else the default.
    pub(in crate::config) value: T,
    /// The line of the key; `None` if the file does not have it.
    pub(in crate::config) line: Option<usize>,
    /// Whether no error has been reported for it.
    pub(in crate::config) sound: bool,
    /// Whether a message may show the value.
    pub(in crate::config) shown: bool,
}

impl<T> Field<T> {
    fn default(value: T) -> Self {
        Field { value, line: None, sound: true, shown: true }
    }

    fn refused(value: T, line: usize) -> Self {
        Field { value, line: Some(line), sound: false, shown: false }
    }
}

impl Field<u64> {
    /// The value as a count in memory.
    pub(in crate::config) fn count(self) -> usize {
        usize::try_from(self.value).unwrap_or(usize::MAX)
    }
}

impl Section<'_> {
    /// A string; `example` is what a message recommends.
    pub(in crate::config) fn text(&mut self, key: &'static str, example: &str) -> Result<Option<Text>, Refused> {
        let Some(found) = self.option(key) else { return Ok(None) };
        if let DeValue::String(raw) = found.value {
            return self.context.text(found.line, self.key(key), raw).map(Some);
        }
        let kind = found.value.type_str();
        self.wrong(found.line, key, &format!("must be a string, not {}; write `{key} = \"{example}\"`", a(kind)));
        Err(Refused)
    }

    /// A list of strings, or a single one; `example` is what a message recommends.
    pub(in crate::config) fn texts(&mut self, key: &'static str, example: &str) -> Result<Option<Vec<Text>>, Refused> {
        let Some(found) = self.option(key) else { return Ok(None) };
        let alone = std::slice::from_ref(found.value);
        let items: Vec<_> = match found.value.as_array() {
            Some(items) => items.iter().map(|item| (self.context.line(item.span().start), item.get_ref())).collect(),
            None => alone.iter().map(|value| (found.line, value)).collect(),
        };
        let mut texts = Vec::with_capacity(items.len());
        for (line, value) in items {
            let DeValue::String(raw) = value else {
                let kind = a(value.type_str());
                self.wrong(line, key, &format!("must be strings, not {kind}; write `{key} = [\"{example}\"]`"));
                return Err(Refused);
            };
            texts.push(self.context.text(line, self.key(key), raw)?);
        }
        Ok(Some(texts))
    }

    /// One of a few words.
    pub(in crate::config) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        default: T,
        choices: &[(&'static str, T)],
    ) -> Field<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        match self.text(key, words.first().copied().unwrap_or_default()) {
            Ok(None) => Field::default(default),
            Err(Refused) => Field::refused(default, self.line),
            Ok(Some(text)) => {
                if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text.value) {
                    return Field { value: *value, line: Some(text.line), sound: true, shown: !text.secret };
                }
                let near = nearest(&text.value, words.iter().copied()).filter(|_| !text.secret);
                let advice = near.map_or_else(
                    || format!("write {}", listed(&words, "or")),
                    |near| format!("did you mean `{near}`?"),
                );
                self.context.wrong(&text, &format!("cannot be {}; {advice}", text.quoted()));
                Field::refused(default, text.line)
            }
        }
    }

    /// `true` or `false`.
    pub(in crate::config) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        let Some(found) = self.option(key) else { return default };
        found.value.as_bool().unwrap_or_else(|| {
            let kind = a(found.value.type_str());
            self.wrong(found.line, key, &format!("must be true or false without quotes, not {kind}"));
            default
        })
    }

    /// A string, a number or a boolean.
    pub(in crate::config) fn constant(&mut self, key: &'static str) -> Result<Option<Value<'static>>, Refused> {
        let Some(found) = self.option(key) else { return Ok(None) };
        let number = match found.value {
            DeValue::String(raw) => {
                let text = self.context.text(found.line, self.key(key), raw)?;
                return Ok(Some(Value::Text(text.value.into())));
            }
            DeValue::Boolean(truth) => return Ok(Some(Value::Boolean(*truth))),
            DeValue::Integer(integer) => {
                i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(|integer| integer.to_string())
            }
            DeValue::Float(float) => {
                let text = float.as_str().strip_prefix('+').unwrap_or(float.as_str());
                is_number(text).then(|| text.to_owned())
            }
            other => {
                let kind = a(other.type_str());
                self.wrong(found.line, key, &format!("must be a string, a number or a boolean, not {kind}"));
                return Err(Refused);
            }
        };
        let Some(number) = number else {
            self.wrong(
                found.line,
                key,
                "must be a number that a database has; write an integer of 64 bits, a decimal, or a string",
            );
            return Err(Refused);
        };
        Ok(Some(Value::Number(number.into())))
    }

    /// An integer within a range.
    pub(in crate::config) fn integer(
        &mut self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Field<u64> {
        let Some(found) = self.option(key) else { return Field::default(default) };
        let allowed = format!("write an integer from {} to {}", range.start(), range.end());
        let DeValue::Integer(integer) = found.value else {
            let kind = a(found.value.type_str());
            self.wrong(found.line, key, &format!("must be an integer, not {kind}; {allowed}, without quotes"));
            return Field::refused(default, found.line);
        };
        if let Some(value) = unsigned(integer).filter(|value| range.contains(value)) {
            return Field { value, line: Some(found.line), sound: true, shown: true };
        }
        self.wrong(found.line, key, &format!("cannot be {}; {allowed}", one_line(&integer.to_string())));
        Field::refused(default, found.line)
    }

    /// An integer within a range, or none.
    pub(in crate::config) fn optional_integer(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Field<Option<u64>> {
        let has = self.has(key);
        let field = self.integer(key, *range.start(), range);
        let value = has.then_some(field.value);
        Field { value, line: field.line, sound: field.sound, shown: field.shown }
    }

    /// A size in bytes within a range: an integer, or a string with a unit.
    pub(in crate::config) fn size(
        &mut self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Field<u64> {
        let Some(found) = self.option(key) else { return Field::default(default) };
        let (given, shown, value) = match found.value {
            DeValue::Integer(integer) => (one_line(&integer.to_string()), true, unsigned(integer)),
            DeValue::String(raw) => match self.context.text(found.line, self.key(key), raw) {
                Ok(text) => {
                    (text.quoted(), !text.secret, text.value.trim().parse::<ByteSize>().ok().map(|size| size.as_u64()))
                }
                Err(Refused) => return Field::refused(default, found.line),
            },
            other => (a(other.type_str()), true, None),
        };
        if let Some(value) = value.filter(|value| range.contains(value)) {
            return Field { value, line: Some(found.line), sound: true, shown };
        }
        let (min, max) = (bytes_text(*range.start()), bytes_text(*range.end()));
        let advice = format!("write bytes or a string such as \"64MiB\", from {min} to {max}");
        self.wrong(found.line, key, &format!("cannot be {given}; {advice}"));
        Field::refused(default, found.line)
    }
}
