//! `dd`: copies blocks of an image to a new one.

use std::ffi::OsString;

use block::operations::{CopyError, length_in_sectors};
use block::{FileOptions, Format, ImageOptions, IoVector};
use clap::{Arg, ArgMatches, Command, value_parser};

use crate::arguments::{self, option, parse_number, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::{convert, create, images, size};

/// Bytes that are copied at once.
const REQUEST: u64 = 2 << 20;

pub(crate) fn command() -> Command {
    Command::new("dd")
        .about("Copy input to output with optional format conversion")
        .arg(arguments::format())
        .arg(option("output-format", Some('O'), "OUTPUT_FMT", "format of the output").default_value("raw"))
        .arg(arguments::force_share())
        .args(arguments::unbuilt())
        .arg(
            Arg::new("names")
                .value_name("bs=BLOCK_SIZE count=BLOCKS skip=BLOCKS if=INPUT of=OUTPUT")
                .num_args(0..)
                .value_parser(value_parser!(OsString)),
        )
}

/// What is copied.
struct Operands {
    block: u64,
    count: Option<u64>,
    skip: u64,
    input: OsString,
    output: OsString,
}

impl Operands {
    fn parse(given: &[&OsString]) -> Result<Operands, Failure> {
        let (mut block, mut count, mut skip, mut input, mut output) = (512, None, 0, None, None);
        for operand in given {
            let text = operand.to_string_lossy();
            let (name, value) = text.split_once('=').unwrap_or((&text, ""));
            match name {
                "bs" => block = parse_number(value, "bs", 1, i32::MAX as u64)?,
                "count" => count = Some(parse_number(value, "count", 0, size::MOST)?),
                "skip" => skip = parse_number(value, "skip", 0, size::MOST)?,
                "if" => input = Some(behind_equals(operand)),
                "of" => output = Some(behind_equals(operand)),
                _ => return Err(Failure::said(format!("unrecognized operand {name}"))),
            }
        }
        match (input, output) {
            (Some(input), Some(output)) => Ok(Operands { block, count, skip, input, output }),
            _ => Err(Failure::said("Must specify both input and output files")),
        }
    }
}

/// The value of an operand, which need not be UTF-8.
fn behind_equals(operand: &OsString) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let behind = operand.as_bytes().splitn(2, |byte| *byte == b'=').nth(1);
    OsString::from_vec(behind.unwrap_or_default().to_vec())
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    let Operands { block, count, skip, input, output } = Operands::parse(&arguments::given_names(arguments))?;
    arguments::refuse_unbuilt(arguments)?;
    let format_name = text(arguments, "output-format").unwrap_or("raw");
    let format = Format::named(format_name).ok_or_else(|| Failure::said("Unknown file format"))?;
    images::run(async {
        let source = images::open(
            &input,
            text(arguments, "format"),
            Cache::named("writeback", "cache")?,
            true,
            arguments::sharing(arguments),
        )
        .await?;
        let path = images::path(&output)?;
        convert::refuse_sources(&path, &output, format, std::slice::from_ref(&source))?;
        // The blocks that are counted are those from the beginning on, also those that are passed over.
        let length = length_in_sectors(&source);
        let end = count.map_or(length, |count| length.min(count.saturating_mul(block)));
        let start = skip.saturating_mul(block);
        if start > length {
            eprintln!("brolga-img: {}: cannot skip to specified offset", input.display());
        }
        let (_, mut values) = create::options_of(format_name)?;
        create::set_size(&mut values, end.saturating_sub(start))?;
        block::create(&path, format, &values).await.map_err(|error| {
            Failure::said(format!("{}: error while creating output image: {error}", output.display()))
        })?;
        let file = FileOptions { no_flush: true, ..FileOptions::default() };
        let options = ImageOptions { format: Some(format), file, ..ImageOptions::default() };
        let target = images::open_with(&path, options).await?;
        let memory = IoVector::zeroed(end.saturating_sub(start).min(REQUEST) as usize);
        let mut at = start;
        while at < end {
            let part = memory.slice(0, (end - at).min(REQUEST) as usize);
            source.read(at, part.clone()).await.map_err(|error| CopyError::Read { offset: at, error })?;
            let written = target.write(at - start, part).await;
            written.map_err(|error| CopyError::Write { offset: at - start, error })?;
            at += REQUEST;
        }
        target.close().await?;
        Ok(0)
    })
}
