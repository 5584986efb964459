//! `create`: new images.

use std::ffi::OsStr;
use std::path::Path;

use block::{FileOptions, Format, FormatOption, ImageOptions, OptionValues};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::arguments::{self, flag, option, option_lists, parse_number, text};
use crate::failure::Failure;
use crate::output::{say, say_unless_quiet};
use crate::{images, size};

pub(crate) fn command() -> Command {
    Command::new("create")
        .about("Create and format new image file")
        .arg(option("format", Some('f'), "FMT", "the new image's format").default_value("raw"))
        .arg(
            option("options", Some('o'), "FMT_OPTS", "options of the format; 'help' lists them")
                .action(ArgAction::Append),
        )
        .arg(option("backing", Some('b'), "BACKING_FILENAME", "image behind the new one"))
        .arg(option("backing-format", Some('F'), "BACKING_FMT", "format of the image behind the new one"))
        .arg(flag("backing-unsafe", Some('u'), "the image behind need not be there"))
        .arg(arguments::quiet())
        .arg(option("object", None, "OBJDEF", "an object, as a secret (not built yet)").action(ArgAction::Append))
        .arg(
            Arg::new("names")
                .value_name("FILENAME [SIZE]")
                .num_args(0..)
                .value_parser(value_parser!(std::ffi::OsString)),
        )
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    let given = arguments::given_names(arguments);
    let format_name = text(arguments, "format").unwrap_or("raw");
    let Some(lists) = option_lists(arguments, "options")? else {
        let format = Format::named(format_name);
        let format = format.ok_or_else(|| Failure::said(format!("Unknown file format '{format_name}'")))?;
        return describe_options(format, !given.is_empty()).map(|()| 0);
    };
    let (name, size) = match given[..] {
        [] => return Err(Failure::usage("create", "Expecting image file name")),
        [name] => (name, None),
        [name, size] => (name, Some(size.to_string_lossy())),
        [_, _, more, ..] => {
            return Err(Failure::usage("create", format!("Unexpected argument: {}", more.display())));
        }
    };
    let size = size.map(|size| parse_number(&size, "image size", 0, size::MOST)).transpose()?;
    arguments::refuse_unbuilt(arguments)?;
    let made = make(arguments, name, format_name, &lists, size);
    made.map_err(|failure| failure.behind(&name.to_string_lossy()))?;
    Ok(0)
}

fn make(
    arguments: &ArgMatches,
    name: &OsStr,
    format_name: &str,
    lists: &[&str],
    size: Option<u64>,
) -> Result<(), Failure> {
    let (format, mut values) = options_of(format_name)?;
    for list in lists {
        values.set_list(list).map_err(|error| Failure::said(error.to_string()))?;
    }
    if let Some(size) = size {
        if values.number("size").is_some() {
            return Err(Failure::said("The image size must be specified only once"));
        }
        set_size(&mut values, size)?;
    }
    set_backing(&mut values, format, text(arguments, "backing"), text(arguments, "backing-format"))?;
    let path = images::path(name)?;
    images::run(async {
        if let Some(backing) = values.text("backing_file").map(str::to_owned) {
            let is_unsafe = arguments.get_flag("backing-unsafe");
            check_backing(&path, &backing, &mut values, is_unsafe).await?;
        }
        if values.number("size").is_none_or(|size| size > size::MOST) {
            return Err(Failure::said("Image creation needs a size parameter"));
        }
        let mut line = format!("Formatting '{}', fmt={format_name}", name.display());
        for (name, value) in values.shown() {
            line += &format!(" {name}={value}");
        }
        say_unless_quiet(arguments, &line)?;
        Ok(block::create(&path, format, &values).await?)
    })
}

/// A format whose images can be made, and its options.
pub(crate) fn options_of(format_name: &str) -> Result<(Format, OptionValues), Failure> {
    let format = Format::named(format_name);
    let format = format.ok_or_else(|| Failure::said(format!("Unknown file format '{format_name}'")))?;
    let options = format
        .create_options_in_file()
        .ok_or_else(|| Failure::said(format!("Format driver '{format_name}' does not support image creation")))?;
    Ok((format, OptionValues::new(options)))
}

pub(crate) fn set_size(values: &mut OptionValues, size: u64) -> Result<(), Failure> {
    values.set("size", &size.to_string()).map_err(|error| Failure::said(error.to_string()))
}

/// Names the image behind.
pub(crate) fn set_backing(
    values: &mut OptionValues,
    format: Format,
    name: Option<&str>,
    backing_format: Option<&str>,
) -> Result<(), Failure> {
    for (option, value, what) in [("backing_file", name, "file"), ("backing_fmt", backing_format, "file format")] {
        if let Some(value) = value {
            values.set(option, value).map_err(|_| {
                Failure::said(format!("Backing {what} not supported for file format '{}'", format.name()))
            })?;
        }
    }
    Ok(())
}

/// Looks at the image behind, whose length is that of the new one unless the user says another.
async fn check_backing(path: &Path, backing: &str, values: &mut OptionValues, is_unsafe: bool) -> Result<(), Failure> {
    let backing_path = images::path(OsStr::new(backing))?;
    let backing_path = path.parent().unwrap_or(Path::new("")).join(backing_path);
    let (new, old) = (images::identity(path), images::identity(&backing_path));
    if new.is_some() && new == old || path == backing_path {
        return Err(Failure::said("Error: Trying to create an image with the same filename as the backing file"));
    }
    if is_unsafe {
        let given = values.text("backing_fmt").map(|_| ());
        return given.ok_or_else(|| Failure::said("Backing file specified without backing format"));
    }
    let format = match values.text("backing_fmt") {
        None => None,
        Some(name) => {
            let unknown = || Failure::said(format!("Unknown driver '{name}'\nCould not open backing image."));
            Some(Format::named(name).ok_or_else(unknown)?)
        }
    };
    let options = ImageOptions {
        format,
        file: FileOptions { read_only: true, ..FileOptions::default() },
        ..ImageOptions::default()
    };
    let opened = images::open_with(&backing_path, options).await;
    let node = opened.map_err(|failure| Failure::said(format!("{failure}\nCould not open backing image.")))?;
    if format.is_none() {
        let found = node.driver().name();
        return Err(Failure::said(format!(
            "Backing file specified without backing format\nDetected format of {found}."
        )));
    }
    if values.number("size").is_none() {
        set_size(values, block::operations::length_in_sectors(&node))?;
    }
    Ok(())
}

/// Lists the options of a format's new images, with those of files if one is named.
pub(crate) fn describe_options(format: Format, in_file: bool) -> Result<(), Failure> {
    let own = || format.create_options().map(<[FormatOption]>::to_vec);
    let options = if in_file { format.create_options_in_file() } else { own() };
    let mut options = options
        .ok_or_else(|| Failure::said(format!("Format driver '{}' does not support image creation", format.name())))?;
    options.sort_by_key(|option| option.name);
    let head = if in_file { "Supported options:".into() } else { format!("Supported {} options:", format.name()) };
    list_options(&head, &options)?;
    if !in_file {
        say(
            "\nThe protocol level may support further options.\nSpecify the target filename to include those options.",
        )?;
    }
    Ok(())
}

/// Lists options below a line.
pub(crate) fn list_options(head: &str, options: &[FormatOption]) -> Result<(), Failure> {
    say(head)?;
    for option in options {
        let name = format!("{}={}", option.name, option.kind.placeholder());
        say(&format!("  {name:<22} - {}", option.help))?;
    }
    Ok(())
}
