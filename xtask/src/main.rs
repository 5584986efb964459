//! Tasks of the project: `./x TASK`, or `cargo xtask TASK`. CONTRIBUTING.md lists them.

mod bench;
mod cpio;
mod debian;
mod guest;
mod guests;
mod installed;
mod running_guest;
mod soak;
mod test;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What went wrong, as a sentence.
type Result<T> = std::result::Result<T, String>;

const HELP: &str = "\
tasks:
  boot             build Brolga and boot Debian's Linux to a shell on this terminal (Ctrl-A x ends it)
  test             set up and run every check and test; ends with how many passed, failed and were skipped
  guests           fetch kernels, firmware and busybox from Debian's packages into guests/,
                   and install a Debian on a disk there
  bench [GUEST] [rounds=N] [chart] [WORKLOAD]...
                   time Brolga and Debian's QEMU side by side on the same guests and programs
  soak [BOOTS] [GUEST]
                   boot GUEST (riscv64, x86_64; riscv64) BOOTS times (20) each with one, two and four processors
  endure [SECONDS] [GUEST]
                   run the programs of bench in GUEST over and over for SECONDS (3600), watching Brolga's memory
  oracle [SECONDS] compare the JIT with KVM on random x86-64 instructions for SECONDS (600)
  fuzz [SECONDS]   run each fuzz target for SECONDS (600)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |default| match arguments.get(1) {
        None => Ok(default),
        Some(text) => text.parse::<u64>().map_err(|_| format!("{text:?} is not a number")),
    };
    let third = arguments.get(2).map_or("riscv64", String::as_str);
    let result = match arguments.first().map(String::as_str) {
        Some("boot") => guest::boot_on_terminal(),
        Some("test") => test::run(),
        Some("guests") => guests::fetch().and_then(|()| installed::make()),
        Some("bench") => bench::run(&arguments[1..]),
        Some("soak") => number(20).and_then(|boots| soak::run(boots, guests::named(third)?)),
        Some("endure") => number(3600).and_then(|seconds| bench::endure::run(seconds, guests::named(third)?)),
        Some("oracle") => number(600).and_then(soak::oracle),
        Some("fuzz") => number(600).and_then(soak::fuzz),
        Some("help") => {
            print!("{HELP}");
            Ok(())
        }
        _ => Err(format!("say what to do\n{HELP}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    manifest.parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Cargo, in the workspace.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command to its end; an error names it.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| format!("{command:?} cannot be started: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} ended with {status}")) }
}

/// Runs a command and gives what it printed.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|error| format!("{command:?} cannot be started: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let message = String::from_utf8_lossy(&output.stderr);
        Err(format!("{command:?} ended with {}: {}", output.status, message.trim()))
    }
}

/// Builds the release program and gives its path.
fn build_brolga() -> Result<PathBuf> {
    run(cargo().args(["build", "--release", "--package", "brolga"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join("release/brolga"))
}
