//! Compiled code that one run of a guest leaves for the next: `-accel jit,translation-cache=FOLDER`.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use support::running_guest::{Guest, PROMPT};
use support::{LIMIT, brolga};

/// What `-d perf` says of translations.
#[derive(Debug)]
struct Translations {
    lifted: u64,
    kept: u64,
    compiled: u64,
}

/// Boots Linux of an architecture with a folder for compiled code, has it compute something, and powers it off.
fn boot(architecture: &str, guest: &Path, cache: &Path) -> Translations {
    let log = cache.with_extension("log");
    let mut command: Command = brolga();
    command.args(["-arch", architecture, "-m", "512", "-nographic", "-append", "console=ttyS0", "-d", "perf", "-D"]);
    command.arg(&log).arg("-accel").arg(format!("jit,translation-cache={}", cache.display()));
    command.arg("-kernel").arg(guest.join("Image")).arg("-initrd").arg(guest.join("initrd.cpio"));
    match architecture {
        "riscv64" => command.args(["-M", "virt", "-bios"]).arg(guest.join("fw_dynamic.bin")),
        _ => command.args(["-M", "pc"]),
    };
    let mut running = Guest::start(&mut command).unwrap();
    running.wait_for(PROMPT, LIMIT).unwrap();
    running.type_line("head -c 300000 /bin/busybox | gzip -9 | gunzip | sha256sum > /tmp/a; head -c 300000 /bin/busybox | sha256sum | cmp - /tmp/a && echo the same").unwrap();
    running.wait_for("the same", LIMIT).unwrap();
    running.type_line("poweroff -f").unwrap();
    running.wait_for_end(LIMIT).unwrap();
    let log = fs::read_to_string(&log).unwrap();
    let line = log.lines().find_map(|line| line.strip_prefix("translation: ")).unwrap_or_else(|| panic!("{log}"));
    let numbers: Vec<u64> = line.split(", ").map(|part| part.split(' ').next().unwrap().parse().unwrap()).collect();
    Translations { lifted: numbers[0], kept: numbers[1], compiled: numbers[2] }
}

/// The second boot compiles next to nothing; the code is there for the user alone, and a guest that is different in places
/// (Linux for x86-64 chooses its addresses anew each time) uses what is the same.
fn the_second_boot_compiles_next_to_nothing(test: &str, architecture: &str) {
    let Some(guest) = support::guest(test, architecture) else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let first = boot(architecture, &guest, &cache);
    assert!(first.kept == 0 && first.compiled > 10_000, "{first:?}");
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    let files: Vec<_> = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777, 0o600);
    let second = boot(architecture, &guest, &cache);
    assert!(second.kept > first.compiled / 2 && second.lifted < first.lifted, "{first:?}, then {second:?}");
    assert!(second.compiled < first.compiled / 4, "{first:?}, then {second:?}");
    // What is damaged is made anew.
    let mut bytes = fs::read(&files[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0xcc);
    fs::write(&files[0], bytes).unwrap();
    let third = boot(architecture, &guest, &cache);
    assert!(third.kept < second.kept && third.kept > 0, "{second:?}, then {third:?}");
}

#[test]
fn the_second_boot_of_riscv64_linux_compiles_next_to_nothing() {
    the_second_boot_compiles_next_to_nothing("the_second_boot_of_riscv64_linux_compiles_next_to_nothing", "riscv64");
}

#[test]
fn the_second_boot_of_x86_64_linux_compiles_next_to_nothing() {
    the_second_boot_compiles_next_to_nothing("the_second_boot_of_x86_64_linux_compiles_next_to_nothing", "x86_64");
}

/// A folder into which others may write is no place for code; the guest runs without.
#[test]
fn a_folder_of_others_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    fs::create_dir(&cache).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = brolga();
    command
        .args(["-arch", "riscv64", "-M", "virt", "-bios", "none", "-display", "none", "-monitor", "stdio", "-accel"]);
    let log = folder.path().join("log");
    command.arg(format!("jit,translation-cache={}", cache.display())).arg("-D").arg(&log);
    let mut running = Guest::start(&mut command).unwrap();
    running.wait_for("(qemu)", LIMIT).unwrap();
    running.type_line("quit").unwrap();
    running.wait_for_end(LIMIT).unwrap();
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("others may write there"), "{log}");
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 0);
}

#[test]
fn what_the_option_takes_is_said() {
    for (option, sentence) in [
        ("jit,translation-cache=maybe", "translation-cache=maybe: valid are on, off and the absolute path of a folder"),
        ("kvm,translation-cache=on", "translation-cache is for the accelerators jit, tcg and auto"),
    ] {
        let output = brolga().args(["-arch", "riscv64", "-M", "virt", "-accel", option]).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && printed.contains(sentence), "{printed}");
    }
}
