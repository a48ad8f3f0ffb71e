//! Finds the values that JSON pointers (RFC 6901) name, as they are written in the body.
//!
//! A value is never parsed into a number or a tree: its text is cut out of the
//! body, so `19.90` reaches the database as `19.90` whatever its column is. One
//! pass checks the whole body, a second one walks it for all pointers at once.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use crate::value::string;

/// A set of pointers, merged into one tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Pointers {
    root: Node,
    count: usize,
}

/// One place in a document that a pointer goes through or ends at.
#[derive(Clone, Debug, Default)]
struct Node {
    /// Numbers of the pointers that end here.
    ends: Vec<usize>,
    /// Where they go on, by reference token.
    children: Vec<(Token, Node)>,
}

/// One unescaped reference token.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    name: String,
    /// The token read as an array index, if it is one: no sign and no leading zero.
    index: Option<usize>,
}

impl Pointers {
    /// Whether no pointer was added; a body need not be JSON then.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a pointer and returns its number, which counts from 0.
    pub(super) fn add(&mut self, pointer: &str) -> usize {
        let number = self.count;
        self.count += 1;
        let mut node = &mut self.root;
        // What precedes the first slash is empty in every pointer that the configuration lets through.
        for escaped in pointer.split('/').skip(1) {
            let name = escaped.replace("~1", "/").replace("~0", "~");
            let canonical = name == "0" || !name.starts_with('0');
            let digits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
            let index = if canonical && digits { name.parse().ok() } else { None };
            let token = Token { name, index };
            let position = node.children.iter().position(|(other, _)| *other == token).unwrap_or_else(|| {
                node.children.push((token, Node::default()));
                node.children.len() - 1
            });
            node = &mut node.children[position].1;
        }
        node.ends.push(number);
        number
    }

    /// The texts of the values that the pointers lead to, by number; `None` where one leads nowhere.
    ///
    /// # Errors
    ///
    /// Why `body` is not JSON.
    pub(super) fn find<'b>(&self, body: &'b [u8]) -> Result<Vec<Option<&'b str>>, String> {
        let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| error.to_string())?;
        Ok(self.find_in(text))
    }

    /// The same in text that is known to be JSON.
    pub(super) fn find_in<'b>(&self, json: &'b str) -> Vec<Option<&'b str>> {
        let mut found = vec![None; self.count];
        Walk { text: json, at: 0 }.value(&self.root, &mut found);
        found
    }
}

/// The texts of an array's elements, in text that is known to be JSON; `None` if there are more than `count_max`.
pub(super) fn elements(array: &str, count_max: usize) -> Option<Vec<&str>> {
    let mut walk = Walk { text: array, at: 1 };
    let mut elements = Vec::new();
    loop {
        walk.skip_between();
        if matches!(walk.peek(), None | Some(b']')) {
            return Some(elements);
        }
        if elements.len() == count_max {
            return None;
        }
        let start = walk.at;
        walk.skip_value();
        elements.push(walk.slice(start));
    }
}

/// One pointer, for whoever asks for what it finds as text.
#[derive(Clone, Debug)]
pub struct Lookup(Pointers);

impl Lookup {
    /// A lookup by a pointer that the configuration has let through.
    #[must_use]
    pub fn new(pointer: &str) -> Self {
        let mut pointers = Pointers::default();
        pointers.add(pointer);
        Self(pointers)
    }

    /// What the pointer finds: a string's characters, or a value as it is written. `None` for null, for nothing, and in a
    /// body that is not JSON.
    #[must_use]
    pub fn find<'b>(&self, body: &'b [u8]) -> Option<Cow<'b, str>> {
        let text = self.0.find(body).ok()?.into_iter().next()??;
        match text {
            "null" => None,
            quoted if quoted.starts_with('"') => string(quoted).ok(),
            other => Some(Cow::Borrowed(other)),
        }
    }
}

impl Node {
    fn child_named(&self, name: &str) -> Option<&Node> {
        self.children.iter().find(|(token, _)| token.name == name).map(|(_, node)| node)
    }

    fn child_at(&self, index: usize) -> Option<&Node> {
        self.children.iter().find(|(token, _)| token.index == Some(index)).map(|(_, node)| node)
    }

    /// Forgets what was found below here: of two members with the same name the last one counts.
    fn forget(&self, found: &mut [Option<&str>]) {
        for &number in &self.ends {
            found[number] = None;
        }
        for (_, child) in &self.children {
            child.forget(found);
        }
    }
}

/// A walk over text that is known to be JSON. Were it not, the walk would find
/// the wrong thing, but it would still end and never leave the text.
struct Walk<'b> {
    text: &'b str,
    at: usize,
}

