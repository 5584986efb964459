//! The speed probe behind `-accel auto`: whether the KVM of this host is worth using.
//!
//! Some hosts, nested ones above all, offer a KVM that emulates a guest's kernel mode instruction by instruction, and a
//! JIT is hundreds of times faster. A tiny kernel-mode loop, run for a millisecond or so, tells.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vm_memory::{Bytes, MemoryRegionAddress};

use crate::kvm::Kvm;
use crate::memory::{MemorySlot, PAGE_SIZE, allocate};
use crate::state::CpuState;
use crate::state::x86_64::{Activity, Segment, cr0, cr4, efer};
use crate::{Accelerator, AddressSpace, Architecture, Error, Exit, IoBus, Unmapped, VcpuHandle};

/// Below this many kernel-mode instructions a second a JIT does better. Hardware does a thousand million and more,
/// instruction-by-instruction emulation some hundred thousand: there is much room on both sides.
const FAST: f64 = 20e6;

/// A round of the guest's loop that takes this long is measured well enough.
const LONG_ENOUGH: Duration = Duration::from_micros(400);
/// The first round's iterations: a fraction of a millisecond even where each takes ten microseconds.
const FIRST_ROUND: u32 = 64;
/// A round of this many iterations is the last however fast it was.
const LAST_ROUND: u32 = 1 << 20;
/// DEC and JNZ.
const INSTRUCTIONS_PER_ITERATION: u64 = 2;

/// How fast guest code runs in kernel mode.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Instructions of the last round.
    pub instructions: u64,
    /// Host time that they took, including one exit.
    pub elapsed: Duration,
}

impl Speed {
    /// Instructions per second.
    pub fn per_second(&self) -> f64 {
        self.instructions as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Virtualised rather than emulated.
    pub fn is_fast(&self) -> bool {
        self.per_second() >= FAST
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = 1e9 / self.per_second();
        write!(formatter, "{:.1} million kernel-mode instructions a second", self.per_second() / 1e6)?;
        write!(formatter, " ({nanoseconds:.1} ns each)")
    }
}

/// What `auto` decided for a guest architecture.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The name that `-accel` takes: `kvm` or `jit`.
    pub accelerator: &'static str,
    /// What was found out and chosen, as a sentence for the log.
    pub reason: String,
}

/// Decides between KVM and the JIT for guests of `architecture`; takes a few milliseconds.
pub fn choose(architecture: Architecture) -> Choice {
    match Kvm::open(architecture).and_then(|kvm| measure(&kvm)) {
        Ok(speed) if speed.is_fast() => {
            Choice { accelerator: "kvm", reason: format!("chose kvm: it executes {speed}") }
        }
        Ok(speed) => Choice {
            accelerator: "jit",
            reason: format!("chose jit: kvm is here but executes only {speed}, which is emulation"),
        },
        Err(error) => Choice { accelerator: "jit", reason: format!("chose jit: {error}") },
    }
}

