//! `bitmap`: persistent bitmaps in an image.

use clap::{ArgAction, ArgMatches, Command};

use crate::arguments::{self, flag, option, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::{images, size};

/// What is done to a bitmap, by option.
const ACTIONS: [&str; 5] = ["add", "remove", "clear", "enable", "disable"];

pub(crate) fn command() -> Command {
    Command::new("bitmap")
        .about("Perform modifications of the persistent bitmap in the image")
        .arg(arguments::format())
        .args(ACTIONS.map(|action| flag(action, None, "(not built yet)")))
        .arg(option("merge", None, "SOURCE", "add what another bitmap has (not built yet)").action(ArgAction::Append))
        .arg(option("granularity", Some('g'), "SIZE", "bytes that one bit of a new bitmap stands for"))
        .arg(option("source-file", Some('b'), "SRC_FILENAME", "the image with the other bitmap"))
        .arg(option("source-format", Some('F'), "SRC_FMT", "format of the image with the other bitmap"))
        .args(arguments::unbuilt())
        .arg(arguments::names())
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    let granularity = arguments::number(arguments, "granularity", "granularity", 1, size::MOST)?;
    let names = arguments::given_names(arguments);
    let [name, bitmap] = names[..] else { return Err(Failure::said("Expecting filename and bitmap name")) };
    let is_merge = arguments.contains_id("merge");
    let first = ACTIONS.into_iter().find(|action| arguments.get_flag(action)).or(is_merge.then_some("merge"));
    let Some(action) = first else {
        return Err(Failure::said("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge"));
    };
    let has_source = arguments.contains_id("source-file");
    for (is_wrong, text) in [
        (granularity.is_some() && !arguments.get_flag("add"), "granularity only supported with --add"),
        (arguments.contains_id("source-format") && !has_source, "-F only supported with -b"),
        (has_source && !is_merge, "Merge bitmap source file only supported with --merge"),
    ] {
        if is_wrong {
            return Err(Failure::said(text));
        }
    }
    arguments::refuse_unbuilt(arguments)?;
    images::run(async {
        let node = images::open(
            name,
            text(arguments, "format"),
            Cache::named("writeback", "cache")?,
            true,
            arguments::sharing(arguments),
        )
        .await?;
        let failed =
            |why: &str| Failure::said(format!("Operation {action} on bitmap {} failed: {why}", bitmap.display()));
        Err(match node.driver().name() {
            "raw" => failed("Operation not supported"),
            other => failed(&format!("changing bitmaps in format '{other}' is not built yet")),
        })
    })
}
