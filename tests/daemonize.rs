//! `-daemonize` and `-pidfile`: what the parent promises, and what is left behind.

mod support;

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process, pidfd_open, pidfd_send_signal, set_child_subreaper,
    waitpid,
};
use serde_json::json;
use support::LIMIT;
use support::qmp::Client;
use support::subject::{self, Subject};

/// The machine in the background, with `pid` and `qmp` in `folder`.
fn command(subject: &Subject, folder: &Path) -> Command {
    // Relative paths, though the process leaves the folder.
    let mut command = subject.command(folder, Path::new("qmp"));
    command.current_dir(folder).args(["-display", "none", "-serial", "none", "-daemonize", "-pidfile", "pid"]);
    command
}

/// The parent's exit status and what it and its child wrote until both had closed their output.
fn run(command: &mut Command) -> (Option<i32>, String) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut parent = command.spawn().unwrap();
    // It holds the ends of the pipe.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, output) = channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = reader.read_to_string(&mut text);
        sender.send(text)
    });
    let Ok(output) = output.recv_timeout(LIMIT) else {
        parent.kill().unwrap();
        panic!("the output was not closed: {:?}", parent.wait());
    };
    (parent.wait().unwrap().code(), output)
}

/// The process in the background; it is ended when dropped. It is a child of this process once its parent has ended, so
/// that its number stays its own until then.
struct Daemon {
    pid: Pid,
    process: OwnedFd,
}

impl Daemon {
    fn start(command: &mut Command, folder: &Path) -> Daemon {
        set_child_subreaper(Some(getpid())).unwrap();
        assert_eq!(run(command), (Some(0), String::new()));
        let text = std::fs::read_to_string(folder.join("pid")).unwrap();
        let pid = text.strip_suffix('\n').and_then(|number| number.parse().ok()).and_then(Pid::from_raw);
        let pid = pid.unwrap_or_else(|| panic!("{text:?}"));
        Daemon { pid, process: pidfd_open(pid, PidfdFlags::empty()).unwrap() }
    }

    fn has_ended_within(&self, limit: Duration) -> bool {
        let limit = Timespec::try_from(limit).unwrap();
        poll(&mut [PollFd::new(&self.process, PollFlags::IN)], Some(&limit)) == Ok(1)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}

fn files(folder: &Path) -> Vec<OsString> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    files
}

#[test]
fn the_parent_ends_when_the_child_answers_and_quit_removes_its_files() {
    for subject in subject::all("the_parent_ends_when_the_child_answers_and_quit_removes_its_files") {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("qmp");
        let daemon = Daemon::start(&mut command(&subject, folder.path()), folder.path());
        let stream = UnixStream::connect(&socket).expect("the socket is there when the parent has ended");
        assert_eq!(socket_peercred(&stream).unwrap().pid, daemon.pid, "{}", subject.name);
        let mut client = Client::connect(&socket);
        assert_eq!(client.execute("query-status", json!({}))["status"], "running");
        client.execute("quit", json!({}));
        assert!(daemon.has_ended_within(LIMIT), "{}", subject.name);
        assert_eq!(files(folder.path()), ["image"], "{}", subject.name);
    }
}

#[test]
fn signals_end_it_and_remove_its_files() {
    for subject in subject::all("signals_end_it_and_remove_its_files") {
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            let folder = tempfile::tempdir().unwrap();
            let daemon = Daemon::start(&mut command(&subject, folder.path()), folder.path());
            pidfd_send_signal(&daemon.process, signal).unwrap();
            assert!(daemon.has_ended_within(LIMIT), "{} {signal:?}", subject.name);
            assert_eq!(files(folder.path()), ["image"], "{} {signal:?}", subject.name);
        }
    }
}

