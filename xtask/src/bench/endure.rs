//! `endure`: the benchmark's programs over and over, while the emulator's memory is watched.

use std::time::{Duration, Instant};

use super::measure::Boot;
use super::programs;
use crate::guests::Guest;
use crate::{Result, build_brolga, running_guest};

/// The longest that all programs may take once.
const ROUND: Duration = Duration::from_secs(1200);

/// Runs all programs in a guest with one processor for `seconds`, and says after each round how much memory the emulator has.
pub(crate) fn run(seconds: u64, guest: &Guest) -> Result<()> {
    let brolga = build_brolga()?;
    guest.fetch()?;
    let programs = programs::build(guest)?;
    let names: Vec<&str> = programs.names.iter().map(String::as_str).collect();
    let boot = Boot { program: &brolga, accelerator: "jit,translation-cache=off", guest, programs: &programs };
    let start = Instant::now();
    let mut running = running_guest::Guest::start(&mut boot.command(&names, 1, seconds))?;
    let (mut most, mut round) = (0, 0);
    loop {
        running.wait_for("@round ", ROUND)?;
        let last = running.wait_for("\n", ROUND)?.trim() == "last";
        round += 1;
        let memory = running.memory().unwrap_or(0);
        most = most.max(memory);
        println!("{:5.0} s, round {round}: {memory} MiB", start.elapsed().as_secs_f64());
        if last {
            break;
        }
    }
    running.wait_for_end(Duration::from_secs(60))?;
    println!("{round} rounds, at most {most} MiB, of which the code's are counted twice, as it is mapped twice");
    Ok(())
}
