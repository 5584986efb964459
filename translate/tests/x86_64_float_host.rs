//! x87 and MMX instructions against the processor of the host, with the same operands.
#![cfg(target_arch = "x86_64")]

#[path = "support/mod.rs"]
mod support;
mod x86_64;

use std::fmt::Write;

use support::Random;
use translate::engine::Tiers;
use translate::x86_64::x87::{Form, form};

use x86_64::{DATA_BYTES, Ended, Host, Processor};

/// How often each instruction runs. It is compiled when half of that is done.
const RUNS: u32 = 64;
/// Length of an FNSAVE image.
const IMAGE: usize = 108;
/// Where a program leaves the x87's state, and operands in memory are.
const RESULT: usize = 256;
const FLAGS: usize = 512;
const OPERAND: usize = 1024;

/// An 80-bit number, more often than not a special one.
fn number(random: &mut Random) -> [u8; 10] {
    let significand = match random.below(6) {
        0 => 1 << 63,
        1 => 1 << 63 | random.next() >> 40,
        2 => 1 << 63 | random.next() << 40,
        3 => 3 << 62 | random.next() & 1 << 61,
        _ => 1 << 63 | random.next(),
    };
    let near = 0x3fff + random.below(70) - 3;
    let (exponent, significand) = match random.below(12) {
        0 => (0, 0),
        1 => (0x7fff, 1 << 63),
        2 => (0x7fff, significand),
        // Denormals, and what is neither.
        3 => (0, random.next() >> random.below(64)),
        4 => (random.below(0x8000), random.next()),
        5 => (random.below(0x8000), significand),
        6 => (0x3fff - random.below(130), significand),
        _ => (near, significand),
    };
    let sign = random.below(2) << 15;
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&significand.to_le_bytes());
    bytes[8..].copy_from_slice(&((exponent | sign) as u16).to_le_bytes());
    bytes
}

/// An operand in memory, of whatever type.
fn operand(random: &mut Random) -> [u8; 16] {
    let mut bytes = [0; 16];
    let value = match random.below(8) {
        0 => (random.next() as f32 * 1e-9).to_bits().into(),
        1 => (random.next() as f64 * 1e-9).to_bits(),
        2 => f64::to_bits((random.below(2000) as f64 - 1000.0) / 8.0),
        3 => f32::to_bits((random.below(2000) as f32 - 1000.0) / 8.0).into(),
        4 => (random.next() as i64 >> random.below(64)) as u64,
        5 => [f64::NAN, f64::INFINITY, 0.0, f64::MIN_POSITIVE / 2.0][random.below(4) as usize].to_bits(),
        6 => u64::from([f32::NAN, -f32::INFINITY, -0.0, f32::MIN_POSITIVE / 2.0][random.below(4) as usize].to_bits()),
        _ => {
            bytes[..10].copy_from_slice(&number(random));
            return bytes;
        }
    };
    bytes[..8].copy_from_slice(&value.to_le_bytes());
    // Decimal digits.
    bytes[8..10].copy_from_slice(&[0x12, 0x80]);
    if random.below(2) == 0 {
        bytes[..8].iter_mut().for_each(|byte| *byte = (random.below(10) << 4 | random.below(10)) as u8);
    }
    bytes
}

/// An FNSAVE image without pending exceptions.
fn image(random: &mut Random) -> [u8; IMAGE] {
    let mut image = [0; IMAGE];
    let masks = if random.below(3) == 0 { random.below(64) } else { 0x3f };
    let precision = *random.pick(&[0, 2, 3, 3]);
    let control = 0x40 | masks | precision << 8 | random.below(4) << 10;
    image[0..2].copy_from_slice(&(control as u16).to_le_bytes());
    image[4..6].copy_from_slice(&(random.next() as u16 & 0x7f00).to_le_bytes());
    // Mostly, all registers are in use, or all but one.
    let tags = match random.below(4) {
        0 => random.next() as u16,
        1 => 3 << (2 * random.below(8)),
        _ => 0,
    };
    image[8..10].copy_from_slice(&tags.to_le_bytes());
    for register in image[28..].chunks_exact_mut(10) {
        register.copy_from_slice(&number(random));
    }
    image
}

