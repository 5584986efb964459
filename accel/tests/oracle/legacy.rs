//! 16-bit and 32-bit code: single random instructions in segments of 64 KiB, also those that 64-bit mode does not have, jumps to
//! wherever, and loads of segment registers, interpreted, compiled, and on the host's own processor.
//!
//! The data segments have a base of their own, so that whatever an instruction addresses is data, or beyond a limit. Where an
//! instruction jumps to, INT3 ends the program.
//!
//! Without the host's processor (which must be AMD's) the JIT is compared with itself.

use std::collections::BTreeMap;

use accel::state::x86_64::gpr;
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use crate::forms::{self, Group};
use crate::machine::{self, Backend, LEGACY_LENGTH, LEGACY_SEGMENTS, Machine, Outcome, Segments, Start};
use crate::native::Native;
use crate::program::INT3;
use crate::random::Random;
use crate::{GENERAL_PROTECTION, compare, host_is_amd, number, undefined};

/// Where in its segment the instruction is.
const AT: u64 = 0x1000;
/// The instruction and INT3s behind it.
const LENGTH: usize = 32;
/// States from which each instruction starts.
const STARTS: u64 = 6;
const STACK_FAULT: u8 = 12;

/// What an instruction left behind.
#[derive(Debug, PartialEq)]
pub(crate) struct End {
    pub(crate) vector: Option<u8>,
    pub(crate) error_code: u64,
    pub(crate) gpr: [u32; 8],
    pub(crate) rip: u64,
    pub(crate) rflags: u64,
    /// CS, SS, DS, ES.
    pub(crate) selectors: [u16; 4],
    pub(crate) memory: Vec<u8>,
}

impl From<Outcome> for End {
    fn from(mut outcome: Outcome) -> End {
        End {
            vector: outcome.vector,
            error_code: outcome.error_code,
            gpr: std::array::from_fn(|number| outcome.gpr[number] as u32),
            rip: outcome.rip,
            rflags: outcome.rflags,
            selectors: std::array::from_fn(|number| outcome.selectors[number] as u16),
            memory: outcome.memory.swap_remove(0).1,
        }
    }
}

/// What differs; `ignored`: bits of RFLAGS that do not count.
fn differences(name: &str, expected: &End, found: &End, ignored: u64, pops_all: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut number = |what: String, a: u64, b: u64| {
        if a != b {
            lines.push(format!("{what}: {a:#x}, {name} {b:#x}"));
        }
    };
    let vector = |end: &End| end.vector.map_or(u64::MAX, u64::from);
    // Where two faults are due, it is left open which comes.
    let either = [STACK_FAULT, GENERAL_PROTECTION];
    if vector(expected) != vector(found)
        && [expected, found].iter().all(|end| end.vector.is_some_and(|it| either.contains(&it)))
    {
        return Vec::new();
    }
    number("vector".into(), vector(expected), vector(found));
    number("error code".into(), expected.error_code, found.error_code);
    // AMD's POPA keeps what it loaded before it faults.
    let partial = pops_all && expected.vector == Some(STACK_FAULT);
    for register in (0..8).filter(|_| !partial) {
        number(format!("register {register}"), expected.gpr[register].into(), found.gpr[register].into());
    }
    number("rip".into(), expected.rip, found.rip);
    number("rflags".into(), expected.rflags & !ignored, found.rflags & !ignored);
    for (position, segment) in ["cs", "ss", "ds", "es"].into_iter().enumerate() {
        // Of null selectors the host's kernel clears the privilege.
        let [a, b] = [expected, found].map(|end| end.selectors[position]).map(|it| if it < 4 { 0 } else { it });
        number(segment.into(), a.into(), b.into());
    }
    let bytes = expected.memory.iter().zip(&found.memory).enumerate().filter(|(_, (a, b))| a != b);
    for (address, (a, b)) in bytes.take(8) {
        number(format!("memory at {address:#x}"), u64::from(*a), u64::from(*b));
    }
    lines
}

