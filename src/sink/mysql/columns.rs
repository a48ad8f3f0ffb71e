//! What a table's columns are, by the server's own words.

use mysql_async::Row;

use super::super::mapping::TablePlan;
use super::super::statement::Dialect;
use super::session::{Failure, Session, column};
use super::text::{Form, TimeShape, quoted_text};
use crate::value::ValueType;

/// The table is not there, or we may do nothing with it: to whom that is so, the server does not say which.
const NOT_VISIBLE: [u16; 3] = [1044, 1142, 1146];

/// A column as SHOW COLUMNS describes it.
pub(super) struct Column {
    pub(super) name: String,
    /// Its type, in lower case, with what stands in parentheses behind it.
    kind: String,
    /// Nothing for a type that has none.
    charset: Option<String>,
    /// NOT NULL, without a default, and not numbered by the server.
    pub(super) must_be_given: bool,
    pub(super) generated: bool,
    /// What we may do with it: `insert`, `select` …
    pub(super) privileges: String,
}

/// The columns of a table by its quoted name, or `None` if there is no such table that we may do anything with.
///
/// # Errors
///
/// Why the table cannot be looked at.
pub(super) async fn columns(session: &mut Session, quoted: &str) -> Result<Option<Vec<Column>>, Failure> {
    match session.rows::<Row>(&format!("SHOW FULL COLUMNS FROM {quoted}")).await {
        Ok(rows) => rows.iter().map(read).collect::<Result<_, _>>().map(Some),
        Err(failure) if failure.code().is_some_and(|code| NOT_VISIBLE.contains(&code)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn read(row: &Row) -> Result<Column, Failure> {
    let extra = column::<String>(row, "Extra")?.to_ascii_uppercase();
    let has_default = column::<Option<Vec<u8>>>(row, "Default")?.is_some();
    // MySQL marks a default that is an expression with DEFAULT_GENERATED.
    let generated = extra.split(' ').any(|word| word == "GENERATED" || word == "VIRTUAL" || word == "PERSISTENT");
    let is_given = generated || has_default || extra.contains("AUTO_INCREMENT") || extra.contains("DEFAULT_GENERATED");
    let collation: Option<String> = column(row, "Collation")?;
    Ok(Column {
        name: column(row, "Field")?,
        kind: column::<String>(row, "Type")?.to_ascii_lowercase(),
        charset: collation.and_then(|collation| collation.split('_').next().map(str::to_owned)),
        must_be_given: column::<String>(row, "Null")? == "NO" && !is_given,
        generated,
        privileges: column(row, "Privileges")?,
    })
}

impl Column {
    /// Its type in the server's words.
    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    /// Whether it can take values of this type, or at least some of them.
    pub(super) fn takes(&self, given: ValueType) -> bool {
        let is_time = matches!(given, ValueType::Timestamp | ValueType::UnixS | ValueType::UnixMs);
        match self.word().0 {
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" => {
                matches!(given, ValueType::Integer | ValueType::Boolean)
            }
            "decimal" | "float" | "double" => {
                matches!(given, ValueType::Integer | ValueType::Number | ValueType::Boolean)
            }
            "date" | "datetime" | "timestamp" => is_time,
            "json" => !is_time && !matches!(given, ValueType::Text | ValueType::Bytes),
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => given != ValueType::Bytes,
            _ => true,
        }
    }

    /// How it takes its values.
    pub(super) fn form(&self) -> Form {
        let (word, digits) = self.word();
        match word {
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year" => Form::Integer,
            "decimal" | "float" | "double" => Form::Number,
            "bit" => Form::Bit,
            "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Form::Bytes,
            "date" => Form::Time(TimeShape::Date),
            "time" => Form::Time(TimeShape::Clock(digits)),
            "datetime" | "timestamp" => Form::Time(TimeShape::Moment(digits)),
            _ => Form::Text,
        }
    }

    /// Whether LOAD DATA with the bytes as they are is the same as INSERT with text.
    pub(super) fn loads(&self) -> bool {
        match self.form() {
            Form::Number | Form::Integer | Form::Bytes | Form::Time(_) => true,
            Form::Bit | Form::Literal => false,
            // Bytes of another character set would be other letters. Types that only look like text have none.
            Form::Text => matches!(self.charset.as_deref(), Some("utf8mb4" | "utf8mb3" | "utf8" | "ascii")),
        }
    }

    /// The type's word, and the number in parentheses behind it.
    fn word(&self) -> (&str, usize) {
        let end = self.kind.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.kind.len());
        let (word, rest) = self.kind.split_at(end);
        let digits: String = rest.chars().skip(1).take_while(char::is_ascii_digit).collect();
        (word, digits.parse().unwrap_or(0))
    }
}

/// The engine of a table if it is one without transactions; of a view, nothing is known.
///
/// # Errors
///
/// Why it cannot be looked at.
pub(super) async fn engine_without_transactions(
    session: &mut Session,
    schema: Option<&str>,
    name: &str,
) -> Result<Option<String>, Failure> {
    let schema = schema.map_or_else(|| "DATABASE()".to_owned(), quoted_text);
    let name_quoted = quoted_text(name);
    // Names that differ only in case may be two tables; the one that is written so goes first.
    let sql = format!(
        "SELECT t.engine, e.transactions FROM information_schema.tables t \
         LEFT JOIN information_schema.engines e ON e.engine = t.engine \
         WHERE t.table_schema = {schema} AND t.table_name = {name_quoted} \
         ORDER BY BINARY t.table_name = BINARY {name_quoted} DESC LIMIT 1"
    );
    let found: Vec<(Option<String>, Option<String>)> = session.rows(&sql).await?;
    let has_none = |(engine, transactions): (Option<String>, Option<String>)| {
        engine.filter(|_| transactions.as_deref() != Some("YES"))
    };
    Ok(found.into_iter().next().and_then(has_none))
}

/// The columns of each primary key and unique index of a table.
///
/// # Errors
///
/// Why they cannot be looked at.
pub(super) async fn unique_keys(
    session: &mut Session,
    schema: Option<&str>,
    name: &str,
) -> Result<Vec<Vec<String>>, Failure> {
    let schema = schema.map_or_else(|| "DATABASE()".to_owned(), quoted_text);
    let sql = format!(
        "SELECT index_name, column_name FROM information_schema.statistics WHERE table_schema = {schema} AND table_name = {} \
         AND non_unique = 0 ORDER BY index_name, seq_in_index",
        quoted_text(name)
    );
    let mut keys: Vec<(String, Vec<String>)> = Vec::new();
    // A part of an index that is an expression has no column, and is then none of ours.
    for (index, column) in session.rows::<(String, Option<String>)>(&sql).await? {
        let column = column.unwrap_or_default();
        match keys.last_mut() {
            Some((last, columns)) if *last == index => columns.push(column),
            _ => keys.push((index, vec![column])),
        }
    }
    Ok(keys.into_iter().map(|(_, columns)| columns).collect())
}

/// The columns of a key besides `conflict_columns` by which a row of this mapping could be there already: ON DUPLICATE KEY takes any
/// key for what was meant, and would leave a record out or change a stranger's row.
pub(super) fn other_key<'k>(table: &TablePlan, unique: &'k [Vec<String>]) -> Option<&'k [String]> {
    let lower = |names: &mut dyn Iterator<Item = &String>| {
        let mut names: Vec<_> = names.map(|name| name.to_lowercase()).collect();
        names.sort_unstable();
        names
    };
    let (keys, mapped) =
        (lower(&mut table.conflict_columns().iter()), lower(&mut table.columns.iter().map(|(name, _)| name)));
    let is_other = |key: &&Vec<String>| {
        let names = lower(&mut key.iter());
        // A key of which nothing is written is numbered by the server, or NULL.
        names != keys && names.iter().any(|name| mapped.contains(name))
    };
    unique.iter().find(is_other).map(Vec::as_slice)
}

