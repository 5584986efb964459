//! Random riscv64 programs give the same registers and memory when they are interpreted, when they are compiled, and under
//! QEMU's user-mode emulator.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use translate::engine::Tiers;

#[path = "riscv64/machine.rs"]
mod machine;
#[path = "riscv64/program.rs"]
mod program;

use program::{CODE, DATA, DATA_LENGTH, Kind, Program};

/// What a program left behind: the register block and the memory.
fn ours(program: &Program, tiers: Tiers) -> Vec<u8> {
    let (image, end) = program.image();
    machine::run(CODE, &image, end, tiers).bytes(DATA, DATA_LENGTH)
}

/// A static ELF executable of one segment (System V ABI, chapters 4 and 5).
fn elf(image: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend(2_u16.to_le_bytes());
    file.extend(243_u16.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    for word in [CODE, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    // Flags: compressed instructions, double-precision arguments.
    file.extend(5_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    file.extend(7_u32.to_le_bytes());
    for word in [0x1000, CODE, CODE, image.len() as u64, image.len() as u64, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.resize(0x1000, 0);
    file.extend(image);
    file
}

/// QEMU's user-mode emulator, if it is installed.
fn emulator() -> Option<&'static str> {
    ["qemu-riscv64-static", "qemu-riscv64"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok())
}

fn theirs(emulator: &str, program: &Program) -> Vec<u8> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = format!("riscv64-differential-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o700).open(&path).unwrap();
    file.write_all(&elf(&program.image().0)).unwrap();
    drop(file);
    let output = Command::new(emulator).args(["-cpu", "rv64,zba=true,zbb=true,zbs=true"]).arg(&path).output();
    std::fs::remove_file(&path).unwrap();
    let output = output.unwrap();
    assert!(
        output.status.success(),
        "{emulator} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn difference(ours: &[u8], theirs: &[u8]) -> String {
    assert_eq!(ours.len(), theirs.len());
    let word = |bytes: &[u8], index: usize| u64::from_le_bytes(*bytes[index * 8..].first_chunk().unwrap());
    let name = |index: usize| match index {
        0..32 => format!("x{index}"),
        32..64 => format!("f{}", index - 32),
        64 => "fcsr".to_string(),
        _ => format!("memory at {:#x}", DATA + index as u64 * 8),
    };
    (0..ours.len() / 8)
        .filter(|&index| word(ours, index) != word(theirs, index))
        .take(8)
        .map(|index| format!("{}: {:#x}, expected {:#x}\n", name(index), word(ours, index), word(theirs, index)))
        .collect()
}

/// The first item after which the two ways to run a program differ.
fn first_difference(program: &Program, a: impl Fn(&Program) -> Vec<u8>, b: impl Fn(&Program) -> Vec<u8>) -> String {
    for length in 1..=program.items.len() {
        let prefix = program.prefix(length);
        let (a, b) = (a(&prefix), b(&prefix));
        if a != b {
            return format!("first at item {length}: {:x?}\n{}", program.items[length - 1], difference(&a, &b));
        }
    }
    "not in a single pass".to_string()
}

/// Kinds of programs, how many of each, and how often each loops.
const PROGRAMS: [(Kind, u64, u64); 3] = [(Kind::Integer, 40, 20), (Kind::Float, 60, 20), (Kind::All, 40, 20)];

#[test]
fn interpreted_programs_agree_with_qemu() {
    let Some(emulator) = emulator() else {
        eprintln!("SKIPPED: interpreted_programs_agree_with_qemu: no qemu-riscv64 is installed");
        return;
    };
    let interpreted = |program: &Program| ours(program, Tiers::InterpreterOnly);
    for (kind, count, iterations) in PROGRAMS {
        for seed in 0..count {
            let program = Program::random(seed, kind, 200, iterations);
            let (got, want) = (interpreted(&program), theirs(emulator, &program));
            if got != want {
                let first = first_difference(&program, interpreted, |program| theirs(emulator, program));
                panic!("{kind:?} {seed}:\n{}{first}", difference(&got, &want));
            }
        }
    }
}

#[test]
fn compiled_programs_agree_with_interpreted_ones() {
    for (kind, count, iterations) in PROGRAMS {
        for seed in 0..count / 4 {
            let program = Program::random(seed, kind, 150, iterations);
            let interpreted = ours(&program, Tiers::InterpreterOnly);
            for tiers in [Tiers::Baseline(2), Tiers::Immediate(2)] {
                let compiled = ours(&program, tiers);
                let difference = difference(&compiled, &interpreted);
                assert!(compiled == interpreted, "{kind:?} {seed}, {tiers:?}:\n{difference}");
            }
        }
    }
}
