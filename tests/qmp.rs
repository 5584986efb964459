//! The QMP commands on small machines without an operating system: the same test under every accelerator.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::qmp::Client;
use support::running_guest::Guest;
use support::{LIMIT, brolga};

/// A machine whose processor prints "ready" on the serial port and then counts in a register for ever.
struct Subject {
    name: &'static str,
    architecture: &'static str,
    kvm: bool,
    /// Guest-physical and guest-virtual address at which the program begins.
    program: u64,
    image: Vec<u8>,
    /// What `info registers` shows.
    register: &'static str,
    has_nmi: bool,
}

fn riscv64_on_jit() -> Subject {
    let (t0, t1) = (5_u32, 6_u32);
    let mut words = vec![0x1000_0000 | t0 << 7 | 0x37];
    for byte in *b"ready" {
        words.push(u32::from(byte) << 20 | t1 << 7 | 0x13);
        words.push(t1 << 20 | t0 << 15 | 0x23);
    }
    // addi t1, t1, 1; j . - 4
    words.extend([1 << 20 | t1 << 15 | t1 << 7 | 0x13, 0xffdf_f06f]);
    Subject {
        name: "riscv64 on jit",
        architecture: "riscv64",
        kvm: false,
        program: 0x8000_0000,
        image: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        register: "mstatus",
        has_nmi: false,
    }
}

fn x86_64_on_kvm() -> Subject {
    let mut image = vec![0; 0x1_0000];
    // mov dx, 0x3f8
    let mut code = vec![0xba, 0xf8, 0x03];
    for byte in *b"ready" {
        // mov al, byte; out dx, al
        code.extend([0xb0, byte, 0xee]);
    }
    // inc cx; jmp . - 1
    code.extend([0x41, 0xeb, 0xfd]);
    image[..code.len()].copy_from_slice(&code);
    // At the reset vector: jmp 0xf000:0
    image[0xfff0..0xfff5].copy_from_slice(&[0xea, 0, 0, 0, 0xf0]);
    Subject {
        name: "x86_64 on kvm",
        architecture: "x86_64",
        kvm: true,
        program: 0xf_0000,
        image,
        register: "CR0",
        has_nmi: true,
    }
}

impl Subject {
    fn command(&self, folder: &Path, socket: &Path) -> Command {
        let image = folder.join("image");
        std::fs::write(&image, &self.image).unwrap();
        let mut command = brolga();
        command.args(["-arch", self.architecture, "-accel", if self.kvm { "kvm" } else { "jit" }]);
        if self.kvm {
            command.args(["-M", "pc"]).arg("-bios").arg(&image);
        } else {
            command.args(["-M", "virt", "-bios", "none"]).arg("-kernel").arg(&image);
        }
        command.args(["-m", "64", "-serial", "stdio", "-name", "subject"]);
        command.args(["-uuid", "5ab2d25b-b5f4-4c6c-8ad8-ba4c1b2f5a7e"]);
        command.arg("-qmp").arg(format!("unix:{},server,nowait", socket.display()));
        command
    }
}

/// Runs a test for each accelerator that this host offers.
fn under_each_accelerator(test: &str, run: impl Fn(&Subject, &mut Guest, &mut Client, &Path)) {
    for subject in [riscv64_on_jit(), x86_64_on_kvm()] {
        if subject.kvm && std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
            eprintln!("SKIPPED: {test} ({}): /dev/kvm cannot be opened here", subject.name);
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let socket: PathBuf = folder.path().join("qmp");
        let mut guest = Guest::start(&mut subject.command(folder.path(), &socket)).unwrap();
        let mut client = Client::connect(&socket);
        guest.wait_for("ready", LIMIT).unwrap();
        run(&subject, &mut guest, &mut client, folder.path());
        client.execute("quit", json!({}));
        assert_eq!(client.events_so_far().last().map(String::as_str), Some("SHUTDOWN"), "{}", subject.name);
        guest.wait_for_end(LIMIT).unwrap();
    }
}

