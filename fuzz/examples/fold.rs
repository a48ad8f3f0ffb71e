//! Makes a seed for `segment_bytes` of a segment file: `cargo run --manifest-path fuzz/Cargo.toml --example fold FILE > SEED`.

use std::io::Write as _;

use anyhow::Context as _;
use forebay_fuzz::folded::fold;

/// The fields of the target's input in front of the file, each of them false or none.
const FIELDS: [u8; 4] = [0; 4];

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("name a segment file")?;
    let file = std::fs::read(&path).with_context(|| path.clone())?;
    let seed = [&FIELDS[..], &fold(&file)].concat();
    std::io::stdout().write_all(&seed).context("the seed cannot be written")
}
