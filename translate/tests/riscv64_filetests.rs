//! Lifted riscv64 code, compared with the text in `filetests/riscv64/`.
//!
//! A file holds cases, separated by empty lines. A case is
//!
//! ```text
//! code 00150513 0001      ; addi a0, a0, 1; nop
//! state user float        ; may be missing
//! block 0x1000, 6         ; this and the following lines: the IR
//! ...
//! ```
//!
//! `code` has the instructions, one hexadecimal number of 4 or 8 digits each, at address 0x1000. `state` has words for
//! the hart's state: `user`, `supervisor` or `machine` (which is the default); `float` for floating point on; `frm=` and a
//! number; `sum`, `tvm`, `tsr`, `tw`; `mprv=` and the number of a privilege mode. Lines that begin with `;` are comments of
//! the file.
//!
//! `UPDATE_FILETESTS=1 cargo test -p translate --test riscv64_filetests` writes what the lifter gives into the files. Look at
//! the difference before you commit it.

use std::fmt::Write;
use std::path::Path;

use translate::code::CodePages;
use translate::cpu::Cpu;
use translate::guest::Guest;
use translate::ir::{GuestNames, parse, verify};
use translate::riscv64::{MACHINE, Riscv64, SUPERVISOR, USER, csr};

const START: u64 = 0x1000;

fn code(words: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in words.split_whitespace() {
        let number = u32::from_str_radix(word, 16).unwrap();
        bytes.extend(&number.to_le_bytes()[..word.len() / 2]);
    }
    bytes
}

fn flags(words: &str) -> u32 {
    let mut cpu = Cpu::new(0, Riscv64::new(), CodePages::new());
    for word in words.split_whitespace() {
        let (name, number) = word.split_once('=').unwrap_or((word, "0"));
        let number: u8 = number.parse().unwrap();
        match name {
            "user" => cpu.guest.privilege = USER,
            "supervisor" => cpu.guest.privilege = SUPERVISOR,
            "machine" => cpu.guest.privilege = MACHINE,
            "float" => cpu.guest.mstatus |= 3 << 13,
            "frm" => csr::set_frm(&mut cpu, number),
            "sum" => cpu.guest.mstatus |= 1 << 18,
            "tvm" => cpu.guest.mstatus |= 1 << 20,
            "tw" => cpu.guest.mstatus |= 1 << 21,
            "tsr" => cpu.guest.mstatus |= 1 << 22,
            "mprv" => cpu.guest.mstatus |= 1 << 17 | u64::from(number) << 11,
            _ => panic!("`{word}` is not a word for the hart's state"),
        }
    }
    Riscv64::flags(&cpu)
}

/// The cases of a file with the text that the lifter gives for them.
fn lifted(file: &Path, text: &str) -> String {
    let mut result = String::new();
    for case in text.split("\n\n") {
        let operand = |line: &str, name: &str| {
            let rest = line.strip_prefix(name)?.split(';').next()?;
            Some(rest.trim().to_string())
        };
        let Some(words) = case.lines().find_map(|line| operand(line, "code ")) else {
            writeln!(result, "{}\n", case.trim_end()).unwrap();
            continue;
        };
        let state = case.lines().find_map(|line| operand(line, "state ")).unwrap_or_default();
        let mut bytes = code(&words);
        let end = bytes.len();
        // What follows is no instruction, and ends the block.
        bytes.extend([0; 16]);
        let count = words.split_whitespace().count();
        let block = Riscv64::lift(START, &bytes, flags(&state), (), count).unwrap();
        assert!(usize::from(block.length) <= end, "{}: {words}: {} bytes lifted", file.display(), block.length);
        if let Err(error) = verify::<Riscv64>(&block) {
            panic!("{}: {words}: {error}", file.display());
        }
        let text = block.text(GuestNames::<Riscv64>::new()).to_string();
        let again = parse(&text, &GuestNames::<Riscv64>::new());
        assert_eq!(again.as_ref(), Ok(&block), "{}: {words}: the text reads back differently", file.display());
        let head = case.lines().filter(|line| ["code ", "state ", ";"].iter().any(|start| line.starts_with(start)));
        for line in head {
            writeln!(result, "{line}").unwrap();
        }
        writeln!(result, "{text}").unwrap();
    }
    result.truncate(result.trim_end().len());
    result.push('\n');
    result
}

#[test]
fn lifter_gives_the_expected_text() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests/riscv64");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let expected = std::fs::read_to_string(&file).unwrap();
        let got = lifted(&file, &expected);
        if std::env::var_os("UPDATE_FILETESTS").is_some() {
            std::fs::write(&file, got).unwrap();
            continue;
        }
        for (number, (got, expected)) in got.lines().zip(expected.lines()).enumerate() {
            assert_eq!(got, expected, "{}:{}", file.display(), number + 1);
        }
        assert_eq!(got, expected, "{}", file.display());
    }
}
