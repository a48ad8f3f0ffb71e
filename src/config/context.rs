//! What the reading of one file shares: its lines, the environment, the errors so far.

use std::cell::RefCell;
use std::collections::BTreeSet;

use toml::de::DeTable;

use super::SinkKind;
use super::environment::substitute;
use super::error::{ConfigError, ConfigErrors};
use super::wording::one_line;

/// A value that could not be used; the error has been reported.
pub(super) struct Refused;

/// A string of the file after substitution.
pub(super) struct Text {
    /// The string.
    pub(super) value: String,
    /// The key with its sections.
    pub(super) key: String,
    /// The line of the key.
    pub(super) line: usize,
    /// Whether a message must not show the string.
    pub(super) secret: bool,
}

impl Text {
    /// The string as a message may show it.
    pub(super) fn quoted(&self) -> String {
        if self.secret { "the given value".to_owned() } else { format!("\"{}\"", one_line(&self.value)) }
    }
}

/// What the sections of one document share.
pub(super) struct Context<'a> {
    file: &'a str,
    newlines: Vec<usize>,
    env: &'a dyn Fn(&str) -> Option<String>,
    kinds: &'a [&'static SinkKind],
    errors: RefCell<Vec<ConfigError>>,
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Context<'a> {
    /// Prepares to read `text`.
    pub(super) fn new(
        text: &str,
        file: &'a str,
        env: &'a dyn Fn(&str) -> Option<String>,
        kinds: &'a [&'static SinkKind],
    ) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(offset, _)| offset).collect();
        Context { file, newlines, env, kinds, errors: RefCell::default(), asked: RefCell::default() }
    }

    /// The kinds of sinks that there are; the first is the default.
    pub(super) fn kinds(&self) -> &'a [&'static SinkKind] {
        self.kinds
    }

    /// The line of a byte offset, counted from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.newlines.partition_point(|newline| *newline < offset) + 1
    }

    /// Reports one error.
    pub(super) fn error(&self, line: usize, key: &str, message: impl Into<String>) {
        let error = ConfigError { file: self.file.to_owned(), line, key: key.to_owned(), message: message.into() };
        self.errors.borrow_mut().push(error);
    }

    /// Reports one error about a string, with its key in front.
    pub(super) fn wrong(&self, text: &Text, message: &str) {
        self.error(text.line, &text.key, format!("`{}` {message}", text.key));
    }

    /// Notes that a key was asked for; names that the user chooses stand as `*`.
    pub(super) fn ask(&self, key: String) {
        self.asked.borrow_mut().insert(key);
    }

    /// Substitutes variables in the string of a key, or reports what is wrong with them.
    pub(super) fn text(&self, line: usize, key: String, raw: &str) -> Result<Text, Refused> {
        match substitute(raw, self.env) {
            Ok(done) => {
                // An address with a password may stand under a wrong key, so none is ever shown.
                let secret = done.from_environment || done.value.contains("://");
                Ok(Text { value: done.value, key, line, secret })
            }
            Err(messages) => {
                for message in messages {
                    self.error(line, &key, format!("`{key}` {message}"));
                }
                Err(Refused)
            }
        }
    }

    /// Parses the text, or reports what is not TOML in it: the first error of each line, since
    /// those behind it mostly follow from it.
    pub(super) fn document<'i>(&self, text: &'i str) -> Result<DeTable<'i>, Refused> {
        let (document, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(document.into_inner());
        }
        let mut lines = BTreeSet::new();
        for error in errors {
            let line = self.line(error.span().map_or(0, |span| span.start));
            if lines.insert(line) {
                self.error(line, "", syntax_message(error.message()));
            }
        }
        Err(Refused)
    }

    /// The errors, if any, and every key that was asked for.
    pub(super) fn finish(self) -> (Option<ConfigErrors>, BTreeSet<String>) {
        let errors = self.errors.into_inner();
        let errors = (!errors.is_empty()).then(|| ConfigErrors::new(errors));
        (errors, self.asked.into_inner())
    }
}

/// The parser's words and, where it does not say so itself, what to write.
fn syntax_message(message: &str) -> String {
    let message = message.replace(['\n', '\r'], " ");
    if message.starts_with("duplicate key") {
        return "this key or section stands in the file twice; keep one of them".to_owned();
    }
    format!("this is not TOML ({message}); write `key = value` with strings in quotes, or a `[section]`")
}
