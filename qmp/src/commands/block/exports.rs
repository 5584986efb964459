//! Disks that clients elsewhere use.

use std::sync::Arc;

use block::nbd::{Address, RemoveMode, ServerOptions};
use block::{DirtyBitmap, ExportOptions, Node};
use futures_executor::block_on;
use serde_json::Value;

use super::{failed, find};
use crate::commands::Context;
use crate::commands::declare::commands;
use crate::error::Error;
use crate::schema::{Empty, Location, Members};
use crate::{enumeration, structure};

structure! {
    /// Arguments of `nbd-server-start`.
    pub(crate) struct StartArguments {
        /// Where it listens: `type` is `inet` or `unix`, and `data` has `host` and `port`, or `path`; or all in one object.
        "addr" => address: Value,
        /// The identifier of TLS credentials.
        "tls-creds" => credentials: Option<String>,
        /// Connections at once; 100, if it is not said, and 0 for as many as there come.
        "max-connections" => connections: Option<i64>,
    }
}

structure! {
    /// Arguments of `nbd-server-add`.
    pub(crate) struct AddArguments {
        /// The disk, by the user's name for it or the name of its node.
        "device" => device: String,
        /// What clients ask for; as `device`, if it is not said.
        "name" => name: Option<String>,
        /// What the list of exports says of it.
        "description" => description: Option<String>,
        /// Clients may change it.
        "writable" => writable: Option<bool>,
        /// A bitmap that clients may ask for.
        "bitmap" => bitmap: Option<String>,
    }
}

enumeration! {
    /// How an export is taken away.
    pub(crate) enum ExportRemoveMode {
        /// Only if no client uses it.
        "safe" => Safe,
        /// Clients that use it are disconnected.
        "hard" => Hard,
    }
}

structure! {
    /// Arguments of `nbd-server-remove`.
    pub(crate) struct RemoveArguments {
        /// What clients ask for.
        "name" => name: String,
        /// How it is taken away.
        "mode" => mode: Option<ExportRemoveMode>,
    }
}

enumeration! {
    /// A kind of export.
    pub(crate) enum ExportType {
        /// By the NBD server.
        "nbd" => Nbd,
    }
}

structure! {
    /// Arguments of `block-export-add`.
    pub(crate) struct ExportAddArguments {
        /// The kind of export.
        "type" => kind: ExportType,
        /// The export's identifier.
        "id" => id: String,
        /// The node.
        "node-name" => node: String,
        /// Clients may change it.
        "writable" => writable: Option<bool>,
        /// What clients ask for; as the node, if it is not said.
        "name" => name: Option<String>,
        /// What the list of exports says of it.
        "description" => description: Option<String>,
        /// Bitmaps of the node that clients may ask for.
        "bitmaps" => bitmaps: Option<Vec<String>>,
        /// Clients may ask how many images up the data is.
        "allocation-depth" => allocation_depth: Option<bool>,
    }
}

structure! {
    /// Arguments of `block-export-del`.
    pub(crate) struct ExportDeleteArguments {
        /// The export's identifier.
        "id" => id: String,
        /// How it is taken away.
        "mode" => mode: Option<ExportRemoveMode>,
    }
}

structure! {
    /// An export.
    pub(crate) struct BlockExportInfo {
        /// Its identifier.
        "id" => id: String,
        /// Its kind.
        "type" => kind: ExportType,
        /// The name of its node.
        "node-name" => node: String,
        /// It is being taken away.
        "shutting-down" => shutting_down: bool,
    }
}

commands! {
    /// Starts the server by which clients elsewhere use disks of the machine.
    "nbd-server-start" Blocking => start(StartArguments) -> Empty,
    /// Offers a disk to clients elsewhere.
    "nbd-server-add" Blocking => add(AddArguments) -> Empty,
    /// Offers a disk no more.
    "nbd-server-remove" Blocking => remove(RemoveArguments) -> Empty,
    /// Ends the server, and all connections to it.
    "nbd-server-stop" Blocking => stop(Empty) -> Empty,
    /// Offers a node to clients elsewhere.
    "block-export-add" Blocking => export_add(ExportAddArguments) -> Empty,
    /// Offers a node no more.
    "block-export-del" Blocking => export_delete(ExportDeleteArguments) -> Empty,
    /// What is offered to clients elsewhere.
    "query-block-exports" Blocking => query(Empty) -> Vec<BlockExportInfo>,
}

