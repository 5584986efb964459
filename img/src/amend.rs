//! `amend`: changes options of an image's format.

use block::Format;
use clap::{ArgAction, ArgMatches, Command};

use crate::arguments::{self, flag, option, option_lists, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::images;

pub(crate) fn command() -> Command {
    Command::new("amend")
        .about("Update format-specific options of the image")
        .arg(arguments::format())
        .arg(arguments::cache("writeback"))
        .arg(option("options", Some('o'), "OPTIONS", "options of the format").action(ArgAction::Append))
        .arg(flag("force", None, "also what may lose data"))
        .arg(arguments::progress())
        .arg(arguments::quiet())
        .args(arguments::unbuilt())
        .arg(arguments::names())
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    if !arguments.contains_id("options") {
        return Err(Failure::usage("amend", "Must specify options (-o)"));
    }
    let lists = option_lists(arguments, "options")?;
    let format = text(arguments, "format");
    arguments::refuse_unbuilt(arguments)?;
    let cache = Cache::named(text(arguments, "cache").unwrap_or("writeback"), "cache")?;
    let refused = |format: &str| match format {
        "raw" => Failure::said("Format driver 'raw' does not support option amendment"),
        other => Failure::not_built(&format!("to amend options of format '{other}'")),
    };
    if let (None, Some(format), true) = (&lists, format, arguments::given_names(arguments).is_empty()) {
        let known = Format::named(format).map(Format::name);
        return Err(known.map_or_else(|| Failure::said(format!("Invalid format name: '{format}'")), refused));
    }
    let names = arguments::given_names(arguments);
    let [name] = names[..] else { return Err(Failure::said("Expecting one image file name")) };
    images::run(async {
        let node = images::open(name, format, cache, true, arguments::sharing(arguments)).await?;
        Err(refused(node.driver().name()))
    })
}
