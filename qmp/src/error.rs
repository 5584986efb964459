//! What a command answers instead of a result.

use serde_json::{Value, json};

/// The classes of errors that clients tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Anything that has no class of its own.
    GenericError,
    /// The command does not exist, or not now.
    CommandNotFound,
    /// The device that an argument names does not exist.
    DeviceNotFound,
    /// No device is there to do it.
    DeviceNotActive,
}

impl ErrorClass {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            ErrorClass::GenericError => "GenericError",
            ErrorClass::CommandNotFound => "CommandNotFound",
            ErrorClass::DeviceNotFound => "DeviceNotFound",
            ErrorClass::DeviceNotActive => "DeviceNotActive",
        }
    }
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{description}")]
pub struct Error {
    /// What clients may act on.
    pub class: ErrorClass,
    /// A sentence for people, without full stop.
    pub description: String,
}

impl Error {
    /// An error without a class of its own.
    pub fn generic(description: impl Into<String>) -> Error {
        Error { class: ErrorClass::GenericError, description: description.into() }
    }

    /// The command is not to be had.
    pub fn command_not_found(description: impl Into<String>) -> Error {
        Error { class: ErrorClass::CommandNotFound, description: description.into() }
    }

    /// A mandatory argument is not there.
    pub fn missing(parameter: impl std::fmt::Display) -> Error {
        Error::generic(format!("Parameter '{parameter}' is missing"))
    }

    /// An argument has the wrong JSON type.
    pub fn wrong_type(parameter: impl std::fmt::Display, expected: &str) -> Error {
        Error::generic(format!("Invalid parameter type for '{parameter}', expected: {expected}"))
    }

    /// An argument has the right JSON type and no legal value; `expected` is a noun with its article.
    pub fn wrong_value(parameter: impl std::fmt::Display, expected: &str) -> Error {
        Error::generic(format!("Parameter '{parameter}' expects {expected}"))
    }

    /// Its form on the wire.
    pub(crate) fn to_value(&self) -> Value {
        json!({"class": self.class.name(), "desc": self.description})
    }
}

impl From<hw::vm::Error> for Error {
    fn from(error: hw::vm::Error) -> Error {
        Error::generic(error.to_string())
    }
}