/// `None` if code cannot run on the host, which is said.
fn host(test: &str) -> Option<Host> {
    let host = Host::new();
    if host.is_none() {
        eprintln!("SKIPPED: {test}: the host gives no memory for code");
    }
    host
}

fn put(data: &mut [u8; DATA_BYTES], at: usize, bytes: &[u8]) {
    data[at..at + bytes.len()].copy_from_slice(bytes);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A program that loads the x87's state and the flags, executes an instruction, and stores these again.
fn program(instruction: &[u8]) -> Vec<u8> {
    let mut code = Vec::new();
    // frstor [rdi]; mov eax, [rdi+FLAGS]; sahf
    code.extend([0xdd, 0x27, 0x8b, 0x87]);
    code.extend((FLAGS as u32).to_le_bytes());
    code.push(0x9e);
    code.extend(instruction);
    // mov [rdi+FLAGS+4], eax; lahf; mov [rdi+FLAGS+8], eax; fnsave [rdi+RESULT]
    code.extend([0x89, 0x87]);
    code.extend((FLAGS as u32 + 4).to_le_bytes());
    code.extend([0x9f, 0x89, 0x87]);
    code.extend((FLAGS as u32 + 8).to_le_bytes());
    code.extend([0xdd, 0xb7]);
    code.extend((RESULT as u32).to_le_bytes());
    code
}

/// Takes the pointers to the last instruction and its operand out of an image: they are addresses.
fn forget_pointers(image: &mut [u8]) {
    image[12..28].fill(0);
}

/// Results of these are approximate: F2XM1, FYL2X, FPTAN, FPATAN, FYL2XP1, FSINCOS, FSIN, FCOS.
const APPROXIMATE: [u16; 8] = [0x1f0, 0x1f1, 0x1f2, 0x1f3, 0x1f9, 0x1fb, 0x1fe, 0x1ff];

/// FUCOMI, FCOMI, FFREE, FFREEP, FUCOMIP, FCOMIP: makers differ in whether these clear C1.
const C1_DIFFERS: [u16; 6] = [0x3e8, 0x3f0, 0x5c0, 0x7c0, 0x7e8, 0x7f0];

/// FPREM1 and FPREM, of which a partial result leaves the other conditions undefined.
const FPREM: [u16; 2] = [0x1f5, 0x1f8];

#[test]
fn x87_instructions_do_what_the_hosts_do() {
    let mut random = Random::new(1);
    let mut processor = Processor::new(Tiers::Immediate(RUNS / 2));
    let Some(host) = host("x87_instructions_do_what_the_hosts_do") else { return };
    let mut report = String::new();
    for opcode in 0..0x800_u16 {
        let is_register = opcode & 0xc0 == 0xc0;
        // Of operands in memory, only [rdi + 32-bit displacement].
        let wanted = is_register || opcode & 0xc7 == 0x87;
        if !wanted || form(opcode) == Form::Undefined || APPROXIMATE.contains(&opcode) {
            continue;
        }
        let mut instruction = vec![0xd8 | (opcode >> 8) as u8, opcode as u8];
        if !is_register {
            instruction.extend((OPERAND as u32).to_le_bytes());
        }
        let code = program(&instruction);
        let address = processor.add_program(&code);
        let mut differences = 0;
        for _ in 0..RUNS {
            let mut data = [0; DATA_BYTES];
            let state = image(&mut random);
            put(&mut data, 0, &state);
            put(&mut data, FLAGS, &(random.next() as u32 & 0xffff_ff00).to_le_bytes());
            if matches!(form(opcode), Form::LoadEnvironment | Form::LoadState) {
                put(&mut data, OPERAND, &image(&mut random));
            } else {
                put(&mut data, OPERAND, &operand(&mut random));
            }
            let (mut here, mut there) = (data, data);
            let ended = processor.run(address, &mut here);
            assert_eq!(ended, Ended::Normally, "opcode {opcode:#x}");
            host.run(&code, &mut there);
            for data in [&mut here, &mut there] {
                forget_pointers(&mut data[RESULT..]);
                let partial = FPREM.contains(&opcode) && data[RESULT + 5] & 4 != 0;
                if partial {
                    data[RESULT + 5] &= !0x43;
                }
                if C1_DIFFERS.contains(&(opcode & !7)) {
                    data[RESULT + 5] &= !2;
                }
                if matches!(form(opcode), Form::StoreEnvironment | Form::StoreState) {
                    forget_pointers(&mut data[OPERAND..]);
                }
            }
            if here != there {
                differences += 1;
                if differences <= 3 {
                    let part = |data: &[u8]| {
                        let result = &data[RESULT..];
                        let (flags, operand) = (&data[FLAGS + 4..FLAGS + 12], &data[OPERAND..OPERAND + 16]);
                        format!(
                            "{} {} {} flags {} operand {}",
                            hex(&result[..12]),
                            hex(&result[28..38]),
                            hex(&result[38..48]),
                            hex(flags),
                            hex(operand)
                        )
                    };
                    let _ = writeln!(
                        report,
                        "{opcode:#x}: from {} {} {} operand {}\n  guest {}\n  host  {}",
                        hex(&state[..12]),
                        hex(&state[28..38]),
                        hex(&state[38..48]),
                        hex(&data[OPERAND..OPERAND + 16]),
                        part(&here),
                        part(&there),
                    );
                }
            }
        }
        if differences != 0 {
            let _ = writeln!(report, "{opcode:#x}: {differences} of {RUNS} differ");
        }
    }
    assert!(report.is_empty(), "{report}");
    assert!(processor.regions_compiled() > 0);
}

#[test]
fn images_with_16_bit_operands_and_fxsave_are_what_the_hosts_are() {
    let mut random = Random::new(3);
    let mut processor = Processor::new(Tiers::Immediate(RUNS / 2));
    let Some(host) = host("images_with_16_bit_operands_and_fxsave_are_what_the_hosts_are") else { return };
    let displacement = (OPERAND as u32).to_le_bytes();
    // FLDENV, FNSTENV, FRSTOR and FNSAVE with 16-bit operands; FXSAVE64; FXSAVE64, FXRSTOR64 from there.
    let with_displacement = |opcode: &[u8]| [opcode, &displacement].concat();
    let instructions = [
        with_displacement(&[0x66, 0xd9, 0xa7]),
        with_displacement(&[0x66, 0xd9, 0xb7]),
        with_displacement(&[0x66, 0xdd, 0xa7]),
        with_displacement(&[0x66, 0xdd, 0xb7]),
        with_displacement(&[0x48, 0x0f, 0xae, 0x87]),
        [with_displacement(&[0x48, 0x0f, 0xae, 0x87]), vec![0xdb, 0xe3], with_displacement(&[0x48, 0x0f, 0xae, 0x8f])]
            .concat(),
    ];
    for (number, instruction) in instructions.iter().enumerate() {
        let code = program(instruction);
        let address = processor.add_program(&code);
        for _ in 0..RUNS {
            let mut data = [0; DATA_BYTES];
            put(&mut data, 0, &image(&mut random));
            let operand = image(&mut random);
            put(&mut data, OPERAND, &operand[0..2]);
            put(&mut data, OPERAND + 2, &operand[4..6]);
            put(&mut data, OPERAND + 4, &operand[8..10]);
            put(&mut data, OPERAND + 14, &operand[28..]);
            let (mut here, mut there) = (data, data);
            assert_eq!(processor.run(address, &mut here), Ended::Normally);
            host.run(&code, &mut there);
            for data in [&mut here, &mut there] {
                forget_pointers(&mut data[RESULT..]);
                if number < 4 {
                    data[OPERAND + 6..OPERAND + 14].fill(0);
                } else {
                    // Pointers; the mask of MXCSR; XMM registers, of which the program knows nothing.
                    data[OPERAND + 6..OPERAND + 24].fill(0);
                    data[OPERAND + 28..OPERAND + 32].fill(0);
                    data[OPERAND + 160..OPERAND + 512].fill(0);
                }
            }
            let at = here.iter().zip(&there).position(|(a, b)| a != b);
            assert_eq!(at, None, "instruction {number}, from {}", hex(&data[..IMAGE]));
        }
    }
}

/// Where a program leaves the MMX registers.
const REGISTERS: usize = 768;

/// A program that loads MMX and XMM registers, executes an instruction, and stores these again.
fn mmx_program(instruction: &[u8]) -> Vec<u8> {
    let mut code = Vec::new();
    let access = |code: &mut Vec<u8>, opcode: &[u8], register: usize, at: usize| {
        code.extend(opcode);
        code.push(0x87 | (register << 3) as u8);
        code.extend((at as u32).to_le_bytes());
    };
    for register in 0..8 {
        // movq mm, [rdi+8n]; movups xmm, [rdi+64+16n]
        access(&mut code, &[0x0f, 0x6f], register, 8 * register);
        access(&mut code, &[0x0f, 0x10], register, 64 + 16 * register);
    }
    // emms, so that the instruction is seen to change the tags; mov eax, [rdi+FLAGS]; mov ecx, [rdi+FLAGS+4]
    code.extend([0x0f, 0x77]);
    access(&mut code, &[0x8b], 0, FLAGS);
    access(&mut code, &[0x8b], 1, FLAGS + 4);
    code.extend(instruction);
    access(&mut code, &[0x48, 0x89], 0, FLAGS + 8);
    access(&mut code, &[0x48, 0x89], 1, FLAGS + 16);
    // fnstenv [rdi+RESULT]
    access(&mut code, &[0xd9], 6, RESULT);
    for register in 0..8 {
        access(&mut code, &[0x0f, 0x7f], register, REGISTERS + 8 * register);
        access(&mut code, &[0x0f, 0x11], register, REGISTERS + 64 + 16 * register);
    }
    code
}

#[test]
fn mmx_instructions_do_what_the_hosts_do() {
    let mut random = Random::new(2);
    let mut processor = Processor::new(Tiers::Immediate(RUNS / 2));
    let Some(host) = host("mmx_instructions_do_what_the_hosts_do") else { return };
    let mut report = String::new();
    let mut check = |name: String, instruction: &[u8]| {
        let code = mmx_program(instruction);
        let address = processor.add_program(&code);
        for run in 0..RUNS {
            let mut data = [0; DATA_BYTES];
            for place in [0..64 + 128, OPERAND..OPERAND + 32] {
                for value in data[place].chunks_exact_mut(8) {
                    let number = match (run + random.below(2) as u32) % 4 {
                        0 => random.next(),
                        1 => random.below(70),
                        2 => random.next() & 0x8080_ff00_7f7f_ffff,
                        _ => {
                            let single = |random: &mut Random| {
                                u64::from(f32::to_bits((random.below(200_000) as f32 - 100_000.0) / 16.0))
                            };
                            single(&mut random) | single(&mut random) << 32
                        }
                    };
                    value.copy_from_slice(&number.to_le_bytes());
                }
            }
            let (mut here, mut there) = (data, data);
            let ended = processor.run(address, &mut here);
            assert_eq!(ended, Ended::Normally, "{name}");
            host.run(&code, &mut there);
            for data in [&mut here, &mut there] {
                forget_pointers(&mut data[RESULT..]);
                if instruction.starts_with(&[0x0f, 0x2a, 0x9f]) {
                    // Makers differ in whether CVTPI2PS of an operand in memory takes the x87's registers.
                    data[RESULT..RESULT + 12].fill(0);
                }
            }
            if here != there {
                let at = here.iter().zip(&there).position(|(a, b)| a != b).unwrap_or_default() & !7;
                let (here, there) = (hex(&here[at..at + 8]), hex(&there[at..at + 8]));
                let _ = writeln!(report, "{name}: at {at} guest {here} host {there}, from {}", hex(&data[..64]));
                break;
            }
        }
    };
    // Registers MM1 and MM2; MM3 and memory.
    let operands = |instruction: &[u8], immediate: &[u8]| {
        let memory = [instruction, &[0x9f], &(OPERAND as u32).to_le_bytes(), immediate].concat();
        [[instruction, &[0xca], immediate].concat(), memory]
    };
    // The same with ECX in place of the register that the program does not load.
    let from_ecx =
        |code: Vec<u8>| code.into_iter().map(|byte| if byte == 0xca { 0xc9 } else { byte }).collect::<Vec<u8>>();
    let plain = (0x60..=0x6b).chain([0x6f, 0x74, 0x75, 0x76, 0x7f]).chain((0xd1..=0xd5).chain(0xd8..=0xe5));
    for opcode in plain.chain(0xe8..=0xef).chain(0xf1..=0xf6).chain(0xf8..=0xfe) {
        for (form, instruction) in operands(&[0x0f, opcode], &[]).into_iter().enumerate() {
            check(format!("0f {opcode:02x}, form {form}"), &instruction);
        }
    }
    for opcode in (0..=0x0b).chain(0x1c..=0x1e) {
        for (form, instruction) in operands(&[0x0f, 0x38, opcode], &[]).into_iter().enumerate() {
            check(format!("0f 38 {opcode:02x}, form {form}"), &instruction);
        }
    }
    for immediate in [0, 1, 5, 8, 11, 16, 0x1b, 0xe4, 0xff] {
        // PSHUFW, PALIGNR, and PINSRW from ECX and memory.
        for opcode in [&[0x0f, 0x70][..], &[0x0f, 0x3a, 0x0f], &[0x0f, 0xc4]] {
            for (form, instruction) in operands(opcode, &[immediate]).into_iter().enumerate() {
                let instruction = if opcode[1] == 0xc4 { from_ecx(instruction) } else { instruction };
                check(format!("{opcode:02x?} {immediate:#x}, form {form}"), &instruction);
            }
        }
        // PEXTRW ECX, MM2. Shifts by immediates.
        check(format!("0f c5 {immediate:#x}"), &[0x0f, 0xc5, 0xca, immediate]);
        for (opcode, kinds) in [(0x71, &[2, 4, 6][..]), (0x72, &[2, 4, 6]), (0x73, &[2, 6])] {
            for kind in kinds {
                check(format!("0f {opcode:02x} /{kind}"), &[0x0f, opcode, 0xc2 | kind << 3, immediate]);
            }
        }
    }
    // MOVD and MOVQ between MMX and general registers or memory; PMOVMSKB; MOVNTQ.
    for wide in [&[][..], &[0x48]] {
        for opcode in [0x6e, 0x7e] {
            for (form, instruction) in operands(&[wide, &[0x0f, opcode]].concat(), &[]).into_iter().enumerate() {
                let instruction = from_ecx(instruction);
                check(format!("{wide:02x?} 0f {opcode:02x}, form {form}"), &instruction);
            }
        }
    }
    check("pmovmskb".into(), &[0x0f, 0xd7, 0xca]);
    check("movntq".into(), &operands(&[0x0f, 0xe7], &[])[1]);
    check("maskmovq".into(), &[0x48, 0x81, 0xc7, 0, 4, 0, 0, 0x0f, 0xf7, 0xca, 0x48, 0x81, 0xef, 0, 4, 0, 0]);
    check("movq2dq".into(), &[0xf3, 0x0f, 0xd6, 0xca]);
    check("movdq2q".into(), &[0xf2, 0x0f, 0xd6, 0xca]);
    // CVTPI2PS, CVTTPS2PI, CVTPS2PI, and these of doubles.
    for prefix in [&[][..], &[0x66]] {
        for opcode in [0x2a, 0x2c, 0x2d] {
            for (form, instruction) in operands(&[prefix, &[0x0f, opcode]].concat(), &[]).into_iter().enumerate() {
                check(format!("{prefix:02x?} 0f {opcode:02x}, form {form}"), &instruction);
            }
        }
    }
    assert!(report.is_empty(), "{report}");
    assert!(processor.regions_compiled() > 0);
}
