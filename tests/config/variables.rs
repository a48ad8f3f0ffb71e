//! `${…}` in values, and what of a value may be shown.

use super::*;

#[test]
fn variables_are_replaced_in_values_only() {
    let env = |name: &str| match name {
        "INJECT" => Some("x\"\nack = \"memory\"\n[queues.evil]\n# ${NAME} $${A}".to_owned()),
        "NAME" => Some("n".to_owned()),
        "EMPTY" => Some(String::new()),
        "SIZE" => Some("2MiB".to_owned()),
        _ => None,
    };
    let data_dir = |value: &str| {
        let config = parse(&format!("data_dir = '{value}'\n{SMALLEST}"), "f", &env).unwrap();
        assert_eq!((config.queues.len(), config.queues["orders"].ack), (1, Ack::Durable));
        config.data_dir.to_str().unwrap().to_owned()
    };
    assert_eq!(data_dir("${INJECT}"), env("INJECT").unwrap(), "nothing in a variable is read again");
    for (given, meant) in [
        ("/a/${NAME}/${NAME}", "/a/n/n"),
        ("${MISSING:-d}", "d"),
        ("${MISSING:-}x", "x"),
        ("${EMPTY:-d}", "d"),
        ("a${EMPTY}", "a"),
        ("${NAME:-d}", "n"),
        ("$${NAME}", "${NAME}"),
        ("$$${NAME}", "$${NAME}"),
        ("$NAME $$ $$x $ {a} $", "$NAME $$ $$x $ {a} $"),
    ] {
        assert_eq!(data_dir(given), meant, "{given}");
    }
    let sized = parse(&format!("{SMALLEST}max_backlog_bytes = \"${{SIZE}}\""), "f", &env).unwrap();
    assert_eq!(sized.queues["orders"].max_backlog_bytes, 2 << 20);
    let errors =
        errors("rate = \"${A}${B}\"\nack = \"${A\"\n[queues.orders.sink]\nurl = \"${a b}\"\ntable = \"${A:-${B}}\"");
    let parts = ["variable `A`", "variable `B`", "without its `}`", "names no variable", "another `${`"];
    assert_eq!(errors.len(), 5, "{errors:#?}");
    for (error, part) in errors.iter().zip(parts) {
        assert!(error.1.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn credentials_are_never_shown() {
    let url = "postgres://u:hunter2@h/d";
    for rest in [
        "[queues.orders.sink]\nurl = \"mysql://u:hunter2@h/d\"\ntype = \"postgres\"",
        "[queues.orders.sink]\nurl = \"u:hunter2@h/d\"\ntype = \"postgres\"",
        "[queues.orders.sink]\nurl = \"postgres://u:hunter2@h/d\"",
        "[queues.orders.sink]\nurl = [\"postgres://u:hunter2@h/d\"]",
        "[queues.orders.sink]\nurl = \"postgres://u:hunter2${x y}@h/d\"",
        "[queues.orders.sink]\nurl = \"postgres://u:hunter2@h/${MISSING}\"",
        "[queues.orders.sink]\nurl = \"postgres://u:hunter2@h/d",
        "[queues.orders.sink]\nurl = postgres://u:hunter2@h/d",
        "[queues.orders.sink]\nurl = \"postgres://u:hunter2\\q@h/d\"",
        "[queues.orders]\nsink = \"postgres://u:hunter2@h/d\"",
        "ack = \"${SECRET}\"\nrate = \"${SECRET}\"\nmax_backlog_bytes = \"${SECRET}\"",
        "[queues.orders.sink]\ntype = \"${SECRET}\"\ntable = \"${SECRET}\"\ncolumns = { a = \"${SECRET}\" }",
        "[admin]\naddress = \"${SECRET}\"",
        "[admin]\naddress = \"${SECRET:-hunter2}:x\"",
        "[journal]\nring_bytes = \"${NUMBER}\"",
        "[journal]\ncommit_bytes_max = \"${NUMBER}\"",
    ] {
        let env = |name: &str| match name {
            "SECRET" => Some(url.to_owned()),
            "NUMBER" => Some("12289".to_owned()),
            _ => None,
        };
        let errors = parse(&format!("{SMALLEST}{rest}"), "f", &env).expect_err(rest);
        let shown = format!("{errors} {errors:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("12289") && !shown.contains("12KiB"), "{shown}");
    }
}
