//! SSE to SSE4.2, AES-NI, PCLMULQDQ and SHA against the processor of the host, with the same operands.
#![cfg(target_arch = "x86_64")]

#[path = "support/mod.rs"]
mod support;
mod x86_64;

use std::fmt::Write;

use support::Random;
use translate::engine::Tiers;

use x86_64::{DATA_BYTES, Ended, Host, Processor};

/// How often each instruction runs. It is compiled when half of that is done.
const RUNS: u32 = 64;
/// Where a program finds EAX, ECX, EDX and MXCSR, and leaves RAX, RCX, RDX, the flags and MXCSR.
const BEFORE: usize = 256;
const AFTER: usize = 512;
/// Where it leaves the XMM registers.
const REGISTERS: usize = 768;
const OPERAND: usize = 1024;
const MXCSR_RESET: u32 = 0x1f80;
/// MXCSR.DE.
const MXCSR_DENORMAL: u8 = 2;

/// The host's processor does what AMD's do where those of others do otherwise.
fn host_is_amd() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx] == [0x6874_7541, 0x6974_6e65, 0x444d_4163]
}

/// A program that loads registers, executes an instruction, and stores them again.
fn program(instruction: &[u8]) -> Vec<u8> {
    let mut code = Vec::new();
    let access = |code: &mut Vec<u8>, opcode: &[u8], register: usize, at: usize| {
        code.extend(opcode);
        code.push(0x87 | (register << 3) as u8);
        code.extend((at as u32).to_le_bytes());
    };
    // ldmxcsr; movups xmm, [rdi+16n]
    access(&mut code, &[0x0f, 0xae], 2, BEFORE + 12);
    for register in 0..8 {
        access(&mut code, &[0x0f, 0x10], register, 16 * register);
    }
    for register in 0..3 {
        access(&mut code, &[0x8b], register, BEFORE + 4 * register);
    }
    // test eax, eax, which clears OF; sahf
    code.extend([0x85, 0xc0, 0x9e]);
    code.extend(instruction);
    for register in 0..3 {
        access(&mut code, &[0x48, 0x89], register, AFTER + 8 * register);
    }
    // lahf; seto al; movzx eax, ax
    code.extend([0x9f, 0x0f, 0x90, 0xc0, 0x0f, 0xb7, 0xc0]);
    access(&mut code, &[0x89], 0, AFTER + 24);
    access(&mut code, &[0x0f, 0xae], 3, AFTER + 28);
    for register in 0..8 {
        access(&mut code, &[0x0f, 0x11], register, REGISTERS + 16 * register);
    }
    // The host's callers want MXCSR as it is after reset.
    access(&mut code, &[0x0f, 0xae], 2, BEFORE + 16);
    code
}

/// Two lanes of one of the kinds that instructions work on.
fn half(random: &mut Random) -> u64 {
    const SINGLES: [f32; 6] = [0.0, -0.0, f32::INFINITY, f32::NAN, f32::MIN_POSITIVE, -f32::MAX];
    const DOUBLES: [f64; 6] = [0.0, -0.0, f64::NEG_INFINITY, f64::NAN, f64::MIN_POSITIVE, f64::MAX];
    let single = |random: &mut Random| -> u64 {
        let bits = match random.below(8) {
            0 => random.pick(&SINGLES).to_bits(),
            // Denormals; signalling NaNs.
            1 => random.next() as u32 & 0x807f_ffff,
            2 => 0x7f80_0000 | random.below(0x40_0000) as u32,
            3 => f32::to_bits((random.next() as i64 >> random.below(64)) as f32),
            _ => f32::to_bits((random.below(200_000) as f32 - 100_000.0) / 16.0),
        };
        bits.into()
    };
    match random.below(10) {
        0 => random.next(),
        1 => random.below(70),
        2 => random.next() & 0x8080_ff00_7f7f_ffff,
        3 => random.pick(&DOUBLES).to_bits(),
        4 => random.next() & 0x800f_ffff_ffff_ffff,
        5 => f64::to_bits((random.next() as i64 >> random.below(64)) as f64),
        6 => f64::to_bits((random.below(200_000) as f64 - 100_000.0) / 16.0),
        _ => single(random) | single(random) << 32,
    }
}

