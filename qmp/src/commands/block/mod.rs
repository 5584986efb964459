//! Commands about disks.

mod bitmaps;
mod exports;
mod internal_snapshots;
mod nodes;
mod queries;
mod snapshots;
mod transactions;

use std::sync::Arc;

use block::{Action, Node};
use futures_executor::block_on;

use super::{Command, Context};
use crate::error::{Error, ErrorClass};
use crate::schema::Empty;

/// The commands, by file.
pub(super) const GROUPS: [&[Command]; 7] = [
    queries::COMMANDS,
    nodes::COMMANDS,
    snapshots::COMMANDS,
    internal_snapshots::COMMANDS,
    bitmaps::COMMANDS,
    transactions::COMMANDS,
    exports::COMMANDS,
];

/// The node of a name: of a user's disk, of a device, or a node's own.
fn find(context: &Context, name: &str) -> Result<Arc<Node>, Error> {
    let disks = context.vm.disks();
    if disks.backend(name).is_none() && disks.node(name).is_none() {
        let description = format!("Device '{name}' not found");
        return Err(Error { class: ErrorClass::DeviceNotFound, description });
    }
    disks.find(name).map_err(|error| failed(&error))
}

/// The node that one of two arguments names: a user's name for a disk, or a node's name.
fn find_either(context: &Context, device: Option<&str>, node: Option<&str>) -> Result<Arc<Node>, Error> {
    match (device, node) {
        (Some(device), None) => match find(context, device) {
            Err(error) if error.class == ErrorClass::DeviceNotFound => Err(nowhere(device, "")),
            found => found,
        },
        (None, Some(name)) => context.vm.disks().node(name).ok_or_else(|| nowhere("", name)),
        (Some(_), Some(_)) => Err(Error::generic("Use either device or node-name, not both")),
        (None, None) => Err(nowhere("", "")),
    }
}

fn nowhere(device: &str, node: &str) -> Error {
    Error::generic(format!("Cannot find device='{device}' nor node-name='{node}'"))
}

fn failed(error: &block::Error) -> Error {
    Error::generic(error.to_string())
}

/// Makes changes together, or none of them.
fn transact(context: &Context, actions: &[Action]) -> Result<Empty, Error> {
    block_on(context.vm.disks().transaction(actions)).map_err(|error| failed(&error))?;
    Ok(Empty)
}

/// A number for JSON, whose clients know 63 bits.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
