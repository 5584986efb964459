//! `snapshot`: the states of a disk that are kept in its image.

use std::time::{SystemTime, UNIX_EPOCH};

use block::operations::words;
use block::{Image, Node, SnapshotInfo};
use clap::{ArgMatches, Command};

use crate::arguments::{self, flag, option, source_format, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::output::say;
use crate::{images, info};

/// What is done to a snapshot, by option and as a verb.
const ACTIONS: [&str; 3] = ["create", "apply", "delete"];

pub(crate) fn command() -> Command {
    Command::new("snapshot")
        .about("List or manipulate snapshots within image")
        .arg(arguments::format())
        .arg(flag("list", Some('l'), "list snapshots (the default)"))
        .arg(option("create", Some('c'), "SNAPSHOT", "make one of the present state"))
        .arg(option("apply", Some('a'), "SNAPSHOT", "go back to one"))
        .arg(option("delete", Some('d'), "SNAPSHOT", "forget one"))
        .arg(arguments::quiet())
        .arg(arguments::force_share())
        .args(arguments::unbuilt())
        .arg(arguments::names())
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    let asked: Vec<_> = ACTIONS.into_iter().filter_map(|action| Some((action, text(arguments, action)?))).collect();
    if asked.len() + usize::from(arguments.get_flag("list")) > 1 {
        return Err(Failure::usage("snapshot", "Cannot mix '-l', '-a', '-c', '-d'"));
    }
    let name = arguments::one_name("snapshot", arguments)?;
    arguments::refuse_unbuilt(arguments)?;
    let format = text(arguments, "format");
    let path = images::path(name)?;
    if !asked.is_empty() && arguments.get_flag("force-share") {
        return Err(Failure::said(format!(
            "Could not open '{}': force-share=on can only be used with read-only images",
            name.display()
        )));
    }
    images::run(async {
        if let [(action, snapshot)] = asked[..] {
            let node =
                images::open(name, format, Cache::named("writeback", "cache")?, false, arguments::sharing(arguments))
                    .await?;
            images::warn_if_guessed(name, format, &node);
            let failed = |why: String| Failure::said(format!("Could not {action} snapshot '{snapshot}': {why}"));
            change(&node, action, snapshot).await.map_err(failed)?;
            node.close().await?;
            return Ok(0);
        }
        let image = Image::inspect(&path, source_format(&path, format)?, arguments::sharing(arguments)).await?;
        let snapshots = image.qcow2.map(|metadata| metadata.snapshots).unwrap_or_default();
        if !snapshots.is_empty() {
            say(&format!("Snapshot list:\n{}", info::snapshot_head()))?;
        }
        for snapshot in &snapshots {
            say(&info::snapshot_row(snapshot))?;
        }
        Ok(0)
    })
}

/// Does what is asked for to the snapshot with a name; says why it cannot be.
async fn change(node: &Node, action: &str, name: &str) -> Result<(), String> {
    let Some(snapshots) = node.driver().internal_snapshots() else {
        return Err(match action {
            "create" => "Operation not supported",
            "apply" => "Block driver does not support snapshots",
            _ => "snapshot not found",
        }
        .into());
    };
    let in_words = |error: block::Error| words(&error);
    match action {
        "create" => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let date = (u32::try_from(now.as_secs()).unwrap_or(u32::MAX), now.subsec_nanos());
            let info = SnapshotInfo { name: name.to_owned(), date, instructions: Some(0), ..SnapshotInfo::default() };
            snapshots.create(&info).await.map(|_| ()).map_err(in_words)
        }
        "apply" => {
            if !snapshots.list().await.iter().any(|known| known.id == name || known.name == name) {
                return Err("Failed to load snapshot: No such file or directory".into());
            }
            snapshots.apply(name).await.map_err(in_words)
        }
        _ => {
            // By its name alone, as an identifier may be the name of another one.
            let all = snapshots.list().await;
            let Some(found) = all.iter().find(|known| known.name == name) else {
                return Err("snapshot not found".into());
            };
            snapshots.delete(&found.id).await.map_err(in_words)
        }
    }
}
