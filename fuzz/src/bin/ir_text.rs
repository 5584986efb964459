//! The parser of the IR's text form, the verifier, and the round trip through both.

use translate::guest::Guest;
use translate::ir::Block;
use translate::riscv64::Riscv64;

fn main() {
    let lift = |words: &[u32]| {
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let block = Riscv64::lift(0x8000_0000, &code, 0, (), 16).expect("whole instructions");
        block.text(translate::ir::GuestNames::<Riscv64>::default()).to_string().into_bytes()
    };
    let seeds = [
        lift(&[0x0010_0093, 0x0020_8133, 0x0000_0013, 0x0001_3083, 0xfe11_3c23, 0xfe00_08e3]),
        lift(&[0x1005_252f, 0x18b5_262f, 0x00b5_202f, 0x0ff0_000f, 0x0000_8067]),
        lift(&[0x02a5_8533, 0x02b5_4533, 0x02b5_6533, 0x4005_5513, 0x0000_006f]),
        lift(&[0x3000_2573]),
        lift(&[0x0000_0000]),
    ];
    fuzz::run(&seeds, |data| {
        let Ok(text) = std::str::from_utf8(data) else { return };
        let names = translate::ir::GuestNames::<Riscv64>::default();
        let Ok(block) = translate::ir::parse(text, &names) else { return };
        let printed = block.text(translate::ir::GuestNames::<Riscv64>::default()).to_string();
        let again: Block = translate::ir::parse(&printed, &names).expect("what is printed is parsed");
        // Constants may be NaN, so texts are compared and not blocks.
        assert_eq!(again.text(translate::ir::GuestNames::<Riscv64>::default()).to_string(), printed);
        let _ = translate::ir::verify::<Riscv64>(&block);
    });
}
