//! `brolga-img`: disk images without a machine. Commands, options, output and exit codes are those of `qemu-img`.

mod info;
mod size;

use std::process::ExitCode;

use clap::{Arg, Command};

/// Commands of `qemu-img` that are not built yet.
const NOT_BUILT: &[&str] = &[
    "amend", "bench", "bitmap", "check", "commit", "compare", "convert", "create", "dd", "map", "measure", "rebase",
    "resize", "snapshot",
];

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Image(#[from] block::Error),
    #[error("Unknown driver '{0}'; known are {known}", known = block::Format::names())]
    UnknownFormat(String),
    #[error("'{0}' is not built yet; what is: info")]
    NotBuilt(String),
    #[error("could not write the output: {0}")]
    Output(#[from] std::io::Error),
}

fn main() -> ExitCode {
    let not_built = NOT_BUILT.iter().map(|name| {
        // Whatever the arguments are.
        let anything = Arg::new("arguments").num_args(0..).allow_hyphen_values(true).trailing_var_arg(true);
        Command::new(*name).about("(not built yet)").disable_help_flag(true).arg(anything)
    });
    let command = Command::new("brolga-img")
        .about("Disk images: the commands and options of qemu-img")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(info::command())
        .subcommands(not_built);
    let matches = match command.try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // Nothing is left to be done where this fails.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let done = match matches.subcommand() {
        Some(("info", arguments)) => info::run(arguments),
        Some((name, _)) => Err(Failure::NotBuilt(name.to_owned())),
        None => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("brolga-img: {failure}");
            ExitCode::FAILURE
        }
    }
}
