//! Debian's x86-64 Linux: on the JIT, and on KVM where that runs kernels at the speed of the host.

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
    boots_to_a_shell(test, "kvm", 2);
}

#[test]
fn boots_to_a_shell_with_one_processor() {
    boots_to_a_shell("boots_to_a_shell_with_one_processor", "jit", 1);
}

#[test]
fn boots_to_a_shell_with_four_processors() {
    boots_to_a_shell("boots_to_a_shell_with_four_processors", "jit", 4);
}

/// Boots, has the guest compute something, and powers it off.
fn boots_to_a_shell(test: &str, accelerator: &str, processors: u32) {
    let Some(folder) = support::guest(test, "x86_64") else { return };
    let mut command = brolga();
    command.args(["-arch", "x86_64", "-M", "pc", "-accel", accelerator, "-m", "512", "-nographic"]);
    command.args(["-smp", &processors.to_string(), "-append", "console=ttyS0"]);
    command.arg("-kernel").arg(folder.join("Image")).arg("-initrd").arg(folder.join("initrd.cpio"));
    let mut guest = Guest::start(&mut command).unwrap();
    guest.wait_for(PROMPT, LIMIT).unwrap();
    guest.type_line("echo $((6*7)) $(nproc) $(uname -m)").unwrap();
    guest.wait_for(&format!("42 {processors} x86_64"), LIMIT).unwrap();
    // Floating point of the x87 and of SSE, compression and checksums of a program that the distribution built.
    guest.type_line("awk 'BEGIN{s=0;for(i=1;i<1000;i++)s+=1/i;printf \"%.6f\\n\",s}'").unwrap();
    guest.wait_for("7.484471", LIMIT).unwrap();
    guest.type_line("head -c 300000 /bin/busybox | gzip -9 | gunzip | sha256sum > /tmp/a; head -c 300000 /bin/busybox | sha256sum | cmp - /tmp/a && echo the same").unwrap();
    guest.wait_for("the same", LIMIT).unwrap();
    guest.type_line("poweroff -f").unwrap();
    guest.wait_for_end(LIMIT).unwrap();
}
