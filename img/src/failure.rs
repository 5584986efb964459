//! Why a command failed.

use block::operations::{BenchError, CompareError, CopyError};

/// Why a command failed: a sentence, and the exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Image(#[from] block::Error),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Compare(#[from] CompareError),
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// The user asked for something that cannot be.
    #[error("{0}")]
    Said(String),
    /// The command line is not one of the command.
    #[error("{text}\nTry 'brolga-img {command} --help' for more info")]
    Usage { command: &'static str, text: String },
    #[error("could not write the output: {0}")]
    Output(#[from] std::io::Error),
    /// The exit code is not 1.
    #[error("{failure}")]
    WithCode { code: u8, failure: Box<Failure> },
}

impl Failure {
    /// A failure with this sentence.
    pub(crate) fn said(text: impl Into<String>) -> Failure {
        Failure::Said(text.into())
    }

    /// What was asked for is known, and not there.
    pub(crate) fn not_built(what: &str) -> Failure {
        Failure::Said(format!("{what} is not built yet"))
    }

    /// The command line is not one of the command.
    pub(crate) fn usage(command: &'static str, text: impl Into<String>) -> Failure {
        Failure::Usage { command, text: text.into() }
    }

    /// The same with another exit code.
    pub(crate) fn with_code(self, code: u8) -> Failure {
        Failure::WithCode { code, failure: Box::new(self) }
    }

    /// The same with `before` at its beginning.
    pub(crate) fn behind(self, before: &str) -> Failure {
        Failure::Said(format!("{before}: {self}"))
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::WithCode { code, .. } => *code,
            _ => 1,
        }
    }
}
