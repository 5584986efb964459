//! `commit`: puts what an image has into one behind it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use block::operations::{CopyOptions, copy, length_in_sectors};
use block::{FileOptions, Format, HostFile, ImageOptions, Node, Preallocation, Role, Sharing};
use clap::{ArgMatches, Command};

use crate::arguments::{self, flag, option, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::images;
use crate::output::{ProgressLine, say_unless_quiet};

pub(crate) fn command() -> Command {
    Command::new("commit")
        .about("Commit image to its backing file")
        .arg(arguments::format())
        .arg(arguments::cache("writeback"))
        .arg(flag("drop", Some('d'), "the image keeps what it has"))
        .arg(option("base", Some('b'), "BASE_IMG", "an image further behind"))
        .arg(option("rate", Some('r'), "RATE", "most bytes per second"))
        .arg(arguments::progress())
        .arg(arguments::quiet())
        .args(arguments::unbuilt())
        .arg(arguments::names())
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    let rate = arguments::number(arguments, "rate", "rate limit", 0, i64::MAX as u64)?;
    let name = arguments::one_name("commit", arguments)?;
    arguments::refuse_unbuilt(arguments)?;
    let cache = Cache::named(text(arguments, "cache").unwrap_or("writeback"), "cache")?;
    let wanted = text(arguments, "base");
    // An image further behind is seen through others, which are not emptied.
    let is_emptied = wanted.is_none() && !arguments.get_flag("drop");
    let line = ProgressLine::asked_for(arguments);
    let done = images::run(async {
        let format = text(arguments, "format");
        let front_path = images::path(name)?;
        let file = FileOptions {
            read_only: !is_emptied,
            direct: cache.direct,
            no_flush: cache.no_flush,
            // The image behind is opened once more, to write it.
            sharing: Sharing::Everyone,
            ..FileOptions::default()
        };
        let options = ImageOptions {
            format: arguments::source_format(&front_path, format)?,
            file,
            // What is emptied takes no room any more.
            discard: true,
            ..ImageOptions::default()
        };
        let front = images::open_with(&front_path, options).await?;
        images::warn_if_guessed(name, format, &front);
        let (depth, path, base_format) = find_base(&front, name, wanted)?;
        let file = FileOptions { read_only: false, sharing: Sharing::Readers, ..file };
        let options = ImageOptions { format: Some(base_format), file, ..ImageOptions::default() };
        let base = images::open_with(&path, options).await?;
        let length = length_in_sectors(&front);
        if base.length() < length {
            base.truncate(length, Preallocation::Off).await?;
        }
        let options = CopyOptions {
            target_backing: Some(u64::MAX),
            own_images: depth,
            rate,
            progress: line.teller(),
            ..CopyOptions::default()
        };
        copy(vec![front.clone()], base.clone(), options).await?;
        base.close().await?;
        if is_emptied {
            front.make_empty().await?;
            front.close().await?;
        }
        Ok(())
    });
    if done.is_ok() {
        line.complete();
    }
    line.end()?;
    done?;
    say_unless_quiet(arguments, "Image committed.")?;
    Ok(0)
}

/// How far behind the image that is written is, its file and its format.
fn find_base(
    front: &Arc<Node>,
    name: &std::ffi::OsStr,
    wanted: Option<&str>,
) -> Result<(usize, PathBuf, Format), Failure> {
    let (mut node, mut depth) = (front.clone(), 0);
    while let Some(behind) = node.backing() {
        (node, depth) = (behind, depth + 1);
        let Some(path) = file_path(&node) else { continue };
        let is_wanted = wanted.is_none_or(|wanted| {
            path == Path::new(wanted)
                || images::identity(&path).is_some_and(|found| images::identity(Path::new(wanted)) == Some(found))
        });
        if is_wanted {
            let format = Format::named(node.driver().name());
            let format = format.ok_or_else(|| Failure::not_built("to commit to such an image"))?;
            return Ok((depth, path, format));
        }
    }
    Err(Failure::said(match wanted {
        Some(wanted) => format!("Did not find '{wanted}' in the backing chain of '{}'", name.display()),
        None => "Image does not have a backing file".to_owned(),
    }))
}

/// The file of an image.
fn file_path(image: &Node) -> Option<PathBuf> {
    let file = image.child(Role::File)?;
    Some(file.driver_as::<HostFile>()?.path()?.to_owned())
}
