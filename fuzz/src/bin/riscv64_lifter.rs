//! The riscv64 decoder and lifter: any bytes under any translation flags lift to a well-formed block.

use translate::guest::Guest;
use translate::riscv64::Riscv64;

fn main() {
    let words = [
        [0x0010_0093_u32, 0x0020_8133, 0x0001_3083, 0xfe11_3c23],
        [0x1005_252f, 0x18b5_262f, 0x00b5_202f, 0x0000_8067],
        [0x02b5_7553, 0x5805_7553, 0xe205_1553, 0xa0b5_2553],
        [0x3000_2573, 0x1200_0073, 0x1020_0073, 0x3020_0073],
        [0x4501_4581, 0x8082_852e, 0x6422_60a2, 0xb7d1_0141],
    ];
    let seeds = words.map(|words| {
        let mut seed = vec![0, 0, 0, 0];
        seed.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        seed
    });
    fuzz::run(&seeds, |data| {
        let Some((flags, code)) = data.split_first_chunk::<4>() else { return };
        let flags = u32::from_le_bytes(*flags);
        for most in [1, 64] {
            if let Ok(block) = Riscv64::lift(0xffff_ffff_8000_0000, code, flags, (), most) {
                if let Err(error) = translate::ir::verify::<Riscv64>(&block) {
                    panic!("not well-formed: {error}");
                }
            }
        }
    });
}
