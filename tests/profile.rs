//! What shows where the JIT's time goes: `-d perf` and `-perfmap`.

mod support;

use std::fs;

use support::LIMIT;
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
}
