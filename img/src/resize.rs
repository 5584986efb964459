//! `resize`: makes an image longer or shorter.

use std::ffi::OsString;

use block::operations::{SECTOR, length_in_sectors, words};
use block::{OptionError, Preallocation, SizeError, parse_size};
use clap::{Arg, ArgMatches, Command, value_parser};

use crate::arguments::{self, flag, option, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::output::say_unless_quiet;
use crate::{images, size};

pub(crate) fn command() -> Command {
    Command::new("resize")
        .about("Resize the image to the new size")
        .arg(arguments::format())
        .arg(flag("shrink", None, "the image may become shorter, and what is behind is lost"))
        .arg(option("preallocation", None, "PREALLOC", "what is made ready behind the former end"))
        .arg(arguments::quiet())
        .args(arguments::unbuilt())
        .arg(Arg::new("names").value_name("FILENAME [+-]SIZE").num_args(0..).value_parser(value_parser!(OsString)))
}

/// Puts a size that begins with `-`, and is no option, behind `--`.
pub(crate) fn protect_size(given: &mut Vec<OsString>) {
    let is_size = |argument: &OsString| {
        argument.to_str().is_some_and(|text| {
            text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
        })
    };
    if given.iter().any(|argument| argument == "--") {
        return;
    }
    if let Some(at) = given.iter().position(is_size) {
        let size = given.remove(at);
        given.extend(["--".into(), size]);
    }
}

/// What the size of an image becomes.
enum Change {
    To(u64),
    By(u64),
    Less(u64),
}

impl Change {
    fn parse(text: &str) -> Result<Change, Failure> {
        let (kind, digits): (fn(u64) -> Change, &str) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(rest), _) => (Change::By, rest),
            (_, Some(rest)) => (Change::Less, rest),
            _ => (Change::To, text),
        };
        let size = parse_size(digits).map_err(|error| match error {
            SizeError::Invalid => OptionError::Size("size".into()),
            SizeError::OutOfRange => OptionError::OutOfRange { name: "size".into(), value: digits.to_owned() },
        });
        Ok(kind(size.map_err(|error| Failure::said(error.to_string()))?))
    }

    /// The new size, if there can be one.
    fn apply(&self, before: u64) -> Option<u64> {
        let size = match self {
            Change::To(size) => Some(*size),
            Change::By(more) => before.checked_add(*more),
            Change::Less(less) => before.checked_sub(*less),
        };
        size.filter(|size| (1..=size::MOST).contains(size))
    }
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    let names = arguments::given_names(arguments);
    let (name, size) = match names[..] {
        [] | [_] => return Err(Failure::usage("resize", "Expecting image file name and size")),
        [name, size] => (name, size.to_string_lossy()),
        _ => return Err(Failure::usage("resize", "Extra argument(s) in command line")),
    };
    let preallocation = match text(arguments, "preallocation") {
        None => Preallocation::Off,
        Some(name) => {
            let known = Preallocation::ALL.into_iter().find(|(known, _)| *known == name);
            known.ok_or_else(|| Failure::said(format!("Invalid preallocation mode '{name}'")))?.1
        }
    };
    let change = Change::parse(&size)?;
    arguments::refuse_unbuilt(arguments)?;
    images::run(async {
        let format = text(arguments, "format");
        let node =
            images::open(name, format, Cache::named("writeback", "cache")?, false, arguments::sharing(arguments))
                .await?;
        images::warn_if_guessed(name, format, &node);
        let before = length_in_sectors(&node);
        let is_raw = node.driver().name() == "raw";
        let after = change.apply(before).ok_or_else(|| Failure::said("New image size must be positive"))?;
        // Disks of other formats are whole sectors long.
        let after = if is_raw { Some(after) } else { after.checked_next_multiple_of(SECTOR) };
        let after = after.ok_or_else(|| Failure::said("New image size must be positive"))?;
        if after <= before && preallocation != Preallocation::Off {
            return Err(Failure::said("Preallocation can only be used for growing images"));
        }
        if after < before && !arguments.get_flag("shrink") {
            eprintln!("brolga-img: Use the --shrink option to perform a shrink operation.");
            return Err(Failure::said(
                "warning: all data behind the new end is lost where an image becomes shorter; make sure that none of it is needed.",
            ));
        }
        if is_raw && preallocation == Preallocation::Metadata {
            return Err(Failure::said("Unsupported preallocation mode: metadata"));
        }
        node.truncate(after, preallocation).await.map_err(|error| match error {
            block::Error::Host { .. } => Failure::said(format!("Could not resize file: {}", words(&error))),
            other => other.into(),
        })?;
        node.close().await?;
        say_unless_quiet(arguments, "Image resized.")?;
        Ok(0)
    })
}
