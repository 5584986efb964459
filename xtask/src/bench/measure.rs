//! One boot of a guest that does all the work, and the same work without an emulator.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::programs::Programs;
use crate::Result;
use crate::guests::Guest;
use crate::running_guest;

/// Name of the time from the emulator's start to the guest's first process.
pub(super) const BOOT: &str = "boot";
/// The same where Brolga has kept what it compiled the last time; QEMU keeps nothing.
pub(super) const BOOT_AGAIN: &str = "boot again";
/// Workloads that run with two processors; the others run with one.
const TWO_PROCESSORS: &[&str] = &["parallel"];
/// The longest that one may take.
const LIMIT: Duration = Duration::from_secs(300);

/// What a workload took and computed.
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) seconds: f64,
    pub(super) checksum: String,
}

/// An emulator with a guest.
pub(super) struct Boot<'a> {
    pub(super) program: &'a Path,
    /// What `-accel` is told.
    pub(super) accelerator: &'a str,
    pub(super) guest: &'a Guest,
    pub(super) programs: &'a Programs,
}

impl Boot<'_> {
    /// Boots the guest once for the workloads with one processor, and once more for those with two.
    pub(super) fn run(&self, names: &[&str]) -> Result<Vec<Measured>> {
        let (two, one): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| TWO_PROCESSORS.contains(name));
        let mut measured = self.boot(&one, 1)?;
        if !two.is_empty() {
            measured.extend(self.boot(&two, 2)?.into_iter().filter(|measured| measured.name != BOOT));
        }
        Ok(measured)
    }

    /// Boots the guest for the boot alone; gives its seconds.
    pub(super) fn boot_only(&self) -> Result<f64> {
        let measured = self.boot(&[], 1)?;
        measured.first().map(|boot| boot.seconds).ok_or_else(|| "the boot was not measured".into())
    }

    /// The command that has the guest do work until it has run so many seconds, or once.
    pub(super) fn command(&self, names: &[&str], processors: u32, seconds: u64) -> Command {
        let mut command = Command::new(self.program);
        command.args(["-accel", self.accelerator, "-nographic", "-M", self.guest.machine, "-m", "512"]);
        command.args(["-smp", &processors.to_string()]);
        if self.guest.architecture == "x86_64" {
            // The defaults differ, and what the C library chooses depends on it.
            command.args(["-cpu", "max"]);
        }
        command.arg("-kernel").arg(self.guest.kernel()).arg("-initrd").arg(&self.programs.initrd);
        if let Some(firmware) = self.guest.firmware() {
            command.arg("-bios").arg(firmware);
        }
        command.args(["-append", &format!("console=ttyS0 quiet seconds={seconds} work={}", names.join(","))]);
        command
    }

    fn boot(&self, names: &[&str], processors: u32) -> Result<Vec<Measured>> {
        let start = Instant::now();
        let mut guest = running_guest::Guest::start(&mut self.command(names, processors, 0))?;
        guest.wait_for("@ready", LIMIT)?;
        let seconds = start.elapsed().as_secs_f64();
        let mut measured = vec![Measured { name: BOOT.into(), seconds, checksum: String::new() }];
        for name in names {
            guest.wait_for(&format!("@begin {name}"), LIMIT)?;
            let start = Instant::now();
            guest.wait_for(&format!("@end {name}"), LIMIT).map_err(|error| format!("{name}: {error}"))?;
            let seconds = start.elapsed().as_secs_f64();
            let checksum = guest.wait_for("\n", LIMIT)?.trim().to_owned();
            measured.push(Measured { name: (*name).into(), seconds, checksum });
        }
        guest.wait_for_end(LIMIT)?;
        Ok(measured)
    }
}

/// Runs those of the workloads that are ours on the host itself.
pub(super) fn natively(programs: &Programs, names: &[&str]) -> Result<Vec<Measured>> {
    let own = names.iter().filter(|name| programs.own.iter().any(|own| own == *name));
    own.map(|name| {
        let start = Instant::now();
        crate::output(Command::new(&programs.program).arg(name))?;
        Ok(Measured { name: (*name).into(), seconds: start.elapsed().as_secs_f64(), checksum: String::new() })
    })
    .collect()
}
