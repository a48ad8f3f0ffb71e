//! `forebay queues`, `rate`, `pause` and `resume`: the admin API from a terminal.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use hyper::Method;
use serde_json::{Map, Value, json};

use super::admin_client::Target;

/// Say what the queues of a running forebay do.
#[derive(clap::Args)]
pub struct QueuesArguments {
    /// This queue alone, or one of its sinks: QUEUE/SINK
    queue: Option<String>,
    /// As JSON, with all settings that can be changed
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Change the rate, the burst, the batches or the concurrency of a queue of a running forebay.
///
/// The drain follows at once: nothing is lost, and no second sees more than the rates of its time allow. The change lasts
/// until the next restart or SIGHUP, when the configuration counts again.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    forebay rate orders 8000/s\n  \
    forebay rate orders/analytics 500/s\n  \
    forebay rate orders --burst 100 --batch-records-max 500\n  \
    forebay rate orders --set '{\"schedule\": [{\"from\": \"20:00\", \"to\": \"23:00\", \"rate\": \"500/s\"}]}'")]
pub struct RateArguments {
    /// Which queue; QUEUE/SINK for one of its sinks beside the main one
    queue: String,
    /// The new ceiling: "5000/s", "0.1/s", "300/min", "10/h" or "unlimited"
    rate: Option<String>,
    /// Records that may leave at once
    #[arg(long, value_name = "RECORDS")]
    burst: Option<u64>,
    /// Transactions on their way at a time, up to 16; more than 1 in a queue without a strict order
    #[arg(long, value_name = "LANES")]
    concurrency: Option<u64>,
    /// Records of one transaction
    #[arg(long, value_name = "RECORDS")]
    batch_records_max: Option<u64>,
    /// Bytes of one transaction
    #[arg(long, value_name = "BYTES")]
    batch_bytes_max: Option<u64>,
    /// Milliseconds of the rate that one transaction may gather
    #[arg(long, value_name = "MS")]
    batch_linger_ms_max: Option<u64>,
    /// Anything that the configuration has for it, as JSON under the same names; null takes a setting away
    #[arg(long, value_name = "JSON")]
    set: Option<String>,
    #[command(flatten)]
    target: Target,
}

/// Which queue.
#[derive(clap::Args)]
pub struct PauseArguments {
    /// Which queue; QUEUE/SINK for one of its sinks beside the main one
    queue: String,
    #[command(flatten)]
    target: Target,
}

/// Runs `forebay queues`.
///
/// # Errors
///
/// Nobody answers, or there is no such queue.
pub fn list(arguments: &QueuesArguments) -> anyhow::Result<ExitCode> {
    let path = arguments.queue.as_deref().map_or_else(|| "/v1/queues".to_owned(), path_of);
    let answer = arguments.target.ask(Method::GET, &path, None)?;
    if arguments.json {
        println!("{answer:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let queues = answer["queues"].as_array().cloned().unwrap_or_else(|| vec![answer]);
    print!("{}", table(&queues));
    Ok(ExitCode::SUCCESS)
}

/// Runs `forebay rate`.
///
/// # Errors
///
/// Nobody answers, or the change is refused.
pub fn rate(arguments: &RateArguments) -> anyhow::Result<ExitCode> {
    let patch = arguments.patch()?;
    let answer = arguments.target.ask(Method::PATCH, &path_of(&arguments.queue), Some(&patch))?;
    print!("{}", table(&[answer]));
    println!("The change lasts until the next restart or SIGHUP; write it into the configuration to keep it.");
    Ok(ExitCode::SUCCESS)
}

/// Runs `forebay pause`.
///
/// # Errors
///
/// Nobody answers, or there is no such queue.
pub fn pause(arguments: &PauseArguments) -> anyhow::Result<ExitCode> {
    let path = format!("{}/pause", path_of(&arguments.queue));
    let answer = arguments.target.ask(Method::POST, &path, None)?;
    print!("{}", table(&[answer]));
    println!("Nothing is delivered until `forebay resume {}`, across restarts too.", arguments.queue);
    Ok(ExitCode::SUCCESS)
}

/// Runs `forebay resume`.
///
/// # Errors
///
/// Nobody answers, or there is no such queue.
pub fn resume(arguments: &PauseArguments) -> anyhow::Result<ExitCode> {
    let path = format!("{}/resume", path_of(&arguments.queue));
    print!("{}", table(&[arguments.target.ask(Method::POST, &path, None)?]));
    Ok(ExitCode::SUCCESS)
}

impl RateArguments {
    fn patch(&self) -> anyhow::Result<Value> {
        let mut patch = match self.set.as_deref().map(serde_json::from_str) {
            None => Map::new(),
            Some(Ok(Value::Object(patch))) => patch,
            Some(Ok(_)) => bail!("--set must be a JSON object such as '{{\"burst\": 100}}'"),
            Some(Err(error)) => bail!("--set is not JSON: {error}"),
        };
        if let Some(rate) = &self.rate {
            patch.insert("rate".to_owned(), json!(rate));
        }
        for (key, value) in [("burst", self.burst), ("concurrency", self.concurrency)] {
            if let Some(value) = value {
                patch.insert(key.to_owned(), json!(value));
            }
        }
        for (key, value) in [
            ("records_max", self.batch_records_max),
            ("bytes_max", self.batch_bytes_max),
            ("linger_ms_max", self.batch_linger_ms_max),
        ] {
            if let Some(value) = value {
                let batch = patch.entry("batch").or_insert_with(|| json!({}));
                match batch {
                    Value::Object(batch) => batch.insert(key.to_owned(), json!(value)),
                    _ => bail!("`batch` of --set must be a JSON object"),
                };
            }
        }
        if patch.is_empty() {
            bail!("nothing to change: give a rate such as 8000/s, or an option; --help lists them");
        }
        Ok(Value::Object(patch))
    }
}

/// The path of `QUEUE`, or of `QUEUE/SINK`. A name that no queue or sink can have must become neither another path nor another
/// name: what is unsound in it becomes a sign that is in none.
pub(super) fn path_of(address: &str) -> String {
    let sound = |c: &char| c.is_ascii_alphanumeric() || *c == '-' || *c == '_';
    let name = |text: &str| text.chars().map(|c| if sound(&c) { c } else { '~' }).collect::<String>();
    match address.split_once('/') {
        None => format!("/v1/queues/{}", name(address)),
        Some((queue, sink)) => format!("/v1/queues/{}/sinks/{}", name(queue), name(sink)),
    }
}

/// A queue, and behind it its sinks beside the main one.
fn with_sinks(queue: &Value) -> impl Iterator<Item = &Value> {
    let sinks = queue["sinks"].as_object().into_iter().flat_map(serde_json::Map::values);
    std::iter::once(queue).chain(sinks)
}

fn table(queues: &[Value]) -> String {
    let mut text = format!(
        "{:<20} {:<10} {:>12} {:>12} {:>12} {:>12} {:>10} {:>6} {:>8}\n",
        "QUEUE", "STATE", "RATE", "MEASURED/S", "BACKLOG", "BYTES", "EMPTY IN", "DEAD", "EXPIRED"
    );
    for queue in queues.iter().flat_map(with_sinks) {
        let now = &queue["now"];
        let sink = queue["sink"].as_str().map_or_else(String::new, |sink| format!("/{sink}"));
        let name = queue["queue"].as_str().unwrap_or_default().to_owned() + &sink;
        let number = |name: &str| now[name].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
        let empty_in = now["eta_ms"].as_u64().map_or_else(
            || "-".to_owned(),
            |ms| humantime::format_duration(std::time::Duration::from_secs(ms.div_ceil(1000))).to_string(),
        );
        // A string cannot refuse to be written to.
        let _ = writeln!(
            text,
            "{:<20} {:<10} {:>12} {:>12} {:>12} {:>12} {:>10} {:>6} {:>8}",
            name,
            now["state"].as_str().unwrap_or_default(),
            queue["rate"].as_str().unwrap_or_default(),
            number("rate_measured_per_second"),
            number("backlog_records"),
            number("backlog_bytes"),
            empty_in,
            number("dead_letters"),
            number("expired_records"),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_to_another_path() {
        assert_eq!(path_of("orders"), "/v1/queues/orders");
        assert_eq!(path_of("orders/analytics"), "/v1/queues/orders/sinks/analytics");
        assert_eq!(path_of("../../metrics?x=/y"), "/v1/queues/~~/sinks/~~~metrics~x~~y");
        assert_eq!(path_of("orders."), "/v1/queues/orders~", "another queue than this is not meant");
    }
}