/// Instructions whose result depends on the host, and calls of its kernel.
const LEFT_OUT: &[Mnemonic] = {
    use Mnemonic as M;
    &[
        M::Cpuid,
        M::Rdtsc,
        M::Rdtscp,
        M::Rdpmc,
        M::Syscall,
        M::Sysenter,
        M::Int1,
        M::Int,
        M::Sgdt,
        M::Sidt,
        M::Sldt,
        M::Str,
        M::Smsw,
        M::Pause,
    ]
};

fn allowed(instruction: &Instruction) -> bool {
    let registers = iced_x86::InstructionInfoFactory::new().info(instruction).used_registers().to_vec();
    // In this process FS belongs to the host's library.
    let fs_or_gs = |register: Register| matches!(register, Register::FS | Register::GS);
    let uses_them = registers.iter().any(|used| fs_or_gs(used.register())) || fs_or_gs(instruction.segment_prefix());
    let loops = instruction.is_loop() || instruction.is_loopcc() || instruction.is_jcx_short();
    let branches = loops || instruction.is_jcc_short_or_near() || instruction.is_jmp_short_or_near();
    let itself = AT..AT + instruction.len() as u64;
    let goes_round = branches && itself.contains(&instruction.near_branch_target());
    // What these prefixes mean there is left open: with F3, AMD's processors look at ZF the other way round.
    let repeats_loop = loops && (instruction.has_rep_prefix() || instruction.has_repne_prefix());
    !instruction.is_invalid()
        && !uses_them
        && !goes_round
        && !repeats_loop
        && instruction.mnemonic() != Mnemonic::Reservednop
        && !undefined::result(instruction)
        && Group::of(instruction) == Group::Integer
        && !LEFT_OUT.contains(&instruction.mnemonic())
        && forms::has_known_features(instruction)
}

