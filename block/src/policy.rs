//! What happens when a request of a guest fails.

use crate::Error;

/// What the user wants to happen when a request fails (`werror`, `rerror`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The guest is told.
    Report,
    /// The guest is told that it succeeded.
    Ignore,
    /// The machine stops, and the request is made again when it goes on.
    Stop,
    /// The machine stops if the host has no room, or else the guest is told.
    NoSpace,
}

impl OnError {
    /// The policies, by name.
    pub const ALL: [(&str, OnError); 4] = [
        ("report", OnError::Report),
        ("ignore", OnError::Ignore),
        ("stop", OnError::Stop),
        ("enospc", OnError::NoSpace),
    ];

    /// The policy with a name.
    pub fn named(name: &str) -> Option<OnError> {
        OnError::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, policy)| policy)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        OnError::ALL.into_iter().find(|(_, policy)| *policy == self).map_or("", |(name, _)| name)
    }

    /// What that means for this error.
    pub fn action(self, error: &Error) -> ErrorAction {
        match self {
            OnError::Report => ErrorAction::Report,
            OnError::Ignore => ErrorAction::Ignore,
            OnError::Stop => ErrorAction::Stop,
            OnError::NoSpace if error.is_no_space() => ErrorAction::Stop,
            OnError::NoSpace => ErrorAction::Report,
        }
    }
}

/// What a device does about a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorAction {
    /// It tells the guest.
    Report,
    /// It tells the guest that the request succeeded.
    Ignore,
    /// It keeps the request, and makes it again when the machine goes on.
    Stop,
}

impl ErrorAction {
    /// QMP's name (`BlockErrorAction`).
    pub fn name(self) -> &'static str {
        match self {
            ErrorAction::Report => "report",
            ErrorAction::Ignore => "ignore",
            ErrorAction::Stop => "stop",
        }
    }
}

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It only reads.
    Read,
    /// It changes something, or makes a change durable.
    Write,
}

impl Operation {
    /// QMP's name (`IoOperationType`).
    pub fn name(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Write => "write",
        }
    }
}

/// Whether a request of a guest failed that is kept until the machine goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoStatus {
    /// None is.
    #[default]
    Ok,
    /// One failed.
    Failed,
    /// One failed since the host has no room.
    NoSpace,
}

impl IoStatus {
    /// QMP's name (`BlockDeviceIoStatus`).
    pub fn name(self) -> &'static str {
        match self {
            IoStatus::Ok => "ok",
            IoStatus::Failed => "failed",
            IoStatus::NoSpace => "nospace",
        }
    }
}

/// A request of a guest failed: what QMP's BLOCK_IO_ERROR says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRequest {
    /// The disk's name, as the user gave it, or empty.
    pub device: String,
    /// The node's name.
    pub node: String,
    /// What kind of request it was.
    pub operation: Operation,
    /// What is done about it.
    pub action: ErrorAction,
    /// The host has no room.
    pub is_no_space: bool,
    /// Why, in words.
    pub reason: String,
}
