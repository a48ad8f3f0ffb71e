//! Redis and Valkey: the commands of the configuration for each record, in one script a batch.
//!
//! The position of a queue, of all its lanes and redrives, is one hash: `epoch`, `position` and `beyond`, for another part than
//! the first lane with its name in front (`lane-1/epoch`). A batch is one script, which Redis runs alone and either logs and
//! replicates as a whole or not at all. Rows and position are therefore there together, or neither is, whatever is killed when.
//!
//! **Redis takes nothing back.** A command that fails, the third one of the seventieth record say, leaves everything before it
//! carried out. Each record is delivered exactly once all the same, as follows.
//!
//! 1. The script first compares epoch, position and witnesses and ends if one is not as expected: nothing is written. Then it
//!    writes the position as it is. If it may not write there (a replica, no memory, no permission), it ends here, with nothing
//!    changed. The same command on the same hash cannot fail later in the same script: permissions and configuration do not change
//!    while it runs, and Redis neither refuses a script memory nor lets anybody end it once it has written.
//! 2. It runs the commands of one record after the other. All succeed: it writes position, epoch and what is beyond, and ends.
//! 3. One fails: each command of Redis does all or nothing, so what is carried out is every command of the records before, and those
//!    of this record before the one that failed. The script writes that down, under the sequence of each such record
//!    (`applied/70`, `all` or the number of commands), and leaves the position where it was. It is the same script, so what was
//!    carried out and the note of it are there together, or neither is.
//! 4. A script that is given a record with a note begins behind what the note says, and deletes the note if it succeeds.
//!
//! So each command of each record is carried out once: it has no note before and is run, or it has one and is not. To the caller
//! such a batch has failed as a whole: the position has not moved, epoch and fence are as before, and it sends the same records
//! again, in smaller batches, in another order, after a restart, or as dead letters that are redriven; notes belong to the queue,
//! not to a batch or a lane. The one record that is refused for good has no note, or one of its first commands; those are not
//! taken back. Records that are never sent again (expired, or purged) leave their notes behind.
//!
//! A note of some commands means those of the list that made it, so it carries the list's digest; under another list the record
//! begins anew. A take-over raises the epoch only from the value that it has seen, and only if the epoch of the queue's first row, by which
//! it knows that nobody else has taken the queue over, is still as it has seen it, or has risen under our own owner since. So one that
//! arrives late, from a connection that was given up, changes nothing; a batch that arrives late does not match the epoch.

mod check;
mod commands;
mod script;
mod session;

use std::time::Duration;

use redis::{Cmd, RedisResult};

use self::commands::Commands;
use self::script::{BatchHead, Outcome, Seen};
use self::session::{Session, Target, is_of_the_moment};
use super::encoded::Encoder;
use super::{Batch, Claim, Driver, Part, Sink, SinkError, SinkFuture, lane_numbers, progress_of};
use crate::config::{self, OptionRule, OptionValues, SinkKind, Takes, UrlRule};
use crate::limits;
use crate::progress::Progress;

pub(super) static DRIVER: Driver = Driver { kind: &KIND, open: |sink, part, _| Box::new(Redis::new(sink, part)) };

static KIND: SinkKind = SinkKind {
    name: "redis",
    title: "Redis",
    url: UrlRule {
        prefixes: &["redis://", "rediss://", "redis+unix://", "valkey://", "valkeys://", "valkey+unix://"],
        example: "redis://127.0.0.1:6379/0",
        is_required: true,
    },
    takes: Takes::Own,
    options: &[
        OptionRule {
            key: "commands",
            values: OptionValues::Templates {
                example: "XADD orders * id {/order_id} body {$body}",
                default: Some(
                    "XADD forebay:{$queue} * ticket {$ticket} received_at {$received_at} key {$key} \
                     content_type {$content_type} body {$body}",
                ),
            },
        },
        OptionRule { key: "hash_tag", values: OptionValues::Text { example: "orders", default: Some("") } },
        OptionRule {
            key: "min_replicas",
            values: OptionValues::Integer { default: 0, min: 0, max: limits::REDIS_MIN_REPLICAS_MAX },
        },
        OptionRule {
            key: "tls_ca_file",
            values: OptionValues::Text { example: "/etc/forebay/ca.pem", default: Some("") },
        },
    ],
};

/// A sink that writes to a Redis or Valkey server.
pub(super) struct Redis {
    target: Target,
    commands: Result<Commands, String>,
    part: Part,
    row: Row,
    /// The field with the epoch of the queue's first row.
    first_field: String,
    hash_tag: String,
    min_replicas: u64,
    connect_timeout: Duration,
    commit_timeout: Duration,
    /// What [`Sink::take_over`] opened; nothing after a transient error.
    open: Option<Open>,
}