/// What is said of such a key.
pub(super) fn other_key_problem(quoted: &str, key: &[String]) -> String {
    format!(
        "the table {quoted} has another unique key, of {}, and `on_conflict` would act on that one too; drop that key, or write a \
         `statement` of your own instead",
        key.iter().map(|name| Dialect::Mysql.quoted(name)).collect::<Vec<_>>().join(", ")
    )
}

/// What is wrong with a table in which a transaction is none.
pub(super) fn engine_problem(quoted: &str, engine: &str) -> String {
    format!(
        "the table {quoted} has the engine {engine}, which has no transactions, so nothing would be delivered exactly once; \
         run: ALTER TABLE {quoted} ENGINE = InnoDB;"
    )
}

/// Tables without transactions of our database whose names stand in a statement, with their engines.
///
/// # Errors
///
/// Why they cannot be looked at.
pub(super) async fn tables_without_transactions(
    session: &mut Session,
    statement: &str,
) -> Result<Vec<(String, String)>, Failure> {
    let sql = "SELECT t.table_name, t.engine FROM information_schema.tables t \
        JOIN information_schema.engines e ON e.engine = t.engine \
        WHERE t.table_schema = DATABASE() AND coalesce(e.transactions, '') <> 'YES'";
    let mut tables: Vec<(String, String)> = session.rows(sql).await?;
    tables.retain(|(table, _)| names(statement, table));
    Ok(tables)
}

