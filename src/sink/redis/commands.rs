//! The commands that each record runs: which may be, and what is sent for a batch.

use std::sync::Arc;

use redis::Cmd;

use super::script::{self, BatchHead};
use crate::config::{Piece, Source, Template};
use crate::limits::{REDIS_BATCH_BYTES_MAX, REDIS_BATCH_VALUES_MAX, REDIS_COMMAND_WORDS_MAX, REDIS_COMMANDS_MAX};
use crate::sink::encoded::{Encode, Encoder};
use crate::sink::mapping::TextPlan;
use crate::sink::{Batch, Delivery, SinkError};

/// What stands for a value of the record where there is no record.
const SAMPLE: &str = "1";

/// Why commands cannot be part of a batch, and which these are.
const REFUSED: [(&str, &str); 4] = [
    (
        "belongs to a connection or a transaction of its own, and forebay's batch is one already",
        "MULTI EXEC DISCARD WATCH UNWATCH SELECT SWAPDB AUTH HELLO RESET QUIT ASKING READONLY READWRITE CLIENT REPLCONF",
    ),
    (
        "is a program of its own, of which an error could leave a half behind that nobody knows of",
        "EVAL EVALSHA EVAL_RO EVALSHA_RO FCALL FCALL_RO SCRIPT FUNCTION",
    ),
    (
        "waits or listens, and a batch may not",
        "BLPOP BRPOP BRPOPLPUSH BLMOVE BLMPOP BZPOPMIN BZPOPMAX BZMPOP WAIT WAITAOF SUBSCRIBE PSUBSCRIBE SSUBSCRIBE \
         UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE MONITOR SYNC PSYNC",
    ),
    (
        "is for whoever administers the server",
        "FLUSHALL FLUSHDB CONFIG SHUTDOWN DEBUG SAVE BGSAVE BGREWRITEAOF REPLICAOF SLAVEOF FAILOVER CLUSTER ACL MODULE \
         MIGRATE RESTORE-ASKING SLOWLOG LATENCY MEMORY LASTSAVE ROLE COMMAND INFO KEYS PFDEBUG PFSELFTEST SENTINEL",
    ),
];

/// What is sent to Redis for each record.
pub(super) struct Commands {
    list: Vec<Command>,
    /// The values of a record, each once.
    values: Arc<Values>,
    /// What they could be.
    samples: Vec<String>,
    script: String,
    /// Redis' name for the script.
    hash: String,
}

/// A command.
#[derive(Clone, Debug)]
pub(super) struct Command {
    /// In capitals.
    pub(super) name: String,
    /// With the name.
    pub(super) words: Vec<Word>,
}

/// A word of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The same for every record.
    Constant(String),
    /// The place of a value among those of a record.
    Value(usize),
}

impl Commands {
    /// What the templates ask for.
    ///
    /// # Errors
    ///
    /// Why they cannot be used.
    pub(super) fn new(templates: &[Template], queue: &str, own_key: &str) -> Result<Self, String> {
        if templates.is_empty() {
            return Err("`commands` is empty; write one command at least".to_owned());
        }
        if templates.len() > REDIS_COMMANDS_MAX {
            return Err(format!("`commands` has {}, and at most {REDIS_COMMANDS_MAX} may be", templates.len()));
        }
        let mut values = Vec::new();
        let list = templates
            .iter()
            .enumerate()
            .map(|(number, template)| {
                command(template, queue, &mut values).map_err(|why| format!("command {} {why}", number + 1))
            })
            .collect::<Result<Vec<_>, _>>()?;
        // A note of what a record has behind it means these very commands.
        let list_id = redis::Script::new(&format!("{templates:?}")).get_hash()[..16].to_owned();
        let script = script::batch(&list, values.len(), &list_id);
        let hash = redis::Script::new(&script).get_hash().to_owned();
        let samples = values.iter().map(|word| text(word, queue, Some(SAMPLE)).unwrap_or_default()).collect();
        let values = Arc::new(Values { plan: TextPlan::new(&values, queue), own_key: own_key.to_owned() });
        Ok(Self { list, values, samples, script, hash })
    }

    /// What encodes the values of records.
    pub(super) fn encoder(&self) -> Encoder {
        Arc::clone(&self.values) as Encoder
    }

    pub(super) fn list(&self) -> &[Command] {
        &self.list
    }

    /// What the values of a record could be.
    pub(super) fn samples(&self) -> &[String] {
        &self.samples
    }

