//! The same random riscv64 programs under the interpreter and as compiled code: every register, all memory, the
//! floating-point flags, the trap history and the count of instructions must agree.
//!
//! A failing seed prints; `BROLGA_DIFFERENTIAL_SEED=n` runs that one alone and `BROLGA_DIFFERENTIAL_PROGRAMS=n` that many.

mod support;

use std::path::Path;

use support::Random;
use support::assembler::{self as asm, Program};
use support::machine::{Machine, Outcome, RAM_START};
use translate::engine::Tiers;

const BODY: u64 = RAM_START + 0x1000;
const DATA: u64 = RAM_START + 0x2_0000;
/// Times that each program runs its body, so that all of it gets hot.
const ROUNDS: i32 = 6;
const INSTRUCTIONS: usize = 120;

/// Registers that random instructions do not write: bases of memory accesses and what the frame of the program uses.
const HISTORY: u32 = 29;
const TEMPORARY: u32 = 30;
const COUNTER: u32 = 31;
const BASES: std::ops::Range<u32> = 5..13;

fn destination(random: &mut Random) -> u32 {
    *random.pick(&[0, 1, 2, 3, 4, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28])
}

fn base(random: &mut Random) -> u32 {
    BASES.start + random.below(u64::from(BASES.end - BASES.start)) as u32
}

/// Any instruction that keeps control within the body: mostly valid ones, sometimes noise.
fn random_instruction(random: &mut Random, left: usize) -> u32 {
    let rd = destination(random);
    let rs1 = random.below(32) as u32;
    let rs2 = random.below(32) as u32;
    match random.below(26) {
        0..=2 => asm::r_type(0x33, rd, random.below(8) as u32, rs1, rs2, *random.pick(&[0, 0x20, 1, 1])),
        3 => asm::r_type(0x3b, rd, random.below(8) as u32, rs1, rs2, *random.pick(&[0, 0x20, 1])),
        4 => asm::r_type(
            *random.pick(&[0x33, 0x3b]),
            rd,
            random.below(8) as u32,
            rs1,
            rs2,
            *random.pick(&[0x10, 0x04, 0x05, 0x14, 0x24, 0x30, 0x34]),
        ),
        5..=7 => asm::i_type(0x13, rd, random.below(8) as u32, rs1, random.below(4096) as u32),
        8 => asm::i_type(0x1b, rd, random.below(8) as u32, rs1, random.below(4096) as u32),
        9 => asm::i_type(
            0x13,
            rd,
            *random.pick(&[1, 5]),
            rs1,
            *random.pick(&[0x600, 0x601, 0x602, 0x604, 0x605, 0x287, 0x6b8]),
        ),
        10 => random.next() as u32 & 0xffff_f000 | rd << 7 | *random.pick(&[0x37, 0x17]),
        11..=12 => asm::i_type(0x03, rd, random.below(7) as u32, base(random), random.below(64) as u32),
        13..=14 => asm::s_type(0x23, random.below(4) as u32, base(random), rs2, random.below(64) as u32),
        15 => {
            let functions = [0, 1, 2, 3, 4, 8, 12, 16, 20, 24, 28];
            asm::r_type(
                0x2f,
                rd,
                *random.pick(&[2, 3]),
                base(random),
                rs2,
                *random.pick(&functions) << 2 | random.below(4) as u32,
            )
        }
        16 => {
            let distance = 4 * (1 + random.below(left.min(12) as u64) as i32);
            asm::branch(*random.pick(&[0, 1, 4, 5, 6, 7]), rs1, rs2, distance)
        }
        17 => asm::jal(rd, 4 * (1 + random.below(left.min(8) as u64) as i32)),
        18..=20 => {
            let function =
                *random.pick(&[0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x20, 0x2c, 0x50, 0x60, 0x68, 0x70, 0x78]);
            let rounding = *random.pick(&[7, 7, 7, 7, 0, 1, 2, 3, 4, 5]);
            let to_integer = matches!(function, 0x50 | 0x60 | 0x70);
            let target = if to_integer { rd } else { random.below(32) as u32 };
            let source = match function {
                0x2c => 0,
                0x60 | 0x68 => random.below(4) as u32,
                0x20 => random.below(2) as u32,
                0x70 | 0x78 => 0,
                _ => rs2,
            };
            let rounding = if matches!(function, 0x10 | 0x14 | 0x50) { random.below(3) as u32 } else { rounding };
            let rounding = if matches!(function, 0x70 | 0x78) { random.below(2) as u32 } else { rounding };
            asm::r_type(0x53, target, rounding, rs1, source, function | random.below(2) as u32)
        }
        21 => {
            let opcode = *random.pick(&[0x43, 0x47, 0x4b, 0x4f]);
            let third = random.below(32) as u32;
            asm::r_type(opcode, random.below(32) as u32, 7, rs1, rs2, third << 2 | random.below(2) as u32)
        }
        22 => {
            let width = *random.pick(&[2, 3]);
            if random.below(2) == 0 {
                asm::i_type(0x07, random.below(32) as u32, width, base(random), random.below(64) as u32)
            } else {
                asm::s_type(0x27, width, base(random), rs2, random.below(64) as u32)
            }
        }
        23 => {
            // fflags, frm, fcsr, cycle, instret and some that do not exist.
            let register = *random.pick(&[1, 2, 3, 3, 0xc00, 0xc02, 0x340, 0x7c0]);
            asm::i_type(0x73, rd, *random.pick(&[1, 2, 3, 5, 6, 7]), rs1, register)
        }
        24 => *random.pick(&[0x0000_000f, 0x0000_100f, 0x0000_0073, 0x0010_0073]),
        // Four-byte noise, since the trap handler skips four bytes; none that stores, since it might store to that handler.
        _ => random.next() as u32 & 0x0fff_ff80 & !(31 << 7) | rd << 7 | *random.pick(&[0x33, 0x13, 0x53, 0x5b]),
    }
}

