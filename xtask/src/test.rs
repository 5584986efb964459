//! `test`: every check and every test, and a count of what passed, failed and was skipped.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{Result, cargo, debian, guests, installed, root};

/// How a test says that it could not run.
const SKIPPED: &str = "SKIPPED: ";

#[derive(Default)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: BTreeSet<String>,
}

/// Runs everything.
pub(crate) fn run() -> Result<()> {
    set_up();
    let mut count = Count::default();
    let mut check = |name: &str, command: &mut Command| {
        println!("== {name}");
        if command.status().is_ok_and(|status| status.success()) {
            count.passed += 1;
        } else {
            println!("FAILED: {name}");
            count.failed += 1;
        }
    };
    check("formatting", cargo().args(["fmt", "--all", "--check"]));
    check("formatting of the fuzz targets", cargo().args(["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]));
    check("clippy", cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]));
    check(
        "documentation",
        cargo()
            .args(["doc", "--workspace", "--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links"),
    );
    println!("== tests");
    tests(&mut count)?;
    for test in &count.skipped {
        println!("skipped {test}");
    }
    let skipped = count.skipped.len() as u64;
    println!("{} passed, {} failed, {skipped} skipped", count.passed.saturating_sub(skipped), count.failed);
    if count.failed == 0 { Ok(()) } else { Err("not everything passed".into()) }
}

/// Gets what tests compare with. What cannot be had is said here, and the tests that need it count as skipped.
fn set_up() {
    if let Err(error) = guests::fetch() {
        println!("no guest to boot: {error}");
    }
    if let Err(error) = installed::make() {
        println!("no installed Debian to boot: {error}");
    }
    if let Err(error) = debian::install(&PROGRAMS) {
        println!("some tests will be skipped: {error}");
    }
    if let Err(error) = install_client() {
        println!("some tests will be skipped: {error}");
    }
}

/// Programs from Debian's packages that tests use.
const PROGRAMS: [(&str, &str); 6] = [
    ("qemu-riscv64-static", "qemu-user-static"),
    ("qemu-img", "qemu-utils"),
    ("nbdinfo", "libnbd-bin"),
    ("nbdkit", "nbdkit"),
    ("openssl", "openssl"),
    ("python3", "python3-venv"),
];

/// The QMP client from PyPI, in a Python environment of its own.
fn install_client() -> Result<PathBuf> {
    let folder = root().join("guests/python");
    let python = folder.join("bin/python");
    if !folder.join("complete").exists() {
        println!("installing the QMP client qemu.qmp from PyPI");
        crate::run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        crate::run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "qemu.qmp==0.0.6"]))?;
        std::fs::write(folder.join("complete"), "").map_err(|error| error.to_string())?;
    }
    Ok(python)
}

fn tests(count: &mut Count) -> Result<()> {
    let guests = root().join("guests");
    let mut child = cargo()
        .args(["test", "--workspace", "--no-fail-fast", "--", "--show-output"])
        .env("BROLGA_GUESTS", &guests)
        .env("BROLGA_SEABIOS", guests.join("x86_64/bios-256k.bin"))
        .env("BROLGA_PYTHON", guests.join("python/bin/python"))
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cargo cannot be started: {error}"))?;
    let output = child.stdout.take().ok_or("cargo has no output")?;
    let mut results = 0;
    for line in BufReader::new(output).lines() {
        let line = line.map_err(|error| format!("cargo's output cannot be read: {error}"))?;
        if let Some(test) = line.strip_prefix(SKIPPED) {
            count.skipped.insert(test.to_owned());
            continue;
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            results += 1;
            let number = |what: &str| {
                let before = result.split(what).next().unwrap_or_default();
                before.rsplit([' ', ';', '.']).find(|word| !word.is_empty()).and_then(|word| word.parse::<u64>().ok())
            };
            count.passed += number(" passed").unwrap_or(0);
            count.failed += number(" failed").unwrap_or(0);
        }
        println!("{line}");
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    if !status.success() && count.failed == 0 {
        println!("FAILED: cargo test ended with {status}");
        count.failed += 1;
    }
    if results == 0 {
        return Err("no test ran".into());
    }
    Ok(())
}
