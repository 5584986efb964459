//! Bitmaps of what changed on a node.

use std::sync::Arc;

use block::{Action, BitmapOf, DirtyBitmap, Node};
use serde_json::Value;

use super::{failed, transact};
use crate::commands::Context;
use crate::commands::declare::commands;
use crate::error::Error;
use crate::schema::{Empty, Location, Type, Wire};
use crate::structure;

structure! {
    /// Arguments of `block-dirty-bitmap-add`.
    pub(crate) struct AddArguments {
        /// The node, or the user's name for a disk.
        "node" => node: String,
        /// The bitmap's name.
        "name" => name: String,
        /// Bytes that a bit stands for: a power of two; as the image's clusters, if it is not said.
        "granularity" => granularity: Option<i64>,
        /// It is kept in the image.
        "persistent" => persistent: Option<bool>,
        /// It does not mark writes.
        "disabled" => disabled: Option<bool>,
    }
}

structure! {
    /// A bitmap of a node.
    pub(crate) struct BitmapArguments {
        /// The node, or the user's name for a disk.
        "node" => node: String,
        /// The bitmap's name.
        "name" => name: String,
    }
}

structure! {
    /// Arguments of `block-dirty-bitmap-merge`.
    pub(crate) struct MergeArguments {
        /// The node, or the user's name for a disk.
        "node" => node: String,
        /// The bitmap that gets the marks.
        "target" => target: String,
        /// The bitmaps that have them: names, or objects with `node` and `name`.
        "bitmaps" => bitmaps: Vec<Source>,
    }
}

/// A bitmap of the same node by name, or one of another node.
pub(crate) enum Source {
    Here(String),
    There(BitmapArguments),
}

impl Wire for Source {
    const TYPE: &'static Type = &Type::Any;

    fn from_wire(value: Value, location: &Location<'_>) -> Result<Source, Error> {
        match value {
            Value::String(name) => Ok(Source::Here(name)),
            other => BitmapArguments::from_wire(other, location).map(Source::There),
        }
    }

    fn to_wire(&self) -> Value {
        match self {
            Source::Here(name) => name.as_str().into(),
            Source::There(bitmap) => bitmap.to_wire(),
        }
    }
}

commands! {
    /// Marks what changes on a node from now on, in a bitmap with a name.
    "block-dirty-bitmap-add" Blocking => add(AddArguments) -> Empty,
    /// Forgets a bitmap.
    "block-dirty-bitmap-remove" Blocking => remove(BitmapArguments) -> Empty,
    /// Takes all marks of a bitmap away.
    "block-dirty-bitmap-clear" Blocking => clear(BitmapArguments) -> Empty,
    /// Has a bitmap mark writes.
    "block-dirty-bitmap-enable" Blocking => enable(BitmapArguments) -> Empty,
    /// Has a bitmap keep its marks as they are.
    "block-dirty-bitmap-disable" Blocking => disable(BitmapArguments) -> Empty,
    /// Marks in a bitmap what others mark.
    "block-dirty-bitmap-merge" Blocking => merge(MergeArguments) -> Empty,
}

fn node_of(context: &Context, name: &str) -> Result<Arc<Node>, Error> {
    context.vm.disks().find(name).map_err(|error| failed(&error))
}

fn find(context: &Context, node: &str, name: &str) -> Result<BitmapOf, Error> {
    Ok(BitmapOf { node: node_of(context, node)?, name: name.to_owned() })
}

/// What adds a bitmap.
pub(super) fn adding(context: &Context, arguments: AddArguments) -> Result<Action, Error> {
    let node = node_of(context, &arguments.node)?;
    let name = arguments.name;
    if name.is_empty() {
        return Err(Error::generic("Bitmap name cannot be empty"));
    }
    if arguments.persistent.unwrap_or(false) {
        return Err(Error::generic("Bitmaps that are kept in the image (persistent) are not built yet"));
    }
    let usual = node.driver().cluster_size().clamp(4096, 65536);
    let granularity = match arguments.granularity {
        None => usual,
        Some(given) => u64::try_from(given)
            .ok()
            .filter(|size| size.is_power_of_two() && DirtyBitmap::GRANULARITIES.contains(size))
            .ok_or_else(|| Error::generic("Granularity must be power of 2 and at least 512"))?,
    };
    Ok(Action::AddBitmap { node, name, granularity, is_recording: !arguments.disabled.unwrap_or(false) })
}

/// What removes a bitmap.
pub(super) fn removing(context: &Context, arguments: BitmapArguments) -> Result<Action, Error> {
    find(context, &arguments.node, &arguments.name).map(Action::RemoveBitmap)
}

/// What takes the marks of a bitmap away.
pub(super) fn clearing(context: &Context, arguments: BitmapArguments) -> Result<Action, Error> {
    find(context, &arguments.node, &arguments.name).map(Action::ClearBitmap)
}

/// What has a bitmap mark writes, or not.
pub(super) fn setting(context: &Context, arguments: BitmapArguments, recording: bool) -> Result<Action, Error> {
    find(context, &arguments.node, &arguments.name).map(|bitmap| Action::SetRecording(bitmap, recording))
}

/// What marks in a bitmap what others mark.
pub(super) fn merging(context: &Context, arguments: MergeArguments) -> Result<Vec<Action>, Error> {
    let target = find(context, &arguments.node, &arguments.target)?;
    let action = |source: &Source| {
        let source = match source {
            Source::Here(name) => find(context, &arguments.node, name)?,
            Source::There(bitmap) => find(context, &bitmap.node, &bitmap.name)?,
        };
        Ok(Action::MergeBitmap { target: target.clone(), source })
    };
    arguments.bitmaps.iter().map(action).collect()
}

fn add(context: &Context, arguments: AddArguments) -> Result<Empty, Error> {
    transact(context, &[adding(context, arguments)?])
}

fn remove(context: &Context, arguments: BitmapArguments) -> Result<Empty, Error> {
    transact(context, &[removing(context, arguments)?])
}

fn clear(context: &Context, arguments: BitmapArguments) -> Result<Empty, Error> {
    transact(context, &[clearing(context, arguments)?])
}

fn enable(context: &Context, arguments: BitmapArguments) -> Result<Empty, Error> {
    transact(context, &[setting(context, arguments, true)?])
}

fn disable(context: &Context, arguments: BitmapArguments) -> Result<Empty, Error> {
    transact(context, &[setting(context, arguments, false)?])
}

fn merge(context: &Context, arguments: MergeArguments) -> Result<Empty, Error> {
    transact(context, &merging(context, arguments)?)
}
