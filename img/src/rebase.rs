//! `rebase`: puts an image in front of another one.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use block::operations::{copy_differences, words};
use block::{FileOptions, Format, ImageOptions};
use clap::{ArgMatches, Command};

use crate::arguments::{self, flag, option, source_format, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::images;
use crate::output::ProgressLine;

pub(crate) fn command() -> Command {
    Command::new("rebase")
        .about("Change backing file of the image")
        .arg(arguments::format())
        .arg(arguments::cache("writeback"))
        .arg(option("backing", Some('b'), "BACKING_FILENAME", "the image behind; '': none"))
        .arg(option("backing-format", Some('F'), "BACKING_FMT", "format of the image behind"))
        .arg(option("backing-cache", Some('T'), "CACHE", "how the image behind is cached").default_value("writeback"))
        .arg(flag("backing-unsafe", Some('u'), "only the name is changed, and the content with it"))
        .arg(flag("compress", Some('c'), "what is copied is compressed (not built yet)"))
        .arg(arguments::progress())
        .arg(arguments::quiet())
        .arg(arguments::force_share())
        .args(arguments::unbuilt())
        .arg(arguments::names())
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    let name = arguments::one_name("rebase", arguments)?;
    let (backing, is_unsafe) = (text(arguments, "backing"), arguments.get_flag("backing-unsafe"));
    if backing.is_none() && !is_unsafe {
        return Err(Failure::usage("rebase", "Must specify backing file (-b) or use unsafe mode (-u)"));
    }
    arguments::refuse_unbuilt(arguments)?;
    if arguments.get_flag("compress") {
        return Err(Failure::not_built("rebase with compressed data (-c)"));
    }
    let cache = Cache::named(text(arguments, "cache").unwrap_or("writeback"), "cache")?;
    let backing_cache = Cache::named(text(arguments, "backing-cache").unwrap_or("writeback"), "source cache")?;
    let backing_format = text(arguments, "backing-format");
    if let Some(format) = backing_format.filter(|format| Format::named(format).is_none()) {
        return Err(Failure::said(format!("Invalid format name: '{format}'")));
    }
    let backing = backing.unwrap_or_default();
    let path = images::path(name)?;
    let format = source_format(&path, text(arguments, "format"))?;
    let file = FileOptions { direct: cache.direct, no_flush: cache.no_flush, ..FileOptions::default() };
    // The image that was behind need not be there where nothing of it is read.
    let options = ImageOptions { format, file, no_backing: is_unsafe, ..ImageOptions::default() };
    let line = ProgressLine::asked_for(arguments);
    let done = images::run(async {
        let node = images::open_with(&path, options).await?;
        images::warn_if_guessed(name, text(arguments, "format"), &node);
        let failed = |why: String| Failure::said(format!("Could not change the backing file to '{backing}': {why}"));
        let new = match backing {
            "" => None,
            _ if is_unsafe => None,
            _ => {
                let not_opened =
                    |why: String| Failure::said(format!("Could not open new backing file '{backing}': {why}"));
                let new_path = behind(&path, backing)?;
                let options = ImageOptions {
                    format: source_format(&new_path, backing_format)?,
                    file: FileOptions { read_only: true, direct: backing_cache.direct, ..FileOptions::default() },
                    ..ImageOptions::default()
                };
                let opened = images::open_with(&new_path, options).await;
                let new = opened.map_err(|failure| not_opened(failure.to_string()))?;
                if images::identity(&path).is_some_and(|identity| images::is_part_of(identity, &new)) {
                    return Err(not_opened("the image would stand behind itself".into()));
                }
                Some(new)
            }
        };
        if !backing.is_empty() && backing_format.is_none() {
            return Err(failed("backing format must be specified".into()));
        }
        if !is_unsafe && node.driver().name() != "raw" {
            copy_differences(&node, new.as_ref(), line.teller()).await?;
            // Data is there before the image is told to need nothing else.
            node.flush().await?;
        }
        let named = (!backing.is_empty()).then_some((backing, backing_format));
        node.change_backing(named).await.map_err(|error| failed(words(&error)))?;
        Ok(node.close().await?)
    });
    if done.is_ok() {
        line.complete();
    }
    line.end()?;
    done.map(|()| 0)
}

/// The file that a name in an image means: from the image's folder.
fn behind(image: &Path, name: &str) -> Result<PathBuf, Failure> {
    Ok(image.parent().unwrap_or(Path::new("")).join(images::path(OsStr::new(name))?))
}
