//! What columns and parameters get, arrays that give rows, and what a conflict does.

use forebay::config::{Assignment, Conflict, Source, Target, Unnest};
use forebay::value::{Value, ValueType};

use crate::{accepted, one_error};

fn sink(keys: &str) -> String {
    format!("[queues.orders.sink]\n{keys}")
}

fn target(keys: &str) -> Target {
    accepted(&sink(keys)).queues["orders"].sink.target.clone()
}

/// What the column `a` gets.
fn assignment(text: &str) -> Assignment {
    let Target::Table { columns, .. } = target(&format!("table = \"t\"\nrows = \"/l\"\ncolumns = {{ a = {text} }}"))
    else {
        panic!("{text} is in no table")
    };
    columns[0].1.clone()
}

#[test]
fn an_assignment_says_more_than_a_source() {
    let pointer = |pointer: &str| Assignment::from(Source::Pointer(pointer.to_owned()));
    assert_eq!(assignment("{ from = \"/x\" }"), pointer("/x"));
    for (word, kind) in ValueType::WORDS {
        let wanted = Assignment { value_type: Some(kind), ..pointer("/x") };
        assert_eq!(assignment(&format!("{{ from = \"/x\", type = \"{word}\" }}")), wanted);
    }
    assert_eq!(assignment("{ from = \"/x\", required = true }"), Assignment { is_required: true, ..pointer("/x") });
    let number = |text: &'static str| Value::Number(text.into());
    let text = |text: &'static str| Value::Text(text.into());
    for (given, value) in [
        ("\"new\"", text("new")),
        ("0x10", number("16")),
        ("-7", number("-7")),
        ("1_000", number("1000")),
        ("+1.50", number("1.50")),
        ("1e6", number("1e6")),
        ("true", Value::Boolean(true)),
    ] {
        assert_eq!(assignment(&format!("{{ value = {given} }}")), Source::Constant(value.clone()).into(), "{given}");
        assert_eq!(assignment(&format!("{{ from = \"/x\", default = {given} }}")).default, Some(value), "{given}");
    }
    let time = "{ from = \"/x\", type = \"unix_s\", default = 0 }";
    assert_eq!(assignment(time).default, Some(text("1970-01-01T00:00:00.000000Z")));
    assert_eq!(assignment("\"@\""), Source::Element(String::new()).into());
    assert_eq!(assignment("\"@/a~1b\""), Source::Element("/a~1b".to_owned()).into());
    assert_eq!(assignment("{ from = \"$index\", type = \"text\" }").source, Source::Index);
}

#[test]
fn an_assignment_that_cannot_be_is_refused() {
    let column = |text: &str| sink(&format!("table = \"t\"\ncolumns = {{ a = {text} }}"));
    for (text, part) in [
        ("{}", "needs `from`"),
        ("{ type = \"integer\" }", "needs `from`"),
        ("{ from = \"/x\", value = 1 }", "cannot have `from` and `value`"),
        ("{ value = 1, required = true }", "is a constant, for which `required` means nothing"),
        ("{ from = \"/x\", default = 1, required = true }", "cannot have `default` and `required`"),
        ("{ from = \"/x\", type = \"int\" }", "cannot be \"int\"; write `integer`"),
        ("{ from = \"/x\", type = \"integr\" }", "did you mean `integer`?"),
        ("{ from = \"/x\", type = \"integer\", default = \"many\" }", "`default` that is not of its `type`"),
        ("{ from = \"/x\", type = \"json\", default = \"{\" }", "`default` that is not of its `type`"),
        ("{ from = \"/x\", required = \"yes\" }", "must be true or false"),
        ("{ from = \"/x\", frm = \"/y\" }", "did you mean `from`?"),
        ("{ from = 7 }", "must be a string"),
        ("{ from = \"x\" }", "a JSON pointer such as"),
        ("{ value = [1] }", "must be a string, a number or a boolean, not an array"),
        ("{ value = nan }", "must be a number that a database has"),
        ("{ value = 1979-05-27 }", "not a datetime"),
        ("[\"/x\"]", "must be a string, not an array"),
        ("\"@/sku\"", "needs `rows` beside it"),
        ("\"$index\"", "needs `rows` beside it"),
    ] {
        one_error(&column(text), 3, &[part]);
    }
}

