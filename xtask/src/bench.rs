//! `bench`: Brolga and Debian's QEMU on the same riscv64 guest, in alternation.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::guest::command;
use crate::guests::RISCV64;
use crate::running_guest::{Guest, PROMPT};
use crate::{Result, build_brolga};

/// How often each is measured.
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(300);

/// Work for the guest's processor: name and shell command.
const WORK: [(&str, &str); 5] = [
    ("shell loop", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"),
    ("sha256sum", "dd if=/dev/zero bs=1M count=24 2>/dev/null | sha256sum >/dev/null"),
    ("gzip", "dd if=/bin/busybox bs=1M 2>/dev/null | gzip -9 >/dev/null"),
    ("awk float", "awk 'BEGIN { for (i = 1; i < 150000; i++) s += sqrt(i) / (i + 0.5); print s }' >/dev/null"),
    ("fork", "i=0; while [ $i -lt 150 ]; do /bin/true; i=$((i+1)); done"),
];

/// Runs the benchmark.
pub(crate) fn run() -> Result<()> {
    RISCV64.fetch()?;
    let brolga = build_brolga()?;
    let Some(qemu) = find_qemu() else {
        return Err("qemu-system-riscv64 is not installed; it is in Debian's package qemu-system-misc or \
                    qemu-system-riscv (10.0: from the backports suite); BROLGA_QEMU names one elsewhere"
            .into());
    };
    let version = crate::output(Command::new(&qemu).arg("-version"))?;
    println!("against {}", version.lines().next().unwrap_or_default());
    let names: Vec<&str> = ["time to shell"].into_iter().chain(WORK.map(|(name, _)| name)).collect();
    // For each program, for each of the names, the seconds of each round.
    let mut ours = vec![Vec::new(); names.len()];
    let mut theirs = ours.clone();
    for round in 1..=ROUNDS {
        println!("round {round} of {ROUNDS}");
        for (program, accelerator, times) in [(&brolga, "jit", &mut ours), (&qemu, "tcg", &mut theirs)] {
            let measured = measure(command(program, &RISCV64, 1).args(["-accel", accelerator, "-nographic"]))?;
            for (times, seconds) in times.iter_mut().zip(measured) {
                times.push(seconds);
            }
        }
    }
    println!("{:<16} {:>22} {:>22} {:>24}", "seconds", "Brolga", "QEMU", "QEMU / Brolga");
    let mut product = 1.0;
    for ((name, ours), theirs) in names.iter().zip(&ours).zip(&theirs) {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| theirs / ours).collect();
        println!("{name:<16} {:>22} {:>22} {:>24}", spread(ours), spread(theirs), spread(&ratios));
        if *name != names[0] {
            product *= median(&ratios);
        }
    }
    println!("work, geometric mean of QEMU / Brolga: {:.2}", f64::powf(product, 1.0 / WORK.len() as f64));
    Ok(())
}

/// Boots a guest and has it do all the work; gives the seconds of each.
fn measure(command: &mut Command) -> Result<Vec<f64>> {
    let start = Instant::now();
    let mut guest = Guest::start(command)?;
    guest.wait_for(PROMPT, LIMIT)?;
    let mut seconds = vec![start.elapsed().as_secs_f64()];
    for (name, work) in WORK {
        // The echoed command must not be taken for its end.
        let start = Instant::now();
        guest.type_line(&format!("{work}; echo work-\"done\""))?;
        guest.wait_for("work-done", LIMIT).map_err(|error| format!("{name}: {error}"))?;
        seconds.push(start.elapsed().as_secs_f64());
        guest.wait_for(PROMPT, LIMIT)?;
    }
    guest.type_line("poweroff -f")?;
    guest.wait_for_end(LIMIT)?;
    Ok(seconds)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Median, and smallest to largest.
fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{:.2} ({least:.2}..{most:.2})", median(values))
}

fn find_qemu() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::var_os("BROLGA_QEMU")
        .map(PathBuf::from)
        .into_iter()
        .chain(std::env::split_paths(&path).map(|folder| folder.join("qemu-system-riscv64")))
        .find(|program: &PathBuf| Path::exists(program))
}
