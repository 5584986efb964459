//! Options that several commands have, and what is said of wrong ones.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use block::{Format, Sharing, SizeError, parse_size};
use clap::builder::PossibleValuesParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, value_parser};

use crate::failure::Failure;

/// An option with a value, which may begin with a hyphen.
pub(crate) fn option(id: &'static str, short: Option<char>, value: &'static str, help: &'static str) -> Arg {
    let option = Arg::new(id).long(id).value_name(value).help(help).allow_hyphen_values(true);
    match short {
        Some(short) => option.short(short),
        None => option,
    }
}

/// An option without a value.
pub(crate) fn flag(id: &'static str, short: Option<char>, help: &'static str) -> Arg {
    let flag = Arg::new(id).long(id).help(help).action(ArgAction::SetTrue);
    match short {
        Some(short) => flag.short(short),
        None => flag,
    }
}

pub(crate) fn quiet() -> Arg {
    flag("quiet", Some('q'), "no output but errors")
}

pub(crate) fn progress() -> Arg {
    flag("progress", Some('p'), "how far it is")
}

pub(crate) fn force_share() -> Arg {
    flag("force-share", Some('U'), "also if another program is writing to it")
}

/// What others may do with an image meanwhile, as `-U` says where a command has it.
pub(crate) fn sharing(arguments: &ArgMatches) -> Sharing {
    let is_shared = arguments.try_get_one::<bool>("force-share").is_ok_and(|flag| flag == Some(&true));
    if is_shared { Sharing::Everyone } else { Sharing::Readers }
}

pub(crate) fn format() -> Arg {
    option("format", Some('f'), "FMT", "the image's format; found out by default")
}

pub(crate) fn cache(default: &'static str) -> Arg {
    option("cache", Some('t'), "CACHE", "how the image is cached").default_value(default)
}

pub(crate) fn output() -> Arg {
    option("output", None, "human|json", "the form of the answer")
        .value_parser(PossibleValuesParser::new(["human", "json"]))
        .default_value("human")
}

/// `--image-opts` and `--object`, which are refused by [`refuse_unbuilt`].
pub(crate) fn unbuilt() -> [Arg; 2] {
    [
        flag("image-opts", None, "file names are whole descriptions of images (not built yet)"),
        option("object", None, "OBJDEF", "an object, as a secret (not built yet)").action(ArgAction::Append),
    ]
}

/// Says of options that are known and not built that they are not.
pub(crate) fn refuse_unbuilt(arguments: &ArgMatches) -> Result<(), Failure> {
    for name in ["image-opts", "target-image-opts"] {
        if arguments.try_get_one::<bool>(name).is_ok_and(|flag| flag == Some(&true)) {
            return Err(Failure::not_built(&format!("--{name}")));
        }
    }
    match arguments.try_get_one::<String>("object") {
        Ok(Some(_)) => Err(Failure::not_built("--object")),
        _ => Ok(()),
    }
}

/// The names behind the options.
pub(crate) fn names() -> Arg {
    Arg::new("names").value_name("FILENAME").num_args(0..).value_parser(value_parser!(OsString))
}

pub(crate) fn given_names(arguments: &ArgMatches) -> Vec<&OsString> {
    arguments.get_many::<OsString>("names").unwrap_or_default().collect()
}

/// The only name of a command line that has one.
pub(crate) fn one_name<'a>(command: &'static str, arguments: &'a ArgMatches) -> Result<&'a OsString, Failure> {
    match given_names(arguments)[..] {
        [name] => Ok(name),
        _ => Err(Failure::usage(command, "Expecting one image file name")),
    }
}

pub(crate) fn text<'a>(arguments: &'a ArgMatches, id: &str) -> Option<&'a str> {
    arguments.get_one::<String>(id).map(String::as_str)
}

/// The number given with an option, if it is, between `least` and `most`. `what` names it in errors.
pub(crate) fn number(
    arguments: &ArgMatches,
    id: &str,
    what: &str,
    least: u64,
    most: u64,
) -> Result<Option<u64>, Failure> {
    text(arguments, id).map(|text| parse_number(text, what, least, most)).transpose()
}

