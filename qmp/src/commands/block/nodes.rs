//! Nodes of the block graph.

use block::NodeOptions;
use futures_executor::block_on;
use serde_json::{Map, Value};

use super::{failed, find_either};
use crate::commands::Context;
use crate::commands::declare::commands;
use crate::error::Error;
use crate::schema::{Empty, Location, Member, Structure, Type, Wire};
use crate::structure;

structure! {
    /// Arguments of `block_resize`.
    pub(crate) struct ResizeArguments {
        /// The disk, by the user's name for it.
        "device" => device: Option<String>,
        /// The disk, by the name of its node.
        "node-name" => node: Option<String>,
        /// Its length from now on, bytes.
        "size" => size: i64,
    }
}

structure! {
    /// Arguments of `blockdev-del`.
    pub(crate) struct DeleteArguments {
        /// The node's name.
        "node-name" => node: String,
    }
}

/// Arguments of `blockdev-add`: a node's options as they are, or within `options`, as clients sent them once.
pub(crate) struct AddArguments(Map<String, Value>);

impl Wire for AddArguments {
    const TYPE: &'static Type = &Type::Structure(&Structure {
        name: "BlockdevOptions",
        documentation: "The options of a node, by its driver.",
        members: &[Member {
            name: "options",
            alias: None,
            documentation: "The same within an object, with `id` for the name of the node.",
            kind: &Type::Any,
            optional: true,
        }],
    });

    fn from_wire(value: Value, location: &Location<'_>) -> Result<AddArguments, Error> {
        let Value::Object(mut members) = value else { return Err(Error::wrong_type(location, "object")) };
        let Some(within) = members.remove("options") else { return Ok(AddArguments(members)) };
        if let Some(name) = members.keys().next() {
            return Err(Error::generic(format!("Parameter '{name}' is unexpected")));
        }
        let Value::Object(mut options) = within else {
            return Err(Error::wrong_type(Location::Member(location, "options"), "object"));
        };
        if let Some(id) = options.remove("id") {
            options.entry("node-name").or_insert(id);
        }
        Ok(AddArguments(options))
    }

    fn to_wire(&self) -> Value {
        Value::Object(self.0.clone())
    }
}

commands! {
    /// Makes a node of the block graph, for devices, jobs and exports to use.
    "blockdev-add" Blocking => blockdev_add(AddArguments) -> Empty,
    /// Closes a node that was made by name, which nobody may use.
    "blockdev-del" Blocking => blockdev_del(DeleteArguments) -> Empty,
    /// Changes the length of a disk while the guest uses it. The guest is told, where its device can.
    "block_resize" Blocking => block_resize(ResizeArguments) -> Empty,
}

fn blockdev_add(context: &Context, arguments: AddArguments) -> Result<Empty, Error> {
    let options = NodeOptions::from_members(arguments.0);
    block_on(context.vm.disks().add_node(options)).map_err(|error| failed(&error))?;
    Ok(Empty)
}

fn blockdev_del(context: &Context, arguments: DeleteArguments) -> Result<Empty, Error> {
    block_on(context.vm.disks().remove_node(&arguments.node)).map_err(|error| failed(&error))?;
    Ok(Empty)
}

fn block_resize(context: &Context, arguments: ResizeArguments) -> Result<Empty, Error> {
    let ResizeArguments { device, node, size } = arguments;
    let node = find_either(context, device.as_deref(), node.as_deref())?;
    let size = u64::try_from(size).map_err(|_| Error::wrong_value("size", "a >0 size"))?;
    block_on(context.vm.disks().resize(&node, size)).map_err(|error| failed(&error))?;
    Ok(Empty)
}