/// Addition, subtraction, multiplication, division, square root: the operations of the intermediate representation for these
/// do not say that an operand was denormal.
fn is_plain_arithmetic(instruction: &[u8]) -> bool {
    let opcode = match instruction {
        [0x66 | 0xf2 | 0xf3, 0x0f, opcode, ..] | [0x0f, opcode, ..] => *opcode,
        _ => return false,
    };
    matches!(opcode, 0x51 | 0x58 | 0x59 | 0x5c | 0x5e)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

struct Comparison {
    random: Random,
    /// One for each compiler.
    processors: [Processor; 2],
    host: Host,
    report: String,
}

impl Comparison {
    /// `None` if code cannot run on the host, which is said.
    fn new(test: &str, seed: u64) -> Option<Comparison> {
        let Some(host) = Host::new() else {
            eprintln!("SKIPPED: {test}: the host gives no memory for code");
            return None;
        };
        let processors = [Tiers::Immediate(RUNS / 2), Tiers::Baseline(RUNS / 2)].map(Processor::new);
        Some(Comparison { random: Random::new(seed), processors, host, report: String::new() })
    }

    fn check(&mut self, instruction: &[u8]) {
        let random = &mut self.random;
        let code = program(instruction);
        let addresses = [0, 1].map(|index| self.processors[index].add_program(&code));
        for run in 0..2 * RUNS {
            let which = run as usize % 2;
            let mut data = [0; DATA_BYTES];
            for place in [0..128, OPERAND..OPERAND + 32] {
                for value in data[place].chunks_exact_mut(8) {
                    value.copy_from_slice(&half(random).to_le_bytes());
                }
            }
            let rounding = random.below(4) << 13;
            let unusual = if random.below(3) == 0 { random.next() & 0x8040 } else { 0 };
            let control = u64::from(MXCSR_RESET) | rounding | unusual;
            let before = [random.next(), half(random), half(random), control, MXCSR_RESET.into()];
            for (place, value) in data[BEFORE..].chunks_exact_mut(4).zip(before) {
                place.copy_from_slice(&(value as u32).to_le_bytes());
            }
            let (mut here, mut there) = (data, data);
            let ended = self.processors[which].run(addresses[which], &mut here);
            assert_eq!(ended, Ended::Normally, "{instruction:02x?}");
            self.host.run(&code, &mut there);
            if is_plain_arithmetic(instruction) {
                here[AFTER + 28] &= !MXCSR_DENORMAL;
                there[AFTER + 28] &= !MXCSR_DENORMAL;
            }
            if here != there {
                let at = here.iter().zip(&there).position(|(a, b)| a != b).unwrap_or_default() & !15;
                let _ = writeln!(
                    self.report,
                    "{instruction:02x?}: at {at} guest {} host {}; xmm1 {} xmm2 {} operand {} before {} after {} and {}",
                    hex(&here[at..at + 16]),
                    hex(&there[at..at + 16]),
                    hex(&data[16..32]),
                    hex(&data[32..48]),
                    hex(&data[OPERAND..OPERAND + 16]),
                    hex(&data[BEFORE..BEFORE + 16]),
                    hex(&here[AFTER + 24..AFTER + 32]),
                    hex(&there[AFTER + 24..AFTER + 32]),
                );
                break;
            }
        }
    }

    /// With registers 1 and 2 as operands.
    fn registers(&mut self, opcode: &[u8], immediate: &[u8]) {
        self.check(&[opcode, &[0xca], immediate].concat());
    }

    /// With register 1 and memory as operands.
    fn memory(&mut self, opcode: &[u8], immediate: &[u8]) {
        self.check(&[opcode, &[0x8f], &(OPERAND as u32).to_le_bytes(), immediate].concat());
    }

    fn both(&mut self, opcode: &[u8], immediate: &[u8]) {
        self.registers(opcode, immediate);
        self.memory(opcode, immediate);
    }

    fn finish(self) {
        assert!(self.report.is_empty(), "{}", self.report);
        assert!(self.processors[0].regions_compiled() > 0);
    }
}

#[test]
fn sse_and_sse2_do_what_the_hosts_do() {
    let Some(mut comparison) = Comparison::new("sse_and_sse2_do_what_the_hosts_do", 1) else { return };
    let c = &mut comparison;
    // But for RCPPS and RSQRTPS, which are approximate.
    let arithmetic = || [0x51].into_iter().chain(0x54..=0x5f);
    let scalar = || [0x51].into_iter().chain(0x58..=0x5f);
    for opcode in [0x10, 0x11, 0x12, 0x14, 0x15, 0x16, 0x28, 0x29, 0x2e, 0x2f].into_iter().chain(arithmetic()) {
        c.both(&[0x0f, opcode], &[]);
    }
    for opcode in [0x13, 0x17, 0x2b, 0xc3] {
        c.memory(&[0x0f, opcode], &[]);
    }
    let integer = (0x60..=0x6f).chain(0x74..=0x76).chain(0xd1..=0xd6).chain(0xd8..=0xe6).chain(0xe8..=0xef);
    let integer = integer.chain(0xf1..=0xf6).chain(0xf8..=0xfe);
    for opcode in [0x10, 0x11, 0x14, 0x15, 0x28, 0x29, 0x2e, 0x2f, 0x7e, 0x7f].into_iter().chain(arithmetic()) {
        c.both(&[0x66, 0x0f, opcode], &[]);
    }
    for opcode in integer {
        c.both(&[0x66, 0x0f, opcode], &[]);
    }
    for opcode in [0x12, 0x13, 0x16, 0x17, 0x2b, 0xe7] {
        c.memory(&[0x66, 0x0f, opcode], &[]);
    }
    for (prefix, opcode) in [(&[][..], 0x50), (&[0x66], 0x50), (&[0x66], 0xd7)] {
        c.registers(&[prefix, &[0x0f, opcode]].concat(), &[]);
    }
    for opcode in [0x10, 0x11, 0x2a, 0x2c, 0x2d, 0x6f, 0x7e, 0x7f, 0xe6].into_iter().chain(scalar()) {
        c.both(&[0xf3, 0x0f, opcode], &[]);
    }
    for opcode in [0x10, 0x11, 0x2a, 0x2c, 0x2d, 0xe6].into_iter().chain(scalar().filter(|opcode| *opcode != 0x5b)) {
        c.both(&[0xf2, 0x0f, opcode], &[]);
    }
    // With 64-bit integers.
    for (prefix, opcode) in [(0xf3, 0x2a), (0xf3, 0x2c), (0xf3, 0x2d), (0xf2, 0x2a), (0xf2, 0x2c), (0xf2, 0x2d)] {
        c.both(&[prefix, 0x48, 0x0f, opcode], &[]);
    }
    for opcode in [0x6e, 0x7e] {
        c.both(&[0x66, 0x48, 0x0f, opcode], &[]);
    }
    for immediate in [0, 1, 2, 3, 4, 5, 6, 7, 11, 16, 0x1b, 0xe4] {
        for prefix in [&[][..], &[0x66], &[0xf3], &[0xf2]] {
            if immediate < 8 {
                c.both(&[prefix, &[0x0f, 0xc2]].concat(), &[immediate]);
            }
            if !prefix.is_empty() {
                c.both(&[prefix, &[0x0f, 0x70]].concat(), &[immediate]);
            }
        }
        c.both(&[0x0f, 0xc6], &[immediate]);
        c.both(&[0x66, 0x0f, 0xc6], &[immediate]);
        c.both(&[0x66, 0x0f, 0xc4], &[immediate]);
        c.registers(&[0x66, 0x0f, 0xc5], &[immediate]);
        for (opcode, kinds) in [(0x71, &[2, 4, 6][..]), (0x72, &[2, 4, 6]), (0x73, &[2, 3, 6, 7])] {
            for kind in kinds {
                c.check(&[0x66, 0x0f, opcode, 0xc2 | kind << 3, immediate]);
            }
        }
    }
    // MASKMOVDQU to [rdi+OPERAND]: lea rdi, [rdi+OPERAND]; maskmovdqu xmm1, xmm2; lea rdi, [rdi-OPERAND]
    c.check(&[0x48, 0x8d, 0xbf, 0, 4, 0, 0, 0x66, 0x0f, 0xf7, 0xca, 0x48, 0x8d, 0xbf, 0, 0xfc, 0xff, 0xff]);
    comparison.finish();
}

#[test]
fn later_extensions_do_what_the_hosts_do() {
    let test = "later_extensions_do_what_the_hosts_do";
    let Some(mut comparison) = Comparison::new(test, 2) else { return };
    let c = &mut comparison;
    if std::is_x86_feature_detected!("sse3") {
        for opcode in [0x12, 0x16] {
            c.both(&[0xf3, 0x0f, opcode], &[]);
        }
        c.both(&[0xf2, 0x0f, 0x12], &[]);
        for (prefix, opcode) in [(0x66, 0x7c), (0x66, 0x7d), (0x66, 0xd0), (0xf2, 0x7c), (0xf2, 0x7d), (0xf2, 0xd0)] {
            c.both(&[prefix, 0x0f, opcode], &[]);
        }
        c.memory(&[0xf2, 0x0f, 0xf0], &[]);
    } else {
        eprintln!("SKIPPED: {test}, SSE3: the host does not have it");
    }
    if std::is_x86_feature_detected!("ssse3") {
        for opcode in (0..=0x0b).chain(0x1c..=0x1e) {
            c.both(&[0x66, 0x0f, 0x38, opcode], &[]);
        }
        for immediate in [0, 1, 7, 8, 15, 16, 20, 31, 32, 255] {
            c.both(&[0x66, 0x0f, 0x3a, 0x0f], &[immediate]);
        }
    } else {
        eprintln!("SKIPPED: {test}, SSSE3: the host does not have it");
    }
    if std::is_x86_feature_detected!("sse4.2") {
        if !host_is_amd() {
            eprintln!("SKIPPED: {test}, DPPS and DPPD: the JIT's processors follow AMD's, the host has another");
        }
        let words = [0x10, 0x14, 0x15, 0x17]
            .into_iter()
            .chain(0x20..=0x25)
            .chain([0x28, 0x29, 0x2b])
            .chain(0x30..=0x35)
            .chain(0x37..=0x41);
        for opcode in words {
            c.both(&[0x66, 0x0f, 0x38, opcode], &[]);
        }
        c.memory(&[0x66, 0x0f, 0x38, 0x2a], &[]);
        for immediate in [0, 1, 2, 3, 4, 5, 0x0a, 0x13, 0x31, 0x5c, 0x71, 0xb6, 0xff] {
            for opcode in (0x08..=0x0b).filter(|_| immediate < 16).chain(0x0c..=0x0e) {
                c.both(&[0x66, 0x0f, 0x3a, opcode], &[immediate]);
            }
            // The sums of products with several NaNs are as AMD's processors make them.
            let sums = if host_is_amd() { &[0x40, 0x41][..] } else { &[] };
            for opcode in [0x14, 0x15, 0x16, 0x17, 0x20, 0x21, 0x22, 0x42].iter().chain(sums).copied() {
                c.both(&[0x66, 0x0f, 0x3a, opcode], &[immediate]);
            }
            for opcode in [0x16, 0x22] {
                c.both(&[0x66, 0x48, 0x0f, 0x3a, opcode], &[immediate]);
            }
        }
        for immediate in 0..0x80 {
            for opcode in 0x60..=0x63 {
                c.registers(&[0x66, 0x0f, 0x3a, opcode], &[immediate]);
            }
        }
        for prefix in [&[0xf2][..], &[0xf2, 0x48], &[0x66, 0xf2]] {
            c.both(&[prefix, &[0x0f, 0x38, 0xf1]].concat(), &[]);
        }
        c.both(&[0xf2, 0x0f, 0x38, 0xf0], &[]);
    } else {
        eprintln!("SKIPPED: {test}, SSE4.2: the host does not have it");
    }
    if std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq") {
        for opcode in 0xdb..=0xdf {
            c.both(&[0x66, 0x0f, 0x38, opcode], &[]);
        }
        for immediate in [0, 1, 0x10, 0x11, 0x1b, 0xff] {
            c.both(&[0x66, 0x0f, 0x3a, 0xdf], &[immediate]);
            c.both(&[0x66, 0x0f, 0x3a, 0x44], &[immediate]);
        }
    } else {
        eprintln!("SKIPPED: {test}, AES-NI and PCLMULQDQ: the host does not have them");
    }
    if std::is_x86_feature_detected!("sha") {
        for opcode in 0xc8..=0xcd {
            c.both(&[0x0f, 0x38, opcode], &[]);
        }
        for immediate in 0..4 {
            c.both(&[0x0f, 0x3a, 0xcc], &[immediate]);
        }
    } else {
        eprintln!("SKIPPED: {test}, SHA: the host does not have it");
    }
    comparison.finish();
}
