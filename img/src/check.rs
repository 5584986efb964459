//! `check`: whether the metadata of an image is consistent.

use clap::builder::PossibleValuesParser;
use clap::{ArgMatches, Command};

use crate::arguments::{self, option, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::images;

/// Exit code where a format has nothing to check.
const NO_CHECKS: u8 = 63;

pub(crate) fn command() -> Command {
    Command::new("check")
        .about("Check basic image integrity")
        .arg(arguments::format())
        .arg(option("cache", Some('T'), "CACHE_MODE", "how the image is cached").default_value("writeback"))
        .arg(
            option("repair", Some('r'), "leaks|all", "repair what is found")
                .value_parser(PossibleValuesParser::new(["leaks", "all"])),
        )
        .arg(arguments::output())
        .arg(arguments::quiet())
        .arg(arguments::force_share())
        .args(arguments::unbuilt())
        .arg(arguments::names())
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    let name = arguments::one_name("check", arguments)?;
    arguments::refuse_unbuilt(arguments)?;
    let cache = Cache::named(text(arguments, "cache").unwrap_or("writeback"), "source cache")?;
    let is_repair = arguments.contains_id("repair");
    if is_repair && arguments.get_flag("force-share") {
        return Err(Failure::said(format!(
            "Could not open '{}': force-share=on can only be used with read-only images",
            name.display()
        )));
    }
    images::run(async {
        let node = images::open(name, text(arguments, "format"), cache, true).await?;
        match node.driver().name() {
            "raw" => Err(Failure::said("This image format does not support checks").with_code(NO_CHECKS)),
            other => Err(Failure::not_built(&format!("checking images in format '{other}'"))),
        }
    })
}
