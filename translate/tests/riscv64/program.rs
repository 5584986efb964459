//! Random programs: straight-line code with small forward branches, in a loop, between code that loads all registers from
//! memory and code that stores them there.

/// Where programs are loaded and entered.
pub(crate) const CODE: u64 = 0x10000;
/// Where the register block is: 32 integer registers, 32 floating-point registers, `fcsr`.
pub(crate) const DATA: u64 = 0x18000;
/// Bytes of the register block and of the memory behind it that programs read and write.
pub(crate) const DATA_LENGTH: usize = 0x2000;
/// The middle of the memory that programs read and write.
const SCRATCH: u64 = DATA + 0x1400;
/// Holds [`SCRATCH`].
const SCRATCH_REGISTER: u32 = 2;
/// Holds [`DATA`].
const DATA_REGISTER: u32 = 3;
/// Counts the loop down.
const COUNT_REGISTER: u32 = 4;
/// Holds an aligned address for atomic operations.
const ATOMIC_REGISTER: u32 = 9;

/// A xorshift generator: the same programs on every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u32) -> u32 {
        ((self.next() >> 33) % u64::from(limit)) as u32
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u32) as usize]
    }

    /// Any register that can be read.
    fn source(&mut self) -> u32 {
        self.below(32)
    }

    /// A register that may be written.
    fn target(&mut self) -> u32 {
        loop {
            let register = self.below(32);
            if ![SCRATCH_REGISTER, DATA_REGISTER, COUNT_REGISTER, ATOMIC_REGISTER].contains(&register) {
                return register;
            }
        }
    }

    /// One of the registers x8 and x10 to x15, which compressed instructions can name.
    fn short_target(&mut self) -> u32 {
        self.pick(&[0, 2, 3, 4, 5, 6, 7])
    }

    /// A 64-bit value of a kind that instructions treat specially, or any.
    fn value(&mut self) -> u64 {
        let any = self.next();
        let specials = [0, 1, u64::MAX, 1 << 63, u64::MAX >> 1, 0x8000_0000, 0x7fff_ffff, 0xffff_ffff, 63, 64];
        match self.below(5) {
            0 => self.pick(&specials),
            1 => any >> self.below(64),
            2 => i64::from(any as i32) as u64,
            _ => any,
        }
    }

    /// The bits of a floating-point register: numbers of either precision, of every kind.
    fn float(&mut self) -> u64 {
        let sign = self.next() & 1;
        let fraction = self.next();
        if self.below(2) == 0 {
            let exponent = self.pick(&[0, 0, 1, 126, 127, 127, 128, 129, 150, 158, 190, 254, 255]);
            let fraction = if self.below(3) == 0 { 0 } else { fraction & 0x7f_ffff };
            let single = sign << 31 | exponent << 23 | fraction;
            let upper = if self.below(12) == 0 { fraction << 33 } else { 0xffff_ffff << 32 };
            upper | single
        } else {
            let exponent = self.pick(&[0, 0, 1, 900, 1022, 1023, 1023, 1024, 1054, 1085, 1086, 1150, 2046, 2047]);
            let fraction = if self.below(3) == 0 { 0 } else { fraction & ((1 << 52) - 1) };
            sign << 63 | exponent << 52 | fraction
        }
    }
}

fn type_r(opcode: u32, funct3: u32, funct7: u32, rd: u32, rs1: u32, rs2: u32) -> u32 {
    funct7 << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode
}

fn type_i(opcode: u32, funct3: u32, rd: u32, rs1: u32, immediate: i32) -> u32 {
    (immediate as u32) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode
}

fn type_s(opcode: u32, funct3: u32, rs1: u32, rs2: u32, immediate: i32) -> u32 {
    let i = immediate as u32;
    (i >> 5 & 0x7f) << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | (i & 0x1f) << 7 | opcode
}

fn branch(funct3: u32, rs1: u32, rs2: u32, offset: i32) -> u32 {
    let o = offset as u32;
    (o >> 12 & 1) << 31
        | (o >> 5 & 0x3f) << 25
        | rs2 << 20
        | rs1 << 15
        | funct3 << 12
        | (o >> 1 & 0xf) << 8
        | (o >> 11 & 1) << 7
        | 0x63
}

fn jal(rd: u32, offset: i32) -> u32 {
    let o = offset as u32;
    (o >> 20 & 1) << 31 | (o >> 1 & 0x3ff) << 21 | (o >> 11 & 1) << 20 | (o >> 12 & 0xff) << 12 | rd << 7 | 0x6f
}

/// Something a program does: a few instructions that belong together.
#[derive(Clone, Debug)]
pub(crate) struct Item(Vec<u8>);

