//! `compare`: whether two images have the same content.

use block::operations::{self, CompareError, CompareOptions, DifferenceKind, length_in_sectors};
use clap::{ArgMatches, Command};

use crate::arguments::{self, flag, option, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::images;
use crate::output::{ProgressLine, say_unless_quiet};

/// How many requests to each image are under way at once.
const PARALLEL: usize = 4;

/// Exit codes.
const DIFFERENT: u8 = 1;
const NOT_OPENED: u8 = 2;
const NO_STATUS: u8 = 3;
const NOT_READ: u8 = 4;

pub(crate) fn command() -> Command {
    Command::new("compare")
        .about("Check if two images have the same contents")
        .arg(option("a-format", Some('f'), "FMT", "format of the first image; found out by default"))
        .arg(option("b-format", Some('F'), "FMT", "format of the second image; found out by default"))
        .arg(flag("strict", Some('s'), "lengths, and what takes room, are the same, too"))
        .arg(option("cache", Some('T'), "CACHE_MODE", "how images are cached").default_value("writeback"))
        .arg(arguments::progress())
        .arg(arguments::quiet())
        .arg(arguments::force_share())
        .args(arguments::unbuilt())
        .arg(arguments::names())
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    let names = arguments::given_names(arguments);
    let [first, second] = names[..] else {
        return Err(Failure::usage("compare", "Expecting two image file names"));
    };
    arguments::refuse_unbuilt(arguments).map_err(|failure| failure.with_code(NOT_OPENED))?;
    let cache = Cache::named(text(arguments, "cache").unwrap_or("writeback"), "source cache")
        .map_err(|failure| failure.with_code(NOT_OPENED))?;
    let is_strict = arguments.get_flag("strict");
    let line = ProgressLine::asked_for(arguments);
    let code = images::run(async {
        let disks = async {
            let first =
                images::open(first, text(arguments, "a-format"), cache, true, arguments::sharing(arguments)).await?;
            let second =
                images::open(second, text(arguments, "b-format"), cache, true, arguments::sharing(arguments)).await?;
            Ok([first, second])
        };
        let disks = disks.await.map_err(|failure: Failure| failure.with_code(NOT_OPENED))?;
        let lengths = [length_in_sectors(&disks[0]), length_in_sectors(&disks[1])];
        if is_strict && lengths[0] != lengths[1] {
            say_unless_quiet(arguments, "Strict mode: Image size mismatch!")?;
            return Ok(DIFFERENT);
        }
        let options = CompareOptions { parallel: PARALLEL, strict: is_strict, progress: line.teller() };
        let found = operations::compare(disks, options).await.map_err(|error| {
            let code = match error {
                CompareError::Status { .. } => NO_STATUS,
                CompareError::Read { .. } | CompareError::GivenUp => NOT_READ,
            };
            Failure::from(error).with_code(code)
        })?;
        let common = lengths[0].min(lengths[1]);
        if lengths[0] != lengths[1] && found.is_none_or(|found| found.offset >= common) {
            say_unless_quiet(arguments, "Warning: Image size mismatch!")?;
        }
        let (text, code) = match found {
            None => {
                line.complete();
                ("Images are identical.".into(), 0)
            }
            Some(found) if found.kind == DifferenceKind::Status => {
                (format!("Strict mode: Offset {} block status mismatch!", found.offset), DIFFERENT)
            }
            Some(found) => (format!("Content mismatch at offset {}!", found.offset), DIFFERENT),
        };
        say_unless_quiet(arguments, &text)?;
        Ok(code)
    });
    line.end()?;
    code
}
