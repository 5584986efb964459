//! Why a request of a client failed.

use std::fmt;

use super::wire::*;
use crate::Error;

/// What a server says of a request that failed, or what is said where no server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The host's number of the error.
    pub errno: i32,
    /// A sentence; may be empty.
    pub text: String,
}

/// The errors that the protocol knows, and the host's numbers for them.
const KNOWN: [(u32, i32); 8] = [
    (NBD_EPERM, libc::EPERM),
    (NBD_EIO, libc::EIO),
    (NBD_ENOMEM, libc::ENOMEM),
    (NBD_EINVAL, libc::EINVAL),
    (NBD_ENOSPC, libc::ENOSPC),
    (NBD_EOVERFLOW, libc::EOVERFLOW),
    (NBD_ENOTSUP, libc::ENOTSUP),
    (NBD_ESHUTDOWN, libc::ESHUTDOWN),
];

impl Failure {
    pub(super) fn new(errno: i32, text: impl Into<String>) -> Failure {
        Failure { errno, text: text.into() }
    }

    /// A failure with a number of the protocol.
    pub(super) fn from_wire(error: u32, text: String) -> Failure {
        // What is not known counts as EINVAL.
        let errno = KNOWN.iter().find(|(known, _)| *known == error).map_or(libc::EINVAL, |(_, errno)| *errno);
        Failure { errno, text }
    }

    /// Its number in the protocol.
    pub(super) fn wire(&self) -> u32 {
        let errno = match self.errno {
            libc::EROFS => libc::EPERM,
            libc::EDQUOT | libc::EFBIG => libc::ENOSPC,
            other => other,
        };
        KNOWN.iter().find(|(_, known)| *known == errno).map_or(NBD_EIO, |(error, _)| *error)
    }
}

/// What a peer says, to be shown: not too long, and nothing that a terminal would take for a command.
pub(super) fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(MAXIMUM_STRING)]);
    text.replace(char::is_control, "\u{fffd}")
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Failure {
        Failure::new(error.errno(), error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let words = crate::host_words(&std::io::Error::from_raw_os_error(self.errno));
        if self.text.is_empty() { write!(f, "{words}") } else { write!(f, "{words} ({})", self.text) }
    }
}
