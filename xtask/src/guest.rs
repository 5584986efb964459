//! The guest of `guests/` under Brolga, or under QEMU.

use std::path::Path;
use std::process::Command;

use crate::guests::Riscv64;
use crate::{Result, build_brolga, guests, run};

/// Boots the guest on this terminal.
pub(crate) fn boot_on_terminal() -> Result<()> {
    let guest = guests::fetch()?;
    let brolga = build_brolga()?;
    println!("booting Debian's riscv64 Linux; Ctrl-A x ends it, Ctrl-A h helps");
    run(command(&brolga, &guest, 1).args(["-accel", "jit", "-nographic"]))
}

/// The program with the guest's files and `processors`.
pub(crate) fn command(program: &Path, guest: &Riscv64, processors: u32) -> Command {
    let mut command = Command::new(program);
    command.args(["-M", "virt", "-m", "512", "-smp", &processors.to_string(), "-append", "console=ttyS0"]);
    command.arg("-bios").arg(&guest.firmware).arg("-kernel").arg(&guest.kernel).arg("-initrd").arg(&guest.initrd);
    command
}
