//! The QMP commands on small machines without an operating system: the same test under every accelerator.

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::LIMIT;
use support::qmp::Client;
use support::running_guest::Guest;
use support::subject::{self, Subject};

/// Runs a test for each accelerator that this host offers.
fn under_each_accelerator(test: &str, run: impl Fn(&Subject, &mut Guest, &mut Client, &Path)) {
    for subject in subject::all(test) {
        let folder = tempfile::tempdir().unwrap();
        let socket: PathBuf = folder.path().join("qmp");
        let mut guest = Guest::start(subject.command(folder.path(), &socket).args(["-serial", "stdio"])).unwrap();
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
        assert_eq!(query("query-kvm")["enabled"], subject.accelerator == "kvm");
        assert_eq!(query("query-target")["arch"], subject.architecture);
        let names = |list: Value| -> Vec<String> {
            list.as_array().unwrap().iter().filter_map(|entry| entry["name"].as_str().map(str::to_owned)).collect()
        };
        let machine = if subject.architecture == "x86_64" { "pc" } else { "virt" };
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
        // The client may have been there in time to hear of the start.
        client.events_so_far();
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
