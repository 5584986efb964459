//! Changes of disks that are made together, or not at all.

use block::Action;
use serde_json::Value;

use super::{bitmaps, internal_snapshots, snapshots, transact};
use crate::commands::Context;
use crate::commands::declare::commands;
use crate::error::Error;
use crate::schema::{Empty, Location, Wire};
use crate::structure;

structure! {
    /// A change of a disk.
    pub(crate) struct TransactionAction {
        /// The command that would make it alone, or `abort`.
        "type" => kind: String,
        /// The arguments of that command.
        "data" => data: Value,
    }
}

structure! {
    /// Arguments of `transaction`.
    pub(crate) struct TransactionArguments {
        /// The changes, in order.
        "actions" => actions: Vec<TransactionAction>,
    }
}

commands! {
    /// Makes changes of disks one after the other, while their guest waits; if one fails, those before it are undone.
    "transaction" Blocking => transaction(TransactionArguments) -> Empty,
}

fn transaction(context: &Context, arguments: TransactionArguments) -> Result<Empty, Error> {
    let mut actions = Vec::new();
    for TransactionAction { kind, data } in arguments.actions {
        actions.extend(self::actions(context, &kind, data)?);
    }
    transact(context, &actions)
}

/// What an element of the list asks for.
fn actions(context: &Context, kind: &str, data: Value) -> Result<Vec<Action>, Error> {
    fn read<T: Wire>(data: Value) -> Result<T, Error> {
        T::from_wire(data, &Location::Member(&Location::Arguments, "data"))
    }
    let one = match kind {
        "abort" => read::<Empty>(data).map(|Empty| Action::Abort),
        "blockdev-snapshot" => snapshots::putting_above(context, &read(data)?),
        "blockdev-snapshot-sync" => snapshots::putting_image_above(context, &read(data)?),
        "blockdev-snapshot-internal-sync" => internal_snapshots::keeping(context, &read(data)?),
        "block-dirty-bitmap-add" => bitmaps::adding(context, read(data)?),
        "block-dirty-bitmap-remove" => bitmaps::removing(context, read(data)?),
        "block-dirty-bitmap-clear" => bitmaps::clearing(context, read(data)?),
        "block-dirty-bitmap-enable" => bitmaps::setting(context, read(data)?, true),
        "block-dirty-bitmap-disable" => bitmaps::setting(context, read(data)?, false),
        "block-dirty-bitmap-merge" => return bitmaps::merging(context, read(data)?),
        "drive-backup" | "blockdev-backup" => Err(Error::generic(format!("'{kind}' is not built yet"))),
        _ => Err(Error::generic(format!("Parameter 'type' does not accept value '{kind}'"))),
    };
    one.map(|action| vec![action])
}