impl Item {
    fn words(words: &[u32]) -> Item {
        Item(words.iter().flat_map(|word| word.to_le_bytes()).collect())
    }

    fn half(half: u32) -> Item {
        Item((half as u16).to_le_bytes().to_vec())
    }
}

/// What kinds of instructions a program has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Integer,
    Float,
    All,
}

pub(crate) struct Program {
    pub(crate) items: Vec<Item>,
    registers: Vec<u64>,
    iterations: u64,
}

impl Program {
    pub(crate) fn random(seed: u64, kind: Kind, length: usize, iterations: u64) -> Program {
        let mut random = Random::new(seed);
        let mut registers: Vec<u64> = (0..32).map(|_| random.value()).collect();
        registers[0] = 0;
        registers.extend((0..32).map(|_| random.float()));
        registers.push(random.pick(&[0, 0, 1, 2, 3, 4]) << 5);
        // Memory holds numbers of both sorts.
        registers.extend(
            (0..DATA_LENGTH / 8 - 65).map(|index| if index % 2 == 0 { random.value() } else { random.float() }),
        );
        let mut items: Vec<Item> = Vec::new();
        while items.len() < length {
            let item = match kind {
                Kind::Integer => integer_item(&mut random),
                Kind::Float => float_item(&mut random),
                Kind::All if random.below(2) == 0 => integer_item(&mut random),
                Kind::All => float_item(&mut random),
            };
            items.push(item);
        }
        Program { items, registers, iterations }
    }

    /// The same with fewer items, once through.
    pub(crate) fn prefix(&self, length: usize) -> Program {
        Program { items: self.items[..length].to_vec(), registers: self.registers.clone(), iterations: 1 }
    }

    /// The image to load at [`CODE`], and the address of the first of the system calls that write the register block and the
    /// memory to standard output, and exit.
    pub(crate) fn image(&self) -> (Vec<u8>, u64) {
        let mut code = Vec::new();
        let emit = |code: &mut Vec<u8>, word: u32| code.extend(word.to_le_bytes());
        emit(&mut code, DATA as u32 | DATA_REGISTER << 7 | 0x37);
        emit(&mut code, type_i(0x03, 2, 1, DATA_REGISTER, 512));
        // fcsr
        emit(&mut code, type_i(0x73, 1, 0, 1, 3));
        for register in 0..32 {
            emit(&mut code, type_i(0x07, 3, register, DATA_REGISTER, 256 + 8 * register as i32));
        }
        for register in (1..32).filter(|&register| register != DATA_REGISTER) {
            emit(&mut code, type_i(0x03, 3, register, DATA_REGISTER, 8 * register as i32));
        }
        let top = code.len();
        for item in &self.items {
            code.extend(&item.0);
        }
        if code.len() % 4 != 0 {
            // C.NOP
            code.extend([0x01, 0x00]);
        }
        emit(&mut code, type_i(0x13, 0, COUNT_REGISTER, COUNT_REGISTER, -1));
        emit(&mut code, branch(0, COUNT_REGISTER, 0, 8));
        let back = top as i32 - code.len() as i32;
        emit(&mut code, jal(0, back));
        for register in 0..32 {
            emit(&mut code, type_s(0x23, 3, DATA_REGISTER, register, 8 * register as i32));
            emit(&mut code, type_s(0x27, 3, DATA_REGISTER, register, 256 + 8 * register as i32));
        }
        emit(&mut code, type_i(0x73, 2, 1, 0, 3));
        emit(&mut code, type_s(0x23, 3, DATA_REGISTER, 1, 512));
        // write(1, DATA, DATA_LENGTH)
        emit(&mut code, type_i(0x13, 0, 17, 0, 64));
        emit(&mut code, type_i(0x13, 0, 10, 0, 1));
        emit(&mut code, type_i(0x13, 0, 11, DATA_REGISTER, 0));
        emit(&mut code, DATA_LENGTH as u32 | 12 << 7 | 0x37);
        let end = CODE + code.len() as u64;
        emit(&mut code, 0x73);
        // exit(0)
        emit(&mut code, type_i(0x13, 0, 17, 0, 93));
        emit(&mut code, type_i(0x13, 0, 10, 0, 0));
        emit(&mut code, 0x73);
        assert!(code.len() as u64 <= DATA - CODE, "the program is too long");
        code.resize((DATA - CODE) as usize, 0);
        for (index, &value) in self.registers.iter().enumerate() {
            let value = match index as u32 {
                SCRATCH_REGISTER => SCRATCH,
                COUNT_REGISTER => self.iterations,
                ATOMIC_REGISTER => SCRATCH + 64,
                _ => value,
            };
            code.extend(value.to_le_bytes());
        }
        (code, end)
    }
}

