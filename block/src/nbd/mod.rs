//! Disks over the network, in the NBD protocol: a [`Server`] that offers disks, and a [`Client`] that is one.
//!
//! The protocol is described in the document `doc/proto.md` of the NBD project; names on the wire are the document's.
//!
//! Read first: [`wire`], then [`server`] and [`client`].

mod address;
mod client;
mod failure;
pub(crate) mod runtime;
mod server;
mod stream;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod wire;

pub use address::Address;
pub use client::{Client, ClientOptions};
pub use failure::Failure;
pub use server::{DirtyBitmap, Export, ExportInfo, RemoveMode, Server, ServerError, ServerOptions};
pub use target::{Target, TargetError};
pub use tls::{ClientTls, ServerTls, TlsError};

/// Most bytes of data in one request or reply: all implementations take so much.
const MAXIMUM_PAYLOAD: u32 = 32 << 20;

/// Length and alignment of requests that are served well, bytes.
const PREFERRED_BLOCK: u32 = 4096;
