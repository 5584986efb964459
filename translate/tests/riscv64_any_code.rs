//! Whatever the bytes, the lifter gives a well-formed block; whatever the text, the parser gives a block or an error.

use proptest::prelude::*;
use translate::guest::{Guest, NeedsMoreCode};
use translate::ir::{Block, GuestNames, ParseError, parse, verify};
use translate::riscv64::Riscv64;

fn check(start: u64, code: &[u8], flags: u32, most: usize) -> Result<(), String> {
    let block = match Riscv64::lift(start, code, flags, (), most) {
        Ok(block) => block,
        Err(NeedsMoreCode) if code.len() < 4 => return Ok(()),
        Err(NeedsMoreCode) => return Err("four bytes hold an instruction".to_string()),
    };
    verify::<Riscv64>(&block).map_err(|error| format!("{error}\n{block}"))?;
    if usize::from(block.length) > code.len() || block.instructions.len() > most.max(1) {
        return Err(format!("the block is too long\n{block}"));
    }
    let text = block.text(GuestNames::<Riscv64>::new()).to_string();
    if read(&text).as_ref() != Ok(&block) || parse(&block.to_string(), &translate::ir::Numbers).as_ref() != Ok(&block) {
        return Err(format!("the text reads back differently\n{text}"));
    }
    Ok(())
}

fn read(text: &str) -> Result<Block, ParseError> {
    parse(text, &GuestNames::<Riscv64>::new())
}

#[test]
fn every_compressed_instruction() {
    // Machine mode and user mode, floating point on and off.
    for flags in [0b1111, 0b10_1111, 0, 0b10_0000] {
        for half in 0..=u16::MAX {
            let mut code = half.to_le_bytes().to_vec();
            code.extend([0; 2]);
            check(0x1000, &code, flags, 1).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes(start: u64, code in prop::collection::vec(any::<u8>(), 0..200), flags in 0_u32..0x1000, most in 0_usize..80) {
        check(start & !1, &code, flags, most).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn any_instructions_of_the_major_opcodes(
        words in prop::collection::vec((any::<u32>(), 0_usize..18), 1..40),
        flags in 0_u32..0x1000,
    ) {
        const OPCODES: [u32; 18] = [
            0x03, 0x07, 0x0f, 0x13, 0x17, 0x1b, 0x23, 0x27, 0x2f, 0x33, 0x37, 0x3b, 0x43, 0x4b, 0x53, 0x63, 0x67, 0x73,
        ];
        let code: Vec<u8> =
            words.iter().flat_map(|&(word, index)| (word & !0x7f | OPCODES[index]).to_le_bytes()).collect();
        for most in [1, 64] {
            check(0xffff_ffff_ffff_ff00, &code, flags, most).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn any_text(text in "[ -~\n]{0,200}") {
        let _ = read(&text);
    }

    #[test]
    fn damaged_text(position in 0_usize..400, replacement in "[ -~\n]{0,6}") {
        let mut text = include_str!("../filetests/riscv64/memory.txt").split_once("\nblock").unwrap().1.to_string();
        text.insert_str(0, "block");
        let position = position.min(text.len());
        text.replace_range(position..(position + replacement.len()).min(text.len()), &replacement);
        let _ = read(text.split("\n\n").next().unwrap()).map(|block| verify::<Riscv64>(&block));
    }
}

#[test]
fn errors_name_line_and_problem() {
    let message = |text: &str| read(text).unwrap_err().to_string();
    assert_eq!(message(""), "line 1: the text ends where `block ADDRESS, LENGTH` is expected");
    assert_eq!(
        message("block 0, 4\n0:\n    v1 = get x1\njump 4"),
        "line 3: the result of `get x1` must be called v0, since it is operation 0"
    );
    assert_eq!(message("block 0, 4\n0:\n    v0 = get y1"), "line 3: `y1` is not a register");
    assert_eq!(
        message("block 0, 4\n0:\n    v0 = const.i7 1"),
        "line 3: `i7` is not a type: one of i8, i16, i32, i64, f32, f64, v128"
    );
    let unordered = read("block 0, 4\n0:\n    put x1, v1\n    v1 = const.i64 0\njump 4").unwrap();
    assert_eq!(
        verify::<Riscv64>(&unordered).unwrap_err().to_string(),
        "operation 0 of the block: v1 is not defined before it"
    );
}
