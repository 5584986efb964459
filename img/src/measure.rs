//! `measure`: how long the file of a new image would be.

use block::operations::{self, Measure};
use clap::{ArgAction, ArgMatches, Command};
use serde_json::json;

use crate::arguments::{self, option, option_lists, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::output::{say, write_json};
use crate::{create, images, size};

pub(crate) fn command() -> Command {
    Command::new("measure")
        .about("Calculate file size required for a new image")
        .arg(option("target-format", Some('O'), "FMT", "format of the new image").default_value("raw"))
        .arg(
            option("target-options", Some('o'), "OPTIONS", "options of the new image's format")
                .action(ArgAction::Append),
        )
        .arg(option("size", None, "SIZE", "length of an empty disk"))
        .arg(arguments::format())
        .arg(option("snapshot", Some('l'), "SNAPSHOT", "a snapshot in the image (not built yet)"))
        .arg(arguments::output())
        .arg(arguments::force_share())
        .args(arguments::unbuilt())
        .arg(arguments::names())
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    let names = arguments::given_names(arguments);
    let name = match names[..] {
        [] => None,
        [name] => Some(name),
        _ => return Err(Failure::said("At most one filename argument is allowed.")),
    };
    let size = arguments::number(arguments, "size", "image size", 0, size::MOST)?;
    arguments::refuse_unbuilt(arguments)?;
    if name.is_some() && size.is_some() {
        return Err(Failure::said("--size N cannot be used together with a filename."));
    }
    if name.is_none() && size.is_none() {
        return Err(Failure::said("Either --size N or one filename must be specified."));
    }
    for option in ["format", "snapshot"] {
        if name.is_none() && arguments.contains_id(option) {
            return Err(Failure::said("--image-opts, -f, and -l require a filename argument."));
        }
    }
    if arguments.contains_id("snapshot") {
        return Err(Failure::not_built("reading snapshots in an image (-l)"));
    }
    let format_name = text(arguments, "target-format").unwrap_or("raw");
    let (format, mut values) = create::options_of(format_name)?;
    let Some(lists) = option_lists(arguments, "target-options")? else {
        return create::describe_options(format, true).map(|()| 0);
    };
    for list in lists {
        values.set_list(list).map_err(|error| {
            Failure::said(format!("{error}\nbrolga-img: Invalid options for file format '{format_name}'"))
        })?;
    }
    let Measure { required, fully_allocated } = images::run(async {
        let source = match name {
            Some(name) => {
                let cache = Cache::named("writeback", "cache")?;
                Some(images::open(name, text(arguments, "format"), cache, true, arguments::sharing(arguments)).await?)
            }
            None => None,
        };
        Ok(operations::measure(format, &values, size.unwrap_or(0), source.as_ref()).await?)
    })?;
    if text(arguments, "output") == Some("json") {
        let value = json!({ "required": required, "fully-allocated": fully_allocated });
        write_json(&mut std::io::stdout().lock(), &value)?;
    } else {
        say(&format!("required size: {required}\nfully allocated size: {fully_allocated}"))?;
    }
    Ok(0)
}
