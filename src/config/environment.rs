//! Environment variables within string values: `${NAME}` and `${NAME:-default}`.
//!
//! Substitution happens after the TOML has been parsed, value by value, and once:
//! what a variable holds is never looked at again, so it can neither close a
//! string nor name another variable.

/// A string after substitution.
pub(super) struct Substituted {
    /// The text to use.
    pub(super) value: String,
    /// Whether any variable was looked up. Then the text may be a credential and must not be shown.
    pub(super) from_environment: bool,
}

/// Replaces each `${NAME}`; `$${` stands for a plain `${`, and any other `$` for itself.
///
/// # Errors
///
/// One message for each variable that is missing or that cannot be read as one. The messages
/// name variables and never show what they hold.
pub(super) fn substitute(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Substituted, Vec<String>> {
    let mut value = String::with_capacity(text.len());
    let mut from_environment = false;
    let mut errors = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, reference) = rest.split_at(start);
        if let Some(before) = before.strip_suffix('$') {
            value.push_str(before);
            value.push_str("${");
            rest = &reference[2..];
            continue;
        }
        value.push_str(before);
        let Some((inside, after)) = reference[2..].split_once('}') else {
            errors.push("has a `${` without its `}`; write `${NAME}`, or `$${` for a plain `${`".to_owned());
            rest = "";
            break;
        };
        from_environment = true;
        match look_up(inside, env) {
            Ok(found) => value.push_str(&found),
            Err(message) => errors.push(message),
        }
        rest = after;
    }
    value.push_str(rest);
    if errors.is_empty() { Ok(Substituted { value, from_environment }) } else { Err(errors) }
}

/// The value for what stands between the braces. As in a shell, `:-` also replaces an empty value.
fn look_up(inside: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !named || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        // What stands there may be a password with a `${` in it, so it is not repeated.
        return Err(
            "has a `${...}` that names no variable; write `${NAME}` or `${NAME:-default}` with letters, digits \
                    and `_` in NAME, or `$${` for a plain `${`"
                .to_owned(),
        );
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(format!("has another `${{` in the default of `{name}`; write a plain default"));
    }
    match (env(name), default) {
        (Some(found), None) => Ok(found),
        (Some(found), Some(_)) if !found.is_empty() => Ok(found),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!(
            "needs the environment variable `{name}`, which is not set; set it, or write `${{{name}:-default}}`"
        )),
    }
}
