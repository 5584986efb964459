//! What shows where the JIT's time goes: `-d perf` and `-perfmap`.

mod support;

use std::fs;
use std::process::Stdio;

use serde_json::json;
use support::LIMIT;
use support::qmp::Client;
use support::running_guest::Guest;

#[test]
fn counters_are_logged_and_compiled_code_has_names() {
    let Some(folder) = support::guest("counters_are_logged_and_compiled_code_has_names", "riscv64") else { return };
    let here = tempfile::tempdir().unwrap();
    let (log, pid) = (here.path().join("log"), here.path().join("pid"));
    let mut command = support::debian_riscv64(&folder, 1);
    command.args(["-perfmap", "-d", "perf", "-D"]).arg(&log).arg("-pidfile").arg(&pid);
    let mut guest = Guest::start(&mut command).unwrap();
    guest.wait_for("Linux version", LIMIT).unwrap();
    let map = format!("/tmp/perf-{}.map", fs::read_to_string(&pid).unwrap().trim());
    // Ctrl-A x ends the program.
    guest.type_line("\u{1}x").unwrap();
    guest.wait_for_end(LIMIT).unwrap();
    let names = fs::read_to_string(&map).unwrap();
    fs::remove_file(&map).unwrap();
    let is_entry = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let hexadecimal =
            |word: Option<&str>| word.is_some_and(|word| u64::from_str_radix(word, 16).is_ok_and(|it| it > 0));
        hexadecimal(words.next())
            && hexadecimal(words.next())
            && words.next().is_some_and(|name| name.starts_with("block 0x") || name.starts_with("region 0x"))
    };
    assert!(names.lines().count() > 100 && names.lines().all(is_entry), "{names}");
    let log = fs::read_to_string(&log).unwrap();
    let lifted =
        log.lines().find_map(|line| line.strip_prefix("translation: ")?.split(' ').next()?.parse::<u64>().ok());
    assert!(lifted.is_some_and(|lifted| lifted > 1000), "{log}");
    let shares = log.lines().find_map(|line| line.strip_prefix("time: ")).unwrap_or_else(|| panic!("{log}"));
    let shares: Vec<(f64, &str)> = shares
        .split(", ")
        .map(|share| share.split_once("% ").map(|(number, name)| (number.parse().unwrap(), name)).unwrap())
        .collect();
    assert!((shares.iter().map(|(share, _)| share).sum::<f64>() - 100.0).abs() < 1.0, "{shares:?}");
    assert!(shares.iter().any(|(share, name)| *name == "compiled code" && *share > 5.0), "{shares:?}");
}

#[test]
fn counters_are_to_be_had_while_the_machine_runs() {
    let statistics = |accelerator: &str| {
        let here = tempfile::tempdir().unwrap();
        let socket = here.path().join("qmp");
        let mut command = support::brolga();
        command.args(["-arch", "riscv64", "-M", "virt", "-bios", "none", "-display", "none", "-smp", "2", "-accel"]);
        command.arg(accelerator).arg("-qmp").arg(format!("unix:{},server,nowait", socket.display()));
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        let mut client = Client::connect(&socket);
        let answer = client.send("x-query-jit", json!({}));
        let shown = client.execute("human-monitor-command", json!({"command-line": "info jit"}));
        client.execute("quit", json!({}));
        child.wait().unwrap();
        (answer, shown.as_str().unwrap().to_owned())
    };
    let (answer, shown) = statistics("jit");
    let text = answer["return"]["human-readable-text"].as_str().unwrap_or_else(|| panic!("{answer}"));
    for text in [text, &shown] {
        assert!(text.contains("processor 0:") && text.contains("processor 1:"), "{text}");
        assert!(text.contains("blocks: ") && text.contains("compiled: 0 regions so far"), "{text}");
    }
    let (answer, _) = statistics("qtest");
    assert_eq!(answer["error"]["class"], "GenericError", "{answer}");
}
