//! The oracle: random user-mode x86-64 programs run from the same state under KVM, interpreted and compiled, and all that
//! they leave behind is compared: registers, flags, floating-point and vector state, memory, and the exception that ended
//! them.
//!
//! Environment variables:
//! - `BROLGA_ORACLE_SECONDS`: how long to go on (without it, a fixed number of programs runs);
//! - `BROLGA_ORACLE_SEED`: number of the first program (0);
//! - `BROLGA_ORACLE_PROGRAMS`: most programs (2000, or any number within the seconds that were given); 1 repeats the one
//!   that a difference named (with the same number of states);
//! - `BROLGA_ORACLE_GROUPS`: kinds of instructions, by comma: `integer`, `x87`, `mmx`, `sse`, `avx` (all);
//! - `BROLGA_ORACLE_STARTS`: from how many states each program starts (8): more of them compare more instructions in a
//!   time, as compiling takes most of it, and fewer compare more different programs;
//! - `BROLGA_ORACLE_LENGTH`: most instructions of a program, besides those that prepare others (40).
//! - `BROLGA_ORACLE_FORMS`: list how often each form was executed.
//!
//! [`legacy`] does the same for 16-bit and 32-bit code, against the host's own processor: KVM need not be able to run such code.
//!
//! What a program does that differs is shrunk, and printed with what differs. A difference that does not come again is
//! printed and does not fail the run: KVM without hardware assistance was seen to lose RFLAGS.NT ten times in a hundred million
//! instructions, perhaps to interrupts of the host. [`undefined`] says what is not compared.

mod compare;
mod forms;
mod generator;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod legacy;
mod machine;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod native;
mod program;
mod random;
mod shrink;
mod undefined;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use accel::Error;

use iced_x86::Code;

use forms::Group;
use machine::{Backend, Machine, Outcome, Start};
use program::{Item, Program};
use random::Random;

/// Different differences after which a run ends.
const MOST_DIFFERENCES: usize = 12;

const INVALID_OPCODE: u8 = 6;
const GENERAL_PROTECTION: u8 = 13;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn groups() -> Vec<Group> {
    let mut groups = match std::env::var("BROLGA_ORACLE_GROUPS") {
        Ok(names) => names.split(',').map(|name| Group::named(name).expect("integer, x87, mmx, sse or avx")).collect(),
        Err(_) => Group::ALL.to_vec(),
    };
    groups.retain(|group| *group != Group::Avx || machine::has_avx());
    groups
}

/// The machines, the first of which is right where they differ.
struct Oracle {
    machines: Vec<Machine>,
    /// KVM raises #UD where #GP is due: [`Oracle::confuses_general_protection`].
    confused: bool,
    /// Where the last program ended.
    end: u64,
}

impl Oracle {
    fn differences(&mut self, program: &Program, start: &Start) -> Vec<String> {
        let code = program.assemble();
        let mut outcomes: Vec<(Backend, Outcome)> = self
            .machines
            .iter_mut()
            .map(|machine| (machine.backend, machine.run(program.origin, &code, start)))
            .collect();
        if self.confused
            && outcomes[0].1.vector == Some(INVALID_OPCODE)
            && outcomes[1].1.vector == Some(GENERAL_PROTECTION)
        {
            outcomes[0].1.vector = Some(GENERAL_PROTECTION);
        }
        self.end = outcomes[0].1.rip;
        let undefined = undefined::at_end(program, &code, &outcomes[0].1);
        let (first, others) = outcomes.split_first().expect("machines");
        others
            .iter()
            .map(|other| compare::differences((first.0, &first.1), (other.0, &other.1), undefined))
            .find(|lines| !lines.is_empty())
            .unwrap_or_default()
    }

    /// KVM without hardware assistance takes a #GP of user mode for that of an instruction which it has to emulate, and raises
    /// #UD for those that it cannot.
    fn confuses_general_protection(&mut self) -> bool {
        let mut random = Random::new(0);
        let pool = Start::pool(&mut random);
        let mut start = Start::random(&mut random, &pool);
        start.gpr[0] = machine::DATA + 1;
        // movsldup xmm0, [rax], at an odd address
        self.machines[0].run(machine::CODE, &[0xf3, 0x0f, 0x12, 0x00], &start).vector == Some(INVALID_OPCODE)
    }

