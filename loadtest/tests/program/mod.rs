//! The forebay program that tests measure: the one that the variable `FOREBAY_BINARY` names, or the one that cargo built
//! beside the test.

use std::env;
use std::path::PathBuf;

/// Its path.
pub fn forebay() -> PathBuf {
    if let Some(path) = env::var_os("FOREBAY_BINARY") {
        return path.into();
    }
    // The test's own program lies in target/debug/deps.
    let built = env::current_exe().unwrap().ancestors().nth(2).unwrap().join("forebay");
    assert!(built.is_file(), "no {}: run cargo build, or name another one in FOREBAY_BINARY", built.display());
    built
}