fn interesting(random: &mut Random) -> u64 {
    const VALUES: &[u64] = &[
        0,
        1,
        u64::MAX,
        i64::MIN as u64,
        i64::MAX as u64,
        0x8000_0000,
        0x7fff_ffff,
        0xffff_ffff_8000_0000,
        0x3ff0_0000_0000_0000,
        0xbff0_0000_0000_0000,
        0x7ff0_0000_0000_0000,
        0x7ff8_0000_0000_0000,
        0x7ff0_0000_0000_0001,
        0xfff8_0000_0000_1234,
        0x0000_0000_0000_0001,
        0x0010_0000_0000_0000,
        0x7fef_ffff_ffff_ffff,
        0xffff_ffff_3f80_0000,
        0xffff_ffff_7fc0_0000,
        0xffff_ffff_7f80_0001,
        0xffff_ffff_0000_0001,
        0xffff_ffff_7f7f_ffff,
        0x43e0_0000_0000_0000,
        0xffff_ffff_cf00_0000,
    ];
    if random.below(3) == 0 { random.next() } else { *random.pick(VALUES) }
}

fn program(random: &mut Random) -> (Program, u64) {
    let mut program = Program::new(RAM_START);
    // The trap handler: folds cause and value into the history and skips the instruction.
    program.word(asm::csr_read(TEMPORARY, 0x342));
    program.word(asm::i_type(0x13, HISTORY, 1, HISTORY, 5));
    program.word(asm::r_type(0x33, HISTORY, 0, HISTORY, TEMPORARY, 0));
    program.word(asm::csr_read(TEMPORARY, 0x343));
    program.word(asm::r_type(0x33, HISTORY, 4, HISTORY, TEMPORARY, 0));
    program.word(asm::csr_read(TEMPORARY, 0x341));
    program.word(asm::i_type(0x13, TEMPORARY, 0, TEMPORARY, 4));
    program.word(asm::csr_write(0x341, TEMPORARY));
    program.word(asm::MRET);
    let start = program.address();
    program.load_constant(TEMPORARY, RAM_START);
    program.word(asm::csr_write(0x305, TEMPORARY));
    program.load_constant(TEMPORARY, 0x6000);
    program.word(asm::csr_write(0x300, TEMPORARY));
    program.word(asm::i_type(0x13, COUNTER, 0, 0, ROUNDS as u32));
    program.jump_to(BODY);
    program.pad_to(BODY);
    for place in 0..INSTRUCTIONS {
        program.word(random_instruction(random, INSTRUCTIONS - place));
    }
    program.word(asm::i_type(0x13, COUNTER, 0, COUNTER, 0xfff));
    let back = BODY.wrapping_sub(program.address() + 4) as i32;
    program.word(asm::branch(0, COUNTER, 0, 8));
    program.word(asm::jal(0, back));
    program.word(asm::WFI);
    program.word(asm::jal(0, -4));
    (program, start)
}