#[test]
fn rows_come_from_an_array() {
    let rows = |text: &str| match target(&format!("table = \"t\"\ncolumns = {{ a = \"@\" }}\nrows = {text}")) {
        Target::Table { rows, .. } => rows,
        other => panic!("{other:?}"),
    };
    let unnest = |pointer: &str, is_required| Some(Unnest { pointer: pointer.to_owned(), is_required });
    assert_eq!(rows("\"/items\""), unnest("/items", false));
    assert_eq!(rows("\"\""), unnest("", false));
    assert_eq!(rows("{ from = \"/a/0\", required = true }"), unnest("/a/0", true));
    let statement = target("statement = \"SELECT :a\"\nparameters = { a = \"@/a\" }\nrows = \"/items\"");
    assert!(matches!(&statement, Target::Statement { rows: Some(_), parameters, .. } if parameters.len() == 1));
    for (text, part) in [
        ("\"items\"", "a JSON pointer to an array"),
        ("\"@/items\"", "a JSON pointer to an array"),
        ("\"/~\"", "`~0`"),
        ("{}", "needs `from`"),
        ("{ from = \"/x\", must = true }", "unknown key `must`"),
        ("7", "must be a string, not an integer"),
    ] {
        let keys = sink(&format!("table = \"t\"\ncolumns = {{ a = \"@\" }}\nrows = {text}"));
        one_error(&keys, 4, &[part]);
    }
    one_error(&sink("rows = \"/items\""), 2, &["`queues.orders.sink.rows` needs `table` and `columns`"]);
    one_error(&sink("table = \"t\"\ncolumns = { a = \"@x\" }\nrows = \"/l\""), 3, &["write `@` for the element"]);
}

#[test]
fn a_conflict_needs_the_columns_by_which_it_is_one() {
    let conflict = |keys: &str| match target(&format!("table = \"t\"\ncolumns = {{ a = \"/a\", b = \"/b\" }}\n{keys}"))
    {
        Target::Table { conflict, .. } => conflict,
        other => panic!("{other:?}"),
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(conflict(""), Conflict::Error);
    assert_eq!(conflict("on_conflict = \"error\""), Conflict::Error);
    assert_eq!(conflict("on_conflict = \"update\"\nconflict_columns = \"b\""), Conflict::Update(names(&["b"])));
    let both = "on_conflict = \"ignore\"\nconflict_columns = [\"a\", \"b\"]";
    assert_eq!(conflict(both), Conflict::Ignore(names(&["a", "b"])));
    for (keys, line, part) in [
        ("on_conflict = \"update\"", 4, "needs `conflict_columns`"),
        ("on_conflict = \"ignore\"\nconflict_columns = []", 4, "needs `conflict_columns`"),
        ("on_conflict = \"merge\"", 4, "write `error`, `ignore` or `update`"),
        ("conflict_columns = [\"a\"]", 4, "is of no use without `on_conflict"),
        ("on_conflict = \"update\"\nconflict_columns = [\"c\"]", 5, "cannot have \"c\", which is not among `columns`"),
        ("on_conflict = \"update\"\nconflict_columns = [\"b\", \"a\"]", 4, "has nothing to update"),
        ("on_conflict = \"update\"\nconflict_columns = [7]", 5, "must be strings"),
    ] {
        one_error(&sink(&format!("table = \"t\"\ncolumns = {{ a = \"/a\", b = \"/b\" }}\n{keys}")), line, &[part]);
    }
    for keys in
        ["statement = \"SELECT 1\"\non_conflict = \"update\"\nconflict_columns = [\"a\"]", "\non_conflict = \"ignore\""]
    {
        one_error(&sink(keys), 3, &["`queues.orders.sink.on_conflict` needs `table` and `columns`"]);
    }
    // What is wrong with the columns is said once.
    let refused =
        "table = \"t\"\ncolumns = { a = 7, b = \"/b\" }\non_conflict = \"update\"\nconflict_columns = [\"a\"]";
    one_error(&sink(refused), 3, &["must be a string"]);
}
