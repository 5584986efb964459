//! Long runs: many boots in a row, the oracle, and the fuzz targets.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::guest::command;
use crate::guests;
use crate::running_guest::{Guest, PROMPT};
use crate::{Result, build_brolga, cargo, root};

/// Boots the guest `boots` times each with one, two and four processors, types a command and switches it off.
pub(crate) fn run_boots(guest: &guests::Guest, boots: u64) -> Result<Vec<(u32, Vec<f64>)>> {
    guest.fetch()?;
    let brolga = build_brolga()?;
    let mut all = Vec::new();
    for processors in [1, 2, 4] {
        let mut seconds = Vec::new();
        for boot in 1..=boots {
            let start = Instant::now();
            let mut running = Guest::start(command(&brolga, guest, processors).args(["-accel", "jit", "-nographic"]))?;
            let failed = |error| format!("boot {boot} with {processors} processors: {error}");
            running.wait_for(PROMPT, Duration::from_secs(240)).map_err(failed)?;
            seconds.push(start.elapsed().as_secs_f64());
            running.type_line("echo $((6*7)) $(nproc)")?;
            running.wait_for(&format!("42 {processors}"), Duration::from_secs(30)).map_err(failed)?;
            running.type_line("poweroff -f")?;
            running.wait_for_end(Duration::from_secs(60)).map_err(failed)?;
            println!("boot {boot} with {processors} processors: shell after {:.1} s", seconds[seconds.len() - 1]);
        }
        all.push((processors, seconds));
    }
    Ok(all)
}

/// `soak`: the boots of a guest, and a summary.
pub(crate) fn run(boots: u64, guest: &guests::Guest) -> Result<()> {
    for (processors, mut seconds) in run_boots(guest, boots)? {
        seconds.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (seconds.first(), seconds.last()) else { continue };
        let median = seconds[seconds.len() / 2];
        println!("{boots} boots with {processors} processors: {least:.1} to {most:.1} s, median {median:.1} s");
    }
    Ok(())
}

/// `fuzz`: every fuzz target for `seconds`.
pub(crate) fn fuzz(seconds: u64) -> Result<()> {
    for target in ["qmp", "ir_text", "riscv64_lifter", "x86_64_lifter", "virtio"] {
        println!("fuzzing {target} for {seconds} s");
        crate::run(cargo().args(["run", "--release", "--manifest-path"]).arg(root().join("fuzz/Cargo.toml")).args([
            "--bin",
            target,
            "--",
            &seconds.to_string(),
        ]))?;
    }
    Ok(())
}

/// `oracle`: random programs for `seconds`, other ones than those of the tests, and other ones each time. They start from more
/// states than in tests, since compiling is what takes most of the time.
pub(crate) fn oracle(seconds: u64) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs());
    let seed = (now << 24).to_string();
    println!("programs from number {seed} on, for {seconds} s");
    let variables = [
        ("BROLGA_ORACLE_SECONDS", seconds.to_string()),
        ("BROLGA_ORACLE_SEED", seed),
        ("BROLGA_ORACLE_STARTS", "30".into()),
    ];
    crate::run(cargo().args(["test", "--package", "accel", "--test", "oracle", "--", "--nocapture"]).envs(variables))
}
