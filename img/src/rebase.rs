//! `rebase`: puts an image in front of another one.

use std::ffi::OsStr;

use block::Format;
use clap::{ArgMatches, Command};

use crate::arguments::{self, flag, option, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::images;

pub(crate) fn command() -> Command {
    Command::new("rebase")
        .about("Change backing file of the image")
        .arg(arguments::format())
        .arg(arguments::cache("writeback"))
        .arg(option("backing", Some('b'), "BACKING_FILENAME", "the image behind; '': none"))
        .arg(option("backing-format", Some('F'), "BACKING_FMT", "format of the image behind"))
        .arg(option("backing-cache", Some('T'), "CACHE", "how the image behind is cached").default_value("writeback"))
        .arg(flag("backing-unsafe", Some('u'), "only the name is changed, and the content with it"))
        .arg(flag("compress", Some('c'), "what is copied is compressed"))
        .arg(arguments::progress())
        .arg(arguments::quiet())
        .arg(arguments::force_share())
        .args(arguments::unbuilt())
        .arg(arguments::names())
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    let name = arguments::one_name("rebase", arguments)?;
    let backing = text(arguments, "backing");
    if backing.is_none() && !arguments.get_flag("backing-unsafe") {
        return Err(Failure::usage("rebase", "Must specify backing file (-b) or use unsafe mode (-u)"));
    }
    arguments::refuse_unbuilt(arguments)?;
    let cache = Cache::named(text(arguments, "cache").unwrap_or("writeback"), "cache")?;
    Cache::named(text(arguments, "backing-cache").unwrap_or("writeback"), "source cache")?;
    let backing_format = text(arguments, "backing-format");
    if let Some(format) = backing_format.filter(|format| Format::named(format).is_none()) {
        return Err(Failure::said(format!("Invalid format name: '{format}'")));
    }
    images::run(async {
        let node = images::open(name, text(arguments, "format"), cache, true).await?;
        let backing = backing.unwrap_or_default();
        let failed = |why: &str| Failure::said(format!("Could not change the backing file to '{backing}': {why}"));
        if node.driver().name() != "raw" {
            let format = node.driver().name();
            return Err(Failure::not_built(&format!("to change the image behind one in format '{format}'")));
        }
        if !backing.is_empty() && !arguments.get_flag("backing-unsafe") {
            let opened = images::open(OsStr::new(backing), backing_format, cache, true).await;
            opened
                .map_err(|failure| Failure::said(format!("Could not open new backing file '{backing}': {failure}")))?;
        }
        let needs_format = !backing.is_empty() && backing_format.is_none();
        Err(failed(if needs_format { "backing format must be specified" } else { "Operation not supported" }))
    })
}
