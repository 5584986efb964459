//! States of disks that their images keep.

use std::time::{SystemTime, UNIX_EPOCH};

use block::{Action, InternalSnapshots, Node};
use futures_executor::block_on;

use super::{failed, find, number, transact};
use crate::commands::Context;
use crate::commands::declare::commands;
use crate::error::Error;
use crate::schema::Empty;
use crate::structure;

structure! {
    /// Arguments of `blockdev-snapshot-internal-sync`.
    pub(crate) struct SnapshotArguments {
        /// The disk, by the user's name for it or the name of its node.
        "device" => device: String,
        /// The snapshot's name.
        "name" => name: String,
    }
}

structure! {
    /// Arguments of `blockdev-snapshot-delete-internal-sync`.
    pub(crate) struct DeleteArguments {
        /// The disk, by the user's name for it or the name of its node.
        "device" => device: String,
        /// The snapshot's identifier.
        "id" => id: Option<String>,
        /// The snapshot's name.
        "name" => name: Option<String>,
    }
}

structure! {
    /// An internal snapshot of a disk.
    pub(crate) struct SnapshotInfo {
        /// Its identifier.
        "id" => id: String,
        /// Its name.
        "name" => name: String,
        /// Bytes of the machine's state in it.
        "vm-state-size" => vm_state_size: i64,
        /// When it was made, seconds since 1970.
        "date-sec" => date_seconds: i64,
        /// The rest of that, nanoseconds.
        "date-nsec" => date_nanoseconds: i64,
        /// For how long the guest had run, seconds.
        "vm-clock-sec" => clock_seconds: i64,
        /// The rest of that, nanoseconds.
        "vm-clock-nsec" => clock_nanoseconds: i64,
        /// How many instructions the guest had executed, where that is counted.
        "icount" => instructions: Option<i64>,
    }
}

commands! {
    /// Keeps the present state of a disk in its image, if the format can. The name must be new.
    "blockdev-snapshot-internal-sync" Blocking => snapshot(SnapshotArguments) -> Empty,
    /// Forgets a state of a disk that its image keeps, found by identifier, name, or both.
    "blockdev-snapshot-delete-internal-sync" Blocking => delete_snapshot(DeleteArguments) -> SnapshotInfo,
}

fn snapshots<'a>(disk: &'a Node, device: &str) -> Result<&'a dyn InternalSnapshots, Error> {
    disk.driver().internal_snapshots().ok_or_else(|| {
        let format = disk.driver().name();
        let text = format!("Block format '{format}' used by device '{device}' does not support internal snapshots");
        Error::generic(text)
    })
}

fn snapshot(context: &Context, arguments: SnapshotArguments) -> Result<Empty, Error> {
    transact(context, &[keeping(context, &arguments)?])
}

/// What keeps the present state of a disk in its image.
pub(super) fn keeping(context: &Context, arguments: &SnapshotArguments) -> Result<Action, Error> {
    let disk = find(context, &arguments.device)?;
    snapshots(&disk, &arguments.device)?;
    if arguments.name.is_empty() {
        return Err(Error::generic("Name is empty"));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let info = block::SnapshotInfo {
        name: arguments.name.clone(),
        // The format has no later times than 2106.
        date: (u32::try_from(now.as_secs()).unwrap_or(u32::MAX), now.subsec_nanos()),
        vm_clock: context.vm.clock_nanoseconds(),
        ..block::SnapshotInfo::default()
    };
    Ok(Action::InternalSnapshot { node: disk, info })
}

fn delete_snapshot(context: &Context, arguments: DeleteArguments) -> Result<SnapshotInfo, Error> {
    let disk = find(context, &arguments.device)?;
    let snapshots = snapshots(&disk, &arguments.device)?;
    let DeleteArguments { device, id, name } = arguments;
    if id.is_none() && name.is_none() {
        return Err(Error::generic("Name or id must be provided"));
    }
    let list = block_on(snapshots.list());
    let found = list.into_iter().find(|snapshot| {
        id.as_ref().is_none_or(|id| *id == snapshot.id) && name.as_ref().is_none_or(|name| *name == snapshot.name)
    });
    let Some(found) = found else {
        let (id, name) = (id.unwrap_or_else(|| "(null)".into()), name.unwrap_or_else(|| "(null)".into()));
        return Err(Error::generic(format!(
            "Snapshot with id '{id}' and name '{name}' does not exist on device '{device}'"
        )));
    };
    block_on(snapshots.delete(&found.id)).map_err(|error| failed(&error))?;
    Ok(found.into())
}

impl From<block::SnapshotInfo> for SnapshotInfo {
    fn from(found: block::SnapshotInfo) -> SnapshotInfo {
        SnapshotInfo {
            id: found.id,
            name: found.name,
            vm_state_size: number(found.vm_state_size),
            date_seconds: found.date.0.into(),
            date_nanoseconds: found.date.1.into(),
            clock_seconds: number(found.vm_clock / 1_000_000_000),
            clock_nanoseconds: number(found.vm_clock % 1_000_000_000),
            instructions: found.instructions.map(number),
        }
    }
}
