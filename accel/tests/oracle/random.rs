//! Random numbers, and values that make arithmetic interesting.

/// A small deterministic source (splitmix64).
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// An integer: often one at a border.
    pub(crate) fn integer(&mut self) -> u64 {
        const BORDERS: [u64; 20] = [
            0,
            1,
            2,
            u64::MAX,
            i64::MIN as u64,
            i64::MAX as u64,
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x1_0000_0000,
            0xffff_ffff_8000_0000,
            0xffff_ffff_ffff_8000,
            0xffff_ffff_ffff_ff80,
            0x0123_4567_89ab_cdef,
        ];
        match self.below(6) {
            0..=1 => self.next(),
            2 => self.next() >> self.below(64),
            3 => 1 << self.below(64),
            _ => self.pick(&BORDERS),
        }
    }

    /// Eight bytes that may be two single-precision numbers or one of double precision: often special ones.
    pub(crate) fn vector_half(&mut self) -> u64 {
        match self.below(8) {
            0..=1 => self.next(),
            2 => self.integer(),
            3..=4 => u64::from(self.single()) | u64::from(self.single()) << 32,
            _ => self.double(),
        }
    }

    fn single(&mut self) -> u32 {
        const SPECIAL: [u32; 14] = [
            0,
            0x8000_0000,
            1,
            0x7f_ffff,
            0x80_0000,
            0x7f7f_ffff,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0000,
            0x7f80_0001,
            0xffc0_1234,
            0x4f00_0000,
            0xcf00_0000,
            0x3f80_0000,
        ];
        match self.below(3) {
            0 => self.pick(&SPECIAL),
            // Near one, so that sums and differences of two have something in common.
            1 => (self.next() as u32 & 0x807f_ffff) | (0x3f00_0000 + ((self.below(8) as u32) << 23)),
            _ => self.next() as u32,
        }
    }

    pub(crate) fn double(&mut self) -> u64 {
        const SPECIAL: [u64; 16] = [
            0,
            1 << 63,
            1,
            0x000f_ffff_ffff_ffff,
            0x0010_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x7ff0_0000_0000_0000,
            0xfff0_0000_0000_0000,
            0x7ff8_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            0xfff8_0000_0000_1234,
            0x41e0_0000_0000_0000,
            0xc1e0_0000_0000_0000,
            0x43e0_0000_0000_0000,
            0xc3e0_0000_0000_0000,
            0x3ff0_0000_0000_0000,
        ];
        match self.below(3) {
            0 => self.pick(&SPECIAL),
            1 => (self.next() & 0x800f_ffff_ffff_ffff) | ((0x3f8 + self.below(16)) << 52),
            _ => self.next(),
        }
    }

    /// An 80-bit number: significand, and sign with exponent.
    pub(crate) fn extended(&mut self) -> (u64, u16) {
        let sign = (self.next() as u16) & 0x8000;
        match self.below(8) {
            0 => (0, sign),
            1 => (1 << 63, sign | 0x7fff),
            2 => (3 << 62 | self.next() >> 2, sign | 0x7fff),
            // Any bits: unnormal numbers, signalling ones and pseudo-denormals among them.
            3 => (self.next(), self.next() as u16),
            4 => (self.next() >> self.below(64), sign),
            _ => (1 << 63 | self.next() << self.below(64), sign | (0x3fff - 40 + self.below(80) as u16)),
        }
    }
}