fn integer_item(random: &mut Random) -> Item {
    let (rd, rs1, rs2) = (random.target(), random.source(), random.source());
    let immediate = (random.next() as i32) >> 20;
    match random.below(20) {
        0..=3 => {
            // OP: base, M, Zba, Zbb, Zbs
            let (funct7, funct3) = random.pick(&[
                (0, 0),
                (0, 1),
                (0, 2),
                (0, 3),
                (0, 4),
                (0, 5),
                (0, 6),
                (0, 7),
                (0x20, 0),
                (0x20, 5),
                (1, 0),
                (1, 1),
                (1, 2),
                (1, 3),
                (1, 4),
                (1, 5),
                (1, 6),
                (1, 7),
                (0x10, 2),
                (0x10, 4),
                (0x10, 6),
                (0x20, 4),
                (0x20, 6),
                (0x20, 7),
                (5, 4),
                (5, 5),
                (5, 6),
                (5, 7),
                (0x30, 1),
                (0x30, 5),
                (0x24, 1),
                (0x24, 5),
                (0x34, 1),
                (0x14, 1),
            ]);
            Item::words(&[type_r(0x33, funct3, funct7, rd, rs1, rs2)])
        }
        4..=5 => {
            // OP-32
            let (funct7, funct3) = random.pick(&[
                (0, 0),
                (0x20, 0),
                (0, 1),
                (0, 5),
                (0x20, 5),
                (1, 0),
                (1, 4),
                (1, 5),
                (1, 6),
                (1, 7),
                (4, 0),
                (0x10, 2),
                (0x10, 4),
                (0x10, 6),
                (0x30, 1),
                (0x30, 5),
            ]);
            Item::words(&[type_r(0x3b, funct3, funct7, rd, rs1, rs2)])
        }
        6..=7 => Item::words(&[type_i(0x13, random.pick(&[0, 2, 3, 4, 6, 7]), rd, rs1, immediate)]),
        8 => {
            // Shifts by an immediate and Zbs
            let (funct6, funct3) =
                random.pick(&[(0, 1), (0, 5), (0x10, 5), (0x18, 5), (0x12, 1), (0x12, 5), (0x1a, 1), (0x0a, 1)]);
            Item::words(&[type_i(0x13, funct3, rd, rs1, funct6 << 6 | random.below(64) as i32)])
        }
        9 => {
            let (immediate, funct3) =
                random.pick(&[(0x600, 1), (0x601, 1), (0x602, 1), (0x604, 1), (0x605, 1), (0x287, 5), (0x6b8, 5)]);
            Item::words(&[type_i(0x13, funct3, rd, rs1, immediate)])
        }
        10 => {
            // Without CTZW, of which QEMU 7.2 makes too much if the operand's low half is zero.
            let shift = random.below(32) as i32;
            let (immediate, funct3) = random.pick(&[
                (immediate, 0),
                (shift, 1),
                (shift, 5),
                (0x400 | shift, 5),
                (0x600 | shift, 5),
                (0x600, 1),
                (0x602, 1),
                (0x080 | shift, 1),
            ]);
            Item::words(&[type_i(0x1b, funct3, rd, rs1, immediate)])
        }
        11 => {
            // ZEXT.H, LUI, AUIPC
            let upper = random.next() as u32 & 0xffff_f000;
            Item::words(&[random.pick(&[
                type_r(0x3b, 4, 4, rd, rs1, 0),
                upper | rd << 7 | 0x37,
                upper | rd << 7 | 0x17,
            ])])
        }
        12..=13 => Item::words(&[type_i(0x03, random.below(7), rd, SCRATCH_REGISTER, immediate)]),
        14 => Item::words(&[type_s(0x23, random.below(4), SCRATCH_REGISTER, rs2, immediate)]),
        15 => {
            let funct3 = random.pick(&[2, 3]);
            if random.below(4) == 0 {
                // LR and SC
                let loads = type_r(0x2f, funct3, 0x02 << 2, rd, ATOMIC_REGISTER, 0);
                let stores = type_r(0x2f, funct3, 0x03 << 2, random.target(), ATOMIC_REGISTER, rs2);
                return Item::words(&[loads, stores]);
            }
            let funct5 = random.pick(&[0, 1, 4, 8, 0xc, 0x10, 0x14, 0x18, 0x1c]);
            Item::words(&[type_r(0x2f, funct3, funct5 << 2 | random.below(4), rd, ATOMIC_REGISTER, rs2)])
        }
        16 => {
            // A branch over one instruction
            let over = type_i(0x13, 0, rd, rs1, immediate);
            Item::words(&[branch(random.pick(&[0, 1, 4, 5, 6, 7]), rs1, rs2, 8), over])
        }
        17 => {
            // Jumps: JAL, AUIPC and JALR over one instruction, and LUI-less calls that link
            let over = type_i(0x13, 0, rd, rs1, immediate);
            match random.below(3) {
                0 => Item::words(&[jal(rd, 8), over]),
                1 => Item::words(&[0x17 | 1 << 7, type_i(0x67, 0, rd, 1, 12), over]),
                _ => Item::words(&[0x17 | 5 << 7, type_i(0x13, 0, 5, 5, 17), type_i(0x67, 0, 1, 5, 0), over]),
            }
        }
        _ => Item::half(compressed(random, rd)),
    }
}

