//! Character devices: byte streams between a guest device and the host.
//!
//! A guest device implements [`CharFrontend`] and holds an `Arc<dyn CharBackend>`. Neither side ever waits for the
//! other: output goes into a bounded queue that a thread of the backend empties, and input comes only as fast as the
//! frontend says that it can take it.

mod file;
mod mux;
mod null;
mod queue;
mod socket;
mod stdio;

use std::io;
use std::sync::Arc;

pub use file::FileBackend;
pub use mux::Mux;
pub use null::NullBackend;
pub use socket::{SocketAddress, SocketBackend, SocketRole};
pub use stdio::StdioBackend;

/// The host's end of a character device.
pub trait CharBackend: Send + Sync {
    /// What it is, as `query-chardev` shows it, for example `unix:/tmp/s,server=on`.
    fn description(&self) -> String;

    /// Takes as many bytes of `data` as there is room for and returns how many; never waits. After it took fewer than
    /// all, [`CharFrontend::writable`] is called once there is room again. Bytes for which no peer listens are taken
    /// and dropped.
    fn write(&self, data: &[u8]) -> usize;

    /// Connects the guest's end, instead of an earlier one. The backend holds it weakly enough that neither keeps the
    /// other alive: frontends pass themselves as [`std::sync::Weak`] wrappers, see [`WeakFrontend`].
    fn connect(&self, frontend: Arc<dyn CharFrontend>);

    /// The frontend can take input again after [`CharFrontend::receivable`] was 0. Never waits, and never calls the
    /// frontend: that happens on a thread of the backend.
    fn accept_input(&self);

    /// Waits until everything written has left for the host, at most `limit`.
    fn flush(&self, limit: std::time::Duration);

    /// True if a peer is connected, where the backend can tell.
    fn is_open(&self) -> bool {
        true
    }
}

/// What happened at the host's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CharEvent {
    /// A peer connected.
    Opened,
    /// The peer went away.
    Closed,
    /// The peer sent a break condition.
    Break,
    /// What the user types on a [`Mux`] comes here from now on.
    FocusGained,
    /// What the user types on a [`Mux`] goes elsewhere from now on.
    FocusLost,
}

/// The guest's end of a character device. Called on a thread of the backend, never while it holds a lock.
pub trait CharFrontend: Send + Sync {
    /// How many bytes [`CharFrontend::receive`] may bring now.
    fn receivable(&self) -> usize;
    /// Brings input, at most as much as [`CharFrontend::receivable`] allowed.
    fn receive(&self, data: &[u8]);
    /// The backend has room again.
    fn writable(&self) {}
    /// Something other than data.
    fn event(&self, _event: CharEvent) {}
}

/// A frontend that goes away with the device behind it.
pub struct WeakFrontend<F>(pub std::sync::Weak<F>);

impl<F: CharFrontend> CharFrontend for WeakFrontend<F> {
    fn receivable(&self) -> usize {
        // Input for a device that is gone is swallowed, so that its reader does not wait for ever.
        self.0.upgrade().map_or(usize::MAX, |device| device.receivable())
    }
    fn receive(&self, data: &[u8]) {
        if let Some(device) = self.0.upgrade() {
            device.receive(data);
        }
    }
    fn writable(&self) {
        if let Some(device) = self.0.upgrade() {
            device.writable();
        }
    }
    fn event(&self, event: CharEvent) {
        if let Some(device) = self.0.upgrade() {
            device.event(event);
        }
    }
}

/// Why a character device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused to open, bind or connect.
    #[error("cannot open character device {what}: {source}")]
    Open {
        /// The device as the user named it.
        what: String,
        /// The host's answer.
        source: io::Error,
    },
}
