//! `forebay check`: everything that can be found wrong without traffic.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use crate::config::{self, Config};
use crate::sink::{self, Part};

/// Say everything that is wrong with a configuration, and try its sinks.
///
/// Changes nothing, in the data directory or in a database, so it can run beside a live server.
/// Exit code 1 if anything is wrong.
#[derive(clap::Args)]
pub struct Arguments {
    /// The configuration to check
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the command.
///
/// # Errors
///
/// Nothing could be checked. What the checks find wrong is printed and is exit code 1.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = match config::load(&arguments.config, &sink::KINDS) {
        Ok(config) => config,
        Err(errors) => {
            println!("{errors}");
            println!("{} in {}", count(errors.errors().len()), arguments.config.display());
            return Ok(ExitCode::FAILURE);
        }
    };
    println!("{}: the configuration is well-formed", arguments.config.display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let mut problems = check_data_dir(&config.data_dir);
    let mains = config.queues.iter().map(|(name, queue)| (name, None, queue.main_outlet()));
    let others = config.queues.iter().flat_map(|(name, queue)| {
        queue.sinks.iter().map(move |(sink, outlet)| (name, Some(sink.as_str()), outlet.clone()))
    });
    for (queue, name, outlet) in mains.chain(others) {
        let place = name.map_or_else(|| format!("queue {queue}"), |name| format!("queue {queue}, sink {name}"));
        let id = name.map_or_else(|| format!("{queue}/check"), |name| format!("{queue}/check/sink-{name}"));
        let reorders = outlet.ordering.is_reordering();
        // It is not taken over, so nobody has to be told from others.
        let part = Part::new(queue.clone(), name.map(str::to_owned), id, reorders, 0);
        // `serve` makes the data directory; until then, a database in it is an empty one anywhere.
        let home = nearest_existing(&config.data_dir).unwrap_or_else(|| config.data_dir.clone());
        let mut sink = sink::open(&outlet.sink, part, &home);
        let found = match runtime.block_on(sink.check()) {
            Ok(found) => found,
            Err(error) => vec![error.to_string()],
        };
        if found.is_empty() {
            println!("{place}: the sink is ready");
        }
        problems.extend(found.into_iter().map(|problem| format!("{place}: {problem}")));
    }
    problems.extend(check_backlog_fits(&config));
    for problem in &problems {
        println!("{problem}");
    }
    if problems.is_empty() {
        println!("no problems found");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} with {}", count(problems.len()), arguments.config.display());
    Ok(ExitCode::FAILURE)
}

fn count(problems: usize) -> String {
    if problems == 1 { "1 problem".to_owned() } else { format!("{problems} problems") }
}

/// The path itself, or the nearest one above it that exists.
fn nearest_existing(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    absolute.ancestors().find(|path| path.exists()).map(Path::to_owned)
}

/// The directory, or the nearest one above it that exists, must be ours to write.
fn check_data_dir(data_dir: &Path) -> Vec<String> {
    let absolute = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let Some(existing) = nearest_existing(data_dir) else {
        return vec![format!("data_dir {} cannot be made", absolute.display())];
    };
    if !existing.is_dir() {
        return vec![format!("data_dir {}: {} is not a directory", absolute.display(), existing.display())];
    }
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    match rustix::fs::access(&existing, access) {
        Ok(()) => Vec::new(),
        Err(error) => {
            let wanted = absolute.display();
            vec![format!(
                "data_dir {wanted}: {} is not writable ({error}); give it to the user that runs forebay",
                existing.display()
            )]
        }
    }
}

/// All backlogs together should fit the disk.
fn check_backlog_fits(config: &Config) -> Vec<String> {
    let absolute = std::path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
    let Some(space) = absolute.ancestors().find_map(|path| rustix::fs::statvfs(path).ok()) else {
        return Vec::new();
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let wanted: u64 = config.queues.values().map(|queue| queue.max_backlog_bytes).sum();
    if wanted <= free {
        return Vec::new();
    }
    let mib = |bytes: u64| bytes / crate::limits::MIB;
    vec![format!(
        "the queues may hold {} MiB of backlog (max_backlog_bytes), but {} has {} MiB free; lower it, or give data_dir a \
         larger disk",
        mib(wanted),
        config.data_dir.display(),
        mib(free)
    )]
}
