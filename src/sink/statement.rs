//! The user's SQL: named parameters become positional ones, names become quoted identifiers.
//!
//! Nothing here understands SQL. It only knows what is not code (strings, quoted
//! names, comments), so that a `:name` in there stays what it is.

use crate::config::Source;

/// Parameters that a statement may use without an entry of its own.
const BUILT_IN: [(&str, Source); 10] = [
    ("ticket", Source::Ticket),
    ("sequence", Source::Sequence),
    ("queue", Source::Queue),
    ("received_at", Source::ReceivedAt),
    ("key", Source::Key),
    ("idempotency_key", Source::IdempotencyKey),
    ("content_type", Source::ContentType),
    ("body", Source::Body),
    ("method", Source::Method),
    ("path", Source::Path),
];

/// First words of statements that would end our transaction or leave it; the
/// position and the rows would then no longer be committed together.
const REFUSED: [&str; 11] =
    ["begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare", "copy", "attach"];

/// First words of the statements of MySQL that cannot end a transaction. Most others commit by themselves, and a procedure
/// may; what triggers and stored functions do is watched over by the server.
const MYSQL_ALLOWED: [&str; 7] = ["insert", "replace", "update", "delete", "select", "with", "do"];

/// Whose SQL it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `$1`, dollar-quoted and `E''` strings, nested comments.
    Postgres,
    /// `?1`, and `[name]` and `` `name` `` as quoted names.
    Sqlite,
    /// `?` for each occurrence, backslashes in strings, comments behind `#`, `` `name` `` as a quoted name.
    Mysql,
}

impl Dialect {
    /// A name as a quoted identifier. A NUL byte, which no identifier can hold, is dropped; the name then simply
    /// doesn't exist.
    pub(super) fn quoted(self, name: &str) -> String {
        match self {
            Self::Postgres | Self::Sqlite => quoted(name),
            Self::Mysql => format!("`{}`", name.replace('\0', "").replace('`', "``")),
        }
    }
}

/// A statement that a database can prepare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    /// The text with positional parameters.
    pub(super) sql: String,
    /// Name and source of each parameter, by position.
    pub(super) parameters: Vec<(String, Source)>,
    /// Where in `sql` the sign of each occurrence of a parameter stands.
    pub(super) places: Vec<usize>,
}

/// Rewrites the named parameters of `text`. A name that occurs twice is one parameter, but for MySQL, which knows a
/// parameter by nothing but its place.
///
/// # Errors
///
/// A name that neither `entries` nor the built-in names hold, a positional
/// parameter, more than one statement, or something that was opened and not closed.
pub(super) fn parse(text: &str, entries: &[(String, Source)], dialect: Dialect) -> Result<Parsed, String> {
    let mut scan = Scan { text, at: 0, dialect };
    let mut parsed = Parsed { sql: String::with_capacity(text.len()), parameters: Vec::new(), places: Vec::new() };
    let mut copied = 0;
    let mut ended = false;
    let mut first_word = None;
    while let Some(byte) = scan.peek(0) {
        let start = scan.at;
        if scan.skip_blank_or_comment()? {
            continue;
        }
        if ended {
            return Err("there is more than one statement; one is run for each record".to_owned());
        }
        match byte {
            b';' => {
                parsed.sql.push_str(&text[copied..start]);
                ended = true;
                scan.at += 1;
            }
            b':' if scan.peek(1).is_some_and(starts_word) => {
                parsed.sql.push_str(&text[copied..start]);
                scan.at += 1;
                let number = parameter(&mut parsed.parameters, scan.word(), entries, dialect)?;
                parsed.places.push(parsed.sql.len());
                match dialect {
                    Dialect::Postgres => parsed.sql.push_str(&format!("${number}")),
                    Dialect::Sqlite => parsed.sql.push_str(&format!("?{number}")),
                    Dialect::Mysql => parsed.sql.push('?'),
                }
                copied = scan.at;
            }
            _ if starts_word(byte) => {
                first_word.get_or_insert(scan.word_or_escaped_string()?);
            }
            _ => scan.skip_other(byte)?,
        }
    }
    if !ended {
        parsed.sql.push_str(&text[copied..]);
    }
    match first_word.map(str::to_ascii_lowercase) {
        None => Err("there is no statement".to_owned()),
        Some(word) if dialect == Dialect::Mysql && !MYSQL_ALLOWED.contains(&word.as_str()) => Err(format!(
            "the statement may not begin with {word}, which may commit by itself; forebay's own transaction surrounds it, \
             so write INSERT, REPLACE, UPDATE, DELETE, SELECT, WITH or DO"
        )),
        Some(word) if REFUSED.contains(&word.as_str()) => {
            Err(format!("the statement may not begin with {word}; forebay's own transaction surrounds it"))
        }
        Some(_) => Ok(parsed),
    }
}

