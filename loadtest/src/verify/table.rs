//! Where the orders end up: the database, and the names of its table and columns.

use super::VerifyError;
use std::fmt;
use std::path::PathBuf;

/// A database.
#[derive(Clone, PartialEq, Eq)]
pub enum Sink {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL connection URL, which may hold a password. Connections are not encrypted.
    Postgres(String),
}

impl Sink {
    /// Reads `sqlite:PATH`, a plain path, `postgres://…` or `postgresql://…`.
    ///
    /// # Errors
    /// The text is empty or has another scheme.
    pub fn parse(text: &str) -> Result<Self, VerifyError> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(text.to_owned()));
        }
        let path = text.strip_prefix("sqlite:").unwrap_or(text);
        if path.is_empty() || path.contains("://") {
            return Err(VerifyError::BadSink(text.to_owned()));
        }
        Ok(Self::Sqlite(PathBuf::from(path)))
    }
}

impl fmt::Debug for Sink {
    /// Leaves the URL out, because of its password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => formatter.debug_tuple("Sqlite").field(path).finish(),
            Self::Postgres(_) => formatter.write_str("Postgres(…)"),
        }
    }
}

/// The names of the orders table and of the two columns that verification reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrdersTable {
    pub(super) name: String,
    pub(super) order_id: String,
    pub(super) drained_at: String,
}

impl OrdersTable {
    /// The table `name`, with the columns `order_id` and `drained_at`.
    ///
    /// # Errors
    /// The name is not identifiers of `[A-Za-z_][A-Za-z0-9_]*` with dots between them.
    pub fn new(name: &str) -> Result<Self, VerifyError> {
        Self::with_columns(name, "order_id", "drained_at")
    }

    /// The table `name`, with other names for its columns.
    ///
    /// # Errors
    /// As for [`OrdersTable::new`]; a column's name has no dots.
    pub fn with_columns(name: &str, order_id: &str, drained_at: &str) -> Result<Self, VerifyError> {
        for (text, valid) in [
            (name, name.split('.').all(is_identifier)),
            (order_id, is_identifier(order_id)),
            (drained_at, is_identifier(drained_at)),
        ] {
            if !valid {
                return Err(VerifyError::BadIdentifier(text.to_owned()));
            }
        }
        Ok(Self { name: name.to_owned(), order_id: order_id.to_owned(), drained_at: drained_at.to_owned() })
    }
}

fn is_identifier(text: &str) -> bool {
    let starts_well = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    starts_well && text.len() <= 63 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_are_told_apart() {
        let sqlite = |path: &str| Sink::Sqlite(path.into());
        assert_eq!(Sink::parse("sqlite:a b.db").unwrap(), sqlite("a b.db"));
        assert_eq!(Sink::parse("/tmp/a.db").unwrap(), sqlite("/tmp/a.db"));
        for url in ["postgres://u:secret@h/d", "postgresql://h/d"] {
            let sink = Sink::parse(url).unwrap();
            assert_eq!(sink, Sink::Postgres(url.to_owned()));
            assert!(!format!("{sink:?}").contains("secret"));
        }
        for bad in ["", "sqlite:", "mysql://h/d"] {
            assert!(Sink::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_could_carry_sql_are_refused() {
        assert!(OrdersTable::new("shop.orders_2").is_ok());
        for bad in ["", "1a", "a b", "a;drop", "a\"b", "a.", ".a", "a..b", "é", &"x".repeat(64)] {
            assert!(OrdersTable::new(bad).is_err(), "{bad}");
            assert!(OrdersTable::with_columns("orders", bad, "drained_at").is_err(), "{bad}");
        }
        assert!(OrdersTable::with_columns("orders", "a.b", "drained_at").is_err());
    }
}