    /// Instructions of the last program that were executed, as far as the place where it ended tells; those that prepare
    /// others do not count.
    fn executed(&self, program: &Program) -> usize {
        program.addresses().iter().filter(|address| **address < self.end).count().min(program.items.len())
    }
}

/// The form of an item's first instruction.
fn form(item: &Item) -> Code {
    iced_x86::Decoder::new(64, &item.code, iced_x86::DecoderOptions::NONE).decode().code()
}

/// Names of the instructions of a program that shows a difference.
fn name(program: &Program) -> String {
    let names: Vec<String> =
        program.items.iter().filter(|item| !item.code.is_empty()).map(|item| format!("{:?}", form(item))).collect();
    names.join(" ")
}

/// Makers differ in what the manuals leave open, and the JIT's processors do as AMD's.
fn host_is_amd() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let vendor = std::arch::x86_64::__cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx] == [0x6874_7541, 0x6974_6e65, 0x444d_4163]
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[test]
fn random_programs_end_alike_everywhere() {
    let mut oracle = Oracle { machines: Vec::new(), confused: false, end: 0 };
    for backend in [Backend::Kvm, Backend::Interpreter, Backend::Baseline, Backend::Compiled] {
        if backend == Backend::Kvm && !host_is_amd() {
            eprintln!(
                "SKIPPED: random_programs_end_alike_everywhere with Kvm: the JIT's processors follow AMD's, the host has another"
            );
            continue;
        }
        match Machine::new(backend) {
            Ok(machine) => oracle.machines.push(machine),
            Err(error @ Error::Unavailable { .. }) => {
                eprintln!("SKIPPED: random_programs_end_alike_everywhere with {backend:?}: {error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    oracle.confused = oracle.confuses_general_protection();
    let groups = groups();
    let length = number("BROLGA_ORACLE_LENGTH").unwrap_or(40).max(1);
    let starts = number("BROLGA_ORACLE_STARTS").unwrap_or(8).max(1);
    let seconds = number("BROLGA_ORACLE_SECONDS");
    let most = number("BROLGA_ORACLE_PROGRAMS").unwrap_or(if seconds.is_some() { u64::MAX } else { 2000 });
    let time = seconds.map_or(Duration::MAX, Duration::from_secs);
    let first = number("BROLGA_ORACLE_SEED").unwrap_or(0);
    let begin = Instant::now();
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    let mut forms: BTreeMap<Code, u64> = BTreeMap::new();
    let (mut programs, mut instructions) = (0_u64, 0_u64);
    for seed in first..first.saturating_add(most) {
        if begin.elapsed() >= time || found.len() >= MOST_DIFFERENCES {
            break;
        }
        let mut random = Random::new(seed);
        let length = 1 + random.below(length) as usize;
        let program = generator::generate(&mut random, &groups, length);
        let pool = Start::pool(&mut random);
        let starts: Vec<Start> = (0..starts).map(|_| Start::random(&mut random, &pool)).collect();
        programs += 1;
        for start in &starts {
            let lines = oracle.differences(&program, start);
            let executed = oracle.executed(&program);
            instructions += executed as u64;
            for item in &program.items[..executed] {
                *forms.entry(form(item)).or_default() += 1;
            }
            if lines.is_empty() {
                continue;
            }
            if oracle.differences(&program, start).is_empty() && oracle.differences(&program, start).is_empty() {
                let listing = program.listing();
                eprintln!("program {seed} differed once, and not again:\n{}\n{listing}", lines.join("\n"));
                continue;
            }
            let small = shrink::shrink(&program, |candidate| !oracle.differences(candidate, start).is_empty());
            let name = name(&small);
            let count = found.entry(name.clone()).or_default();
            *count += 1;
            if *count == 1 {
                let lines = oracle.differences(&small, start);
                eprintln!("program {seed}: {name}\n{}\n{}", small.listing(), lines.join("\n"));
                eprintln!("from {:x?} rflags {:#x} {:?}\n", start.gpr, start.rflags, start.alignment_checks);
            }
            break;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("{programs} programs, {instructions} instructions of {} forms, {seconds:.1} s", forms.len());
    if std::env::var_os("BROLGA_ORACLE_FORMS").is_some() {
        for (form, count) in &forms {
            println!("{count} {form:?}");
        }
    }
    assert!(found.is_empty(), "{} differences: {found:?}", found.len());
}
