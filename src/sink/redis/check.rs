//! What would keep a Redis sink from working, found without changing anything.

use redis::RedisResult;

use super::Row;
use super::commands::Commands;
use super::script::{self, DRY_RUN_OWN};
use super::session::{Session, is_of_the_moment};

/// The oldest server that the scripts are tested on.
const MAJOR_VERSION_MIN: u32 = 7;

/// Everything that is wrong, as sentences.
///
/// # Errors
///
/// The server could not be asked.
pub(super) async fn problems(
    session: &mut Session,
    commands: Option<&Commands>,
    row: &Row,
    hash_tag: &str,
) -> RedisResult<Vec<String>> {
    let mut problems = Vec::new();
    let info: String = session.ask(redis::cmd("INFO").arg("everything")).await?;
    let info = Info(&info);
    server(&info, &mut problems);
    scripts(session, &mut problems).await;
    if let Some(commands) = commands {
        dry_run(session, commands, row, &mut problems).await?;
        if info.get("cluster_enabled") == Some("1") {
            cluster(session, commands, row, hash_tag, &mut problems).await?;
        }
    }
    Ok(problems)
}

/// What the server says of itself.
struct Info<'a>(&'a str);

impl<'a> Info<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    }
}

fn server(info: &Info<'_>, problems: &mut Vec<String>) {
    let version = info.get("redis_version").unwrap_or("unknown");
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major < MAJOR_VERSION_MIN) {
        problems.push(format!("The server has version {version}; forebay needs {MAJOR_VERSION_MIN}.0 or newer."));
    }
    if info.get("role") == Some("slave") {
        problems.push("The server is a replica, and forebay must write to the primary; write its address.".to_owned());
    }
    let policy = info.get("maxmemory_policy").unwrap_or("noeviction");
    if policy != "noeviction" && info.get("maxmemory").is_some_and(|bytes| bytes != "0") {
        problems.push(format!(
            "The server has maxmemory-policy {policy}: when memory runs out it may remove what was delivered, and with it \
             forebay's position. Let it refuse instead: CONFIG SET maxmemory-policy noeviction."
        ));
    }
}

/// Whether this user may run scripts and leave them with the server.
async fn scripts(session: &mut Session, problems: &mut Vec<String>) {
    let nothing = "return 1";
    let asked = [("EVAL", nothing), ("EVALSHA", "0000000000000000000000000000000000000000")];
    for (name, script) in asked {
        let answer = session.ask::<redis::Value>(redis::cmd(name).arg(script).arg(0)).await;
        note_refusal(name, answer, problems);
    }
    let answer = session.ask::<redis::Value>(redis::cmd("SCRIPT").arg("LOAD").arg(nothing)).await;
    note_refusal("SCRIPT LOAD", answer, problems);
}

fn note_refusal(name: &str, answer: RedisResult<redis::Value>, problems: &mut Vec<String>) {
    if let Err(error) = answer
        && error.code() == Some("NOPERM")
    {
        problems.push(format!("The user may not run {name}, which forebay needs: {error}."));
    }
}

/// Has the server look at every command in a script that may not write: it says what it does not know, what has another
/// number of words, and what this user may not do.
async fn dry_run(session: &mut Session, commands: &Commands, row: &Row, problems: &mut Vec<String>) -> RedisResult<()> {
    let mut request = script::dry_run(commands.list(), row);
    request.arg(commands.samples());
    let said: Vec<String> = session.ask(&request).await?;
    let (own, theirs) = said.split_at(DRY_RUN_OWN.min(said.len()));
    if let Some(why) = own.iter().find(|why| is_of_the_moment(why)) {
        problems.push(format!("The position in {} cannot be kept: {why}.", row.key));
    }
    for (number, (command, why)) in commands.list().iter().zip(theirs).enumerate() {
        if is_of_the_moment(why) {
            problems.push(format!("Command {} ({}) does not run: {why}.", number + 1, command.name));
        }
    }
    Ok(())
}

/// In a cluster, the keys of a batch have to be in one slot.
async fn cluster(
    session: &mut Session,
    commands: &Commands,
    row: &Row,
    hash_tag: &str,
    problems: &mut Vec<String>,
) -> RedisResult<()> {
    if hash_tag.is_empty() {
        problems.push(
            "The server is a cluster, where the position and the keys of the commands must be in one slot. Write \
             `hash_tag = \"orders\"`, and `{{orders}}` into every key of the commands."
                .to_owned(),
        );
        return Ok(());
    }
    let wanted = slot(session, row.key.as_bytes()).await?;
    for (number, command) in commands.list().iter().enumerate() {
        let mut request = redis::cmd("COMMAND");
        request.arg("GETKEYS");
        request.arg(commands.sample(command).collect::<Vec<_>>());
        let keys: Vec<Vec<u8>> = match session.ask(&request).await {
            Err(error) if error.code() == Some("NOPERM") => return Err(error),
            // One without keys is an error here, and one that does not run has been named already.
            settled => settled.unwrap_or_default(),
        };
        for key in keys {
            if slot(session, &key).await? != wanted {
                problems.push(format!(
                    "Command {} ({}) has a key in another slot of the cluster than {}; write `{{{{{hash_tag}}}}}` into it.",
                    number + 1,
                    command.name,
                    row.key
                ));
                break;
            }
        }
    }
    Ok(())
}

async fn slot(session: &mut Session, key: &[u8]) -> RedisResult<u64> {
    session.ask(redis::cmd("CLUSTER").arg("KEYSLOT").arg(key)).await
}
