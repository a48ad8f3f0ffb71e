//! The two scripts: taking a part over, and a batch. What they do and why that is enough stands at the head of the sink.

use redis::{Cmd, Value};

use super::commands::{Command, Word};
use crate::record::Sequence;

/// Takes a part over if its epoch, and that of the queue's first row, are still those that were seen; returns nothing if they are not.
/// The first row's may have risen under our own owner, which the lowest 20 bits of an epoch say: its lane raises it with its batches.
/// Lua's numbers hold epochs below 2^53 exactly.
const TAKE_OVER: &str = "\
local key, prefix = KEYS[1], ARGV[1]
local seen = redis.call('HMGET', key, prefix .. 'epoch', ARGV[2])
local function is_ours_and_later()
  local now, before, ours = tonumber(seen[2] or ''), tonumber(ARGV[4]), tonumber(ARGV[5])
  return now and before and now > before and now < 9007199254740992 and math.fmod(now, 1048576) == math.fmod(ours, 1048576)
end
if (seen[1] or '') ~= ARGV[3] then return {} end
if (seen[2] or '') ~= ARGV[4] and not is_ours_and_later() then return {} end
redis.call('HSETNX', key, prefix .. 'position', '0')
redis.call('HSETNX', key, prefix .. 'beyond', '')
redis.call('HSET', key, prefix .. 'epoch', ARGV[5])
return redis.call('HMGET', key, prefix .. 'position', prefix .. 'beyond')
";

/// What stands before the witnesses in the arguments of a batch.
const HEAD_ARGUMENTS: usize = 11;

/// The beginning of a batch: the fence. It is followed by the function `run`, which carries out the commands of all records and
/// keeps in `place` and `finished` how far it has come, and by [`BATCH_END`]. The HDEL deletes nothing, but has a replica say that
/// it is one instead of what it has; the HSET must be the first command that writes, because a script that has written is not
/// refused memory any more. Sequences are compared as Lua's numbers, which keep the order of those that they cannot hold exactly.
const BATCH_BEGIN: &str = "\
local key, prefix, argv = KEYS[1], ARGV[1], ARGV
local after, through, epoch, next_epoch = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local count, at = tonumber(ARGV[9]), 11
local function fenced(answer)
  redis.call('HDEL', key, '')
  return answer
end
local row = redis.call('HMGET', key, prefix .. 'epoch', prefix .. 'position', 'applied')
if row[1] ~= epoch or row[2] ~= after then return fenced({1, row[1] or '', row[2] or ''}) end
for witness = 1, tonumber(ARGV[8]) do
  local found = redis.call('HGET', key, argv[at + 1])
  if not found or tonumber(found) < tonumber(argv[at + 2]) then return fenced({2, witness - 1, found or ''}) end
  at = at + 2
end
redis.call('HSET', key, prefix .. 'position', after)
local done, place, finished = {}, 0, 0
";

/// The end of a batch: notes of an earlier one, the records, and the position or new notes.
const BATCH_END: &str = "\
local sequences = {}
local function list()
  if #sequences == 0 then for sequence in string.gmatch(ARGV[11], '%d+') do sequences[#sequences + 1] = sequence end end
end
if row[3] and count > 0 and tonumber(ARGV[10]) <= tonumber(row[3]) then
  list()
  local last = tonumber(row[3])
  for i = 1, count do
    local field = 'applied/' .. sequences[i]
    local note = tonumber(sequences[i]) <= last and redis.call('HGET', key, field)
    if note then
      redis.call('HDEL', key, field)
      done[i] = note == 'all' and commands or tonumber(string.match(note, '^(%d+):' .. list_id .. '$') or 0)
    end
  end
end
local ok, why = pcall(run)
if not ok then
  list()
  done[place] = finished
  local last = row[3]
  for i = 1, count do
    local number = i < place and commands or done[i] or 0
    if number > 0 then
      redis.call('HSET', key, 'applied/' .. sequences[i], number == commands and 'all' or number .. ':' .. list_id)
      if not last or tonumber(sequences[i]) > tonumber(last) then last = sequences[i] end
    end
  end
  if last and last ~= row[3] then redis.call('HSET', key, 'applied', last) end
  return {3, place - 1, finished, why.err or tostring(why)}
end
redis.call('HSET', key, prefix .. 'position', through, prefix .. 'epoch', next_epoch)
if ARGV[6] == '1' then redis.call('HSET', key, prefix .. 'beyond', ARGV[7]) end
return {0}
";

/// What a batch is about, its records aside.
pub(super) struct BatchHead<'a> {
    pub(super) key: &'a str,
    pub(super) prefix: &'a str,
    pub(super) epoch: i64,
    pub(super) next_epoch: i64,
    pub(super) after: Sequence,
    pub(super) through: Sequence,
    pub(super) beyond: Option<&'a [u8]>,
    /// Fields of other parts of the queue, and the epochs that they had reached.
    pub(super) witnesses: &'a [(String, i64)],
}

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// Epoch and position that are there instead; empty if nothing is.
    Fenced {
        epoch: String,
        position: String,
    },
    /// The place of the witness that is not as far as it was, and its epoch; empty if it is not there.
    SetBack {
        witness: usize,
        epoch: String,
    },
    /// The place of the record that failed, from 0, how many of its commands were carried out, and what the next one said.
    Refused {
        place: usize,
        done: usize,
        why: String,
    },
}

/// The epochs of a part and of the queue's first row that were seen, as text; empty for one that is not there.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) own: String,
    pub(super) first: String,
}

