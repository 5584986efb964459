//! QMP, the management protocol, and the human monitor.
//!
//! Here live the wire protocol ([`json`], [`session`]), the servers that listen for clients ([`server`]), every command,
//! event and type of the protocol, declared once with its documentation ([`commands`], [`events`], [`schema`]), and the
//! monitor for people ([`hmp`]). What commands do to the machine they do through [`hw::vm::Vm`]: no device and no
//! accelerator is named here, and no command line is read here except the description of an endpoint.
//!
//! Read first: [`server::Server`], [`commands::Command`], [`session::Dialogue`].
//!
//! ## Threads
//! Sessions are tasks of a tokio runtime and never wait for the machine: a command that may wait runs on the
//! runtime's threads for blocking work, one at a time for each session. Events come from the machine's control
//! thread, which only puts them into the queue of each session; a client whose queue is full is dropped.

pub mod commands;
pub mod error;
pub mod events;
mod fuzz;
pub mod hmp;
pub mod json;
pub mod schema;
pub mod server;
pub mod session;
#[cfg(test)]
mod test_support;

pub use error::{Error, ErrorClass};
pub use fuzz::fuzz_qmp_input;
pub use server::{Endpoint, Protocol, Server};

/// The version that clients see in `query-version`: that of the QEMU whose management interface this is.
pub(crate) const COMPATIBLE_VERSION: (i64, i64, i64) = (10, 0, 0);

/// Our own name and version.
pub(crate) const PACKAGE: &str = concat!("brolga ", env!("CARGO_PKG_VERSION"));