/// Where a server is to listen.
fn address(value: Value) -> Result<Address, Error> {
    let location = Location::Member(&Location::Arguments, "addr");
    let mut members = Members::open(value, &location)?;
    let kind: String = members.take("type", None)?;
    // Clients put the rest into an object of its own, or not.
    let within = Location::Member(&location, "data");
    let data: Option<Value> = members.take("data", None)?;
    let mut rest = match data {
        Some(data) => {
            members.close()?;
            Members::open(data, &within)?
        }
        None => members,
    };
    let address = match kind.as_str() {
        "unix" => Address::Unix(rest.take::<String>("path", None)?.into()),
        "inet" => {
            let (host, port) = (rest.take("host", None)?, rest.take::<String>("port", None)?);
            let port = port.parse().map_err(|_| Error::wrong_value("port", "a number up to 65535"))?;
            Address::Tcp { host, port }
        }
        _ => {
            let text = format!("Parameter 'type' does not accept value '{kind}'; valid are inet and unix");
            return Err(Error::generic(text));
        }
    };
    rest.close()?;
    Ok(address)
}

fn start(context: &Context, arguments: StartArguments) -> Result<Empty, Error> {
    if arguments.credentials.is_some() {
        return Err(Error::generic("TLS credentials (tls-creds) are objects, which are not built yet"));
    }
    let usual = ServerOptions::default();
    let max_connections = match arguments.connections {
        None => usual.max_connections,
        Some(given) => {
            u32::try_from(given).map_err(|_| Error::wrong_value("max-connections", "a number of 32 bits"))?
        }
    };
    let (address, options) = (address(arguments.address)?, ServerOptions { max_connections, ..usual });
    block_on(context.vm.disks().start_server(&address, options)).map_err(|error| failed(&error))?;
    Ok(Empty)
}

fn bitmap(node: &Node, name: &str) -> Result<Arc<DirtyBitmap>, Error> {
    let found = node.bitmaps().into_iter().find(|bitmap| bitmap.name() == Some(name));
    found.ok_or_else(|| Error::generic(format!("Bitmap '{name}' is not found")))
}

fn offer(context: &Context, options: ExportOptions) -> Result<Empty, Error> {
    block_on(context.vm.disks().add_export(options)).map_err(|error| failed(&error))?;
    Ok(Empty)
}

fn add(context: &Context, arguments: AddArguments) -> Result<Empty, Error> {
    let node = find(context, &arguments.device)?;
    let name = arguments.name.unwrap_or(arguments.device);
    let options = ExportOptions {
        id: name.clone(),
        name,
        description: arguments.description,
        // A disk that is read-only is offered so.
        writable: arguments.writable.unwrap_or(false) && !node.is_read_only(),
        allocation_depth: false,
        bitmaps: arguments.bitmap.iter().map(|name| bitmap(&node, name)).collect::<Result<_, _>>()?,
        node,
    };
    offer(context, options)
}

fn export_add(context: &Context, arguments: ExportAddArguments) -> Result<Empty, Error> {
    let node = find(context, &arguments.node)?;
    let bitmaps = arguments.bitmaps.unwrap_or_default();
    let options = ExportOptions {
        id: arguments.id,
        name: arguments.name.unwrap_or(arguments.node),
        description: arguments.description,
        writable: arguments.writable.unwrap_or(false),
        allocation_depth: arguments.allocation_depth.unwrap_or(false),
        bitmaps: bitmaps.iter().map(|name| bitmap(&node, name)).collect::<Result<_, _>>()?,
        node,
    };
    offer(context, options)
}

fn take_away(context: &Context, id: &str, mode: Option<ExportRemoveMode>) -> Result<Empty, Error> {
    let mode = match mode {
        Some(ExportRemoveMode::Hard) => RemoveMode::Hard,
        Some(ExportRemoveMode::Safe) | None => RemoveMode::Safe,
    };
    block_on(context.vm.disks().remove_export(id, mode)).map_err(|error| failed(&error))?;
    Ok(Empty)
}

fn remove(context: &Context, arguments: RemoveArguments) -> Result<Empty, Error> {
    take_away(context, &arguments.name, arguments.mode)
}

fn export_delete(context: &Context, arguments: ExportDeleteArguments) -> Result<Empty, Error> {
    take_away(context, &arguments.id, arguments.mode)
}

fn stop(context: &Context, _: Empty) -> Result<Empty, Error> {
    block_on(context.vm.disks().stop_server()).map_err(|error| failed(&error))?;
    Ok(Empty)
}

fn query(context: &Context, _: Empty) -> Result<Vec<BlockExportInfo>, Error> {
    let info = |state: block::ExportState| BlockExportInfo {
        id: state.id,
        kind: ExportType::Nbd,
        node: state.node,
        shutting_down: false,
    };
    Ok(block_on(context.vm.disks().exports()).into_iter().map(info).collect())
}