/// The number of a named parameter, from 1; it is added if it is new.
fn parameter(
    parameters: &mut Vec<(String, Source)>,
    name: &str,
    entries: &[(String, Source)],
    dialect: Dialect,
) -> Result<usize, String> {
    if dialect != Dialect::Mysql
        && let Some(index) = parameters.iter().position(|(known, _)| known == name)
    {
        return Ok(index + 1);
    }
    let own = entries.iter().find(|(known, _)| known == name).map(|(_, source)| source);
    let built_in = BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, source)| source);
    let Some(source) = own.or(built_in) else {
        let known: Vec<_> =
            entries.iter().map(|(name, _)| name.as_str()).chain(BUILT_IN.map(|(name, _)| name)).collect();
        return Err(format!("there is no parameter :{name}; known are :{}", known.join(", :")));
    };
    parameters.push((name.to_owned(), source.clone()));
    Ok(parameters.len())
}

/// A position in SQL text; it always stands between two tokens.
struct Scan<'t> {
    text: &'t str,
    at: usize,
    dialect: Dialect,
}

impl<'t> Scan<'t> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Passes over one blank or comment, if one is next.
    fn skip_blank_or_comment(&mut self) -> Result<bool, String> {
        if self.peek(0).is_some_and(|byte| byte.is_ascii_whitespace() || byte == 0x0b) {
            self.at += 1;
        } else if self.starts_line_comment() {
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        } else if self.rest().starts_with("/*") {
            self.skip_block_comment()?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn starts_line_comment(&self) -> bool {
        match (self.dialect, self.peek(0), self.peek(1)) {
            // `5--3` is a difference there.
            (Dialect::Mysql, Some(b'-'), Some(b'-')) => self.peek(2).is_none_or(|byte| byte <= b' '),
            (Dialect::Mysql, Some(b'#'), _) | (_, Some(b'-'), Some(b'-')) => true,
            _ => false,
        }
    }

    fn skip_block_comment(&mut self) -> Result<(), String> {
        if self.dialect == Dialect::Mysql && ["/*!", "/*M!"].iter().any(|sign| self.rest().starts_with(sign)) {
            return Err("a comment /*! or /*M! is code to the server; write the code itself".to_owned());
        }
        let mut depth = 0_usize;
        loop {
            if self.rest().is_empty() {
                // SQLite lets the end of the text end a comment, but then nobody can have meant it.
                return Err("a comment /* is not closed".to_owned());
            }
            let nests = depth == 0 || self.dialect == Dialect::Postgres;
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) if nests => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                _ => self.at += 1,
            }
        }
    }

    /// Passes over a word: a keyword, a name or a number's exponent.
    fn word(&mut self) -> &'t str {
        let start = self.at;
        while self.peek(0).is_some_and(continues_word) {
            self.at += 1;
        }
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn word_or_escaped_string(&mut self) -> Result<&'t str, String> {
        let word_start = self.at;
        // In a name a dollar sign may follow: `a$1` is no parameter.
        while self.peek(0).is_some_and(|byte| continues_word(byte) || byte == b'$') {
            self.at += 1;
        }
        let word = self.text.get(word_start..self.at).unwrap_or_default();
        if self.dialect == Dialect::Postgres && word.eq_ignore_ascii_case("e") && self.peek(0) == Some(b'\'') {
            self.skip_quoted(b'\'', true)?;
        }
        Ok(word)
    }

    /// Passes over what `quote` opens. The closing quote doubled stands for itself.
    fn skip_quoted(&mut self, quote: u8, backslash_escapes: bool) -> Result<(), String> {
        let opened_at = self.at;
        let closing = if quote == b'[' { b']' } else { quote };
        self.at += 1;
        loop {
            match self.peek(0) {
                None => {
                    let opened: String = self.text.get(opened_at..).unwrap_or_default().chars().take(20).collect();
                    return Err(format!("a quote is not closed: {opened}"));
                }
                Some(b'\\') if backslash_escapes => self.at += 2,
                Some(byte) if byte == closing => {
                    self.at += 1;
                    if quote == b'[' || self.peek(0) != Some(closing) {
                        return Ok(());
                    }
                    self.at += 1;
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// Passes over anything that is no blank, comment, word or named parameter.
    fn skip_other(&mut self, byte: u8) -> Result<(), String> {
        let sqlite = self.dialect == Dialect::Sqlite;
        let mysql = self.dialect == Dialect::Mysql;
        let next = self.peek(1);
        match byte {
            b'\'' | b'"' => self.skip_quoted(byte, mysql),
            b'`' if mysql => self.skip_quoted(byte, false),
            b'[' | b'`' if sqlite => self.skip_quoted(byte, false),
            b'$' if !sqlite && !mysql && next.is_some_and(|next| next == b'$' || starts_word(next)) => {
                self.skip_dollar_quoted()
            }
            b'$' if next.is_some_and(continues_word) => Err(positional()),
            b'?' if mysql => Err(positional()),
            b'?' | b'@' if sqlite => Err(positional()),
            b':' if matches!(next, Some(b':' | b'=')) => {
                self.at += 2;
                Ok(())
            }
            b'0'..=b'9' => {
                self.word();
                Ok(())
            }
            _ => {
                self.at += 1;
                Ok(())
            }
        }
    }

    fn skip_dollar_quoted(&mut self) -> Result<(), String> {
        let length = self.rest()[1..].find('$').map_or(0, |length| length + 2);
        let tag = self.rest().get(..length).unwrap_or_default();
        if length == 0 || !tag.bytes().all(|byte| byte == b'$' || continues_word(byte)) {
            self.at += 1;
            return Ok(());
        }
        let inner_end = self.rest()[length..].find(tag).ok_or_else(|| format!("a string {tag} is not closed"))?;
        self.at += length + inner_end + length;
        Ok(())
    }
}

fn positional() -> String {
    "a parameter is written as :name and not by its position or another sign".to_owned()
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn continues_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit()
}

/// A name as a quoted identifier, which PostgreSQL and SQLite write alike. A NUL byte, which
/// no identifier can hold, is dropped; the name then simply doesn't exist.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('\0', "").replace('"', "\"\""))
}

/// Text as a string literal of SQL; in PostgreSQL only with `standard_conforming_strings`.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\0', "").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::Dialect::{Mysql, Postgres, Sqlite};
    use super::*;
    use proptest::prelude::*;

    fn entries() -> Vec<(String, Source)> {
        ["id", "total"].map(|name| (name.to_owned(), Source::Pointer(format!("/{name}")))).to_vec()
    }

    fn sql(text: &str, dialect: Dialect) -> Result<String, String> {
        parse(text, &entries(), dialect).map(|parsed| parsed.sql)
    }

    #[test]
    fn names_become_positions() {
        let text = "INSERT INTO t VALUES (:id, :total, :id, :ticket)";
        let parsed = parse(text, &entries(), Postgres).unwrap();
        assert_eq!(parsed.sql, "INSERT INTO t VALUES ($1, $2, $1, $3)");
        let names: Vec<_> = parsed.parameters.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["id", "total", "ticket"]);
        assert_eq!(parsed.parameters[2].1, Source::Ticket);
        assert_eq!(sql(text, Sqlite).unwrap(), "INSERT INTO t VALUES (?1, ?2, ?1, ?3)");
    }

    #[test]
    fn an_entry_goes_before_a_built_in_name() {
        let own = [("body".to_owned(), Source::Pointer("/x".to_owned()))];
        assert_eq!(parse("select :body", &own, Sqlite).unwrap().parameters[0].1, own[0].1);
    }

    #[test]
    fn what_is_not_code_is_left_alone() {
        for text in [
            "select ':id', 'it''s :id'",
            "select \":id\"\":id\"",
            "select 1 -- :id ; :nobody",
            "select /* :nobody /* nested ; */ :nobody */ 1",
            r"select E'\':nobody', e'\\'",
            "select $$:nobody ; $$, $tag$ $$ :nobody $tag$",
            "select '1'::int, x::text",
            "select f(a := 1), a[1:2], a$1, 1e5",
            "select '{}'::jsonb ? 'k', a @> b, 5 % 2",
            "select 'é:id', \"é:id\", é",
            r"select 'a\'",
        ] {
            assert_eq!(sql(text, Postgres).as_deref(), Ok(text));
        }
        for text in ["select [:nobody], `:nobody`, x'00'", "select 1 /* /* :nobody */", "select E, 'x\\'"] {
            assert_eq!(sql(text, Sqlite).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_mysql_takes_for_code_and_what_not() {
        for text in [
            r"select 'a\':id', 'b''\\'",
            r#"select "it\":id", "a"":id""#,
            "select `:id```",
            "select 1 # :id ; 'x\n + 2",
            "select 1 -- :id ; 'x\n + 2 --",
            "select /* :id /* */ @x := 5, a$1, @@version",
        ] {
            assert_eq!(sql(text, Mysql).as_deref(), Ok(text));
        }
        // Two minus signs begin a comment only in front of a blank.
        assert_eq!(sql(r"select 5--:id, '\\', :id", Mysql).unwrap(), r"select 5--?, '\\', ?");
        let parsed = parse("update t set a = :id, b = :total where c = :id", &entries(), Mysql).unwrap();
        let names: Vec<_> = parsed.parameters.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["id", "total", "id"]);
        assert!(parsed.places.iter().all(|place| parsed.sql.as_bytes()[*place] == b'?'));
        assert_eq!(parsed.places.len(), 3);
    }

    #[test]
    fn what_could_end_a_transaction_of_mysql_is_refused() {
        for text in [
            "CREATE TABLE t (a int)",
            "truncate t",
            "CALL p(:id)",
            "set autocommit = 1",
            "lock tables t write",
            "/*! COMMIT */",
            "select 1 /*!50000 , 2 */",
            "select 1 /*M! , 2 */",
            "BEGIN NOT ATOMIC COMMIT; END",
            "execute immediate 'commit'",
            "xa end 'x'",
            "select ?",
            r"select 'x\'",
            "select `x",
            "select 1; commit",
        ] {
            assert!(sql(text, Mysql).is_err(), "{text}");
        }
    }

    #[test]
    fn code_behind_something_skipped_is_seen() {
        assert_eq!(sql("select '''':: text, :id", Postgres).unwrap(), "select '''':: text, $1");
        assert_eq!(sql("select :id::int", Postgres).unwrap(), "select $1::int");
        assert_eq!(sql(r"select 'a\', :id", Postgres).unwrap(), r"select 'a\', $1");
        assert_eq!(sql("select $a$x$a$, :id", Postgres).unwrap(), "select $a$x$a$, $1");
        assert_eq!(sql("select named'x', :id", Postgres).unwrap(), "select named'x', $1");
    }

    #[test]
    fn one_statement_only() {
        assert_eq!(sql("select 1; -- and\n /* no more */ ", Sqlite).unwrap(), "select 1");
        for text in ["select 1; select 2", "select 1;;", "", " -- nothing", ";", "COMMIT", "/**/ rollback", "begin"] {
            assert!(sql(text, Postgres).is_err(), "{text}");
        }
    }

    #[test]
    fn what_cannot_work_is_said() {
        let unknown = sql("select :nobody", Postgres).unwrap_err();
        assert!(unknown.contains(":nobody") && unknown.contains(":id, :total, :ticket"), "{unknown}");
        for text in ["select $1", "select 'x", "select \"x", "select $$x", "select /* x", "select E'\\'"] {
            assert!(sql(text, Postgres).is_err(), "{text}");
        }
        for text in ["select ?", "select ?1", "select @x", "select $x", "select [x"] {
            assert!(sql(text, Sqlite).is_err(), "{text}");
        }
    }

    #[test]
    fn identifiers_cannot_be_left() {
        assert_eq!(quoted("a\"; drop table x; --"), "\"a\"\"; drop table x; --\"");
        assert_eq!(Mysql.quoted("a`; drop table x; --\0"), "`a``; drop table x; --`");
        assert_eq!(literal("it's"), "'it''s'");
    }

    proptest! {
        #[test]
        fn any_text_is_taken_without_a_panic(text in "[a:;'\"$/*\\\\\\-\\[\\]`E?@é#!M \n1]{0,40}", other in any::<String>()) {
            for dialect in [Postgres, Sqlite, Mysql] {
                let _ = sql(&text, dialect);
                let _ = sql(&other, dialect);
            }
        }
    }
}
