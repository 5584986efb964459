//! Whatever the bytes and the mode, the x86-64 lifter gives a well-formed block.

use proptest::prelude::*;
use translate::guest::{Guest, NeedsMoreCode};
use translate::ir::{GuestNames, parse, verify};
use translate::x86_64::X86_64;
use translate::x86_64::features::InstructionSet;

fn check(start: u64, code: &[u8], flags: u32, most: usize) -> Result<(), String> {
    let block = match X86_64::lift(start, code, flags, InstructionSet::default(), most) {
        Ok(block) => block,
        Err(NeedsMoreCode) if code.len() < 16 => return Ok(()),
        Err(NeedsMoreCode) => return Err("sixteen bytes hold an instruction".to_string()),
    };
    verify::<X86_64>(&block).map_err(|error| format!("{error}\n{block}"))?;
    if usize::from(block.length) > code.len() || block.instructions.len() > most.max(1) {
        return Err(format!("the block is too long\n{block}"));
    }
    let names = GuestNames::<X86_64>::new();
    let text = block.text(GuestNames::<X86_64>::new()).to_string();
    if parse(&text, &names).as_ref() != Ok(&block) {
        return Err(format!("the text reads back differently\n{text}"));
    }
    Ok(())
}

/// 16-, 32- and 64-bit code, flat and not.
const MODES: [u32; 4] = [0, 0x1_1fb4, 0x34, 0x1_1fb8];

#[test]
fn every_opcode_of_one_and_two_bytes_with_every_modrm() {
    for flags in MODES {
        for opcode in 0..=u8::MAX {
            for modrm in 0..=u8::MAX {
                let tail = [modrm, 0x24, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
                for prefix in [&[][..], &[0x0f], &[0x66, 0x0f], &[0xf3, 0x0f], &[0xf2, 0x0f], &[0x66], &[0xf0]] {
                    let code = [prefix, &[opcode], &tail[..]].concat();
                    check(0x1000, &code, flags, 1).unwrap();
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn any_bytes(start: u64, code in prop::collection::vec(any::<u8>(), 0..200), flags: u32, most in 0_usize..80) {
        check(start, &code, flags, most).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn any_bytes_in_64_bit_mode(code in prop::collection::vec(any::<u8>(), 16..200)) {
        check(0xffff_ffff_ffff_ff00, &code, 0x1_1fbb, 64).map_err(TestCaseError::fail)?;
    }
}
