//! `amend`: changes options of an image's format.

use block::qcow2::{AmendOptions, Qcow2};
use block::{Format, OptionError, OptionValues};
use clap::{ArgAction, ArgMatches, Command};

use crate::arguments::{self, flag, option, option_lists, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::output::ProgressLine;
use crate::{create, images};

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
    let names = arguments::given_names(arguments);
    if let (None, Some(name), true) = (&lists, format, names.is_empty()) {
        let format = Format::named(name);
        let format = format.ok_or_else(|| Failure::said(format!("Invalid format name: '{name}'")))?;
        return describe(format).map(|()| 0);
    }
    let [name] = names[..] else { return Err(Failure::said("Expecting one image file name")) };
    let line = ProgressLine::asked_for(arguments);
    images::run(async {
        let node = images::open(name, format, cache, false, arguments::sharing(arguments)).await?;
        images::warn_if_guessed(name, format, &node);
        let found = Format::named(node.driver().name()).unwrap_or(Format::Raw);
        let (Some(known), Some(image)) = (found.amend_options(), node.driver_as::<Qcow2>()) else {
            return Err(refused(found));
        };
        let Some(lists) = lists else { return describe(found) };
        let mut values = OptionValues::new(known.to_vec());
        for list in lists {
            values.set_list(list).map_err(|error| explain(found, &error))?;
        }
        let options = read(&values, image).await?;
        line.teller()(block::operations::Progress { done: 0, total: 1 });
        let done = image.amend(&options).await;
        // What changed before it failed is there.
        let closed = node.close().await;
        done?;
        closed?;
        line.complete();
        line.end()
    })?;
    Ok(0)
}

fn refused(format: Format) -> Failure {
    Failure::said(format!("Format driver '{}' does not support option amendment", format.name()))
}

/// Lists what can be changed.
fn describe(format: Format) -> Result<(), Failure> {
    let mut options = format.amend_options().ok_or_else(|| refused(format))?.to_vec();
    options.sort_by_key(|option| option.name);
    create::list_options(&format!("Amend options for '{}':", format.name()), &options)
}

/// Tells what is unknown from what new images alone have.
fn explain(format: Format, error: &OptionError) -> Failure {
    let of_new = format.create_options_in_file().unwrap_or_default();
    match error {
        OptionError::Unknown(name) if of_new.iter().any(|option| option.name == *name) => {
            Failure::said(format!("{error}\nThis option is only supported for image creation"))
        }
        _ => Failure::said(error.to_string()),
    }
}

/// What the values mean.
async fn read(values: &OptionValues, image: &Qcow2) -> Result<AmendOptions, Failure> {
    let metadata = image.metadata().await;
    let version = match values.text("compat") {
        None => None,
        Some("0.10" | "v2") => Some(2),
        Some("1.1" | "v3") => Some(3),
        Some(other) => return Err(Failure::said(format!("Unknown compatibility level {other}"))),
    };
    if values.options().iter().any(|option| option.name.starts_with("encrypt.") && values.text(option.name).is_some()) {
        return Err(Failure::said("Can't amend encryption options - encryption not present"));
    }
    let is_raw = metadata.header.data_file_is_raw();
    if values.is_on("data_file_raw") && !is_raw {
        return Err(Failure::said("data-file-raw cannot be set on existing images"));
    }
    if values.text("data_file").is_some() {
        return Err(match metadata.header.has_data_file() {
            false => Failure::said("data-file can only be set for images that use an external data file"),
            true => Failure::not_built("to amend data_file"),
        });
    }
    if is_raw && values.text("data_file_raw").is_some() && !values.is_on("data_file_raw") {
        return Err(Failure::not_built("to amend data_file_raw"));
    }
    let is_other = |name: &str, present: Option<&str>| values.text(name).is_some_and(|given| Some(given) != present);
    let format = metadata.extensions.backing_format.as_deref();
    if is_other("backing_file", metadata.backing_file.as_deref()) || is_other("backing_fmt", format) {
        return Err(Failure::said("Cannot amend the backing file\nYou can use 'brolga-img rebase' instead."));
    }
    let size = values.number("size").map(|size| size.checked_next_multiple_of(512).unwrap_or(size));
    let lazy_refcounts = values.text("lazy_refcounts").map(|_| values.is_on("lazy_refcounts"));
    Ok(AmendOptions { version, lazy_refcounts, refcount_bits: values.number("refcount_bits"), size })
}
