//! Bitmaps of what changed on a node.

use std::sync::Arc;

use block::{DirtyBitmap, Node};
use serde_json::Value;

use super::failed;
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
    "block-dirty-bitmap-add" Immediate => add(AddArguments) -> Empty,
    /// Forgets a bitmap.
    "block-dirty-bitmap-remove" Immediate => remove(BitmapArguments) -> Empty,
    /// Takes all marks of a bitmap away.
    "block-dirty-bitmap-clear" Immediate => clear(BitmapArguments) -> Empty,
    /// Has a bitmap mark writes.
    "block-dirty-bitmap-enable" Immediate => enable(BitmapArguments) -> Empty,
    /// Has a bitmap keep its marks as they are.
    "block-dirty-bitmap-disable" Immediate => disable(BitmapArguments) -> Empty,
    /// Marks in a bitmap what others mark.
    "block-dirty-bitmap-merge" Immediate => merge(MergeArguments) -> Empty,
}

fn node_of(context: &Context, name: &str) -> Result<Arc<Node>, Error> {
    context.vm.disks().find(name).map_err(|error| failed(&error))
}

fn find(context: &Context, node: &str, name: &str) -> Result<(Arc<Node>, Arc<DirtyBitmap>), Error> {
    let node = node_of(context, node)?;
    let found = node.bitmaps().into_iter().find(|bitmap| bitmap.name() == Some(name));
    let missing = || Error::generic(format!("Dirty bitmap '{name}' not found"));
    found.map(|bitmap| (node, bitmap)).ok_or_else(missing)
}

fn add(context: &Context, arguments: AddArguments) -> Result<Empty, Error> {
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
    node.add_bitmap(&name, granularity, !arguments.disabled.unwrap_or(false)).map_err(|error| failed(&error))?;
    Ok(Empty)
}

fn remove(context: &Context, arguments: BitmapArguments) -> Result<Empty, Error> {
    let (node, bitmap) = find(context, &arguments.node, &arguments.name)?;
    node.remove_bitmap(&bitmap);
    Ok(Empty)
}

fn clear(context: &Context, arguments: BitmapArguments) -> Result<Empty, Error> {
    find(context, &arguments.node, &arguments.name)?.1.clear();
    Ok(Empty)
}

fn enable(context: &Context, arguments: BitmapArguments) -> Result<Empty, Error> {
    find(context, &arguments.node, &arguments.name)?.1.set_recording(true);
    Ok(Empty)
}

fn disable(context: &Context, arguments: BitmapArguments) -> Result<Empty, Error> {
    find(context, &arguments.node, &arguments.name)?.1.set_recording(false);
    Ok(Empty)
}

fn merge(context: &Context, arguments: MergeArguments) -> Result<Empty, Error> {
    let (_, target) = find(context, &arguments.node, &arguments.target)?;
    // All are looked up before the first is merged.
    let sources = arguments.bitmaps.iter().map(|source| match source {
        Source::Here(name) => find(context, &arguments.node, name),
        Source::There(bitmap) => find(context, &bitmap.node, &bitmap.name),
    });
    let sources = sources.collect::<Result<Vec<_>, Error>>()?;
    if let Some((_, other)) = sources.iter().find(|(_, source)| source.length() != target.length()) {
        let name = other.name().unwrap_or_default();
        return Err(Error::generic(format!(
            "Bitmaps are of different sizes (destination size is {}, bitmap '{name}' has {})",
            target.length(),
            other.length()
        )));
    }
    for (_, source) in sources {
        target.merge(&source);
    }
    Ok(Empty)
}
