//! Walks a TOML document section by section and remembers which keys were asked for,
//! so that whatever nobody asked for can be refused.

use std::ops::RangeInclusive;

use bytesize::ByteSize;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::context::{Context, Refused, Text};
use super::wording::{bytes_text, listed, nearest, one_line, shown_key};

/// A number or a choice with where it came from.
#[derive(Clone, Copy)]
pub(super) struct Field<T> {
    /// The value to use: the file's if it is sound, else the default.
    pub(super) value: T,
    /// The line of the key; `None` if the file does not have it.
    pub(super) line: Option<usize>,
    /// Whether no error has been reported for it.
    pub(super) sound: bool,
    /// Whether a message may show the value.
    pub(super) shown: bool,
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
    pub(super) fn count(self) -> usize {
        usize::try_from(self.value).unwrap_or(usize::MAX)
    }
}

/// One line of a table whose keys are the user's own, such as `columns`.
pub(super) struct Entry {
    /// The key.
    pub(super) name: String,
    /// Its line.
    pub(super) line: usize,
    /// Its value; `None` if that has been refused.
    pub(super) text: Option<Text>,
}

/// A table whose keys are the user's own, in the file's order.
pub(super) struct Entries {
    /// The key of the table with its sections.
    pub(super) key: String,
    /// The line on which it starts.
    pub(super) line: usize,
    /// What it holds.
    pub(super) list: Vec<Entry>,
}

/// A table of integers whose keys are the user's own.
pub(super) struct Integers {
    /// The line on which it starts.
    pub(super) line: usize,
    /// Names with their lines and their values, without those that have been refused.
    pub(super) list: Vec<(String, usize, u64)>,
}

/// One value of the file and its place.
struct Found<'a> {
    line: usize,
    value: &'a DeValue<'a>,
}

