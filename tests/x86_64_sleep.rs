//! Debian's x86-64 Linux goes to sleep (ACPI S3) and is woken by its clock.

mod support;

use support::running_guest::{Guest, PROMPT};
use support::{LIMIT, brolga};

#[test]
fn linux_sleeps_and_wakes() {
    let Some(folder) = support::guest("linux_sleeps_and_wakes", "x86_64") else { return };
    let mut command = brolga();
    command.args(["-arch", "x86_64", "-M", "pc", "-accel", "jit", "-m", "512", "-nographic", "-smp", "2"]);
    command.args(["-append", "console=ttyS0 no_console_suspend"]);
    command.arg("-kernel").arg(folder.join("Image")).arg("-initrd").arg(folder.join("initrd.cpio"));
    let mut guest = Guest::start(&mut command).unwrap();
    guest.wait_for(PROMPT, LIMIT).unwrap();
    guest
        .type_line("echo kept > /tmp/file; echo +2 > /sys/class/rtc/rtc0/wakealarm; echo mem > /sys/power/state")
        .unwrap();
    guest.wait_for("Waking up from system sleep state S3", LIMIT).unwrap();
    guest.wait_for(PROMPT, LIMIT).unwrap();
    guest.type_line("cat /tmp/file; echo $((6*7)) $(nproc)").unwrap();
    guest.wait_for("kept", LIMIT).unwrap();
    guest.wait_for("42 2", LIMIT).unwrap();
    guest.type_line("poweroff -f").unwrap();
    guest.wait_for_end(LIMIT).unwrap();
}
