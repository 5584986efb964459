//! The guest of `guests/` under Brolga, or under QEMU.

use std::path::Path;
use std::process::Command;

use crate::guests::{Guest, RISCV64, X86_64};
use crate::{Result, build_brolga, output, run};

/// Boots a guest on this terminal: one of the host's own architecture where KVM runs it fast, else riscv64.
pub(crate) fn boot_on_terminal() -> Result<()> {
    let brolga = build_brolga()?;
    let help = output(Command::new(&brolga).args(["-arch", "x86_64", "-accel", "help"]))?;
    let fast_kvm = help.lines().any(|line| line.trim().starts_with("auto") && line.contains("kvm:"));
    let (guest, accelerator) = if fast_kvm { (X86_64, "kvm") } else { (RISCV64, "jit") };
    guest.fetch()?;
    println!("booting Debian's {} Linux on {accelerator}; Ctrl-A x ends it, Ctrl-A h helps", guest.architecture);
    run(command(&brolga, &guest, 1).args(["-accel", accelerator, "-nographic"]))
}

/// The program with the guest's files and `processors`.
pub(crate) fn command(program: &Path, guest: &Guest, processors: u32) -> Command {
    let mut command = Command::new(program);
    command.args(["-M", guest.machine, "-m", "512", "-smp", &processors.to_string(), "-append", "console=ttyS0"]);
    command.arg("-kernel").arg(guest.kernel()).arg("-initrd").arg(guest.initrd());
    if let Some(firmware) = guest.firmware() {
        command.arg("-bios").arg(firmware);
    }
    command
}