#[test]
fn queries_describe_the_machine() {
    under_each_accelerator("queries_describe_the_machine", |subject, _, client, _| {
        let mut query = |command: &str| client.execute(command, json!({}));
        let package = query("query-version")["package"].take();
        assert!(package.as_str().is_some_and(|text| text.starts_with("brolga ")), "{package}");
        assert_eq!(query("query-status")["status"], "running");
        assert_eq!(query("query-name")["name"], "subject");
        assert_eq!(query("query-uuid")["UUID"], "5ab2d25b-b5f4-4c6c-8ad8-ba4c1b2f5a7e");
        assert_eq!(query("query-kvm")["enabled"], subject.kvm);
        assert_eq!(query("query-target")["arch"], subject.architecture);
        let names = |list: Value| -> Vec<String> {
            list.as_array().unwrap().iter().filter_map(|entry| entry["name"].as_str().map(str::to_owned)).collect()
        };
        let machine = if subject.kvm { "pc" } else { "virt" };
        let machines = query("query-machines");
        let known =
            machines.as_array().unwrap().iter().any(|entry| entry["name"] == machine || entry["alias"] == machine);
        assert!(known, "{machines}");
        assert!(names(query("query-commands")).iter().any(|name| name == "human-monitor-command"));
        for event in ["STOP", "RESUME", "RESET", "POWERDOWN", "SHUTDOWN"] {
            assert!(names(query("query-events")).iter().any(|name| name == event), "{event}");
        }
        let cpus = query("query-cpus");
        assert_eq!(cpus.as_array().map(Vec::len), Some(1), "{cpus}");
        assert_eq!((&cpus[0]["CPU"], &cpus[0]["halted"]), (&json!(0), &json!(false)));
        assert!(cpus[0]["thread_id"].as_i64().is_some_and(|id| id > 0), "{cpus}");
    });
}

#[test]
fn the_machine_stops_goes_on_and_starts_over() {
    under_each_accelerator("the_machine_stops_goes_on_and_starts_over", |subject, guest, client, _| {
        let mut counter = || client.execute("human-monitor-command", json!({"command-line": "info registers"}));
        let (before, deadline) = (counter(), std::time::Instant::now() + LIMIT);
        while counter() == before {
            assert!(std::time::Instant::now() < deadline, "{}: the program does not run", subject.name);
        }
        client.execute("stop", json!({}));
        assert_eq!(client.events_so_far(), ["STOP"], "{}", subject.name);
        client.execute("stop", json!({}));
        assert!(client.events_so_far().is_empty(), "a second stop is no event");
        let status = client.execute("query-status", json!({}));
        assert_eq!((&status["status"], &status["running"]), (&json!("paused"), &json!(false)));
        let mut counter = || client.execute("human-monitor-command", json!({"command-line": "info registers"}));
        assert_eq!(counter(), counter(), "{}: the program runs while stopped", subject.name);
        client.execute("cont", json!({}));
        assert_eq!(client.events_so_far(), ["RESUME"]);
        client.execute("system_reset", json!({}));
        assert_eq!(client.wait_for("RESET")["data"], json!({"guest": false, "reason": "host-qmp-system-reset"}));
        guest.wait_for("ready", LIMIT).unwrap();
        client.execute("system_powerdown", json!({}));
        assert_eq!(client.events_so_far(), ["POWERDOWN"]);
    });
}

#[test]
fn memory_and_registers_are_shown() {
    under_each_accelerator("memory_and_registers_are_shown", |subject, _, client, folder| {
        let start = &subject.image[..16];
        for command in ["pmemsave", "memsave"] {
            let file = folder.join(command);
            client.execute(command, json!({"val": subject.program, "size": 16, "filename": file}));
            assert_eq!(std::fs::read(&file).unwrap(), start, "{} {command}", subject.name);
        }
        let mut monitor = |line: &str| -> String {
            let text = client.execute("human-monitor-command", json!({"command-line": line}));
            text.as_str().unwrap_or_default().to_owned()
        };
        assert!(monitor("info registers").contains(subject.register), "{}", monitor("info registers"));
        assert!(monitor("info cpus").contains("CPU #0"), "{}", monitor("info cpus"));
        let bytes: Vec<String> = start[..4].iter().map(|byte| format!("0x{byte:02x}")).collect();
        for command in ["xp", "x"] {
            let shown = monitor(&format!("{command} /4xb {:#x}", subject.program));
            assert!(shown.contains(&bytes.join(" ")), "{}: {shown}", subject.name);
        }
        assert!(monitor("nosuch").contains("unknown command: 'nosuch'"));
        client.execute("cpu", json!({"index": 0}));
        let answer = client.send("inject-nmi", json!({}));
        assert_eq!(answer.get("error").is_none(), subject.has_nmi, "{}: {answer}", subject.name);
        let answer = client.send("memsave", json!({"val": 0, "size": 1, "filename": "/dev/null", "cpu-index": 9}));
        assert_eq!(answer["error"]["class"], "GenericError", "{answer}");
    });
}

#[test]
fn several_clients_share_one_socket_and_each_hears_of_events() {
    under_each_accelerator("several_clients_share_one_socket_and_each_hears_of_events", |_, _, client, folder| {
        let mut second = Client::connect(&folder.join("qmp"));
        client.execute("stop", json!({}));
        assert_eq!(second.wait_for("STOP")["event"], "STOP");
        second.execute("cont", json!({}));
        assert_eq!(client.wait_for("RESUME")["event"], "RESUME");
    });
}
