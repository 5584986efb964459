//! `bench`: Brolga and Debian's QEMU on the same kernel, programs and machine, in alternation.
//!
//! The time of a workload is taken here, from the lines that the guest prints before and behind it: a guest's own clock is
//! part of what is measured. Each round boots every guest once under each emulator, so that what disturbs the machine
//! disturbs both.

mod chart;
pub(crate) mod endure;
mod measure;
mod programs;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use crate::guests::{Guest, RISCV64, X86_64};
use crate::{Result, build_brolga, root};
use measure::Boot;
use programs::Programs;
use table::{Row, Summary};

/// What is to be measured.
#[derive(Debug)]
struct Request {
    guests: Vec<Guest>,
    rounds: usize,
    /// All if empty.
    workloads: Vec<String>,
    /// Write the chart.
    chart: bool,
}

/// The seconds of one workload, one for each round.
#[derive(Default)]
struct Times {
    brolga: Vec<f64>,
    qemu: Vec<f64>,
    native: Vec<f64>,
}

/// Runs the benchmark: `[x86_64|riscv64] [rounds=N] [WORKLOAD]...`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let request = parse(arguments)?;
    let brolga = build_brolga()?;
    let mut summaries = Vec::new();
    for guest in &request.guests {
        guest.fetch()?;
        let programs = programs::build(guest)?;
        let qemu = find_qemu(guest)?;
        let version = crate::output(Command::new(&qemu).arg("-version"))?;
        println!("{}: against {}", guest.architecture, version.lines().next().unwrap_or_default());
        summaries.push(compare(guest, &programs, &brolga, &qemu, &request)?);
    }
    if request.chart && request.workloads.is_empty() {
        let path = root().join("docs/benchmark.svg");
        std::fs::write(&path, chart::draw(&summaries)).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("the chart is docs/benchmark.svg");
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Request> {
    let mut request = Request { guests: Vec::new(), rounds: 3, workloads: Vec::new(), chart: false };
    for argument in arguments {
        match argument.as_str() {
            "x86_64" => request.guests.push(X86_64),
            "riscv64" => request.guests.push(RISCV64),
            "chart" => request.chart = true,
            other => match other.strip_prefix("rounds=") {
                Some(number) => {
                    let rounds: usize = number.parse().map_err(|_| format!("{number:?} is not a number of rounds"))?;
                    request.rounds = rounds.max(1);
                }
                None => request.workloads.push(other.to_owned()),
            },
        }
    }
    if request.guests.is_empty() {
        request.guests = vec![RISCV64, X86_64];
    }
    Ok(request)
}

/// Measures one guest and prints its table.
fn compare(
    guest: &Guest,
    programs: &Programs,
    brolga: &std::path::Path,
    qemu: &std::path::Path,
    request: &Request,
) -> Result<Summary> {
    let wanted = |name: &&str| request.workloads.is_empty() || request.workloads.iter().any(|wanted| wanted == name);
    let names: Vec<&str> = programs.names.iter().map(String::as_str).filter(wanted).collect();
    if let Some(unknown) = request.workloads.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(format!("there is no workload {unknown:?}; there are {}", programs.names.join(" ")));
    }
    let mut times: BTreeMap<String, Times> = BTreeMap::new();
    let mut checksums: BTreeMap<String, String> = BTreeMap::new();
    let cache = Cache(root().join(format!("target/bench-{}-{}", guest.architecture, std::process::id())));
    let again = format!("jit,translation-cache={}", cache.0.display());
    let again = Boot { program: brolga, accelerator: &again, guest, programs };
    // So that there is something to find.
    again.boot_only()?;
    for round in 1..=request.rounds {
        println!("round {round} of {}", request.rounds);
        for (program, accelerator) in [(brolga, "jit,translation-cache=off"), (qemu, "tcg")] {
            let is_brolga = accelerator != "tcg";
            let boot = Boot { program, accelerator, guest, programs };
            for workload in boot.run(&names)? {
                let times = times.entry(workload.name.clone()).or_default();
                if is_brolga { &mut times.brolga } else { &mut times.qemu }.push(workload.seconds);
                let known = checksums.entry(workload.name.clone()).or_insert_with(|| workload.checksum.clone());
                if *known != workload.checksum {
                    let (name, checksum) = (&workload.name, &workload.checksum);
                    return Err(format!("{name}: the checksum is {checksum} on {accelerator}, and was {known} before"));
                }
            }
        }
        let qemu_boots = times.get(measure::BOOT).map(|boot| boot.qemu.clone()).unwrap_or_default();
        let boots_again = times.entry(measure::BOOT_AGAIN.into()).or_default();
        boots_again.qemu = qemu_boots;
        boots_again.brolga.push(again.boot_only()?);
        if guest.architecture == std::env::consts::ARCH {
            for workload in measure::natively(programs, &names)? {
                times.entry(workload.name).or_default().native.push(workload.seconds);
            }
        }
    }
    let rows = [measure::BOOT, measure::BOOT_AGAIN]
        .into_iter()
        .chain(names)
        .filter_map(|name| times.get(name).map(|times| Row::new(name, times)))
        .collect();
    let summary = Summary { architecture: guest.architecture, rows };
    print!("{summary}");
    Ok(summary)
}

/// The folder that Brolga makes for what it keeps between boots; it goes when this does.
struct Cache(PathBuf);

impl Drop for Cache {
    fn drop(&mut self) {
        // What is left is found under target/.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn find_qemu(guest: &Guest) -> Result<PathBuf> {
    let program = format!("qemu-system-{}", guest.architecture);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(&program)).find(|program| program.exists());
    found.ok_or_else(|| {
        format!(
            "{program} is not on the path; it is in Debian's package qemu-system-{} \
             (QEMU 10 for Debian 12: from the suite bookworm-backports)",
            if guest.architecture == "x86_64" { "x86" } else { "riscv" }
        )
    })
}