/// Where a part's position is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    /// The hash of the queue.
    key: String,
    /// Before the names of the part's fields.
    prefix: String,
}

/// A connection that holds the part.
struct Open {
    session: Session,
    epoch: i64,
}

impl Row {
    /// The row of a part: `<queue>/<journal id>`, and for one of several sinks of the queue `/sink-<name>` behind that: each sink has
    /// a hash of its own, since notes are of what that one has carried out. A subpart has its name behind another slash.
    fn of(part: &str, is_of_main: bool, hash_tag: &str) -> Self {
        let (base, subpart) = match part.match_indices('/').nth(if is_of_main { 1 } else { 2 }) {
            Some((at, _)) => (&part[..at], &part[at + 1..]),
            None => (part, ""),
        };
        let key = if hash_tag.is_empty() {
            format!("forebay:position:{base}")
        } else {
            format!("forebay:{{{hash_tag}}}:position:{base}")
        };
        let prefix = if subpart.is_empty() { String::new() } else { format!("{subpart}/") };
        Self { key, prefix }
    }

    fn field(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

impl Redis {
    /// A sink for the server that the configuration names; nothing is connected yet.
    fn new(sink: &config::Sink, part: Part) -> Self {
        let hash_tag = sink.options.text("hash_tag").to_owned();
        let row_of = |part_id: &str| Row::of(part_id, part.sink.is_none(), &hash_tag);
        let row = row_of(&part.id);
        let first_field = part.first().map_or_else(|| row.clone(), row_of).field("epoch");
        let commands = if hash_tag.contains(['{', '}']) {
            Err("`hash_tag` holds a brace; write what stands between the braces alone".to_owned())
        } else {
            Commands::new(sink.options.templates("commands"), &part.queue, &row.key)
        };
        Self {
            target: Target { url: sink.url.clone(), ca_file: sink.options.text("tls_ca_file").to_owned() },
            commands,
            part,
            row,
            first_field,
            hash_tag,
            min_replicas: sink.options.integer("min_replicas"),
            connect_timeout: Duration::from_millis(sink.connect_timeout_ms),
            commit_timeout: Duration::from_millis(sink.commit_timeout_ms),
            open: None,
        }
    }

    /// Connects to the server that has the hash, and returns what epochs are there.
    async fn connect(&self) -> Result<(Session, Seen), SinkError> {
        let mut redirected: Option<String> = None;
        for _ in 0..=limits::REDIS_REDIRECTS_MAX {
            let connecting = self.target.connect(redirected.as_deref(), self.connect_timeout);
            let mut session = connecting.await.map_err(transient)?;
            match self.look(&mut session).await? {
                Ok(seen) => return Ok((session, seen)),
                Err(error) => match error.redirect_node() {
                    Some((node, _)) => redirected = Some(node.to_owned()),
                    None => return Err(session.failed(&error)),
                },
            }
        }
        Err(transient(format!("the cluster has redirected {} times", limits::REDIS_REDIRECTS_MAX + 1)))
    }

    /// What epochs are there.
    async fn look(&self, session: &mut Session) -> Result<RedisResult<Seen>, SinkError> {
        let mut ask = redis::cmd("HMGET");
        ask.arg(&self.row.key).arg(self.row.field("epoch")).arg(&self.first_field);
        let asked = within(self.commit_timeout, session.ask::<(Option<String>, Option<String>)>(&ask)).await?;
        Ok(asked.map(|(own, first)| Seen { own: own.unwrap_or_default(), first: first.unwrap_or_default() }))
    }

    async fn connect_and_take_over(&mut self) -> Result<Progress, SinkError> {
        self.open = None;
        self.commands.as_ref().map_err(|why| transient(why.clone()))?;
        let (mut session, mut seen) = self.connect().await?;
        for _ in 0..limits::REDIS_TAKE_OVERS_MAX {
            let epoch = match self.part.succeed(epoch_of(&seen.own)?, epoch_of(&seen.first)?) {
                Ok(epoch) => epoch,
                Err(refused) => {
                    self.write_nothing(&mut session).await?;
                    return Err(refused);
                }
            };
            let request = script::take_over(&self.row, &self.first_field, &seen, epoch);
            let asked = within(self.commit_timeout, session.ask::<Vec<Vec<u8>>>(&request)).await?;
            if let [position, beyond] = asked.map_err(|error| session.failed(&error))?.as_slice() {
                self.part.hold(epoch);
                let progress = progress_of(integer("position", position)?, Some(beyond))
                    .map_err(|error| transient(format!("{}: {error}", self.row.key)))?;
                // What is believed must be on the replicas too, this epoch and everything before it.
                self.replicate(&mut session).await?;
                self.open = Some(Open { session, epoch });
                return Ok(progress);
            }
            // Somebody has written meanwhile: it may have been another lane of ours.
            seen = self.look(&mut session).await?.map_err(|error| session.failed(&error))?;
        }
        Err(transient(format!("{}: the epochs have changed whenever they were to be raised", self.part.id)))
    }

    /// Fails where nothing can be written: a replica may have what was so some time ago, and must not be what halts a queue.
    async fn write_nothing(&self, session: &mut Session) -> Result<(), SinkError> {
        let mut delete = redis::cmd("HDEL");
        delete.arg(&self.row.key).arg("");
        let asked = within(self.commit_timeout, session.ask::<u64>(&delete)).await?;
        asked.map(|_| ()).map_err(|error| session.failed(&error))
    }

    /// Waits until enough replicas have everything that this connection has written.
    async fn replicate(&self, session: &mut Session) -> Result<(), SinkError> {
        if self.min_replicas == 0 {
            return Ok(());
        }
        let mut wait = redis::cmd("WAIT");
        // 0 would wait for ever.
        let ms = (self.commit_timeout.as_millis() / 2).max(1).to_string();
        wait.arg(self.min_replicas).arg(ms);
        let asked = within(self.commit_timeout, session.ask::<u64>(&wait)).await?;
        let replicas = asked.map_err(|error| session.failed(&error))?;
        if replicas < self.min_replicas {
            let wanted = self.min_replicas;
            return Err(transient(format!(
                "only {replicas} replicas have what was written, and min_replicas is {wanted}"
            )));
        }
        Ok(())
    }

    async fn find_lanes(&mut self) -> Result<Vec<u32>, SinkError> {
        // Whoever cannot say which lanes there are begins anew.
        let mut open = self.open.take().ok_or_else(|| transient("lanes before take_over".to_owned()))?;
        let mut ask = redis::cmd("HKEYS");
        ask.arg(&self.row.key);
        let asked = within(self.commit_timeout, open.session.ask::<Vec<String>>(&ask)).await?;
        let fields = asked.map_err(|error| open.session.failed(&error))?;
        let prefix = self.part.lanes_prefix();
        let subpart = |field: &String| Some(format!("{}/{}", self.part.id, field.strip_suffix("/epoch")?));
        let parts: Vec<_> = fields.iter().filter_map(subpart).filter(|part| part.starts_with(&prefix)).collect();
        let lanes = lane_numbers(&prefix, &parts).map_err(|error| transient(error.to_string()))?;
        self.open = Some(open);
        Ok(lanes)
    }

    async fn commit_batch(&mut self, batch: Batch<'_>) -> Result<(), SinkError> {
        let commands = self.commands.as_ref().map_err(|why| transient(why.clone()))?;
        // Nothing is begun before the request is there, so the connection is as good as before if there is none.
        let epoch = self.open.as_ref().ok_or_else(|| transient("commit before take_over".to_owned()))?.epoch;
        let next_epoch = self.part.epoch_behind(&batch, epoch);
        let request = self.request(commands, &batch, (epoch, next_epoch))?;
        let mut open = self.open.take().ok_or_else(|| transient("commit before take_over".to_owned()))?;
        let running = open.session.run(&request, commands.script());
        let answer = within(self.commit_timeout, running).await?.map_err(|error| open.session.failed(&error))?;
        let settled = script::outcome(&answer)
            .ok_or_else(|| transient(format!("the server's answer is none of ours: {answer:?}")))
            .and_then(|outcome| self.settled(commands, &batch, epoch, outcome));
        if settled.is_ok() {
            self.part.hold(next_epoch);
            self.replicate(&mut open.session).await?;
            open.epoch = next_epoch;
        }
        if !matches!(settled, Err(SinkError::Transient(_))) {
            self.open = Some(open);
        }
        settled
    }

    /// What the script's outcome is to the caller.
    fn settled(&self, commands: &Commands, batch: &Batch<'_>, epoch: i64, outcome: Outcome) -> Result<(), SinkError> {
        match outcome {
            Outcome::Done => Ok(()),
            Outcome::Fenced { epoch: found, position } => {
                let (part, after) = (&self.part.id, batch.after);
                let at = if found.is_empty() { String::new() } else { format!(" at position {position}") };
                let found = epoch_there(&found);
                Err(SinkError::Fenced(format!(
                    "{part}: we hold epoch {epoch} at position {after}, {found}{at} is there"
                )))
            }
            Outcome::SetBack { witness, epoch: found } => {
                let found = epoch_there(&found);
                let claim = batch
                    .witnesses
                    .get(witness)
                    .map(|claim| format!("{} had come to epoch {}", claim.part, claim.epoch));
                Err(SinkError::Fenced(format!("{}, and now {found} is there", claim.unwrap_or_default())))
            }
            Outcome::Refused { place, done, why } => {
                let sequence = batch.deliveries.get(place).map_or(0, |delivery| delivery.sequence);
                let message = commands.refusal(sequence, done, &why);
                Err(if is_of_the_moment(&why) { transient(message) } else { SinkError::Permanent { message } })
            }
        }
    }

    /// What is to be sent; `next_epoch` is the epoch afterwards.
    fn request(
        &self,
        commands: &Commands,
        batch: &Batch<'_>,
        (epoch, next_epoch): (i64, i64),
    ) -> Result<Cmd, SinkError> {
        let mut witnesses = Vec::with_capacity(batch.witnesses.len());
        for claim in batch.witnesses {
            let row = Row::of(&claim.part, self.part.sink.is_none(), &self.hash_tag);
            if row.key != self.row.key {
                return Err(transient(format!("{} is no part of the same queue as {}", claim.part, self.part.id)));
            }
            witnesses.push((row.field("epoch"), claim.epoch));
        }
        let head = BatchHead {
            key: &self.row.key,
            prefix: &self.row.prefix,
            epoch,
            next_epoch,
            after: batch.after,
            through: batch.through,
            beyond: batch.beyond,
            witnesses: &witnesses,
        };
        commands.request(&head, batch)
    }

    async fn problems(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Err(why) = &self.commands {
            problems.push(format!("The commands cannot be used: {why}."));
        }
        match self.connect().await {
            Ok((mut session, _)) => {
                let looking = check::problems(&mut session, self.commands.as_ref().ok(), &self.row, &self.hash_tag);
                match within(self.commit_timeout, looking).await {
                    Ok(Ok(found)) => problems.extend(found),
                    Ok(Err(error)) => {
                        problems.push(format!("The server cannot be looked at: {}.", session.failed(&error)));
                    }
                    Err(error) => problems.push(format!("The server cannot be looked at: {error}.")),
                }
            }
            Err(error) => problems.push(format!("The server cannot be reached: {error}.")),
        }
        problems
    }
}

impl Sink for Redis {
    fn take_over(&mut self) -> SinkFuture<'_, Progress> {
        Box::pin(self.connect_and_take_over())
    }

    fn lanes(&mut self) -> SinkFuture<'_, Vec<u32>> {
        Box::pin(self.find_lanes())
    }