/// What a program's run comes to.
struct Run {
    outcome: Outcome,
    /// How many regions, or single blocks, were compiled.
    compiled: u64,
    /// How many of an earlier run were used.
    restored: u64,
}

/// Runs a program, whose compiled code is kept in a folder if one is given.
fn run(seed: u64, tiers: Tiers, keep: Option<&Path>) -> Run {
    let mut random = Random::new(seed);
    let (program, start) = program(&mut random);
    let mut machine = Machine::new(tiers, keep);
    machine.write(RAM_START, program.bytes());
    for offset in (0..0x3000).step_by(8) {
        let value = interesting(&mut random);
        machine.write(DATA + offset, &value.to_le_bytes());
    }
    let registers = &mut machine.engine.cpu.context.registers;
    for register in registers.iter_mut().take(64) {
        *register = interesting(&mut random);
    }
    registers[0] = 0;
    for number in BASES {
        let place = DATA + 0x1000 * random.below(2) + 8 * random.below(64);
        registers[number as usize] = match random.below(8) {
            0 => DATA + 0xff0 + random.below(16),
            1 => place + 1,
            2 => 0x1000_0000,
            3 => 0x0010_0000,
            _ => place,
        };
    }
    machine.engine.cpu.context.pc = start;
    machine.run_until_halted();
    let counters = &machine.engine.cpu.counters;
    Run {
        outcome: machine.outcome(),
        compiled: machine.translator.regions_compiled() + counters.baseline,
        restored: counters.restored,
    }
}

#[test]
fn interpreter_and_compiled_code_agree_on_random_programs() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("BROLGA_DIFFERENTIAL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("BROLGA_DIFFERENTIAL_PROGRAMS").unwrap_or(150),
    };
    for seed in seeds {
        let Run { outcome: interpreted, compiled: none, .. } = run(seed, Tiers::InterpreterOnly, None);
        assert!(interpreted.instructions > 300, "seed {seed}: the program did not run through");
        let folder = tempfile::tempdir().unwrap();
        for (tiers, name) in [(Tiers::Immediate(2), "regions"), (Tiers::Baseline(2), "baseline compiler")] {
            if name == "baseline compiler" && !cfg!(target_arch = "x86_64") {
                continue;
            }
            let keep = folder.path().join(name);
            let first = run(seed, tiers, Some(&keep));
            assert!(none == 0 && first.compiled > 0, "seed {seed}, {name}: nothing was compiled");
            interpreted.assert_same(&first.outcome, &format!("seed {seed}, {name}"));
            let second = run(seed, tiers, Some(&keep));
            interpreted.assert_same(&second.outcome, &format!("seed {seed}, {name} of an earlier run"));
            assert!(first.restored == 0 && second.restored > 0, "seed {seed}, {name}: nothing was kept");
        }
    }
}