/// The request that takes a part over with an epoch, if what was seen is still so; `first` is the field of the first row's epoch.
pub(super) fn take_over(row: &super::Row, first: &str, seen: &Seen, epoch: i64) -> Cmd {
    let mut request = redis::cmd("EVAL");
    request.arg(TAKE_OVER).arg(1).arg(&row.key).arg(&row.prefix).arg(first).arg(&seen.own).arg(&seen.first).arg(epoch);
    request
}

/// The script of a batch: each record has `stride` values behind each other in the arguments. An error ends all of `run`, so that
/// no reply has to be looked at.
pub(super) fn batch(commands: &[Command], stride: usize, list_id: &str) -> String {
    let mut run = String::from(
        "local function run()\n  local call, argv, a = redis.call, ARGV, at\n  for i = 1, count do\n    \
         local from = done[i] or 0\n    place, finished = i, from\n",
    );
    for (number, command) in commands.iter().enumerate() {
        let (words, behind) = (words(command), number + 1);
        let note = if behind < commands.len() { format!(" finished = {behind}") } else { String::new() };
        run.push_str(&format!("    if from <= {number} then call({words}){note} end\n"));
    }
    run.push_str("    a = a + stride\n  end\nend\n");
    let constants =
        format!("local commands, stride, list_id = {}, {stride}, {}\n", commands.len(), literal(list_id.as_bytes()));
    [BATCH_BEGIN, &constants, &run, BATCH_END].concat()
}

/// A script that carries out none of the commands, and returns what the server has against them: it may not write.
pub(super) fn dry_run(commands: &[Command], row: &super::Row) -> Cmd {
    let (key, field) = (literal(row.key.as_bytes()), literal(row.field("epoch").as_bytes()));
    let own: [String; DRY_RUN_OWN] = [
        format!("'HGET', {key}, {field}"),
        format!("'HMGET', {key}, {field}"),
        format!("'HKEYS', {key}"),
        format!("'HSET', {key}, {field}, '0'"),
        format!("'HSETNX', {key}, {field}, '0'"),
        format!("'HDEL', {key}, {field}"),
    ];
    let theirs = commands.iter().map(words);
    let mut script = String::from("local said, argv, a, reply = {}, ARGV, 0\n");
    for words in own.into_iter().chain(theirs) {
        script.push_str(&format!(
            "reply = redis.pcall({words})\n\
             said[#said + 1] = type(reply) == 'table' and reply.err or ''\n"
        ));
    }
    script.push_str("return said\n");
    let mut request = redis::cmd("EVAL_RO");
    request.arg(script).arg(0);
    request
}

/// How many of the answers of [`dry_run`] are about forebay's own commands.
pub(super) const DRY_RUN_OWN: usize = 6;

/// A command's words as Lua's arguments.
fn words(command: &Command) -> String {
    let word = |word: &Word| match word {
        Word::Constant(text) => literal(text.as_bytes()),
        Word::Value(place) => format!("argv[a + {}]", place + 1),
    };
    command.words.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// Bytes as a string of Lua.
fn literal(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" :_-/.*{}$~+=<>".contains(&byte);
    let escaped = |byte: &u8| if plain(*byte) { char::from(*byte).to_string() } else { format!("\\{byte:03}") };
    format!("'{}'", bytes.iter().map(escaped).collect::<String>())
}

impl BatchHead<'_> {
    /// The request of a batch, up to its records' values, of which there are so many with so many bytes.
    pub(super) fn request(&self, hash: &str, sequences: &[Sequence], values: usize, bytes: usize) -> Cmd {
        let beyond = self.beyond.unwrap_or_default();
        let listed = sequences.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
        let arguments = 4 + HEAD_ARGUMENTS + 2 * self.witnesses.len() + values;
        let mut request = Cmd::with_capacity(arguments, bytes + beyond.len() + listed.len() + 1024);
        request.arg("EVALSHA").arg(hash).arg(1).arg(self.key);
        request.arg(self.prefix).arg(self.after).arg(self.through).arg(self.epoch).arg(self.next_epoch);
        request.arg(u8::from(self.beyond.is_some())).arg(beyond);
        let lowest = sequences.iter().min().copied().unwrap_or_default();
        request.arg(self.witnesses.len()).arg(sequences.len()).arg(lowest).arg(listed);
        for (field, epoch) in self.witnesses {
            request.arg(field).arg(epoch);
        }
        request
    }
}

/// What a batch's script has returned; `None` if that is none of its answers.
pub(super) fn outcome(answer: &Value) -> Option<Outcome> {
    let Value::Array(parts) = answer else { return None };
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    };
    let number = |value: &Value| if let Value::Int(number) = value { usize::try_from(*number).ok() } else { None };
    Some(match parts.as_slice() {
        [Value::Int(0)] => Outcome::Done,
        [Value::Int(1), epoch, position] => Outcome::Fenced { epoch: text(epoch)?, position: text(position)? },
        [Value::Int(2), witness, epoch] => Outcome::SetBack { witness: number(witness)?, epoch: text(epoch)? },
        [Value::Int(3), place, done, why] => {
            Outcome::Refused { place: number(place)?, done: number(done)?, why: text(why)? }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_a_literal() {
        assert_eq!(literal(b"order:{a}"), "'order:{a}'");
        assert_eq!(literal(b"'\\\n\0]]\xff1"), r"'\039\092\010\000\093\093\2551'");
    }

    #[test]
    fn an_answer_that_is_none_is_not_taken_for_one() {
        assert_eq!(outcome(&Value::Array(vec![Value::Int(0)])), Some(Outcome::Done));
        for wrong in [
            Value::Int(0),
            Value::Array(vec![]),
            Value::Array(vec![Value::Int(3)]),
            Value::Array(vec![Value::Int(2), Value::Int(-1), Value::BulkString(vec![])]),
        ] {
            assert_eq!(outcome(&wrong), None, "{wrong:?}");
        }
    }
}