/// Measures a fresh x86-64 virtual machine, which is good for nothing else afterwards.
pub fn measure(accelerator: &dyn Accelerator) -> Result<Speed, Error> {
    const CODE: u64 = 0;
    const PAGE_TABLES: u64 = PAGE_SIZE;
    // again: in eax, dx; mov ecx, eax; round: dec ecx; jnz round; out dx, eax; jmp again
    const PROGRAM: [u8; 10] = [0xed, 0x89, 0xc1, 0xff, 0xc9, 0x75, 0xfc, 0xef, 0xeb, 0xf6];

    let memory = allocate(0, 4 * PAGE_SIZE)?;
    let host = |error| Error::Host { call: "writing guest memory", source: std::io::Error::other(error) };
    memory.write_slice(&PROGRAM, MemoryRegionAddress(CODE)).map_err(host)?;
    // Each level's first entry: the next level, and at last 2 MiB from address 0 on. Present, writable.
    let entries = [(1, (2 * PAGE_SIZE) | 3), (2, (3 * PAGE_SIZE) | 3), (3, 0x83)];
    for (page, entry) in entries {
        memory.write_obj::<u64>(entry, MemoryRegionAddress(page * PAGE_SIZE)).map_err(host)?;
    }
    accelerator.map_memory(MemorySlot { region: memory, read_only: false })?;
    let mut vcpu = accelerator.create_vcpu(0)?;
    let mut state = vcpu.state()?;
    let CpuState::X86_64(registers) = &mut state else {
        return Err(Error::State("the speed probe is an x86_64 program".into()));
    };
    registers.cr0 = cr0::PE | cr0::ET | cr0::PG;
    registers.cr3 = PAGE_TABLES;
    registers.cr4 = cr4::PAE;
    registers.efer = efer::LME | efer::LMA;
    registers.cs = Segment::flat_code_64(8);
    let data = Segment::flat_data(16);
    (registers.ds, registers.es, registers.ss) = (data, data, data);
    registers.tr = Segment::empty_task_state_64();
    registers.rip = CODE;
    registers.activity = Activity::Running;
    vcpu.set_state(&state)?;
    let bus = Stopwatch { handle: vcpu.handle(), round: Mutex::new(Round { iterations: FIRST_ROUND, start: None }) };
    match vcpu.run(&bus) {
        Exit::Kicked => {}
        Exit::InternalError(reason) => return Err(Error::State(reason)),
        exit => return Err(Error::State(format!("the speed probe ended with {exit:?}"))),
    }
    let round = bus.round.lock();
    let elapsed = round.start.map_or(Duration::ZERO, |(_, elapsed)| elapsed);
    Ok(Speed { instructions: u64::from(round.iterations) * INSTRUCTIONS_PER_ITERATION, elapsed })
}

/// The device of the probe: a read begins a round and answers its length, a write ends it.
struct Stopwatch {
    handle: std::sync::Arc<dyn VcpuHandle>,
    // Lock order: alone.
    round: Mutex<Round>,
}

struct Round {
    iterations: u32,
    /// Beginning of the present round, and how long the last one took.
    start: Option<(Instant, Duration)>,
}

impl IoBus for Stopwatch {
    fn read(&self, space: AddressSpace, _address: u64, data: &mut [u8]) -> Result<(), Unmapped> {
        let mut round = self.round.lock();
        let iterations = round.iterations.to_le_bytes();
        if space != AddressSpace::Port || data.len() != iterations.len() {
            return Err(Unmapped);
        }
        data.copy_from_slice(&iterations);
        round.start = Some((Instant::now(), Duration::ZERO));
        Ok(())
    }

    fn write(&self, _space: AddressSpace, _address: u64, _data: &[u8]) -> Result<(), Unmapped> {
        let mut round = self.round.lock();
        let Some((start, elapsed)) = &mut round.start else { return Err(Unmapped) };
        *elapsed = start.elapsed();
        if *elapsed >= LONG_ENOUGH || round.iterations >= LAST_ROUND {
            drop(round);
            self.handle.kick();
        } else {
            round.iterations *= 16;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_lies_between_hardware_and_emulation() {
        let speed = |instructions, micros| Speed { instructions, elapsed: Duration::from_micros(micros) };
        assert!(speed(1 << 21, 700).is_fast());
        assert!(!speed(128, 640).is_fast(), "ten microseconds an iteration");
        assert!(!speed(128, 8).is_fast(), "emulation at its best");
    }

    #[test]
    fn the_probe_answers_quickly_and_says_why() {
        let start = Instant::now();
        let choice = choose(Architecture::X86_64);
        eprintln!("{} after {:?}", choice.reason, start.elapsed());
        assert!(choice.reason.starts_with(&format!("chose {}", choice.accelerator)), "{}", choice.reason);
        assert!(start.elapsed() < Duration::from_secs(5), "a guard against hangs only");
        if let Err(error @ Error::Unavailable { .. }) = Kvm::open(Architecture::X86_64) {
            eprintln!("SKIPPED: the_probe_answers_quickly_and_says_why: {error}");
        }
    }

    #[test]
    fn guests_of_another_architecture_get_the_jit() {
        let choice = choose(Architecture::Riscv64);
        assert_eq!(choice.accelerator, "jit");
        assert!(choice.reason.contains("riscv64"), "{}", choice.reason);
    }
}
