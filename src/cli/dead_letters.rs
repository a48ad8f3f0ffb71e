//! `forebay dead-letters`: the dead letters of a running forebay from a terminal.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use hyper::Method;
use serde_json::{Value, json};

use super::admin_client::Target;
use super::queues::path_of;
use crate::record::Sequence;

/// Characters of a reason in a table; `show` has all of it.
const REASON_CHARS: usize = 80;

/// List, read, edit, redrive or purge the dead letters of a running forebay.
///
/// A dead letter is a record that could not be delivered. Redriven, it is delivered under its own sequence and ticket, once,
/// whatever its idempotency key; if the database refuses it again, it stays. Of a stopped forebay, `forebay export --dead`
/// shows them.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    forebay dead-letters list orders\n  \
    forebay dead-letters show orders 322 --body > letter.json\n  \
    forebay dead-letters edit orders 322 --body letter.json\n  \
    forebay dead-letters redrive orders --all --rate 10/s\n  \
    forebay dead-letters purge orders 322 323 --yes")]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Say which there are and why
    List {
        /// Which queue; QUEUE/SINK for one of its sinks beside the main one
        queue: String,
        /// Those behind this sequence
        #[arg(long, value_name = "SEQ", default_value_t = 0)]
        after: Sequence,
        /// At most so many, 1000 at once
        #[arg(long, value_name = "LETTERS", default_value_t = 100)]
        limit: u64,
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Show one with its body
    Show {
        /// Which queue; QUEUE/SINK for one of its sinks beside the main one
        queue: String,
        /// Which letter
        sequence: Sequence,
        /// Its body alone, byte for byte
        #[arg(long)]
        body: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Put another body in the place of a letter's, which stays in the file
    Edit {
        /// Which queue; QUEUE/SINK for one of its sinks beside the main one
        queue: String,
        /// Which letter
        sequence: Sequence,
        /// The file with the new body; - is standard input
        #[arg(long, value_name = "FILE")]
        body: PathBuf,
        #[command(flatten)]
        target: Target,
    },
    /// Deliver letters again
    Redrive {
        #[command(flatten)]
        which: Which,
        /// How fast, within the queue's own rate; counts for all that wait [default: 100/s]
        #[arg(long)]
        rate: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Leave the letters where they are that wait to be delivered again
    Cancel {
        /// Which queue; QUEUE/SINK for one of its sinks beside the main one
        queue: String,
        #[command(flatten)]
        target: Target,
    },
    /// Give letters up for good
    Purge {
        #[command(flatten)]
        which: Which,
        /// Do it; without it nothing happens
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        target: Target,
    },
}

/// Which letters.
#[derive(clap::Args)]
struct Which {
    /// Which queue; QUEUE/SINK for one of its sinks beside the main one
    queue: String,
    /// These letters
    #[arg(value_name = "SEQ", required_unless_present = "all")]
    sequences: Vec<Sequence>,
    /// All that are not being redriven already
    #[arg(long, conflicts_with = "sequences")]
    all: bool,
}

impl Which {
    fn body(&self) -> Value {
        if self.all { json!({ "all": true }) } else { json!({ "sequences": self.sequences }) }
    }
}

/// Runs the command.
///
/// # Errors
///
/// Nobody answers, or it is refused.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        Action::List { queue, after, limit, json, target } => {
            let path = format!("{}?after={after}&limit={limit}", letters(queue));
            let answer = target.ask(Method::GET, &path, None)?;
            if *json { println!("{answer:#}") } else { print!("{}", table(&answer)) }
        }
        Action::Show { queue, sequence, body, target } => {
            let letter = target.ask(Method::GET, &letter(queue, *sequence), None)?;
            if *body { io::stdout().write_all(&body_of(&letter)?)? } else { println!("{letter:#}") }
        }
        Action::Edit { queue, sequence, body, target } => {
            let bytes = read_body(body).with_context(|| body.display().to_string())?;
            let answer = target.send(Method::PUT, &letter(queue, *sequence), bytes.into())?;
            println!("Letter {sequence} has a body of {} bytes now; redrive it to deliver it.", answer["body_bytes"]);
        }
        Action::Redrive { which, rate, target } => {
            let mut body = which.body();
            if let Some(rate) = rate {
                body["rate"] = json!(rate);
            }
            let path = format!("{}/redrive", letters(&which.queue));
            let answer = target.ask(Method::POST, &path, Some(&body))?;
            println!("{} letters are redriven at {}.{}", answer["count"], text(&answer["rate"]), skipped(&answer));
            println!("`forebay dead-letters list {}` says how many still wait.", which.queue);
        }
        Action::Cancel { queue, target } => {
            let answer = target.ask(Method::DELETE, &format!("{}/redrive", letters(queue)), None)?;
            println!("{} letters are not redriven after all.{}", answer["count"], skipped(&answer));
        }
        Action::Purge { which, yes, target } => {
            if !yes {
                bail!("purged letters are gone for good; give --yes if that is what you want");
            }
            let path = format!("{}/purge", letters(&which.queue));
            let answer = target.ask(Method::POST, &path, Some(&which.body()))?;
            println!("{} letters are purged.{}", answer["count"], skipped(&answer));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn letters(queue: &str) -> String {
    format!("{}/dead-letters", path_of(queue))
}

fn letter(queue: &str, sequence: Sequence) -> String {
    format!("{}/{sequence}", letters(queue))
}

fn read_body(path: &PathBuf) -> io::Result<Vec<u8>> {
    if path.as_os_str() != "-" {
        return fs::read(path);
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn body_of(letter: &Value) -> anyhow::Result<Vec<u8>> {
    if let Some(body) = letter["body"].as_str() {
        return Ok(body.as_bytes().to_vec());
    }
    let base64 = letter["body_base64"].as_str().context("the letter has no body")?;
    Ok(base64::engine::general_purpose::STANDARD.decode(base64)?)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn skipped(answer: &Value) -> String {
    match answer["skipped"].as_u64() {
        None | Some(0) => String::new(),
        Some(skipped) => {
            format!(" {skipped} had to stay as they were: on their way to the database, or without a body.")
        }
    }
}

fn table(answer: &Value) -> String {
    let mut out = format!("{:>12}  {:<10} {:>10}  REASON\n", "SEQUENCE", "STATE", "BYTES");
    for letter in answer["dead_letters"].as_array().into_iter().flatten() {
        let edited = if letter["is_edited"] == true { " (edited)" } else { "" };
        let reason: String = text(&letter["reason"]).lines().flat_map(str::chars).take(REASON_CHARS).collect();
        // A string cannot refuse to be written to.
        let _ = writeln!(
            out,
            "{:>12}  {:<10} {:>10}  {reason}{edited}",
            letter["sequence"],
            text(&letter["state"]),
            letter["body_bytes"]
        );
    }
    let [dead, redriving, redriven, purged] =
        ["dead", "redriving", "redriven", "purged"].map(|key| answer[key].as_u64().unwrap_or_default());
    let _ = writeln!(out, "{dead} dead, {redriving} being redriven; {redriven} were redriven and {purged} purged");
    if let Some(after) = answer["next_after"].as_u64() {
        let _ = writeln!(out, "There are more: --after {after}");
    }
    out
}
