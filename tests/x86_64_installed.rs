//! An installed Debian on a disk, as a person's own machine has it: SeaBIOS starts GRUB, GRUB the kernel, systemd everything
//! else, and programs of every day run in it.

mod support;

use std::process::Command;

use support::running_guest::Guest;
use support::{LIMIT, brolga};

#[test]
fn an_installed_debian_boots_through_grub_and_runs_programs() {
    let test = "an_installed_debian_boots_through_grub_and_runs_programs";
    let Some(folder) = support::guest(test, "x86_64") else { return };
    let (disk, firmware) = (folder.join("installed.img"), folder.join("bios-256k.bin"));
    if !disk.exists() {
        eprintln!("SKIPPED: {test}: there is no disk with an installed Debian; `./x guests` makes it");
        return;
    }
    let own = tempfile::tempdir().unwrap();
    // In front of the disk, which stays as it is.
    let front = own.path().join("front.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk.to_str().unwrap(), front.to_str().unwrap()]);
    let mut command = brolga();
    command.args(["-arch", "x86_64", "-M", "pc", "-accel", "jit", "-m", "512", "-smp", "2", "-nographic"]);
    command.arg("-bios").arg(firmware);
    command.arg("-drive").arg(format!("file={},if=virtio,format=qcow2", front.display()));
    let mut guest = Guest::start(&mut command).unwrap();
    guest.wait_for("GNU GRUB", LIMIT).unwrap();
    guest.wait_for("installed login: ", 2 * LIMIT).unwrap();
    guest.type_line("root").unwrap();
    guest.wait_for("Password: ", LIMIT).unwrap();
    guest.type_line("brolga").unwrap();
    guest.wait_for("root@installed:~# ", LIMIT).unwrap();
    let mut answers = |line: &str, answer: &str| {
        guest.type_line(line).unwrap();
        guest.wait_for(answer, LIMIT).unwrap();
    };
    // An answer is nothing that the typed line contains: the terminal echoes it.
    answers("apt-get install -y ./hello_*.deb; hello", "Hello, world!");
    answers("python3 -c 'print(sum(i * i for i in range(1000)))'", "332833500");
    answers(
        "printf '#include <stdio.h>\\nint main() { double s = 0; for (int i = 1; i < 1000; i++) s += 1.0 / i; printf(\"%%.9f\\\\n\", s); }' > h.c",
        "# ",
    );
    answers("gcc -O2 h.c -o h; ./h", "7.484470861");
    answers("poweroff", "reboot: Power down");
    guest.wait_for_end(LIMIT).unwrap();
    qemu_img(&["check", "-q", front.to_str().unwrap()]);
}

fn qemu_img(arguments: &[&str]) {
    let status = Command::new("qemu-img").args(arguments).status().expect("qemu-img must be installed");
    assert!(status.success(), "qemu-img {arguments:?}: {status}");
}
