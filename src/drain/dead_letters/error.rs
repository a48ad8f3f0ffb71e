//! Why something cannot be done with a dead letter, or with the file of them.

use std::io;
use std::path::PathBuf;

use crate::record::Sequence;

/// Why something cannot be done with a letter. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    /// There is none.
    #[error("there is no dead letter with the sequence {0}")]
    Unknown(Sequence),
    /// It was delivered or given up.
    #[error("the dead letter {0} is gone: it was redriven or purged")]
    Gone(Sequence),
    /// It is on its way.
    #[error("the dead letter {0} is being redriven; cancel the redrive first")]
    Redriving(Sequence),
    /// It stands for a record that was lost.
    #[error("the dead letter {0} has no body, since its record was lost; give it one first")]
    NoBody(Sequence),
    /// The file cannot take it.
    #[error(transparent)]
    File(#[from] DeadLetterError),
}

/// Why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// The file has reached its bound.
    #[error(
        "the dead-letter file {} has reached dead_letters_bytes_max = {bytes_max}; redrive or purge letters, \
         or raise the bound and restart", path.display()
    )]
    Full {
        /// Which file.
        path: PathBuf,
        /// The bound in bytes.
        bytes_max: u64,
    },
    /// The disk said no.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}
