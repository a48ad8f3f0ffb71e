//! What templates make of records.

use super::{Mapping, Value};
use crate::config::{Piece, Template};
use crate::sink::{Delivery, SinkError};

/// Templates that are filled together, so that the body is read once.
#[derive(Clone, Debug)]
pub struct TextPlan {
    templates: Vec<Vec<Filled>>,
    mapping: Mapping,
}

/// A piece of a template.
#[derive(Clone, Debug)]
enum Filled {
    Text(String),
    /// The next value of the mapping.
    Value,
}

impl TextPlan {
    /// The plan of these templates, for records of `queue`.
    #[must_use]
    pub fn new(templates: &[Template], queue: &str) -> Self {
        let mapping = Mapping::of_sources(templates.iter().flat_map(Template::sources), queue);
        let fill = |piece: &Piece| match piece {
            Piece::Text(text) => Filled::Text(text.clone()),
            Piece::Value(_) => Filled::Value,
        };
        let templates = templates.iter().map(|template| template.pieces.iter().map(fill).collect()).collect();
        Self { templates, mapping }
    }

    /// The texts of one record, in the order of the templates. NULL is an empty text.
    ///
    /// # Errors
    ///
    /// [`SinkError::Permanent`] if a pointer is asked for and the body isn't JSON.
    pub fn texts(&self, delivery: &Delivery<'_>) -> Result<Vec<Vec<u8>>, SinkError> {
        let mut texts = Vec::with_capacity(self.templates.len());
        self.each_text(delivery, &mut Vec::new(), |text| texts.push(text.to_vec()))?;
        Ok(texts)
    }

    /// Hands over the same texts one by one. What has several pieces is put together in `buffer`; a value by itself is not copied.
    ///
    /// # Errors
    ///
    /// Those of [`texts`](Self::texts); nothing is handed over then.
    pub fn each_text(
        &self,
        delivery: &Delivery<'_>,
        buffer: &mut Vec<u8>,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), SinkError> {
        let rows = self.mapping.rows(delivery)?;
        let row = rows.row(0)?;
        let mut values = row.iter();
        for template in &self.templates {
            let pieces = template.iter().map(|piece| match piece {
                Filled::Text(plain) => plain.as_bytes(),
                Filled::Value => values.next().and_then(Value::bytes).unwrap_or_default(),
            });
            if template.len() == 1 {
                pieces.for_each(&mut take);
                continue;
            }
            buffer.clear();
            pieces.for_each(|piece| buffer.extend_from_slice(piece));
            take(buffer);
        }
        Ok(())
    }
}
