//! `map`: where the bytes of an image are.

use std::io::Write;

use block::operations::{self, Extent};
use block::{HostFile, Node, Role, StatusKind};
use clap::{ArgMatches, Command};

use crate::arguments::{self, option, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::{images, size};

pub(crate) fn command() -> Command {
    Command::new("map")
        .about("Dump image metadata")
        .arg(arguments::format())
        .arg(option("start-offset", Some('s'), "OFFSET", "where to begin"))
        .arg(option("max-length", Some('l'), "LENGTH", "how many bytes"))
        .arg(arguments::output())
        .arg(arguments::force_share())
        .args(arguments::unbuilt())
        .arg(arguments::names())
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    let name = arguments::one_name("map", arguments)?;
    let start = arguments::number(arguments, "start-offset", "start offset", 0, size::MOST)?.unwrap_or(0);
    let length = arguments::number(arguments, "max-length", "max length", 0, size::MOST)?;
    arguments::refuse_unbuilt(arguments)?;
    let is_json = text(arguments, "output") == Some("json");
    images::run(async {
        let cache = Cache::named("writeback", "cache")?;
        let disk = images::open(name, text(arguments, "format"), cache, true, arguments::sharing(arguments)).await?;
        let end = length.map_or(u64::MAX, |length| start.saturating_add(length));
        let mut output = std::io::BufWriter::new(std::io::stdout().lock());
        if is_json {
            let mut before = "[";
            let each = |extent: Extent| {
                write!(output, "{before}{}", in_json(&extent))?;
                before = ",\n";
                Ok::<(), Failure>(())
            };
            operations::map(&disk, start, end, each).await?;
            if before == "[" {
                let nothing =
                    "\"depth\": 0, \"present\": false, \"zero\": false, \"data\": false, \"compressed\": false";
                write!(output, "[{{ \"start\": {start}, \"length\": 0, {nothing}}}")?;
            }
            writeln!(output, "]")?;
        } else {
            writeln!(output, "{:<16}{:<16}{:<16}File", "Offset", "Length", "Mapped to")?;
            operations::map(&disk, start, end, |extent| write_row(&mut output, &extent)).await?;
        }
        output.flush()?;
        Ok(0)
    })
}

fn in_json(extent: &Extent) -> String {
    let what = &extent.what;
    let offset = what.file_offset.map_or(String::new(), |offset| format!(", \"offset\": {offset}"));
    format!(
        "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}, \"compressed\": {}{offset}}}",
        extent.start,
        what.length,
        what.depth,
        what.is_present,
        what.kind.is_zero(),
        what.kind != StatusKind::Zero,
        what.is_compressed,
    )
}

/// A row for what is data.
fn write_row(output: &mut impl Write, extent: &Extent) -> Result<(), Failure> {
    let what = &extent.what;
    if what.kind.is_zero() {
        return Ok(());
    }
    let (Some(offset), Some(file)) = (what.file_offset, data_path(&what.node)) else {
        return Err(Failure::said("File contains external, encrypted or compressed clusters."));
    };
    let [start, length, offset] = [extent.start, what.length, offset].map(hexadecimal);
    Ok(writeln!(output, "{start:<16}{length:<16}{offset:<16}{file}")?)
}

fn hexadecimal(number: u64) -> String {
    if number == 0 { "0".into() } else { format!("{number:#x}") }
}

/// The name of the file that has the data of an image.
fn data_path(image: &Node) -> Option<String> {
    let file = image.child(Role::DataFile).or_else(|| image.child(Role::File))?;
    Some(file.driver_as::<HostFile>()?.path()?.display().to_string())
}
