//! `brolga-img`: disk images without a machine. Commands, options, output and exit codes are those of `qemu-img`.

mod amend;
mod arguments;
mod bench;
mod bitmap;
mod cache;
mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod dd;
mod failure;
mod images;
mod info;
mod map;
mod measure;
mod output;
mod rebase;
mod resize;
mod size;
mod snapshot;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, Command};

use failure::Failure;

/// A command of the tool.
struct Tool {
    name: &'static str,
    command: fn() -> Command,
    /// Returns the exit code.
    run: fn(&ArgMatches) -> Result<u8, Failure>,
}

const TOOLS: &[Tool] = &[
    Tool { name: "amend", command: amend::command, run: amend::run },
    Tool { name: "bench", command: bench::command, run: bench::run },
    Tool { name: "bitmap", command: bitmap::command, run: bitmap::run },
    Tool { name: "check", command: check::command, run: check::run },
    Tool { name: "commit", command: commit::command, run: commit::run },
    Tool { name: "compare", command: compare::command, run: compare::run },
    Tool { name: "convert", command: convert::command, run: convert::run },
    Tool { name: "create", command: create::command, run: create::run },
    Tool { name: "dd", command: dd::command, run: dd::run },
    Tool { name: "info", command: info::command, run: info::run },
    Tool { name: "map", command: map::command, run: map::run },
    Tool { name: "measure", command: measure::command, run: measure::run },
    Tool { name: "rebase", command: rebase::command, run: rebase::run },
    Tool { name: "resize", command: resize::command, run: resize::run },
    Tool { name: "snapshot", command: snapshot::command, run: snapshot::run },
];

fn main() -> ExitCode {
    let mut given: Vec<OsString> = std::env::args_os().collect();
    if given.get(1).is_some_and(|name| name == "resize") {
        resize::protect_size(&mut given);
    }
    let command =
        Command::new("brolga-img")
            .about("Disk images: the commands and options of qemu-img")
            .version(env!("CARGO_PKG_VERSION"))
            .subcommand_required(true)
            .subcommands(TOOLS.iter().map(|tool| {
                (tool.command)().args_override_self(true).infer_long_args(true).disable_version_flag(true)
            }));
    let matches = match command.try_get_matches_from(&given) {
        Ok(matches) => matches,
        Err(error) => return arguments::explain(&error, &given),
    };
    let Some((name, arguments)) = matches.subcommand() else { return ExitCode::FAILURE };
    let Some(tool) = TOOLS.iter().find(|tool| tool.name == name) else { return ExitCode::FAILURE };
    match (tool.run)(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("brolga-img: {failure}");
            ExitCode::from(failure.code())
        }
    }
}
