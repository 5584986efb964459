//! `snapshot`: lists the snapshots in an image.

use block::Image;
use clap::{ArgMatches, Command};

use crate::arguments::{self, flag, option, source_format, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::output::say;
use crate::{images, info};

/// What is done to a snapshot, by option: as a verb, and what is said of formats that have none.
const ACTIONS: [(&str, &str, &str); 3] = [
    ("create", "create", "Operation not supported"),
    ("apply", "apply", "Block driver does not support snapshots"),
    ("delete", "delete", "snapshot not found"),
];

pub(crate) fn command() -> Command {
    Command::new("snapshot")
        .about("List or manipulate snapshots within image")
        .arg(arguments::format())
        .arg(flag("list", Some('l'), "list snapshots (the default)"))
        .arg(option("create", Some('c'), "SNAPSHOT", "make one (not built yet)"))
        .arg(option("apply", Some('a'), "SNAPSHOT", "go back to one (not built yet)"))
        .arg(option("delete", Some('d'), "SNAPSHOT", "remove one (not built yet)"))
        .arg(arguments::quiet())
        .arg(arguments::force_share())
        .args(arguments::unbuilt())
        .arg(arguments::names())
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    let asked: Vec<_> = ACTIONS.into_iter().filter_map(|action| Some((action, text(arguments, action.0)?))).collect();
    if asked.len() + usize::from(arguments.get_flag("list")) > 1 {
        return Err(Failure::usage("snapshot", "Cannot mix '-l', '-a', '-c', '-d'"));
    }
    let name = arguments::one_name("snapshot", arguments)?;
    arguments::refuse_unbuilt(arguments)?;
    let format = text(arguments, "format");
    images::run(async {
        let path = images::path(name)?;
        if let [((_, verb, why), snapshot)] = asked[..] {
            let node = images::open(name, format, Cache::named("writeback", "cache")?, true).await?;
            return Err(match node.driver().name() {
                "raw" => Failure::said(format!("Could not {verb} snapshot '{snapshot}': {why}")),
                other => Failure::not_built(&format!("to {verb} a snapshot in format '{other}'")),
            });
        }
        let image = Image::inspect(&path, source_format(&path, format)?).await?;
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
