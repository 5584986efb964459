//! Hosts without a baseline compiler.

use crate::compile::Thunks;
use crate::engine::{Generation, Translation};
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

    /// Compiles a block.
    pub(crate) fn compile<G: Guest>(
        &self,
        _thunks: &Thunks,
        _translation: &Translation,
        _generation: &Generation,
    ) -> Option<Vec<u8>> {
        match *self {}
    }
}