impl<'b> Walk<'b> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Skips blanks, and the commas and colons that are between values.
    fn skip_between(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r' | b',' | b':')) {
            self.at += 1;
        }
    }

    fn slice(&self, from: usize) -> &'b str {
        self.text.get(from..self.at).unwrap_or_default()
    }

    /// Passes over the value that comes next and notes what the pointers of `node` ask for.
    fn value(&mut self, node: &Node, found: &mut [Option<&'b str>]) {
        self.skip_between();
        let start = self.at;
        match self.peek() {
            Some(b'{') if !node.children.is_empty() => self.members(node, found),
            Some(b'[') if !node.children.is_empty() => self.elements(node, found),
            _ => self.skip_value(),
        }
        for &number in &node.ends {
            found[number] = Some(self.slice(start));
        }
    }

    fn members(&mut self, node: &Node, found: &mut [Option<&'b str>]) {
        self.at += 1;
        loop {
            self.skip_between();
            if self.peek() != Some(b'"') {
                self.at += 1;
                return;
            }
            let start = self.at;
            self.skip_string();
            let child = string(self.slice(start)).ok().and_then(|name| node.child_named(&name));
            self.skip_between();
            match child {
                Some(child) => {
                    child.forget(found);
                    self.value(child, found);
                }
                None => self.skip_value(),
            }
        }
    }

    fn elements(&mut self, node: &Node, found: &mut [Option<&'b str>]) {
        self.at += 1;
        for index in 0.. {
            self.skip_between();
            if matches!(self.peek(), None | Some(b']')) {
                self.at += 1;
                return;
            }
            match node.child_at(index) {
                Some(child) => self.value(child, found),
                None => self.skip_value(),
            }
        }
    }

    fn skip_string(&mut self) {
        self.at += 1;
        loop {
            match self.peek() {
                None => return,
                Some(b'"') => {
                    self.at += 1;
                    return;
                }
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
    }

    /// Nesting is counted rather than recursed into: its depth is the client's choice.
    fn skip_value(&mut self) {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                None => return,
                Some(b'"') => self.skip_string(),
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.at += 1;
                }
                Some(b'}' | b']') => {
                    depth = depth.saturating_sub(1);
                    self.at += 1;
                }
                Some(b' ' | b'\t' | b'\n' | b'\r' | b',' | b':') => self.at += 1,
                Some(_) => self.skip_word(),
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// Passes over a number, `true`, `false` or `null`.
    fn skip_word(&mut self) {
        while !matches!(self.peek(), None | Some(b' ' | b'\t' | b'\n' | b'\r' | b',' | b'}' | b']')) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::compact;
    use proptest::prelude::*;

    fn find<'b>(body: &'b str, pointers: &[&str]) -> Vec<Option<&'b str>> {
        let mut set = Pointers::default();
        for pointer in pointers {
            set.add(pointer);
        }
        set.find(body.as_bytes()).unwrap()
    }

    #[test]
    fn the_examples_of_the_rfc() {
        let body = r#"{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\j":5,"k\"l":6," ":7,"m~n":8}"#;
        let pointers = ["", "/foo", "/foo/0", "/", "/a~1b", "/c%d", "/e^f", "/g|h", "/i\\j", "/k\"l", "/ ", "/m~0n"];
        let wanted = [body, r#"["bar","baz"]"#, r#""bar""#, "0", "1", "2", "3", "4", "5", "6", "7", "8"];
        assert_eq!(find(body, &pointers), wanted.map(Some));
    }

    #[test]
    fn numbers_keep_their_text_and_what_is_not_there_is_none() {
        let body = " {\"a\" : [ 1.10 , {\"b\" : 1e400}, 123456789012345678901234567890 ] , \"c\":null} ";
        let pointers = ["/a/0", "/a/1/b", "/a/2", "/a/3", "/a/-", "/a/01", "/a/b", "/c", "/c/d", "/x/y"];
        let wanted = [Some("1.10"), Some("1e400"), Some("123456789012345678901234567890")];
        let found = find(body, &pointers);
        assert_eq!(found[..3], wanted);
        assert_eq!(found[3..7], [None; 4]);
        assert_eq!(found[7], Some("null"));
        assert_eq!(found[8..], [None; 2]);
    }

    #[test]
    fn the_last_of_two_members_with_one_name_counts() {
        assert_eq!(
            find(r#"{"a":{"b":1},"a":{"c":2}}"#, &["/a/b", "/a/c", "/a"]),
            [None, Some("2"), Some(r#"{"c":2}"#)]
        );
        assert_eq!(find(r#"{"\u0061":1}"#, &["/a"]), [Some("1")]);
    }

    #[test]
    fn what_is_not_json_is_refused() {
        let mut set = Pointers::default();
        set.add("/a");
        for body in [&b""[..], b"{", b"{}x", b"\xff", b"\"\xff\"", b"{'a':1}", b"[1,]", b"nul", b"\"\n\""] {
            assert!(set.find(body).is_err(), "{body:?}");
        }
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        assert_eq!(set.find(deep.as_bytes()), Ok(vec![None]));
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[ab/~0-2\\\\\"é]{0,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn an_array_falls_into_its_elements() {
        let array = "[ 1 , [2,3],{\"a\":[4]} ,\"x,]\",null ]";
        let wanted = vec!["1", "[2,3]", "{\"a\":[4]}", "\"x,]\"", "null"];
        assert_eq!(elements(array, 5), Some(wanted));
        assert_eq!(elements(array, 4), None);
        assert_eq!(elements("[ ]", 0), Some(vec![]));
    }

    proptest! {
        #[test]
        fn finds_what_a_parsed_tree_holds(
            value in json(), pointers in prop::collection::vec("(/(a|b|ab|[0-2]|~0|~1|é|)){0,3}", 1..5), pretty: bool,
        ) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let mut set = Pointers::default();
            for pointer in &pointers { set.add(pointer); }
            let found = set.find(text.as_bytes()).unwrap();
            for (pointer, found) in pointers.iter().zip(found) {
                let parsed = found.map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
                prop_assert_eq!(parsed.as_ref(), value.pointer(pointer), "{} in {}", pointer, text);
                if let Some(found) = found {
                    prop_assert_eq!(compact(found), serde_json::to_string(&value.pointer(pointer)).unwrap());
                }
            }
        }

        #[test]
        fn any_bytes_are_taken_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..64), text in "[\\[\\]{}\",:\\\\a1 ]{0,24}") {
            let mut set = Pointers::default();
            set.add("/a/1");
            let _ = set.find(&body);
            let _ = set.find(text.as_bytes());
            let mut found = [None];
            Walk { text: &text, at: 0 }.value(&set.root, &mut found);
        }
    }
}
