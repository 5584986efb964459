//! Debian's x86-64 Linux on KVM, where KVM runs kernels at the speed of the host.

mod support;

use support::running_guest::{Guest, PROMPT};
use support::{LIMIT, brolga};

#[test]
fn boots_to_a_shell_on_fast_kvm() {
    let test = "boots_to_a_shell_on_fast_kvm";
    let help = brolga().args(["-arch", "x86_64", "-accel", "help"]).output().unwrap();
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let choice = help.lines().find(|line| line.trim().starts_with("auto")).expect("the help names auto's choice");
    if !choice.contains("kvm:") {
        eprintln!("SKIPPED: {test}: {}", choice.trim());
        return;
    }
    let Some(folder) = support::guest(test, "x86_64") else { return };
    let mut command = brolga();
    command.args(["-arch", "x86_64", "-M", "pc", "-accel", "kvm", "-m", "512", "-smp", "2", "-nographic"]);
    command.args(["-append", "console=ttyS0"]);
    command.arg("-kernel").arg(folder.join("Image")).arg("-initrd").arg(folder.join("initrd.cpio"));
    let mut guest = Guest::start(&mut command).unwrap();
    guest.wait_for(PROMPT, LIMIT).unwrap();
    guest.type_line("echo $((6*7)) $(nproc)").unwrap();
    guest.wait_for("42 2", LIMIT).unwrap();
    guest.type_line("poweroff -f").unwrap();
    guest.wait_for_end(LIMIT).unwrap();
}