/// A compressed instruction without control flow.
fn compressed(random: &mut Random, rd: u32) -> u32 {
    let rd = if rd == 0 { 1 } else { rd };
    let (short, other) = (random.short_target(), random.below(8));
    let immediate = random.below(32) << 2 | random.below(2) << 12;
    let not_zero = immediate | 4;
    let rs2 = 1 + random.below(31);
    match random.below(17) {
        0 => immediate | rd << 7 | 0x0001,
        1 => immediate | rd << 7 | 0x2001,
        2 => immediate | rd << 7 | 0x4001,
        3 => not_zero | rd << 7 | 0x6001,
        4 => not_zero | short << 7 | 0x8001,
        5 => not_zero | short << 7 | 0x8401,
        6 => immediate | short << 7 | 0x8801,
        7 => random.below(4) << 5 | other << 2 | short << 7 | 0x8c01,
        8 => random.below(2) << 5 | other << 2 | short << 7 | 0x9c01,
        9 => not_zero | rd << 7 | 0x0002,
        10 => rs2 << 2 | rd << 7 | 0x8002,
        11 => rs2 << 2 | rd << 7 | 0x9002,
        // C.ADDI4SPN; C.LWSP, C.LDSP, C.FLDSP, C.SWSP, C.SDSP
        12 => (1 + random.below(255)) << 5 | short << 2,
        13 => immediate & !0x3c | 0x4002 | rd << 7,
        14 => immediate & !0x3c | 0x6002 | rd << 7,
        15 => random.below(64) << 7 | rs2 << 2 | 0xc002,
        _ => random.below(64) << 7 | rs2 << 2 | 0xe002,
    }
}

fn float_item(random: &mut Random) -> Item {
    let (rd, rs1, rs2, rs3) = (random.below(32), random.below(32), random.below(32), random.below(32));
    let format = random.below(2);
    let rounding = random.pick(&[7, 7, 7, 7, 0, 0, 1, 2, 3, 4]);
    let word = match random.below(24) {
        0..=4 => type_r(0x53, rounding, random.below(4) << 2 | format, rd, rs1, rs2),
        5..=8 => type_r(random.pick(&[0x43, 0x47, 0x4b, 0x4f]), rounding, rs3 << 2 | format, rd, rs1, rs2),
        9 => type_r(0x53, rounding, 0x2c | format, rd, rs1, 0),
        10 => type_r(0x53, random.below(3), 0x10 | format, rd, rs1, random.pick(&[rs1, rs2])),
        11 => type_r(0x53, random.below(2), 0x14 | format, rd, rs1, rs2),
        12 => type_r(0x53, rounding, 0x20 | format, rd, rs1, 1 - format),
        13 => type_r(0x53, random.below(3), 0x50 | format, random.target(), rs1, rs2),
        14..=15 => type_r(0x53, rounding, 0x60 | format, random.target(), rs1, random.below(4)),
        16..=17 => type_r(0x53, rounding, 0x68 | format, rd, random.source(), random.below(4)),
        18 => type_r(0x53, random.below(2), 0x70 | format, random.target(), rs1, 0),
        19 => type_r(0x53, 0, 0x78 | format, rd, random.source(), 0),
        20 => type_i(0x07, random.pick(&[2, 3]), rd, SCRATCH_REGISTER, random.next() as i32 >> 20),
        21 => type_s(0x27, random.pick(&[2, 3]), SCRATCH_REGISTER, rs2, random.next() as i32 >> 20),
        // Fresh operands, lest everything become NaN: registers from the block
        22 => type_i(0x07, 3, rd, DATA_REGISTER, 256 + 8 * random.below(32) as i32),
        // Read and clear fflags, read fcsr, set frm
        _ => match random.below(3) {
            0 => type_i(0x73, 5, random.target(), 0, 1),
            1 => type_i(0x73, 2, random.target(), 0, 3),
            _ => type_i(0x73, 5, random.target(), random.below(5), 2),
        },
    };
    Item::words(&[word])
}
