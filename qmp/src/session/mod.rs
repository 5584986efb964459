//! One client's conversation.
//!
//! [`Dialogue`] is the protocol itself, without any input or output: bytes go in, requests come out, and each request
//! is answered at once or becomes a [`Call`] to be carried out. The rest of this module runs one on a connection.

mod dialogue;
mod hub;
mod output;
mod qmp;

use std::sync::atomic::{AtomicBool, Ordering};

pub use dialogue::{Answer, Call, Dialogue, Request, greeting};
pub(crate) use hub::Hub;
pub(crate) use output::Output;
pub(crate) use qmp::{closed, serve};

use crate::commands::Capability;

/// What was agreed on with a client.
#[derive(Debug, Default)]
pub struct Negotiation {
    complete: AtomicBool,
    out_of_band: AtomicBool,
}

impl Negotiation {
    /// Ends the negotiation with these capabilities enabled.
    pub(crate) fn complete(&self, capabilities: &[Capability]) {
        self.out_of_band.store(capabilities.contains(&Capability::OutOfBand), Ordering::Release);
        self.complete.store(true, Ordering::Release);
    }

    /// The client may send commands and receives events.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// The client may send `exec-oob`.
    pub fn has_out_of_band(&self) -> bool {
        self.out_of_band.load(Ordering::Acquire)
    }
}
