//! Debian's riscv64 Linux on the JIT: from OpenSBI to a shell, and QMP while it runs.

mod support;

use std::time::Duration;

use serde_json::json;
use support::qmp::Client;
use support::running_guest::{Guest, PROMPT};
use support::{LIMIT, debian_riscv64};

fn boots_to_a_shell(test: &str, processors: u32) {
    let Some(folder) = support::guest(test, "riscv64") else { return };
    let mut guest = Guest::start(&mut debian_riscv64(&folder, processors)).unwrap();
    let console = guest.wait_for(PROMPT, LIMIT).unwrap();
    assert!(console.contains("OpenSBI"), "{console}");
    assert!(!console.contains("Oops") && !console.contains("BUG:"), "{console}");
    guest.type_line("echo $((6*7)) $(nproc)").unwrap();
    guest.wait_for(&format!("42 {processors}"), LIMIT).unwrap();
    guest.type_line("poweroff -f").unwrap();
    guest.wait_for_end(LIMIT).unwrap();
}

#[test]
fn boots_to_a_shell_with_one_processor() {
    boots_to_a_shell("boots_to_a_shell_with_one_processor", 1);
}

#[test]
fn boots_to_a_shell_with_four_processors() {
    boots_to_a_shell("boots_to_a_shell_with_four_processors", 4);
}

#[test]
fn qmp_controls_the_running_guest() {
    let Some(folder) = support::guest("qmp_controls_the_running_guest", "riscv64") else { return };
    let sockets = tempfile::tempdir().unwrap();
    let socket = sockets.path().join("qmp");
    let mut command = debian_riscv64(&folder, 2);
    command.arg("-qmp").arg(format!("unix:{},server,nowait", socket.display()));
    let mut guest = Guest::start(&mut command).unwrap();
    let mut client = Client::connect(&socket);
    guest.wait_for(PROMPT, LIMIT).unwrap();
    assert_eq!(client.execute("query-status", json!({}))["status"], "running");
    assert_eq!(client.execute("query-target", json!({}))["arch"], "riscv64");
    assert_eq!(client.execute("query-kvm", json!({}))["enabled"], false);
    assert_eq!(client.execute("query-cpus", json!({})).as_array().map(Vec::len), Some(2));
    let registers = client.execute("human-monitor-command", json!({"command-line": "info registers"}));
    assert!(registers.as_str().is_some_and(|text| text.contains("mstatus")), "{registers}");

    // The client may have been there in time to hear of the start.
    client.events_so_far();
    client.execute("stop", json!({}));
    assert_eq!(client.events_so_far(), ["STOP"]);
    assert_eq!(client.execute("query-status", json!({}))["running"], false);
    guest.type_line("echo $((6*7)) still here").unwrap();
    assert!(guest.wait_for("42 still here", Duration::from_secs(2)).is_err(), "a stopped guest answers");
    client.execute("cont", json!({}));
    assert_eq!(client.events_so_far(), ["RESUME"]);
    guest.wait_for("42 still here", LIMIT).unwrap();

    client.execute("system_powerdown", json!({}));
    assert_eq!(client.events_so_far(), ["POWERDOWN"]);
    client.execute("system_reset", json!({}));
    assert_eq!(client.wait_for("RESET")["data"]["guest"], false);
    guest.wait_for("OpenSBI", LIMIT).unwrap();
    guest.wait_for(PROMPT, LIMIT).unwrap();
    guest.type_line("echo $((6*7)) again").unwrap();
    guest.wait_for("42 again", LIMIT).unwrap();

    client.execute("quit", json!({}));
    assert_eq!(client.events_so_far(), ["SHUTDOWN"]);
    guest.wait_for_end(LIMIT).unwrap();
}
