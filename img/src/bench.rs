//! `bench`: times requests to an image.

use std::time::Instant;

use block::operations::{self, BenchOptions, BenchWrites};
use block::{Engine, FileOptions, ImageOptions};
use clap::{ArgMatches, Command};
use futures_executor::block_on;

use crate::arguments::{self, flag, option, text};
use crate::cache::Cache;
use crate::failure::Failure;
use crate::output::say;
use crate::{images, size};

/// Most of what is counted in 31 bits.
const MOST: u64 = i32::MAX as u64;

pub(crate) fn command() -> Command {
    Command::new("bench")
        .about("Run simple image benchmark")
        .arg(arguments::format())
        .arg(arguments::cache("writeback"))
        .arg(option("count", Some('c'), "COUNT", "how many requests").default_value("75000"))
        .arg(option("buffer-size", Some('s'), "BUFFER_SIZE", "length of each").default_value("4096"))
        .arg(option("depth", Some('d'), "DEPTH", "how many are under way at once").default_value("64"))
        .arg(option("offset", Some('o'), "OFFSET", "where the first is").default_value("0"))
        .arg(
            option("step-size", Some('S'), "STEP_SIZE", "how far behind the one before each is; 0: its length")
                .default_value("0"),
        )
        .arg(option("aio", Some('i'), "AIO", "the way of requests: threads, or io_uring (also for native)"))
        .arg(flag("native", Some('n'), "as -i native"))
        .arg(flag("write", Some('w'), "requests write"))
        .arg(option("pattern", None, "PATTERN", "the byte that is written").default_value("0"))
        .arg(option("flush-interval", None, "FLUSH_INTERVAL", "flush after so many requests").default_value("0"))
        .arg(flag("no-drain", None, "do not wait for requests before a flush"))
        .arg(arguments::quiet())
        .arg(arguments::force_share())
        .args(arguments::unbuilt())
        .arg(arguments::names())
}

pub(crate) fn run(arguments: &ArgMatches) -> Result<u8, Failure> {
    let number = |id: &str, what: &str, least, most| {
        arguments::number(arguments, id, what, least, most).map(|number| number.unwrap_or(least))
    };
    let count = number("count", "request count", 1, MOST)?;
    let depth = number("depth", "queue depth", 1, MOST)?;
    let offset = number("offset", "offset", 0, size::MOST)?;
    let length = number("buffer-size", "buffer size", 1, MOST)?;
    let step = number("step-size", "step size", 0, MOST)?;
    let pattern = number("pattern", "pattern byte", 0, 0xff)?;
    let flush_interval = number("flush-interval", "flush interval", 0, MOST)?;
    let aio = if arguments.get_flag("native") { Some("native") } else { text(arguments, "aio") };
    let engine = match aio {
        None => Engine::Automatic,
        Some(name) => images::engine(name).ok_or_else(|| Failure::said(format!("Invalid aio option: {name}")))?,
    };
    let cache = Cache::named(text(arguments, "cache").unwrap_or("writeback"), "cache")?;
    let name = arguments::one_name("bench", arguments)?;
    arguments::refuse_unbuilt(arguments)?;
    let (is_write, no_drain) = (arguments.get_flag("write"), arguments.get_flag("no-drain"));
    if !is_write && flush_interval > 0 {
        return Err(Failure::said("--flush-interval is only available in write tests"));
    }
    if flush_interval > 0 && flush_interval < depth {
        return Err(Failure::said("Flush interval can't be smaller than depth"));
    }
    let failed = |why: &str| Err(Failure::said(format!("Could not open '{}': {why}", name.display())));
    if is_write && arguments.get_flag("force-share") {
        return failed("force-share=on can only be used with read-only images");
    }
    if aio == Some("native") && !cache.direct {
        return failed("aio=native was specified, but it requires cache.direct=on, which was not specified.");
    }
    let path = images::path(name)?;
    let sharing = arguments::sharing(arguments);
    let file = FileOptions {
        read_only: !is_write,
        direct: cache.direct,
        engine,
        no_flush: cache.no_flush,
        sharing,
        ..FileOptions::default()
    };
    let format = text(arguments, "format");
    let options = ImageOptions { format: arguments::source_format(&path, format)?, file, ..ImageOptions::default() };
    let disk = block_on(images::open_with(&path, options))?;
    if is_write {
        images::warn_if_guessed(name, format, &disk);
    }
    let step = if step == 0 { length } else { step };
    let kind = if is_write { "write" } else { "read" };
    say(&format!(
        "Sending {count} {kind} requests, {length} bytes each, {depth} in parallel (starting at offset {offset}, step size {step})"
    ))?;
    if flush_interval > 0 {
        say(&format!("Sending flush every {flush_interval} requests"))?;
    }
    let writes = is_write.then_some(BenchWrites {
        pattern: pattern as u8,
        flush_interval,
        no_drain,
        write_through: cache.write_through,
    });
    let options = BenchOptions { count, depth: depth as usize, offset, length: length as usize, step, writes };
    let started = Instant::now();
    block_on(operations::bench(disk.clone(), options))?;
    say(&format!("Run completed in {:.3} seconds.", started.elapsed().as_secs_f64()))?;
    block_on(disk.close())?;
    Ok(0)
}