    fn claim(&self) -> Option<Claim> {
        self.open.as_ref().map(|open| Claim { part: self.part.id.as_str().into(), epoch: open.epoch })
    }

    fn encoder(&self) -> Option<Encoder> {
        self.commands.as_ref().ok().map(Commands::encoder)
    }

    fn commit<'a>(&'a mut self, batch: Batch<'a>) -> SinkFuture<'a, ()> {
        Box::pin(self.commit_batch(batch))
    }

    fn check(&mut self) -> SinkFuture<'_, Vec<String>> {
        Box::pin(async { Ok(self.problems().await) })
    }
}

/// An epoch that was found, in words.
fn epoch_there(found: &str) -> String {
    if found.is_empty() { "nothing".to_owned() } else { format!("epoch {found}") }
}

fn transient(message: String) -> SinkError {
    SinkError::Transient(message)
}

/// Bounds the time of `work`; what it holds is dropped when the time is over.
async fn within<T>(timeout: Duration, work: impl Future<Output = T>) -> Result<T, SinkError> {
    tokio::time::timeout(timeout, work)
        .await
        .map_err(|_| transient(format!("the server gave no answer within {} ms", timeout.as_millis())))
}

/// An epoch that was seen; 0 for none.
fn epoch_of(seen: &str) -> Result<i64, SinkError> {
    if seen.is_empty() { Ok(0) } else { integer("epoch", seen.as_bytes()) }
}

/// A number of the row.
fn integer(name: &str, digits: &[u8]) -> Result<i64, SinkError> {
    let text = String::from_utf8_lossy(digits);
    text.parse().map_err(|_| transient(format!("the field {name} of the position is {text:?}, which is no number")))
}
