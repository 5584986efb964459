//! `convert`: copies images to a new one, or over one that is there.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use block::operations::{CopyOptions, copy, length_in_sectors};
use block::{FileOptions, Format, ImageOptions, Node};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::arguments::{self, flag, option, option_lists, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::output::ProgressLine;
use crate::{create, images};

/// Most bytes of the zeros in a row that may be asked for.
const MOST_SPARSE: u64 = 16 << 20;

pub(crate) fn command() -> Command {
    Command::new("convert")
        .about("Copy one image to another with optional format conversion")
        .arg(
            option("source-format", Some('f'), "SRC_FMT", "format of the sources; found out by default")
                .alias("format"),
        )
        .arg(option("target-format", Some('O'), "TGT_FMT", "format of the target").default_value("raw"))
        .arg(
            option("target-options", Some('o'), "TGT_OPTS", "options of the target's format; 'help' lists them")
                .action(ArgAction::Append),
        )
        .arg(option("source-cache", Some('T'), "SRC_CACHE", "how sources are cached").default_value("writeback"))
        .arg(option("target-cache", Some('t'), "TGT_CACHE", "how the target is cached").default_value("unsafe"))
        .arg(option("source-snapshot", Some('l'), "SNAPSHOT", "a snapshot in the source (not built yet)"))
        .arg(flag("compress", Some('c'), "compressed data"))
        .arg(option("backing", Some('B'), "BACKING_FILENAME", "image behind the target"))
        .arg(option("backing-format", Some('F'), "BACKING_FMT", "format of the image behind the target"))
        .arg(flag("no-create", Some('n'), "over a target that is there"))
        .arg(flag("target-is-zero", None, "the target reads as zeros"))
        .arg(
            option("sparse-size", Some('S'), "SPARSE_SIZE", "how many zeros in a row take no room; 0: all do")
                .default_value("4k"),
        )
        .arg(flag("bitmaps", None, "persistent bitmaps, too (not built yet)"))
        .arg(flag("skip-broken-bitmaps", None, "leave out broken bitmaps"))
        .arg(option("rate", Some('r'), "RATE", "most bytes per second"))
        .arg(
            option("parallel", Some('m'), "NUM_COROUTINES", "how many requests are under way at once")
                .default_value("8"),
        )
        .arg(flag("copy-range-offloading", Some('C'), "let the host copy (not built yet)"))
        .arg(flag("salvage", None, "what cannot be read is zeros"))
        .arg(flag("oob-writes", Some('W'), "compressed data out of order"))
        .arg(arguments::progress())
        .arg(arguments::quiet())
        .arg(arguments::force_share())
        .args(arguments::unbuilt())
        .arg(flag("source-image-opts", None, "sources are whole descriptions of images (not built yet)"))
        .arg(flag("target-image-opts", None, "the target is a whole description of an image (not built yet)"))
        .arg(
            Arg::new("names")
                .value_name("SRC_FILENAME... TGT_FILENAME")
                .num_args(0..)
                .value_parser(value_parser!(OsString)),
        )
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    let is_set = |name: &str| arguments.get_flag(name);
    let format_name = text(arguments, "target-format").unwrap_or("raw");
    let names = arguments::given_names(arguments);
    let Some(lists) = option_lists(arguments, "target-options")? else {
        return create::describe_options(target_format(format_name)?, !names.is_empty()).map(|()| 0);
    };
    let sparse = arguments::number(arguments, "sparse-size", "buffer size for sparse output", 0, u64::MAX)?;
    let sparse = sparse.unwrap_or(0);
    if sparse % 512 != 0 || sparse > MOST_SPARSE {
        return Err(Failure::said(format!(
            "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to {MOST_SPARSE}. \
             Select 0 to disable sparse detection (fully allocates output)."
        )));
    }
    let parallel = arguments::number(arguments, "parallel", "number of coroutines", 1, 16)?.unwrap_or(8);
    let rate = arguments::number(arguments, "rate", "rate limit", 0, i64::MAX as u64)?;
    arguments::refuse_unbuilt(arguments)?;
    if is_set("source-image-opts") {
        return Err(Failure::not_built("--source-image-opts"));
    }
    let is_sparse_given = arguments.value_source("sparse-size") == Some(clap::parser::ValueSource::CommandLine);
    for (is_wrong, text) in [
        (is_set("skip-broken-bitmaps") && !is_set("bitmaps"), "Use of --skip-broken-bitmaps requires --bitmaps"),
        (is_set("copy-range-offloading") && is_set("compress"), "Cannot enable copy offloading when -c is used"),
        (is_set("copy-range-offloading") && is_sparse_given, "Cannot enable copy offloading when -S is used"),
        (is_set("copy-range-offloading") && is_set("salvage"), "Cannot use copy offloading in salvaging mode"),
        (is_set("no-create") && !lists.is_empty(), "-o has no effect when skipping image creation"),
        (is_set("target-is-zero") && !is_set("no-create"), "--target-is-zero requires use of -n flag"),
        (names.len() < 2, "Must specify image file name"),
        (is_set("copy-range-offloading"), "copy offloading (-C) is not built yet"),
        (arguments.contains_id("source-snapshot"), "reading snapshots in an image (-l) is not built yet"),
        (is_set("bitmaps"), "copying bitmaps (--bitmaps) is not built yet"),
    ] {
        if is_wrong {
            return Err(Failure::said(text));
        }
    }
    let Some((target, sources)) = names.split_last() else { return Ok(1) };
    let target_cache = Cache::named(text(arguments, "target-cache").unwrap_or("unsafe"), "cache")?;
    let source_cache = Cache::named(text(arguments, "source-cache").unwrap_or("writeback"), "source cache")?;
    let format = target_format(format_name)?;
    let line = ProgressLine::asked_for(arguments);
    let is_quiet = is_set("quiet");
    let done = images::run(async {
        let mut nodes = Vec::new();
        for name in sources {
            nodes.push(
                images::open(name, text(arguments, "source-format"), source_cache, true, arguments::sharing(arguments))
                    .await?,
            );
        }
        let total = nodes.iter().map(|node| length_in_sectors(node)).fold(0, u64::saturating_add);
        let path = images::path(target)?;
        refuse_sources(&path, target, format, &nodes)?;
        if is_set("compress") && !format.has_compression() {
            return Err(Failure::said("Compression not supported for this file format"));
        }
        let mut has_backing = arguments.contains_id("backing");
        if !is_set("no-create") {
            let (_, mut values) = create::options_of(format_name)?;
            for list in &lists {
                values.set_list(list).map_err(|error| Failure::said(error.to_string()))?;
            }
            if values.number("size").is_none() {
                create::set_size(&mut values, total)?;
            }
            let (name, backing_format) = (text(arguments, "backing"), text(arguments, "backing-format"));
            create::set_backing(&mut values, format, name, backing_format)?;
            if values.text("backing_file").is_some() {
                if values.text("backing_fmt").is_none() {
                    return Err(Failure::said("Use of backing file requires explicit backing format"));
                }
                has_backing = true;
            }
            block::create(&path, format, &values).await.map_err(|error| {
                Failure::said(format!("{}: error while converting {format_name}: {error}", target.display()))
            })?;
        }
        let file =
            FileOptions { direct: target_cache.direct, no_flush: target_cache.no_flush, ..FileOptions::default() };
        let options = ImageOptions { format: Some(format), file, ..ImageOptions::default() };
        let target = images::open_with(&path, options).await?;
        let is_compressed = is_set("compress") || target.driver().needs_compression();
        if is_compressed && target.driver().cluster_size() == 1 {
            return Err(Failure::said("invalid cluster size"));
        }
        if length_in_sectors(&target) < total {
            return Err(Failure::said("output file is smaller than input file"));
        }
        let target_backing = has_backing.then(|| target.backing().map_or(0, |node| length_in_sectors(&node)));
        // Only what was made new, in a file, has no other content.
        let is_new_file = !is_set("no-create") && std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_file());
        let options = CopyOptions {
            parallel: parallel as usize,
            smallest_hole: sparse,
            target_is_zero: is_set("target-is-zero") || is_new_file && target_backing.is_none(),
            target_backing,
            own_images: 1,
            compressed: is_compressed,
            out_of_order: is_set("oob-writes"),
            salvage: is_set("salvage").then(|| {
                Arc::new(move |offset: u64, error: &block::Error| {
                    if !is_quiet {
                        eprintln!(
                            "brolga-img: warning: error while reading offset {offset}: {}",
                            block::operations::words(error)
                        );
                    }
                }) as _
            }),
            rate,
            progress: line.teller(),
        };
        copy(nodes, target.clone(), options).await?;
        Ok(target.close().await?)
    });
    if done.is_ok() {
        line.complete();
    }
    line.end()?;
    done.map(|()| 0)
}

fn target_format(name: &str) -> Result<Format, Failure> {
    Format::named(name).ok_or_else(|| Failure::said(format!("Unknown file format '{name}'")))
}

/// Refuses a target that is one of the files of the sources.
pub(crate) fn refuse_sources(path: &Path, name: &OsStr, format: Format, sources: &[Arc<Node>]) -> Result<(), Failure> {
    let Some(identity) = images::identity(path) else { return Ok(()) };
    if sources.iter().any(|node| images::is_part_of(identity, node)) {
        return Err(Failure::said(format!(
            "{}: error while converting {}: the image is in use as a source",
            name.display(),
            format.name()
        )));
    }
    Ok(())
}
