//! Hosts without a baseline compiler.

use crate::compile::{Code, Function};
use crate::engine::{Cell, Translation};
use crate::guest::Guest;

/// A baseline compiler; there is none.
pub(crate) enum Baseline {}

impl Baseline {
    /// Code that returns from a block to the dispatcher.
    pub(crate) const LEAVE: &[u8] = &[];

    /// What regions begin with.
    pub(crate) const REGION_START: &[u8] = &[];

    /// Where gates are entered from elsewhere than blocks.
    pub(crate) const GATE_FROM_OUTSIDE: usize = 0;

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
    pub(crate) fn stubs(&self) -> &[(Function, *const u8)] {
        match *self {}
    }

    /// Code that goes on from a block to what a cell leads to.
    pub(crate) fn gate(_cell: *const Cell) -> Vec<u8> {
        Vec::new()
    }

    /// Compiles a block.
    pub(crate) fn compile<G: Guest>(&self, _translation: &Translation) -> Option<Code> {
        match *self {}
    }
}
