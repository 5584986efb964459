//! Hosts without a baseline compiler.

use crate::compile::{Code, Function};
use crate::engine::Translation;
use crate::guest::Guest;

/// A baseline compiler; there is none.
pub(crate) enum Baseline {}

impl Baseline {
    /// `None`, as on this host there is none.
    pub(crate) fn new() -> Option<Baseline> {
        None
    }

    /// Code through which other code is entered.
    pub(crate) fn enter(&self) -> *const u8 {
        match *self {}
    }

    /// What its code depends on of the host.
    pub(crate) fn features(&self) {
        match *self {}
    }

    /// Functions that its code calls.
    pub(crate) fn stubs(&self) -> [(Function, *const u8); 2] {
        match *self {}
    }

    /// Compiles a block.
    pub(crate) fn compile<G: Guest>(&self, _translation: &Translation) -> Option<Code> {
        match *self {}
    }
}
