//! Protocols: disks that are not made of other nodes.

pub mod curl;
mod null;

pub use curl::{Curl, CurlOptions, CurlProtocol};
pub use null::{Null, NullKind, NullOptions};