/// A random encoding and its instruction.
fn encoding(random: &mut Random, bits: u32) -> (Vec<u8>, Instruction) {
    loop {
        let mut bytes = Vec::with_capacity(LENGTH);
        for prefix in [0x66, 0x67] {
            if random.once_in(4) {
                bytes.push(prefix);
            }
        }
        if random.once_in(8) {
            bytes.push(random.pick(&[0x26, 0x2e, 0x36, 0x3e, 0xf2, 0xf3, 0xf0]));
        }
        if random.once_in(3) {
            bytes.push(0x0f);
        }
        for _ in 0..12 {
            let byte = random.next() as u8;
            bytes.push(if random.once_in(6) { random.pick(&[0, 1, 0xff, 0x7f, 0x80]) } else { byte });
        }
        let mut decoder = Decoder::with_ip(bits, &bytes, AT, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if allowed(&instruction) {
            bytes.resize(instruction.len(), 0);
            if matches!(instruction.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32) && !random.once_in(4) {
                // Somewhere that there is.
                let selector = machine::legacy_segment(random.below(LEGACY_SEGMENTS.into()) as u16).selector;
                let at = bytes.len() - 2;
                bytes[at..].copy_from_slice(&selector.to_le_bytes());
            }
            bytes.resize(LENGTH, INT3);
            return (bytes, instruction);
        }
    }
}

/// Contents of the data segments of a program that is not 64-bit code.
fn memory(random: &mut Random, pool: &[u8]) -> Vec<u8> {
    let start = 8 * random.below(pool.len() as u64 / 8) as usize;
    pool.iter().cycle().skip(start).take(LEGACY_LENGTH as usize).copied().collect()
}

fn start(random: &mut Random, pool: &[u8], bits: u32) -> Start {
    let mut start = Start::random(random, pool);
    start.memory = memory(random, pool);
    for register in &mut start.gpr[..8] {
        // What addresses with 32 bits hit.
        *register = if random.once_in(3) { random.next() as u32 as u64 } else { random.below(0x1_0000) };
    }
    start.gpr[gpr::RSP] = match random.below(8) {
        0 => random.below(0x1_0000),
        1 => random.pick(&[0, 1, 2, 4, 6, 0xfffe, 0xffff]),
        _ => 0x8000,
    };
    // AC is clear, lest the host's handlers be checked for alignment; CR0.AM is set, as the host has it.
    start.rflags &= !0x4_0000;
    start.alignment_checks = true;
    // Selectors of segments that there are, in the middle of the numbers.
    for place in (0..start.memory.len()).step_by(2) {
        if random.once_in(8) {
            let selector = machine::legacy_segment(random.below(LEGACY_SEGMENTS.into()) as u16).selector;
            start.memory[place..place + 2].copy_from_slice(&selector.to_le_bytes());
        }
    }
    let data = |random: &mut Random| machine::legacy_segment(random.pick(&[0, 0, 0, 1, 2, 5]));
    start.legacy = Some(Segments {
        cs: machine::legacy_segment(if bits == 16 { 3 } else { 4 }),
        ss: machine::legacy_segment(if random.once_in(3) { 2 } else { 0 }),
        ds: data(random),
        es: data(random),
    });
    start
}

/// Set in the process that does the work.
const OWN_PROCESS: &str = "BROLGA_ORACLE_OWN_PROCESS";

/// In a process of its own: the kernel loads a local descriptor table when it goes from one process to another, and on hosts whose KVM
/// loses it, threads of the process that also runs KVM find theirs gone.
#[test]
fn legacy_instructions_end_alike_everywhere() {
    if std::env::var_os(OWN_PROCESS).is_some() {
        return compare_legacy_instructions();
    }
    let mut command = std::process::Command::new(std::env::current_exe().expect("the test is a program"));
    command.args(["--exact", "legacy::legacy_instructions_end_alike_everywhere", "--nocapture"]).env(OWN_PROCESS, "1");
    let output = command.output().expect("the test runs again");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn compare_legacy_instructions() {
    let test = "legacy_instructions_end_alike_everywhere";
    let mut native = match Native::new() {
        Ok(native) if host_is_amd() => Some(native),
        Ok(_) => {
            eprintln!("SKIPPED: {test} natively: the JIT's processors follow AMD's, the host has another");
            None
        }
        Err(error) => {
            eprintln!("SKIPPED: {test} natively: {error}");
            None
        }
    };
    let mut machines =
        [Backend::Interpreter, Backend::Baseline, Backend::Compiled].map(|backend| Machine::new(backend).unwrap());
    let most = number("BROLGA_ORACLE_PROGRAMS").unwrap_or(3000);
    let first = number("BROLGA_ORACLE_SEED").unwrap_or(0);
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    let mut forms: BTreeMap<Code, u64> = BTreeMap::new();
    for seed in first..first.saturating_add(most) {
        let mut random = Random::new(seed ^ 0x1e9a_c000_0000);
        let bits = random.pick(&[16, 32]);
        let (code, instruction) = encoding(&mut random, bits);
        let ignored = u64::from(undefined::flags(&instruction)) | compare::RF;
        let pops_all = matches!(instruction.mnemonic(), Mnemonic::Popa | Mnemonic::Popad);
        let pool = Start::pool(&mut random);
        for _ in 0..STARTS {
            let start = start(&mut random, &pool, bits);
            let Some(segments) = start.legacy else { unreachable!("it was just set") };
            *forms.entry(instruction.code()).or_default() += 1;
            let [interpreted, baseline, compiled] = machines.each_mut().map(|it| End::from(it.run(AT, &code, &start)));
            let mut lines = differences("compiled", &interpreted, &compiled, ignored, false);
            lines.extend(differences("by the baseline compiler", &interpreted, &baseline, ignored, false));
            if let Some(native) = &mut native {
                let expected = native.run(AT, &code, &start.gpr, start.rflags, &segments, &start.memory);
                lines.extend(differences("interpreted", &expected, &interpreted, ignored, pops_all));
            }
            if lines.is_empty() {
                continue;
            }
            let count = found.entry(format!("{:?}", instruction.code())).or_default();
            *count += 1;
            if *count == 1 {
                eprintln!("program {seed}, {bits} bits: {:?} {code:02x?}\n{}", instruction.code(), lines.join("\n"));
                eprintln!("from {:x?} rflags {:#x}\n", &start.gpr[..8], start.rflags);
            }
            break;
        }
    }
    println!("{most} instructions of {} forms, {STARTS} times each", forms.len());
    assert!(found.is_empty(), "{} differences: {found:?}", found.len());
}
