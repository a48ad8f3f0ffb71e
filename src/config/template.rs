//! Texts with values of a record in them: `order:{/order_id}`.

use super::Source;
use super::grammar::named_source;

/// A text with values of a record in it. `{{` and `}}` stand for single braces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// Its pieces, in order.
    pub pieces: Vec<Piece>,
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Stands there as it is.
    Text(String),
    /// A value of the record.
    Value(Source),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    ///
    /// What is wrong with it, without the text itself.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut pieces, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            plain.push_str(before);
            let (opening, behind) = (brace.starts_with('{'), &brace[1..]);
            if let Some(behind) = behind.strip_prefix(if opening { '{' } else { '}' }) {
                plain.push(if opening { '{' } else { '}' });
                rest = behind;
                continue;
            }
            let name = opening.then(|| behind.split_once('}')).flatten();
            let Some((name, behind)) = name else {
                return Err("has a brace without its other half; write `{$body}` for a value, and `{{` or `}}` for a \
                            brace of its own"
                    .to_owned());
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Value(named_source(name)?));
            rest = behind;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self { pieces })
    }

    /// The words of a template that is a command: blanks in its text part them, values are never parted.
    #[must_use]
    pub fn words(&self) -> Vec<Self> {
        let (mut words, mut word) = (Vec::new(), Self::default());
        for piece in &self.pieces {
            let Piece::Text(text) = piece else {
                word.pieces.push(piece.clone());
                continue;
            };
            for (number, part) in text.split(char::is_whitespace).enumerate() {
                if number > 0 && !word.pieces.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                if !part.is_empty() {
                    word.pieces.push(Piece::Text(part.to_owned()));
                }
            }
        }
        if !word.pieces.is_empty() {
            words.push(word);
        }
        words
    }

    /// The text, if there is no value in it.
    #[must_use]
    pub fn constant(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text with which it begins for every record of a queue, and whether that is all of it.
    #[must_use]
    pub fn common(&self, queue: &str) -> (String, bool) {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(plain) => text += plain,
                Piece::Value(Source::Queue) => text += queue,
                Piece::Value(_) => return (text, false),
            }
        }
        (text, true)
    }

    /// The values in it, in order.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.pieces.iter().filter_map(|piece| if let Piece::Value(source) = piece { Some(source) } else { None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<Piece> {
        Template::parse(text).unwrap().pieces
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.to_owned())
    }

    #[test]
    fn values_stand_in_braces() {
        let pointer = Piece::Value(Source::Pointer("/order/id".to_owned()));
        assert_eq!(pieces("order:{/order/id}"), [text("order:"), pointer.clone()]);
        assert_eq!(pieces("{$ticket}{/order/id} "), [Piece::Value(Source::Ticket), pointer, text(" ")]);
        assert_eq!(pieces("a{{b}}c"), [text("a{b}c")]);
        assert_eq!(pieces(""), []);
    }

    #[test]
    fn what_all_records_of_a_queue_have_in_common_is_known() {
        for (template, common, is_all) in [
            ("a.{$queue}.b", "a.orders.b", true),
            ("a.{$queue}.{/b}.c", "a.orders.", false),
            ("{$key}", "", false),
            ("", "", true),
        ] {
            assert_eq!(Template::parse(template).unwrap().common("orders"), (common.to_owned(), is_all), "{template}");
        }
    }

    #[test]
    fn what_cannot_be_a_template_is_said() {
        for (wrong, part) in
            [("a{b", "brace"), ("a}b", "brace"), ("{$tickt}", "$ticket"), ("{}", "empty"), ("{/~2}", "~0")]
        {
            let error = Template::parse(wrong).unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_command_is_parted_at_the_blanks_of_its_text() {
        let words = Template::parse("  HSET order:{/id}  body {$body} x{$key}y ").unwrap().words();
        let words: Vec<_> = words.iter().map(|word| word.pieces.len()).collect();
        assert_eq!(words, [1, 2, 1, 1, 3]);
        assert_eq!(Template::parse("  ").unwrap().words(), []);
    }
}
