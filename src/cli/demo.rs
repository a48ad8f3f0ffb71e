//! stub
use std::process::ExitCode;
/// x
#[derive(clap::Args)]
pub struct Arguments {}
/// x
/// # Errors
/// x
pub fn run(_: &Arguments) -> anyhow::Result<ExitCode> { Ok(ExitCode::SUCCESS) }
