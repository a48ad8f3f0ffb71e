//! Walks a TOML document section by section and remembers which keys were asked for,
//! so that whatever nobody asked for can be refused.

mod values;

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::context::{Context, Refused, Text};
use super::wording::{listed, nearest, shown_key};

pub(super) use self::values::Field;

/// A string, or a table in its place that says more.
pub(super) enum Given<'a> {
    Text(Text),
    Section(Section<'a>),
}

/// One line of a table whose keys are the user's own, such as `columns`.
pub(super) struct Entry<V> {
    /// The key.
    pub(super) name: String,
    /// Its line.
    pub(super) line: usize,
    /// Its value; `None` if that has been refused.
    pub(super) value: Option<V>,
}

/// A table whose keys are the user's own, in the file's order.
pub(super) struct Entries<V> {
    /// The key of the table with its sections.
    pub(super) key: String,
    /// The line on which it starts.
    pub(super) line: usize,
    /// What it holds.
    pub(super) list: Vec<Entry<V>>,
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
    /// Whether its keys are options of their own.
    is_asking: bool,
}

impl<'a> Section<'a> {
    /// The top level of a document.
    pub(super) fn root(context: &'a Context<'a>, table: &'a DeTable<'a>) -> Self {
        Section {
            context,
            table: Some(table),
            path: String::new(),
            pattern: String::new(),
            line: 1,
            asked: Vec::new(),
            is_asking: true,
        }
    }

    /// A section that the file does not have; used to ask what keys it could have.
    fn absent(context: &'a Context<'a>, path: String, pattern: String, line: usize) -> Self {
        Section { context, table: None, path, pattern, line, asked: Vec::new(), is_asking: true }
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
        if self.is_asking {
            self.context.ask(join(&self.pattern, key));
        }
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

    /// The line of a key, or that of the section if the file does not have it.
    pub(super) fn line_of(&self, key: &str) -> usize {
        let found = self.table.and_then(|table| table.get_key_value(key));
        found.map_or(self.line, |(name, _)| self.context.line(name.span().start))
    }

    /// Whether the file has this key here.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// The sections that the user names, as `[key.NAME]`, in the file's order. If there are none, the error
    /// says `missing`, and one without a name stands for them all.
    pub(super) fn named(&mut self, key: &'static str, missing: &str) -> Vec<(String, Section<'a>)> {
        let found = self.find(key);
        let line = found.as_ref().map_or(self.line, |found| found.line);
        let Some(table) = found.and_then(|found| found.value.as_table()).filter(|table| !table.is_empty()) else {
            self.wrong(line, key, missing);
            let pattern = join(&join(&self.pattern, key), "*");
            return vec![(String::new(), Section::absent(self.context, self.key(key), pattern, line))];
        };
        self.named_in(key, table)
    }

    /// As [`named`](Self::named), where there may be none.
    pub(super) fn optional_named(&mut self, key: &'static str) -> Vec<(String, Section<'a>)> {
        let Some(found) = self.find(key) else { return Vec::new() };
        let Some(table) = found.value.as_table() else {
            let path = self.key(key);
            self.wrong(found.line, key, &format!("holds sections; write `[{path}.NAME]`, with a name of your own"));
            return Vec::new();
        };
        self.named_in(key, table)
    }

    fn named_in(&self, key: &str, table: &'a DeTable<'a>) -> Vec<(String, Section<'a>)> {
        let pattern = join(&join(&self.pattern, key), "*");
        let path = self.key(key);
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
    pub(super) fn entries(&mut self, key: &'static str) -> Result<Option<Entries<Text>>, Refused> {
        self.entries_of(key, |section, line, full, value| match value {
            DeValue::String(raw) => section.context.text(line, full, raw),
            other => Err(section.not_text(line, &full, other, "put it in quotes")),
        })
    }

    /// The same, where a value may also be a table.
    pub(super) fn given_entries(&mut self, key: &'static str) -> Result<Option<Entries<Given<'a>>>, Refused> {
        self.entries_of(key, |section, line, full, value| section.given_of(line, full, value, "/pointer"))
    }

    fn entries_of<V>(
        &mut self,
        key: &'static str,
        read: impl Fn(&Self, usize, String, &'a DeValue<'a>) -> Result<V, Refused>,
    ) -> Result<Option<Entries<V>>, Refused> {
        let Some(found) = self.option(key) else { return Ok(None) };
        let Some(table) = found.value.as_table() else {
            self.wrong(found.line, key, &format!("must be a table; write `{key} = {{ name = \"/pointer\" }}`"));
            return Err(Refused);
        };
        let mut entries = Vec::new();
        for (name, value) in in_file_order(table) {
            let line = self.context.line(name.span().start);
            let full = join(&self.key(key), &shown_key(name.get_ref()));
            let value = read(self, line, full, value.get_ref()).ok();
            entries.push(Entry { name: name.get_ref().to_string(), line, value });
        }
        Ok(Some(Entries { key: self.key(key), line: found.line, list: entries }))
    }

    /// A string or a table; `example` is the string that a message recommends.
    pub(super) fn given(&mut self, key: &'static str, example: &str) -> Result<Option<Given<'a>>, Refused> {
        let Some(found) = self.option(key) else { return Ok(None) };
        self.given_of(found.line, self.key(key), found.value, example).map(Some)
    }

    fn given_of(&self, line: usize, full: String, value: &'a DeValue<'a>, example: &str) -> Result<Given<'a>, Refused> {
        match value {
            DeValue::String(raw) => self.context.text(line, full, raw).map(Given::Text),
            DeValue::Table(table) => {
                // What may stand in it is told by the comment of its option, which is the one that is asked for.
                let section = Section {
                    table: Some(table),
                    is_asking: false,
                    ..Section::absent(self.context, full, String::new(), line)
                };
                Ok(Given::Section(section))
            }
            other => {
                Err(self.not_text(line, &full, other, &format!("write \"{example}\" or {{ from = \"{example}\" }}")))
            }
        }
    }

    fn not_text(&self, line: usize, full: &str, value: &DeValue<'_>, advice: &str) -> Refused {
        let kind = a(value.type_str());
        self.context.error(line, full, format!("`{full}` must be a string, not {kind}; {advice}"));
        Refused
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

    /// Takes note of a key that is refused elsewhere; returns its line, if the file has it here.
    pub(super) fn note(&mut self, key: &'static str) -> Option<usize> {
        self.find(key).map(|found| found.line)
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
