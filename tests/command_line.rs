//! The command line: what bad input is answered with, and small guests without any operating system.

mod support;

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::json;
use support::brolga;
use support::qmp::Client;
use support::running_guest::Guest;

fn run(arguments: &[&str]) -> Output {
    brolga().args(arguments).output().unwrap()
}

/// A raw riscv64 program for `-bios none`: prints "hi" on the serial port and writes `finisher` to the test device.
fn bare_program(folder: &Path, finisher: u32) -> PathBuf {
    let upper = |register: u32, value: u32| value & 0xffff_f000 | register << 7 | 0x37;
    let add = |register: u32, value: u32| (value & 0xfff) << 20 | register << 15 | register << 7 | 0x13;
    let store = |width: u32, value: u32, address: u32| value << 20 | address << 15 | width << 12 | 0x23;
    let (t0, t1) = (5, 6);
    let mut words = vec![upper(t0, 0x1000_0000)];
    for byte in *b"hi" {
        words.extend([upper(t1, 0), add(t1, u32::from(byte)), store(0, t1, t0)]);
    }
    words.push(upper(t0, 0x0010_0000));
    words.push(upper(t1, finisher.wrapping_add(0x800)));
    words.push(add(t1, finisher));
    words.push(store(2, t1, t0));
    // wfi; j . - 4
    words.extend([0x1050_0073, 0xffdf_f06f]);
    let path = folder.join("program");
    std::fs::write(&path, words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    path
}

#[test]
fn bad_input_gets_one_sentence_and_status_1() {
    let cases: &[(&[&str], &str)] = &[
        (&["-nosuch"], "-nosuch is not an option of Brolga"),
        (&["-arch", "vax"], "-arch vax: valid are x86_64, riscv64"),
        (&["-arch", "riscv64", "-m", "lots"], "-m lots: valid is a size such as 512, 512M or 2G"),
        (&["-arch", "riscv64", "-smp", "0"], "not 0"),
        (&["-arch", "riscv64", "-smp", "cpus=4,shoes=2"], "shoes is not known; valid are cpus, sockets"),
        (&["-arch", "riscv64", "-M", "pc"], "there is no machine type \"pc\" for riscv64; known are: virt"),
        (&["-arch", "riscv64", "-accel", "warp"], "-accel warp: valid are kvm, jit (tcg), qtest and auto"),
        (&["-arch", "riscv64", "-bios", "none", "-kernel", "/no/such/file"], "/no/such/file"),
        (&["-arch", "riscv64", "-device", "e1000"], "\"e1000\" is not a valid device model name"),
        (&["-arch", "riscv64", "-drive", "file=/no/such/disk,format=raw"], "/no/such/disk"),
        (&["-arch", "riscv64", "-drive", "file=x,format=vmdk"], "format=vmdk is not built; valid are raw, qcow2"),
        (&["-arch", "riscv64", "-uuid", "1"], "-uuid 1: valid is a UUID"),
        (&["-arch", "riscv64", "-serial", "stdio", "-monitor", "stdio"], "standard input and output are used by"),
        (&["-arch", "riscv64", "-qmp", "carrier-pigeon:"], "valid are unix:PATH, tcp:HOST:PORT, stdio and none"),
        (&["-arch", "riscv64", "-d", "everything"], "-d everything: valid are op"),
        (&["-cpu", "pentium9"], "no processor model"),
        (&["-cpu", "max,+avx512f"], "avx512f"),
        (&["-display", "gtk"], "-display gtk: Brolga has no displays yet; valid is none"),
    ];
    for (arguments, expected) in cases {
        let output = run(arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        assert!(message.contains(expected), "{arguments:?}: {message}");
        assert!(message.starts_with("brolga: ") && message.trim_end().lines().count() == 1, "{arguments:?}: {message}");
    }
}

#[test]
fn help_lists_machines_devices_and_log_items() {
    for (arguments, expected) in [
        (["-arch", "riscv64", "-M", "help"].as_slice(), "virt"),
        (&["-device", "help"], "virtio-blk-device"),
        (&["-d", "help"], "op"),
        (&["-arch", "riscv64", "-cpu", "help"], "rv64"),
        (&["-cpu", "help"], "x86-64-v3"),
        (&["-help"], "-accel"),
        (&["-version"], "Brolga"),
    ] {
        let output = run(arguments);
        assert!(output.status.success(), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(expected), "{arguments:?}");
    }
}

#[test]
fn a_bare_program_prints_and_ends_the_machine_with_its_status() {
    let folder = tempfile::tempdir().unwrap();
    for (finisher, status) in [(0x5555, 0), (0x0007_3333, 7)] {
        let program = bare_program(folder.path(), finisher);
        let output = brolga()
            .args(["-arch", "riscv64", "-accel", "tcg", "-bios", "none", "-nographic", "-kernel"])
            .arg(program)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(status), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hi");
    }
}

#[test]
fn the_log_shows_the_ir_of_what_is_translated() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let status = brolga()
        .args(["-arch", "riscv64", "-accel", "jit", "-bios", "none", "-d", "op", "-D"])
        .arg(&log)
        .arg("-kernel")
        .arg(bare_program(folder.path(), 0x5555))
        .status()
        .unwrap();
    assert!(status.success());
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("block 0x80000000") && log.contains("put x5"), "{log}");
}

#[test]
fn the_name_it_was_started_under_chooses_the_architecture() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("qemu-system-riscv64");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_brolga"), &link).unwrap();
    let output = std::process::Command::new(link).args(["-M", "help"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("RISC-V VirtIO board"));
}

#[test]
fn a_machine_that_is_not_started_waits_for_cont() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("qmp");
    let mut command = brolga();
    command.args(["-arch", "riscv64", "-accel", "jit", "-bios", "none", "-S", "-name", "waiting", "-serial", "stdio"]);
    command.arg("-kernel").arg(bare_program(folder.path(), 0x5555));
    command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
    let mut guest = Guest::start(&mut command).unwrap();
    let mut client = Client::connect(&socket);
    assert_eq!(client.execute("query-status", json!({}))["status"], "prelaunch");
    assert_eq!(client.execute("query-name", json!({}))["name"], "waiting");
    client.execute("cont", json!({}));
    assert_eq!(client.wait_for("SHUTDOWN")["data"]["reason"], "guest-shutdown");
    guest.wait_for_end(support::LIMIT).unwrap();
}