    /// The words of a command as they could be.
    pub(super) fn sample<'a>(&'a self, command: &'a Command) -> impl Iterator<Item = &'a str> {
        command.words.iter().map(|word| match word {
            Word::Constant(text) => text.as_str(),
            Word::Value(place) => self.samples.get(*place).map_or("", String::as_str),
        })
    }

    pub(super) fn script(&self) -> &str {
        &self.script
    }

    /// The request of a batch.
    ///
    /// # Errors
    ///
    /// [`SinkError::Permanent`] if a record has no such values, or if they are too many for one request: the caller parts a batch
    /// that is refused, and those of one record never are.
    pub(super) fn request(&self, head: &BatchHead<'_>, batch: &Batch<'_>) -> Result<Cmd, SinkError> {
        let deliveries = batch.deliveries;
        let ahead = batch.ahead.filter(|ahead| ahead.is_by(&self.values));
        let values = deliveries.len() * self.samples.len();
        if deliveries.len() > 1 && values > REDIS_BATCH_VALUES_MAX {
            return Err(too_many(&format!("{values} values ({REDIS_BATCH_VALUES_MAX} may be)")));
        }
        let sequences: Vec<_> = deliveries.iter().map(|delivery| delivery.sequence).collect();
        // Most values are a part of the body, or of about the length of a ticket.
        let bytes = deliveries.iter().map(|delivery| delivery.record.body.len()).sum::<usize>() + values * 32;
        let mut request = head.request(&self.hash, &sequences, values, bytes);
        let mut encoded = Vec::new();
        if let Some(ahead) = ahead {
            put(&ahead.bytes(), &mut request);
        }
        let mut bytes = ahead.map_or(0, |ahead| ahead.bytes().len());
        for delivery in deliveries.get(ahead.map_or(0, |ahead| ahead.records())..).unwrap_or_default() {
            encoded.clear();
            self.values.append(delivery, usize::MAX, &mut encoded)?;
            bytes += encoded.len();
            if deliveries.len() > 1 && bytes > REDIS_BATCH_BYTES_MAX {
                return Err(too_many(&format!("values with more than {REDIS_BATCH_BYTES_MAX} bytes")));
            }
            put(&encoded, &mut request);
        }
        Ok(request)
    }

    /// What is said of a record whose commands have failed behind the first `done` of them.
    pub(super) fn refusal(&self, sequence: u64, done: usize, why: &str) -> String {
        let name = self.list.get(done).map_or("", |command| command.name.as_str());
        let number = done + 1;
        let behind = match done {
            0 => String::new(),
            1 => "; command 1 was carried out before, and is not repeated".to_owned(),
            _ => format!("; commands 1 to {done} were carried out before, and are not repeated"),
        };
        format!("record {sequence}: command {number} ({name}): {why}{behind}")
    }
}

/// The values that the commands of a record get.
#[derive(Debug)]
pub(super) struct Values {
    plan: TextPlan,
    /// The hash with the position, which no value may name.
    own_key: String,
}

/// A value is its length and its bytes.
impl Encode for Values {
    fn append(&self, delivery: &Delivery<'_>, bytes_max: usize, out: &mut Vec<u8>) -> Result<u64, SinkError> {
        let (mut buffer, mut names_position, mut is_too_much) = (Vec::new(), false, false);
        self.plan.each_text(delivery, &mut buffer, |text| {
            names_position |= text == self.own_key.as_bytes();
            is_too_much |= out.len().saturating_add(text.len()) > bytes_max;
            if !is_too_much {
                out.extend_from_slice(&text.len().to_ne_bytes());
                out.extend_from_slice(text);
            }
        })?;
        let sequence = delivery.sequence;
        if names_position {
            let key = &self.own_key;
            let message = format!("record {sequence}: a value is {key}, which is where forebay keeps its position");
            return Err(SinkError::Permanent { message });
        }
        if is_too_much {
            return Err(SinkError::Permanent { message: format!("record {sequence}: its values are too much") });
        }
        Ok(1)
    }
}

/// Adds encoded values to a request.
fn put(mut values: &[u8], request: &mut Cmd) {
    while let Some((length, rest)) = values.split_first_chunk() {
        let Some((text, rest)) = rest.split_at_checked(usize::from_ne_bytes(*length)) else { return };
        request.arg(text);
        values = rest;
    }
}

fn too_many(what: &str) -> SinkError {
    SinkError::Permanent { message: format!("{what} are too many for one request") }
}

