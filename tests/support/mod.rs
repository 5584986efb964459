//! What the tests of the whole program share.
// Each test program uses some of it.
#![allow(dead_code)]

pub(crate) mod qmp;
pub(crate) mod qtest;
#[path = "../../xtask/src/running_guest.rs"]
pub(crate) mod running_guest;
pub(crate) mod subject;
pub(crate) mod terminal;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longer than anything takes on a slow and busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// The program under test.
pub(crate) fn brolga() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brolga"));
    // Tests keep nothing for one another, nor for the user.
    command.env_remove("HOME").env_remove("XDG_CACHE_HOME");
    command
}

/// The folder of a guest's files; `None`, and a line that says so, where they were not fetched.
pub(crate) fn guest(test: &str, architecture: &str) -> Option<PathBuf> {
    let guests = std::env::var_os("BROLGA_GUESTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("guests"), PathBuf::from);
    let folder = guests.join(architecture);
    if ["Image", "initrd.cpio"].iter().all(|file| folder.join(file).exists()) {
        return Some(folder);
    }
    eprintln!("SKIPPED: {test}: there is no {architecture} guest; `./x guests` fetches it");
    None
}

/// The program with Debian's riscv64 Linux and its serial port on standard input and output.
pub(crate) fn debian_riscv64(folder: &Path, processors: u32) -> Command {
    let mut command = brolga();
    command.args(["-arch", "riscv64", "-M", "virt", "-accel", "jit", "-m", "512", "-nographic"]);
    command.args(["-smp", &processors.to_string(), "-append", "console=ttyS0"]);
    command.arg("-bios").arg(folder.join("fw_dynamic.bin"));
    command.arg("-kernel").arg(folder.join("Image")).arg("-initrd").arg(folder.join("initrd.cpio"));
    command
}
