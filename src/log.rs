//! What is logged, and where: `-d` and `-D`.

use std::fs::File;
use std::path::Path;

use tracing_subscriber::EnvFilter;

use crate::command_line::Invalid;

/// Items of `-d`: name, filter, meaning.
const ITEMS: &[(&str, &str, &str)] = &[
    ("op", "op=trace", "IR of each block that is translated"),
    ("int", "int=trace", "exceptions and interrupts of x86-64 processors"),
    ("guest_errors", "hw=debug,guest_errors=debug", "what a guest does wrong with devices"),
    ("perf", "perf=info", "what the JIT did, when the machine ends"),
    ("jit", "translate=debug", "regions that cannot be compiled"),
];

/// What `-d help` prints.
pub(crate) fn help() -> String {
    let mut text = String::from("items of -d, separated by commas:\n");
    for (name, _, meaning) in ITEMS {
        text.push_str(&format!("  {name:<16} {meaning}\n"));
    }
    text
}

/// Starts logging. Without `-d` there are warnings, on standard error; `BROLGA_LOG` holds further filters.
pub(crate) fn start(items: Option<&str>, file: Option<&Path>) -> Result<(), Invalid> {
    let mut filter = String::from("warn");
    for item in items.into_iter().flat_map(|items| items.split(',')) {
        let Some((_, directive, _)) = ITEMS.iter().find(|(name, ..)| *name == item) else {
            let known = ITEMS.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ");
            return Err(Invalid::new(format!("-d {item}: valid are {known}")));
        };
        filter.push(',');
        filter.push_str(directive);
    }
    if let Ok(more) = std::env::var("BROLGA_LOG") {
        filter.push(',');
        filter.push_str(&more);
    }
    let filter = EnvFilter::try_new(&filter)
        .map_err(|error| Invalid::new(format!("BROLGA_LOG: {error}; valid are filters such as translate=debug")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).without_time();
    match file {
        Some(path) => {
            let file = File::create(path)
                .map_err(|error| Invalid::new(format!("-D {}: the log cannot be created: {error}", path.display())))?;
            builder.with_ansi(false).with_writer(file).init();
        }
        None => builder.with_writer(std::io::stderr).init(),
    }
    Ok(())
}