/// A number of bytes, or of something else with the same suffixes.
pub(crate) fn parse_number(text: &str, what: &str, least: u64, most: u64) -> Result<u64, Failure> {
    match parse_size(text) {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        Err(SizeError::Invalid) => Err(Failure::said(format!("Invalid {what} specified: '{text}'."))),
        _ => Err(Failure::said(format!("Invalid {what} specified. Must be between {least} and {most}."))),
    }
}

/// The format with a name that was given for an image.
pub(crate) fn source_format(name: &Path, format: Option<&str>) -> Result<Option<Format>, Failure> {
    let Some(text) = format else { return Ok(None) };
    let unknown = || Failure::said(format!("Could not open '{}': Unknown driver '{text}'", name.display()));
    Format::named(text).map(Some).ok_or_else(unknown)
}

/// The lists given with `-o`. `None` if one of them asks for help.
pub(crate) fn option_lists<'a>(arguments: &'a ArgMatches, id: &str) -> Result<Option<Vec<&'a str>>, Failure> {
    let lists: Vec<&str> = arguments.get_many::<String>(id).unwrap_or_default().map(String::as_str).collect();
    for list in &lists {
        let first = list.chars().take_while(|c| *c == ',').count();
        let last = list.chars().rev().take_while(|c| *c == ',').count();
        if list.is_empty() || first % 2 == 1 || last % 2 == 1 {
            return Err(Failure::said(format!("Invalid option list: {list}")));
        }
    }
    let asks = |list: &&str| {
        block::split_options(list).iter().any(|(name, value)| value.is_none() && matches!(name.as_str(), "help" | "?"))
    };
    Ok(if lists.iter().any(asks) { None } else { Some(lists) })
}

/// Says what is wrong with a command line, or prints the help that it asks for.
pub(crate) fn explain(error: &clap::Error, given: &[OsString]) -> ExitCode {
    if !error.use_stderr() {
        // Nothing is left to be done where this fails.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let command = given.get(1).map(|name| name.to_string_lossy()).unwrap_or_default();
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let text = match error.kind() {
        ErrorKind::MissingSubcommand => {
            "brolga-img: Not enough arguments\nTry 'brolga-img --help' for more info".to_owned()
        }
        ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument if given.len() < 2 || is_no_command(given) => {
            format!("brolga-img: Command not found: {command}\nTry 'brolga-img --help' for more info")
        }
        kind => {
            let argument = context(ContextKind::InvalidArg);
            let value = context(ContextKind::InvalidValue);
            let option = argument.split([' ', '=']).next().unwrap_or_default();
            let what = match kind {
                ErrorKind::UnknownArgument => match (option.strip_prefix("--"), option.strip_prefix('-')) {
                    (None, Some(letter)) => format!("invalid option -- '{letter}'"),
                    _ => format!("unrecognized option '{argument}'"),
                },
                ErrorKind::InvalidValue if value.is_empty() => format!("option '{option}' requires an argument"),
                ErrorKind::InvalidValue => match error.get(ContextKind::ValidValue) {
                    Some(ContextValue::Strings(valid)) => {
                        let valid: Vec<String> = valid.iter().map(|value| format!("'{value}'")).collect();
                        let letter = short(&command, option).map(|letter| format!(" (-{letter})")).unwrap_or_default();
                        eprintln!(
                            "brolga-img: {option}{letter} expects {} not '{value}'\nTry 'brolga-img {command} --help' for more info",
                            valid.join(" or ")
                        );
                        return ExitCode::FAILURE;
                    }
                    _ => format!("{option} does not accept '{value}'"),
                },
                _ => {
                    let text = error.to_string();
                    let line = text.lines().next().unwrap_or_default();
                    line.trim_start_matches("error: ").to_owned()
                }
            };
            format!("brolga-img {command}: {what}\nTry 'brolga-img {command} --help' for more info")
        }
    };
    eprintln!("{text}");
    ExitCode::FAILURE
}

/// The letter that is short for an option of a command.
fn short(command: &str, option: &str) -> Option<char> {
    let tool = crate::TOOLS.iter().find(|tool| tool.name == command)?;
    let name = option.strip_prefix("--");
    (tool.command)().get_arguments().find(|argument| argument.get_long() == name)?.get_short()
}

fn is_no_command(given: &[OsString]) -> bool {
    given.get(1).is_none_or(|name| !crate::TOOLS.iter().any(|tool| name == OsStr::new(tool.name)))
}