/// One command; values that are not known yet are added to `values`.
fn command(template: &Template, queue: &str, values: &mut Vec<Template>) -> Result<Command, String> {
    let words = template.words();
    let Some(first) = words.first() else {
        return Err("is empty; write such as `XADD orders * body {$body}`".to_owned());
    };
    let Some(name) = first.constant().map(str::to_ascii_uppercase) else {
        return Err("begins with a value of the record; its first word must be the name of a command".to_owned());
    };
    if let Some((why, _)) = REFUSED.iter().find(|(_, names)| names.split(' ').any(|refused| refused == name)) {
        return Err(format!("is {name}, which {why}; remove it"));
    }
    let is_block = |word: &Template| word.constant().is_some_and(|text| text.eq_ignore_ascii_case("BLOCK"));
    if matches!(name.as_str(), "XREAD" | "XREADGROUP") && words.iter().any(is_block) {
        return Err(format!("is {name} with BLOCK, which waits, and a batch may not; remove it"));
    }
    if words.len() > REDIS_COMMAND_WORDS_MAX {
        return Err(format!("has {} words, and at most {REDIS_COMMAND_WORDS_MAX} may be", words.len()));
    }
    let word = |word: &Template| match text(word, queue, None) {
        Some(text) => Word::Constant(text),
        None => Word::Value(values.iter().position(|known| known == word).unwrap_or_else(|| {
            values.push(word.clone());
            values.len() - 1
        })),
    };
    Ok(Command { name, words: words.iter().map(word).collect() })
}

/// The text of a word if it is the same for every record of the queue, or with `sample` in the place of all other values.
fn text(word: &Template, queue: &str, sample: Option<&str>) -> Option<String> {
    let text = |piece: &Piece| match piece {
        Piece::Text(text) => Some(text.clone()),
        Piece::Value(Source::Queue) => Some(queue.to_owned()),
        Piece::Value(_) => sample.map(str::to_owned),
    };
    word.pieces.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(texts: &[&str]) -> Result<Commands, String> {
        let templates: Vec<_> = texts.iter().map(|text| Template::parse(text).unwrap()).collect();
        Commands::new(&templates, "q", "forebay:position:q/1")
    }

    #[test]
    fn a_value_is_sent_once_however_often_it_is_used() {
        let commands =
            commands(&["xadd s:{$queue} * id {/id} x{/id}", "SADD ids {/id}"]).unwrap_or_else(|why| panic!("{why}"));
        let constant = |text: &str| Word::Constant(text.to_owned());
        let first = [constant("xadd"), constant("s:q"), constant("*"), constant("id"), Word::Value(0), Word::Value(1)];
        assert_eq!(commands.list[0].words, first);
        assert_eq!(commands.list[1].words, [constant("SADD"), constant("ids"), Word::Value(0)]);
        assert_eq!((commands.samples.len(), commands.list[0].name.as_str()), (2, "XADD"));
    }

    #[test]
    fn what_cannot_be_part_of_a_batch_is_refused() {
        for (refused, part) in [
            ("multi", "MULTI"),
            ("Exec", "EXEC"),
            ("WATCH k", "WATCH"),
            ("SUBSCRIBE c", "waits"),
            ("BLPOP l 0", "waits"),
            ("XREAD block 0 STREAMS s $", "BLOCK"),
            ("SELECT 1", "SELECT"),
            ("FLUSHALL", "administers"),
            ("CONFIG SET maxmemory 1", "administers"),
            ("SHUTDOWN NOSAVE", "administers"),
            ("SCRIPT FLUSH", "program"),
            ("EVAL x 0", "program"),
            ("FCALL f 0", "program"),
            ("{$body} x", "first word"),
            ("  ", "empty"),
        ] {
            let why = commands(&["SET a b", refused]).err().unwrap_or_default();
            assert!(why.contains("command 2") && why.contains(part), "{refused}: {why}");
        }
        assert!(commands(&[]).is_err());
        assert!(commands(&vec!["PING"; REDIS_COMMANDS_MAX]).is_ok());
        assert!(commands(&vec!["PING"; REDIS_COMMANDS_MAX + 1]).is_err());
        let words = |count: usize| format!("DEL{}", " {/a}".repeat(count - 1));
        assert!(commands(&[&words(REDIS_COMMAND_WORDS_MAX)]).is_ok());
        assert!(commands(&[&words(REDIS_COMMAND_WORDS_MAX + 1)]).is_err());
    }
}
