//! `commit`: puts what an image has into the image behind it.

use clap::{ArgMatches, Command};

use crate::arguments::{self, flag, option, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::images;

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
    let _ = rate;
    images::run(async {
        let node = images::open(name, text(arguments, "format"), cache, true).await?;
        if images::backing(&node).is_some() {
            return Err(Failure::not_built("to commit an image"));
        }
        Err(match text(arguments, "base") {
            Some(base) => Failure::said(format!("Did not find '{base}' in the backing chain of '{}'", name.display())),
            None => Failure::said("Image does not have a backing file"),
        })
    })
}
