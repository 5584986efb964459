//! `check`: whether the metadata of an image is consistent.

use block::operations::words;
use block::{CheckResult, FileOptions, ImageOptions, Repair};
use clap::builder::PossibleValuesParser;
use clap::{ArgMatches, Command};
use serde_json::{Value, json};

use crate::arguments::{self, option, source_format, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::images;
use crate::output::{say, write_json};

/// Exit codes.
const CORRUPT: u8 = 2;
const LEAKS: u8 = 3;
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
    let repair = match text(arguments, "repair") {
        None => Repair::Nothing,
        Some("leaks") => Repair::Leaks,
        Some(_) => Repair::All,
    };
    let is_read_only = repair == Repair::Nothing;
    if !is_read_only && arguments.get_flag("force-share") {
        return Err(Failure::said(format!(
            "Could not open '{}': force-share=on can only be used with read-only images",
            name.display()
        )));
    }
    let is_json = text(arguments, "output") == Some("json");
    let is_quiet = arguments.get_flag("quiet");
    let path = images::path(name)?;
    let file = FileOptions {
        read_only: is_read_only,
        direct: cache.direct,
        no_flush: cache.no_flush,
        sharing: arguments::sharing(arguments),
        ..FileOptions::default()
    };
    let format = source_format(&path, text(arguments, "format"))?;
    let options = ImageOptions { format, file, check: true, no_backing: true, ..ImageOptions::default() };
    images::run(async {
        let node = images::open_with(&path, options).await?;
        let mut report = |line: &str| eprintln!("{line}");
        let failed = |error: block::Error| match error {
            block::Error::Unsupported(text) => Failure::Said(text).with_code(NO_CHECKS),
            other => Failure::said(format!("Check failed: {}", words(&other))),
        };
        let mut result = node.check(repair, &mut report).await.map_err(failed)?;
        if result.leaks_fixed > 0 || result.corruptions_fixed > 0 {
            if !is_quiet && !is_json {
                say(&format!(
                    "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} corruptions\n\n\
                     Double checking the fixed image now...",
                    result.leaks_fixed, result.corruptions_fixed
                ))?;
            }
            let again = node.check(Repair::Nothing, &mut report).await.map_err(failed)?;
            let CheckResult { leaks_fixed, corruptions_fixed, .. } = result;
            result = CheckResult { leaks_fixed, corruptions_fixed, ..again };
        }
        node.close().await?;
        if is_json && !is_quiet {
            write_json(
                &mut std::io::stdout().lock(),
                &in_json(&result, &path.to_string_lossy(), node.driver().name()),
            )?;
        } else if !is_quiet {
            say(&for_people(&result))?;
        }
        Ok(match result {
            CheckResult { corruptions: 1.., .. } => CORRUPT,
            CheckResult { check_errors: 1.., .. } => 1,
            CheckResult { leaks: 1.., .. } => LEAKS,
            _ => 0,
        })
    })
}

/// QMP's `ImageCheck`: of most numbers only those that are not 0.
fn in_json(result: &CheckResult, name: &str, format: &str) -> Value {
    let mut value = json!({ "filename": name, "format": format, "check-errors": result.check_errors });
    for (name, number) in [
        ("image-end-offset", result.image_end_offset),
        ("corruptions", result.corruptions),
        ("leaks", result.leaks),
        ("corruptions-fixed", result.corruptions_fixed),
        ("leaks-fixed", result.leaks_fixed),
        ("total-clusters", result.total_clusters),
        ("allocated-clusters", result.allocated_clusters),
        ("fragmented-clusters", result.fragmented_clusters),
        ("compressed-clusters", result.compressed_clusters),
    ] {
        if number != 0 {
            value[name] = number.into();
        }
    }
    value
}

fn for_people(result: &CheckResult) -> String {
    let mut lines = Vec::new();
    if result.corruptions == 0 && result.leaks == 0 && result.check_errors == 0 {
        lines.push("No errors were found on the image.".into());
    }
    for (number, text) in [
        (
            result.corruptions,
            "errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.",
        ),
        (
            result.leaks,
            "leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.",
        ),
        (result.check_errors, "internal errors have occurred during the check."),
    ] {
        if number > 0 {
            lines.push(format!("\n{number} {text}"));
        }
    }
    let CheckResult { total_clusters: total, allocated_clusters: allocated, .. } = *result;
    if total > 0 && allocated > 0 {
        let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
        lines.push(format!(
            "{allocated}/{total} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            percent(allocated, total),
            percent(result.fragmented_clusters, allocated),
            percent(result.compressed_clusters, allocated),
        ));
    }
    if result.image_end_offset > 0 {
        lines.push(format!("Image end offset: {}", result.image_end_offset));
    }
    lines.join("\n")
}
