//! What the configuration knows of a kind of sink: the registry in `sink/` hands it over, and names no sink here.

use std::collections::BTreeMap;
use std::fmt;

use super::{Source, Template};

/// A kind of sink, as far as its configuration goes.
pub struct SinkKind {
    /// Its word in `type`.
    pub name: &'static str,
    /// Its name in messages.
    pub title: &'static str,
    /// What its `url` may be.
    pub url: UrlRule,
    /// What it makes of a record.
    pub takes: Takes,
    /// The keys that it has beside those of every sink.
    pub options: &'static [OptionRule],
}

/// What a sink's `url` may be.
pub struct UrlRule {
    /// What it may start with, `://` included. Empty for a path.
    pub prefixes: &'static [&'static str],
    /// What a message recommends.
    pub example: &'static str,
    /// Whether there is no sink without it.
    pub is_required: bool,
}

/// What a sink makes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// A row, by `table` and `columns` or by `statement` and `parameters`.
    Rows {
        /// Bytes of the name of a table that forebay creates.
        name_bytes_max: usize,
        /// Whether `statement` may be written.
        has_statement: bool,
    },
    /// Whatever its own options say.
    Own,
}

/// A key that only some sinks have.
pub struct OptionRule {
    /// The key.
    pub key: &'static str,
    /// What it may be.
    pub values: OptionValues,
}

/// What an option may be. Templates are texts with values of the record in braces.
pub enum OptionValues {
    /// A text.
    Text {
        /// What a message recommends.
        example: &'static str,
        /// What it is unless it is written; `None` if it must be.
        default: Option<&'static str>,
    },
    /// One of a few words.
    Choice {
        /// The words; the first is the default.
        words: &'static [&'static str],
    },
    /// An integer within bounds.
    Integer {
        /// What it is unless it is written.
        default: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A template.
    Template {
        /// What a message recommends.
        example: &'static str,
        /// What it is unless it is written; `None` if it must be.
        default: Option<&'static str>,
    },
    /// A list of templates, or a single one.
    Templates {
        /// What a message recommends.
        example: &'static str,
        /// What they are unless they are written; `None` if they must be.
        default: Option<&'static str>,
    },
    /// A table of templates whose keys are the user's own; empty unless it is written.
    TemplateTable,
}

/// A sink's own options as they were read, each of its kind's with a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<&'static str, OptionValue>);

/// The value of an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionValue {
    /// Of a text or a choice.
    Text(String),
    /// Of an integer.
    Integer(u64),
    /// Of templates; one or more.
    Templates(Vec<Template>),
    /// Of a table of templates, in the file's order.
    Table(Vec<(String, Template)>),
}

impl Options {
    /// What the options of a kind are if none is written; those that must be are left out.
    #[must_use]
    pub fn defaults(kind: &SinkKind) -> Self {
        Self(kind.options.iter().filter_map(|rule| Some((rule.key, rule.values.default()?))).collect())
    }

    /// Gives an option a value.
    pub fn set(&mut self, key: &'static str, value: OptionValue) {
        self.0.insert(key, value);
    }

    /// The text or word of an option; empty for one that the kind does not have.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        if let Some(OptionValue::Text(text)) = self.0.get(key) { text } else { "" }
    }

    /// The integer of an option; 0 for one that the kind does not have.
    #[must_use]
    pub fn integer(&self, key: &str) -> u64 {
        if let Some(OptionValue::Integer(integer)) = self.0.get(key) { *integer } else { 0 }
    }

    /// The template of an option, or the first of several; empty for one that the kind does not have.
    #[must_use]
    pub fn template(&self, key: &str) -> Template {
        self.templates(key).first().cloned().unwrap_or_default()
    }

    /// The templates of an option.
    #[must_use]
    pub fn templates(&self, key: &str) -> &[Template] {
        if let Some(OptionValue::Templates(templates)) = self.0.get(key) { templates } else { &[] }
    }

    /// The templates of a table by their names.
    #[must_use]
    pub fn table(&self, key: &str) -> &[(String, Template)] {
        if let Some(OptionValue::Table(entries)) = self.0.get(key) { entries } else { &[] }
    }
}

impl Options {
    /// Where the values in its templates come from.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.0.values().flat_map(OptionValue::templates).flat_map(Template::sources)
    }
}

impl OptionValue {
    fn templates(&self) -> Box<dyn Iterator<Item = &Template> + '_> {
        match self {
            Self::Text(_) | Self::Integer(_) => Box::new(std::iter::empty()),
            Self::Templates(templates) => Box::new(templates.iter()),
            Self::Table(entries) => Box::new(entries.iter().map(|(_, template)| template)),
        }
    }
}

impl OptionValues {
    /// What the option is unless it is written.
    pub(super) fn default(&self) -> Option<OptionValue> {
        Some(match self {
            Self::Text { default, .. } => OptionValue::Text((*default)?.to_owned()),
            Self::Choice { words } => OptionValue::Text((*words.first()?).to_owned()),
            Self::Integer { default, .. } => OptionValue::Integer(*default),
            Self::Template { default, .. } | Self::Templates { default, .. } => {
                OptionValue::Templates(vec![Template::parse((*default)?).unwrap_or_default()])
            }
            Self::TemplateTable => OptionValue::Table(Vec::new()),
        })
    }
}

impl PartialEq for SinkKind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for SinkKind {}

impl fmt::Debug for SinkKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}
