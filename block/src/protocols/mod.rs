//! Protocols: disks that are not made of other nodes.

mod null;

pub use null::{Null, NullKind, NullOptions};