#[test]
fn a_second_instance_with_the_same_pid_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let subject = subject::riscv64_on_jit();
    // Left behind by an instance that was killed.
    std::fs::write(folder.path().join("pid"), "123456789 and more\n").unwrap();
    let daemon = Daemon::start(&mut command(&subject, folder.path()), folder.path());
    let (status, output) = run(&mut command(&subject, folder.path()));
    assert_eq!(status, Some(1));
    assert_eq!(output, "brolga: -pidfile pid: another process has it locked\n");
    // The first one keeps what is its own.
    let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap();
    assert_eq!(pid, format!("{}\n", daemon.pid.as_raw_nonzero()));
    let stream = UnixStream::connect(folder.path().join("qmp")).unwrap();
    assert_eq!(socket_peercred(&stream).unwrap().pid, daemon.pid);
    drop(stream);
    Client::connect(&folder.path().join("qmp")).execute("quit", json!({}));
    assert!(daemon.has_ended_within(LIMIT));
    // Then there is room for the next.
    let next = Daemon::start(&mut command(&subject, folder.path()), folder.path());
    Client::connect(&folder.path().join("qmp")).execute("quit", json!({}));
    assert!(next.has_ended_within(LIMIT));
    assert_eq!(files(folder.path()), ["image"]);
}

#[test]
fn a_start_that_fails_is_told_by_the_parent_and_leaves_nothing() {
    let cases: &[(&[&str], &str)] = &[
        (&["-kernel", "/no/such/kernel"], "/no/such/kernel"),
        (&["-drive", "file=/no/such/disk,format=raw"], "/no/such/disk"),
        // After the pid file and the first socket are there.
        (&["-qmp", "unix:nowhere/second,server=on,wait=off"], "nowhere/second"),
        (&["-pidfile", "nowhere/pid"], "-pidfile nowhere/pid: No such file or directory"),
        (&["-pidfile", "."], "-pidfile .: Is a directory"),
        (&["-chardev", "stdio,id=c", "-mon", "chardev=c"], "with -daemonize there is no standard input and output"),
    ];
    for subject in subject::all("a_start_that_fails_is_told_by_the_parent_and_leaves_nothing") {
        for (arguments, expected) in cases {
            // The program is the firmware there, and firmware and a kernel together are refused before the kernel is read.
            if subject.architecture == "x86_64" && arguments[0] == "-kernel" {
                continue;
            }
            let folder = tempfile::tempdir().unwrap();
            let (status, output) = run(command(&subject, folder.path()).args(*arguments));
            assert_eq!(status, Some(1), "{} {arguments:?}: {output}", subject.name);
            assert!(output.starts_with("brolga: ") && output.contains(expected), "{arguments:?}: {output}");
            assert_eq!(output.lines().count(), 1, "{arguments:?}: {output}");
            assert_eq!(files(folder.path()), ["image"], "{} {arguments:?}", subject.name);
        }
    }
}

#[test]
fn a_child_that_is_killed_while_it_starts_is_told_by_the_parent() {
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let mut command = command(&subject::riscv64_on_jit(), folder.path());
    // Waits for a client that never comes.
    command.args(["-serial", "unix:serial,server=on,wait=on"]);
    let killer = std::thread::spawn(move || {
        let deadline = std::time::Instant::now() + LIMIT;
        loop {
            let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
            if let Some(pid) = text.strip_suffix('\n').and_then(|number| Pid::from_raw(number.parse().ok()?)) {
                return kill_process(pid, Signal::KILL).unwrap();
            }
            assert!(std::time::Instant::now() < deadline, "there is no pid file");
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let (status, output) = run(&mut command);
    killer.join().unwrap();
    assert_eq!(status, Some(1), "{output}");
    assert!(output.starts_with("brolga: -daemonize: ") && output.contains("signal: 9"), "{output}");
}

#[test]
fn nographic_in_the_background_needs_another_place_for_the_serial_port() {
    let folder = tempfile::tempdir().unwrap();
    let (status, output) = run(support::brolga().current_dir(&folder).args(["-nographic", "-daemonize"]));
    assert_eq!(
        (status, output.as_str()),
        (Some(1), "brolga: -nographic: with -daemonize there is no terminal; add -serial none\n")
    );
    // As management programs ask for the capabilities: without default devices there is no serial port.
    let mut quiet = support::brolga();
    quiet.current_dir(&folder).args(["-arch", "riscv64", "-accel", "jit", "-bios", "none", "-S", "-nodefaults"]);
    quiet.args(["-nographic", "-daemonize", "-pidfile", "pid", "-qmp", "unix:qmp,server=on,wait=off"]);
    let daemon = Daemon::start(&mut quiet, folder.path());
    Client::connect(&folder.path().join("qmp")).execute("quit", json!({}));
    assert!(daemon.has_ended_within(LIMIT));
    assert!(files(folder.path()).is_empty());
}
