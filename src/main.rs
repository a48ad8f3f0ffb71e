//! `forebay`: see `forebay --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    forebay::cli::main()
}