/// One section of the file. A section that the file lacks is read all the same, and is empty.
pub(super) struct Section<'a> {
    context: &'a Context<'a>,
    table: Option<&'a DeTable<'a>>,
    path: String,
    pattern: String,
    line: usize,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The top level of a document.
    pub(super) fn root(context: &'a Context<'a>, table: &'a DeTable<'a>) -> Self {
        Section { context, table: Some(table), path: String::new(), pattern: String::new(), line: 1, asked: Vec::new() }
    }

    /// A section that the file does not have; used to ask what keys it could have.
    fn absent(context: &'a Context<'a>, path: String, pattern: String, line: usize) -> Self {
        Section { context, table: None, path, pattern, line, asked: Vec::new() }
    }

    /// What all sections share.
    pub(super) fn context(&self) -> &'a Context<'a> {
        self.context
    }

    /// Its name with those of the sections around it.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Whether the file has no such section.
    pub(super) fn is_absent(&self) -> bool {
        self.table.is_none()
    }

    /// The line on which it starts; that of the section around it if the file does not have it.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// The name of a key with all its sections.
    pub(super) fn key(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Reports an error about a key of this section.
    fn wrong(&self, line: usize, key: &str, message: &str) {
        let key = self.key(key);
        self.context.error(line, &key, format!("`{key}` {message}"));
    }

    fn find(&mut self, key: &'static str) -> Option<Found<'a>> {
        self.asked.push(key);
        let (name, value) = self.table?.get_key_value(key)?;
        Some(Found { line: self.context.line(name.span().start), value: value.get_ref() })
    }

    /// As `find`, for a key that is an option of its own and not a section.
    fn option(&mut self, key: &'static str) -> Option<Found<'a>> {
        self.context.ask(join(&self.pattern, key));
        self.find(key)
    }

    /// A section within this one.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        let mut section = Section::absent(self.context, self.key(key), join(&self.pattern, key), self.line);
        let Some(found) = self.find(key) else { return section };
        section.line = found.line;
        section.table = found.value.as_table();
        if section.table.is_none() {
            let message = format!("is a section; write `[{}]` on a line of its own and its keys below", section.path);
            self.wrong(found.line, key, &message);
        }
        section
    }

    /// The sections of a list that is written as `[[key]]`. If there are none, the error says `missing`.
    pub(super) fn list(&mut self, key: &'static str, missing: &str) -> Vec<Section<'a>> {
        match self.find(key) {
            None => {
                self.wrong(self.line, key, missing);
                vec![self.absent_item(key)]
            }
            Some(found) => {
                if found.value.as_array().is_some_and(|items| items.is_empty()) {
                    self.wrong(found.line, key, missing);
                }
                self.items(key, &found)
            }
        }
    }

    /// As [`list`](Self::list), where there may be none: then one section that is absent stands for them all.
    pub(super) fn optional_list(&mut self, key: &'static str) -> Vec<Section<'a>> {
        match self.find(key) {
            None => vec![self.absent_item(key)],
            Some(found) => self.items(key, &found),
        }
    }

    fn absent_item(&self, key: &'static str) -> Section<'a> {
        Section::absent(self.context, self.key(key), join(&self.pattern, key), self.line)
    }

    fn items(&self, key: &'static str, found: &Found<'a>) -> Vec<Section<'a>> {
        let full = self.key(key);
        let Some(items) = found.value.as_array() else {
            self.wrong(found.line, key, &format!("is a list; write `[[{full}]]` with two brackets on each side"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items {
            let line = self.context.line(item.span().start);
            match item.get_ref().as_table() {
                Some(table) => sections.push(Section { table: Some(table), line, ..self.absent_item(key) }),
                None => self.wrong(line, key, &format!("holds something that is no section; write `[[{full}]]`")),
            }
        }
        sections
    }

    /// Whether the file has this key here.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// The sections that the user names, as `[key.NAME]`, in the file's order. If there are none, the error
    /// says `missing`, and one without a name stands for them all.
    pub(super) fn named(&mut self, key: &'static str, missing: &str) -> Vec<(String, Section<'a>)> {
        let pattern = join(&join(&self.pattern, key), "*");
        let path = self.key(key);
        let found = self.find(key);
        let line = found.as_ref().map_or(self.line, |found| found.line);
        let Some(table) = found.and_then(|found| found.value.as_table()).filter(|table| !table.is_empty()) else {
            self.wrong(line, key, missing);
            return vec![(String::new(), Section::absent(self.context, path, pattern, line))];
        };
        let mut sections = Vec::new();
        for (name, value) in in_file_order(table) {
            let line = self.context.line(name.span().start);
            let shown = join(&path, &shown_key(name.get_ref()));
            let mut section = Section::absent(self.context, shown.clone(), pattern.clone(), line);
            section.table = value.get_ref().as_table();
            if section.table.is_none() {
                self.context.error(line, &shown, format!("`{shown}` is a section; write `[{shown}]`"));
            } else {
                sections.push((name.get_ref().to_string(), section));
            }
        }
        sections
    }

    /// A table of strings whose keys are the user's own.
    pub(super) fn entries(&mut self, key: &'static str) -> Result<Option<Entries>, Refused> {
        let Some(found) = self.option(key) else { return Ok(None) };
        let Some(table) = found.value.as_table() else {
            self.wrong(found.line, key, &format!("must be a table; write `{key} = {{ name = \"/pointer\" }}`"));
            return Err(Refused);
        };
        let mut entries = Vec::new();
        for (name, value) in in_file_order(table) {
            let line = self.context.line(name.span().start);
            let full = join(&self.key(key), &shown_key(name.get_ref()));
            let text = if let DeValue::String(raw) = value.get_ref() {
                self.context.text(line, full, raw).ok()
            } else {
                let kind = value.get_ref().type_str();
                self.context.error(
                    line,
                    &full,
                    format!("`{full}` must be a string, not {}; put it in quotes", a(kind)),
                );
                None
            };
            entries.push(Entry { name: name.get_ref().to_string(), line, text });
        }
        Ok(Some(Entries { key: self.key(key), line: found.line, list: entries }))
    }

    /// A table of integers within a range, whose keys are the user's own.
    pub(super) fn integers(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<Integers>, Refused> {
        let Some(found) = self.option(key) else { return Ok(None) };
        let Some(table) = found.value.as_table() else {
            self.wrong(found.line, key, &format!("must be a table; write `{key} = {{ name = {} }}`", range.end()));
            return Err(Refused);
        };
        let mut list = Vec::new();
        for (name, value) in in_file_order(table) {
            let line = self.context.line(name.span().start);
            let integer = if let DeValue::Integer(integer) = value.get_ref() { unsigned(integer) } else { None };
            if let Some(integer) = integer.filter(|integer| range.contains(integer)) {
                list.push((name.get_ref().to_string(), line, integer));
                continue;
            }
            let full = join(&self.key(key), &shown_key(name.get_ref()));
            let message = format!("`{full}` must be an integer from {} to {}", range.start(), range.end());
            self.context.error(line, &full, message);
        }
        Ok(Some(Integers { line: found.line, list }))
    }

    /// A string; `example` is what a message recommends.
    pub(super) fn text(&mut self, key: &'static str, example: &str) -> Result<Option<Text>, Refused> {
        let Some(found) = self.option(key) else { return Ok(None) };
        if let DeValue::String(raw) = found.value {
            return self.context.text(found.line, self.key(key), raw).map(Some);
        }
        let kind = found.value.type_str();
        self.wrong(found.line, key, &format!("must be a string, not {}; write `{key} = \"{example}\"`", a(kind)));
        Err(Refused)
    }

    /// A list of strings, or a single one; `example` is what a message recommends.
    pub(super) fn texts(&mut self, key: &'static str, example: &str) -> Result<Option<Vec<Text>>, Refused> {
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

    /// Takes note of a key that is refused elsewhere; returns its line, if the file has it here.
    pub(super) fn note(&mut self, key: &'static str) -> Option<usize> {
        self.find(key).map(|found| found.line)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, default: T, choices: &[(&'static str, T)]) -> Field<T> {
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

    /// An integer within a range.
    pub(super) fn integer(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> Field<u64> {
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
    pub(super) fn optional_integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Field<Option<u64>> {
        let has = self.has(key);
        let field = self.integer(key, *range.start(), range);
        let value = has.then_some(field.value);
        Field { value, line: field.line, sound: field.sound, shown: field.shown }
    }

    /// A size in bytes within a range: an integer, or a string with a unit.
    pub(super) fn size(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> Field<u64> {
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

    /// Refuses every key that was not asked for.
    pub(super) fn finish(self) {
        let Some(table) = self.table else { return };
        for (name, _) in in_file_order(table) {
            let given: &str = name.get_ref();
            if self.asked.contains(&given) {
                continue;
            }
            let advice = match nearest(given, self.asked.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the keys here are {}", listed(&self.asked, "and")),
            };
            let shown = shown_key(given);
            let line = self.context.line(name.span().start);
            self.context.error(line, &self.key(&shown), format!("unknown key `{shown}`; {advice}"));
        }
    }
}

/// The entries of a table by where they stand; the parser keeps them by name.
fn in_file_order<'a>(
    table: &'a DeTable<'a>,
) -> Vec<(&'a Spanned<std::borrow::Cow<'a, str>>, &'a Spanned<DeValue<'a>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

fn unsigned(integer: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A TOML type with its article.
fn a(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {kind}")
}
