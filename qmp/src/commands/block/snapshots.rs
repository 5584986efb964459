//! Images that come to stand above disks in use: external snapshots.

use std::path::Path;
use std::sync::Arc;

use block::{Action, Format, Node, NodeOptions, OptionValues, Snapshot};
use futures_executor::block_on;
use serde_json::json;

use super::{failed, find, find_either, transact};
use crate::commands::Context;
use crate::commands::declare::commands;
use crate::error::Error;
use crate::schema::Empty;
use crate::{enumeration, structure};

enumeration! {
    /// How a new image comes to be.
    pub(crate) enum NewImageMode {
        /// It is there already, and names what is behind it.
        "existing" => Existing,
        /// It is made, and names what is behind it by its whole path.
        "absolute-paths" => AbsolutePaths,
    }
}

structure! {
    /// Arguments of `blockdev-snapshot-sync`.
    pub(crate) struct SyncArguments {
        /// The disk, by the user's name for it.
        "device" => device: Option<String>,
        /// The disk, by the name of its node.
        "node-name" => node: Option<String>,
        /// The new image's file.
        "snapshot-file" => file: String,
        /// The new node's name.
        "snapshot-node-name" => new_node: Option<String>,
        /// The new image's format; `qcow2` if it is not said.
        "format" => format: Option<String>,
        /// Whether the image is made; it is if it is not said.
        "mode" => mode: Option<NewImageMode>,
    }
}

structure! {
    /// Arguments of `blockdev-snapshot`.
    pub(crate) struct SnapshotArguments {
        /// The node, which keeps what it is.
        "node" => node: String,
        /// The node that comes to stand above it.
        "overlay" => overlay: String,
    }
}

commands! {
    /// Makes an image, or takes one that is there, and puts it above a disk: what is written from then on goes there.
    "blockdev-snapshot-sync" Blocking => snapshot_sync(SyncArguments) -> Empty,
    /// Puts a node above another: what is written from then on goes there.
    "blockdev-snapshot" Blocking => snapshot(SnapshotArguments) -> Empty,
}

fn snapshot(context: &Context, arguments: SnapshotArguments) -> Result<Empty, Error> {
    transact(context, &[putting_above(context, &arguments)?])
}

fn snapshot_sync(context: &Context, arguments: SyncArguments) -> Result<Empty, Error> {
    transact(context, &[putting_image_above(context, &arguments)?])
}

/// What puts a node above another.
pub(super) fn putting_above(context: &Context, arguments: &SnapshotArguments) -> Result<Action, Error> {
    let node = find(context, &arguments.node)?;
    let overlay = find(context, &arguments.overlay)?;
    Ok(Action::Snapshot(Snapshot { node, overlay }))
}

/// What puts an image above a disk. The image is made and opened.
pub(super) fn putting_image_above(context: &Context, arguments: &SyncArguments) -> Result<Action, Error> {
    if arguments.node.is_some() && arguments.new_node.is_none() {
        return Err(Error::generic("New overlay node-name missing"));
    }
    let node = find_either(context, arguments.device.as_deref(), arguments.node.as_deref())?;
    let overlay = open_overlay(context, &node, arguments)?;
    Ok(Action::Snapshot(Snapshot { node, overlay }))
}

/// The node of the new image, with nothing behind it.
fn open_overlay(context: &Context, node: &Arc<Node>, arguments: &SyncArguments) -> Result<Arc<Node>, Error> {
    let name = arguments.format.as_deref().unwrap_or("qcow2");
    let format = Format::named(name).ok_or_else(|| Error::generic(format!("Invalid block driver name '{name}'")))?;
    let disks = context.vm.disks();
    if let Some(name) = &arguments.new_node
        && (disks.node(name).is_some() || disks.backend(name).is_some())
    {
        return Err(Error::generic("New overlay node-name already in use"));
    }
    let path = Path::new(&arguments.file);
    if arguments.mode.is_none_or(|mode| mode == NewImageMode::AbsolutePaths) {
        create(path, format, node)?;
    }
    let settings = node.settings();
    let mut options = json!({
        "driver": name,
        "file": { "driver": "file", "filename": arguments.file },
        "backing": null,
        "read-only": false,
        "cache": { "direct": settings.direct, "no-flush": settings.no_flush },
        "discard": if settings.discard { "unmap" } else { "ignore" },
        "detect-zeroes": settings.detect_zeroes.name(),
    });
    if let (Some(new_node), Some(options)) = (&arguments.new_node, options.as_object_mut()) {
        options.insert("node-name".into(), new_node.as_str().into());
    }
    let members = options.as_object().cloned().unwrap_or_default();
    block_on(disks.open(NodeOptions::from_members(members))).map_err(|error| failed(&error))
}

/// Makes an image of the length of a node, which it names as the one behind it.
fn create(path: &Path, format: Format, node: &Node) -> Result<(), Error> {
    let cannot = |why: String| Error::generic(format!("Could not create '{}': {why}", path.display()));
    let table = format.create_options_in_file();
    let mut values =
        OptionValues::new(table.ok_or_else(|| {
            Error::generic(format!("Format driver '{}' does not support image creation", format.name()))
        })?);
    let Some(backing) = node.filename() else {
        return Err(cannot(format!("node '{}' is no file that an image could name", node.name())));
    };
    // Relative names would be meant from the folder of the new image.
    let backing = std::path::absolute(&backing).map_err(|error| cannot(error.to_string()))?;
    let mut set = |name: &str, value: &str| values.set(name, value).map_err(|error| cannot(error.to_string()));
    set("size", &node.length().to_string())?;
    set("backing_file", &backing.display().to_string())?;
    set("backing_fmt", node.driver().name())?;
    block_on(block::create(path, format, &values)).map_err(|error| failed(&error))
}
