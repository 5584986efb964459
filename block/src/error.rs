//! Why requests fail.

use std::io;

use crate::{FieldError, nbd};

/// Why a block request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request goes beyond the end of the disk.
    #[error("a request for {length} bytes at {offset} goes beyond the end of a disk of {disk} bytes")]
    OutOfBounds {
        /// First byte of the request.
        offset: u64,
        /// Length of the request in bytes.
        length: u64,
        /// Length of the disk in bytes.
        disk: u64,
    },
    /// A write to a disk that was opened read-only.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The drive has no medium.
    #[error("the drive has no medium")]
    NoMedium,
    /// Somebody else uses a node in a way that does not go together with this.
    #[error("{0}")]
    InUse(String),
    /// An option of a node is missing, unknown or has a value that it cannot have.
    #[error("{0}")]
    Option(String),
    /// The image could not be opened.
    #[error("Could not open '{name}': {why}")]
    Open {
        /// The file's name.
        name: String,
        /// The reason.
        why: String,
    },
    /// The image could not be made.
    #[error("Could not create '{name}': {why}")]
    Create {
        /// The file's name.
        name: String,
        /// The reason.
        why: String,
    },
    /// The host failed the request.
    #[error("the host could not {operation}: {source}")]
    Host {
        /// The operation, as a verb.
        operation: &'static str,
        /// The host's answer.
        source: io::Error,
    },
    /// The server of a disk in the network failed the request, or is not there.
    #[error("the NBD server could not {operation}: {why}")]
    Nbd {
        /// The operation, as a verb.
        operation: &'static str,
        /// What the server says, or what is said in its place.
        why: nbd::Failure,
    },
    /// The image says something of itself that cannot be.
    #[error("the image is corrupt: {0}")]
    Corrupt(String),
    /// Disks that should have the same have not.
    #[error("{0}")]
    Differs(String),
    /// A field of the image has a value that no image may have.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// What was asked for is not possible with this format, these options, or this file.
    #[error("{0}")]
    Unsupported(String),
}

impl Error {
    /// What the host answered to a failed `operation`.
    pub fn host(operation: &'static str, source: io::Error) -> Error {
        Error::Host { operation, source }
    }

    /// What is said where an image cannot be opened because of this.
    pub(crate) fn while_opening(self, path: &std::path::Path) -> Error {
        match self {
            Error::Open { .. } => self,
            other => Error::Open { name: path.display().to_string(), why: other.to_string() },
        }
    }

    /// The number of the host's error that says the same.
    pub fn errno(&self) -> i32 {
        match self {
            Error::OutOfBounds { .. } | Error::Corrupt(_) | Error::Differs(_) | Error::Field(_) => libc::EIO,
            Error::ReadOnly => libc::EPERM,
            Error::Open { .. } | Error::Create { .. } => libc::EINVAL,
            Error::Host { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Error::Nbd { why, .. } => why.errno,
            Error::Unsupported(_) => libc::ENOTSUP,
            Error::NoMedium => libc::ENOMEDIUM,
            Error::InUse(_) => libc::EBUSY,
            Error::Option(_) => libc::EINVAL,
        }
    }

    /// The disk or the quota of the host is full: more room may come.
    pub fn is_no_space(&self) -> bool {
        matches!(self.errno(), libc::ENOSPC | libc::EDQUOT)
    }
}

/// The host's words for an error, without the number that Rust puts behind them.
pub fn host_words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