/// Whether a name stands in a text as a word. Letters are compared without their case, as some servers do.
fn names(text: &str, name: &str) -> bool {
    let (text, name) = (text.to_lowercase(), name.to_lowercase());
    let continues = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    !name.is_empty()
        && text
            .match_indices(&name)
            .any(|(at, _)| !text[..at].ends_with(continues) && !text[at + name.len()..].starts_with(continues))
}

/// The forms of a plan's columns, in its order, and whether all of them can be loaded.
///
/// # Errors
///
/// The column that is not there.
pub(super) fn forms(table: &TablePlan, columns: &[Column]) -> Result<(Vec<Form>, bool), String> {
    let mut forms = Vec::with_capacity(table.columns.len());
    let mut loads = true;
    for (wanted, _) in &table.columns {
        let column =
            find(columns, wanted).ok_or_else(|| format!("the table {} has no column {wanted}", table.quoted))?;
        forms.push(column.form());
        loads &= column.loads();
    }
    Ok((forms, loads))
}

/// The column of this name; the server does not look at the case of its letters.
pub(super) fn find<'c>(columns: &'c [Column], name: &str) -> Option<&'c Column> {
    let name = name.to_lowercase();
    columns.iter().find(|column| column.name.to_lowercase() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(kind: &str, charset: Option<&str>) -> Column {
        Column {
            name: "c".to_owned(),
            kind: kind.to_owned(),
            charset: charset.map(str::to_owned),
            must_be_given: false,
            generated: false,
            privileges: String::new(),
        }
    }

    #[test]
    fn forms_follow_the_declared_type() {
        for (kind, form, loads) in [
            ("int(10) unsigned", Form::Integer, true),
            ("decimal(10,2)", Form::Number, true),
            ("bit(1)", Form::Bit, false),
            ("datetime", Form::Time(TimeShape::Moment(0)), true),
            ("timestamp(6)", Form::Time(TimeShape::Moment(6)), true),
            ("time(3)", Form::Time(TimeShape::Clock(3)), true),
            ("date", Form::Time(TimeShape::Date), true),
            ("longblob", Form::Bytes, true),
            ("json", Form::Text, false),
            ("uuid", Form::Text, false),
        ] {
            let column = column(kind, None);
            assert_eq!((column.form(), column.loads()), (form, loads), "{kind}");
        }
        for (charset, loads) in [("utf8mb4", true), ("utf8mb3", true), ("latin1", false)] {
            assert_eq!(column("varchar(20)", Some(charset)).loads(), loads, "{charset}");
        }
    }

    #[test]
    fn a_name_is_found_as_a_word() {
        for text in ["insert into Log values (1)", "insert into `log` (a) values (1)", "update x, shop.log set a = 1"] {
            assert!(names(text, "log"), "{text}");
        }
        for text in ["insert into logs values (1)", "insert into log_2 values (1)", "insert into a$log values (1)"] {
            assert!(!names(text, "log"), "{text}");
        }
    }
}
