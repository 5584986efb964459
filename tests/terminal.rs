//! The terminal: raw while the guest has it, and as it was after every end.

mod support;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use support::qmp::Client;
use support::terminal::Session;
use support::{LIMIT, brolga};

/// The status with which [`program`] switches the machine off.
const STATUS: i32 = 7;

/// A raw riscv64 program for `-bios none`: prints "ready" and switches the machine off when a key comes.
fn program(folder: &Path) -> PathBuf {
    let (t0, t1) = (5_u32, 6_u32);
    let mut words = vec![0x1000_0000 | t0 << 7 | 0x37];
    for byte in *b"ready" {
        words.push(u32::from(byte) << 20 | t1 << 7 | 0x13);
        words.push(t1 << 20 | t0 << 15 | 0x23);
    }
    // lbu t1, 5(t0); andi t1, t1, 1; beqz t1, . - 8: the UART has received something
    words.extend([5 << 20 | t0 << 15 | 4 << 12 | t1 << 7 | 3, 1 << 20 | t1 << 15 | 7 << 12 | t1 << 7 | 0x13]);
    words.push(0xfe00_0000 | t1 << 15 | 0xc << 8 | 1 << 7 | 0x63);
    // lui t0, 0x100; lui t1, STATUS << 4 | 3; addi t1, t1, 0x333; sw t1, 0(t0); j .
    words.extend([0x0010_0000 | t0 << 7 | 0x37, (STATUS.cast_unsigned() << 4 | 3) << 12 | t1 << 7 | 0x37]);
    words.extend([0x333 << 20 | t1 << 15 | t1 << 7 | 0x13, t1 << 20 | t0 << 15 | 2 << 12 | 0x23, 0x6f]);
    let path = folder.join("program");
    std::fs::write(&path, words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    path
}

fn command(folder: &Path, serial: &[&str]) -> Command {
    let mut command = brolga();
    command.args(["-arch", "riscv64", "-accel", "jit", "-bios", "none", "-m", "16", "-kernel"]).arg(program(folder));
    command.args(serial).arg("-pidfile").arg(folder.join("pid"));
    command
}

/// On the terminal, with QMP at `socket`.
fn start(folder: &Path, serial: &[&str], socket: &str) -> Session {
    Session::start(command(folder, serial).arg("-qmp").arg(format!("unix:{}/{socket}", folder.display())))
}

/// Ends a running machine in a way of its own; the terminal must be as before, and nothing must be left behind.
fn ends(serial: &[&str], expected: i32, end: impl FnOnce(&mut Session, &Path)) {
    let folder = tempfile::tempdir().unwrap();
    let mut session = start(folder.path(), serial, "qmp,server=on,wait=off");
    session.wait_for("ready");
    session.wait_raw(serial == SIGNALS);
    end(&mut session, folder.path());
    let (status, output) = session.wait_for_end();
    assert_eq!(status, Some(expected), "{output}");
    assert!(session.is_as_before());
    assert_only_the_program_is_left(folder.path());
}

fn assert_only_the_program_is_left(folder: &Path) {
    let left: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["program"]);
}

/// Ctrl-C is the guest's, Ctrl-A ours.
const SHARED: &[&str] = &["-nographic"];
/// Ctrl-C is ours, Ctrl-A the guest's.
const SIGNALS: &[&str] = &["-display", "none", "-serial", "stdio"];

#[test]
fn the_escape_for_the_end_restores_it() {
    ends(SHARED, 0, |session, _| session.press(b"\x01x"));
}

#[test]
fn a_guest_that_switches_off_restores_it() {
    ends(SHARED, STATUS, |session, _| session.press(b"k"));
}

#[test]
fn control_c_is_a_key_for_the_guest_unless_signals_are_kept() {
    ends(SHARED, STATUS, |session, _| session.press(b"\x03"));
    ends(SIGNALS, 0, |session, _| session.press(b"\x03"));
}

#[test]
fn control_a_is_a_key_for_the_guest_without_a_monitor() {
    ends(SIGNALS, STATUS, |session, _| session.press(b"\x01"));
}

#[test]
fn signals_that_end_the_process_restore_it() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        ends(SHARED, 0, |session, _| session.signal(signal));
    }
}

#[test]
fn quit_over_qmp_restores_it() {
    ends(SHARED, 0, |_, folder| {
        Client::connect(&folder.join("qmp")).execute("quit", json!({}));
    });
}

#[test]
fn quit_on_the_terminals_own_monitor_restores_it() {
    ends(SHARED, 0, |session, _| {
        session.press(b"\x01c");
        session.wait_for("(qemu)");
        session.press(b"quit\r");
    });
}

#[test]
fn a_terminal_that_goes_away_ends_the_machine() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = start(folder.path(), SHARED, "qmp,server=on,wait=off");
    session.wait_for("ready");
    session.hang_up();
    assert_eq!(session.wait_for_end().0, Some(0));
    assert_only_the_program_is_left(folder.path());
}

#[test]
fn a_start_that_fails_late_restores_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path(), SHARED);
    let socket = folder.path().join("qmp");
    // Raw while it waits for a client of the first socket; the second cannot be made then.
    command.arg("-qmp").arg(format!("unix:{},server=on,wait=on", socket.display()));
    command.arg("-qmp").arg(format!("unix:{}/nowhere/qmp,server=on,wait=off", folder.path().display()));
    let mut session = Session::start(&mut command);
    session.wait_raw(false);
    let deadline = Instant::now() + LIMIT;
    // Not a session, as that may end before it has begun.
    while UnixStream::connect(&socket).is_err() {
        assert!(Instant::now() < deadline, "nobody listens");
        std::thread::sleep(Duration::from_millis(10));
    }
    let (status, output) = session.wait_for_end();
    assert_eq!(status, Some(1), "{output}");
    assert!(output.starts_with("brolga: ") && output.contains("nowhere/qmp"), "{output}");
    assert!(session.is_as_before());
    assert_only_the_program_is_left(folder.path());
}

#[test]
fn a_start_that_waits_for_a_client_can_be_ended() {
    let ways: [fn(&mut Session); 2] = [|session| session.signal(Signal::TERM), |session| session.press(b"\x01x")];
    for end in ways {
        let folder = tempfile::tempdir().unwrap();
        let mut session = start(folder.path(), SHARED, "qmp,server=on,wait=on");
        session.wait_raw(false);
        end(&mut session);
        let (status, output) = session.wait_for_end();
        assert_eq!(status, Some(0), "{output}");
        assert!(!output.contains("brolga:"), "{output}");
        assert!(session.is_as_before());
        assert_only_the_program_is_left(folder.path());
    }
}

#[test]
fn a_suspended_program_gives_it_back_and_takes_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let inner = command(folder.path(), SIGNALS);
    // A shell with job control, as only a job of one can be suspended.
    let mut shell = Command::new("sh");
    shell.args(["-m", "-c", "\"$@\"; echo back in the shell; read line; fg; echo status $?", "sh"]);
    shell.arg(inner.get_program()).args(inner.get_args());
    let mut session = Session::start(&mut shell);
    session.wait_for("ready");
    session.wait_raw(true);
    session.press(b"\x1a");
    session.wait_for("back in the shell");
    assert!(session.is_as_before());
    session.press(b"\n");
    session.wait_raw(true);
    session.press(b"k");
    session.wait_for(&format!("status {STATUS}"));
    session.wait_for_end();
    assert!(session.is_as_before());
    assert_only_the_program_is_left(folder.path());
}
