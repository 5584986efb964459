//! Comparison of strings: PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM.

/// What comparing two strings gives, for the instructions to put into registers and flags. AF and PF become 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringComparison {
    /// One bit an element of the second string, after negation ("IntRes2").
    pub bits: u16,
    /// CF: some bit is set.
    pub carry: bool,
    /// ZF: the second string ends within its register.
    pub zero: bool,
    /// SF: the first string ends within its register.
    pub sign: bool,
    /// OF: the lowest bit.
    pub overflow: bool,
    /// The instruction's immediate.
    control: u8,
}

impl StringComparison {
    /// ECX of PCMPESTRI and PCMPISTRI: the number of the lowest bit set, or of the highest if bit 6 of the immediate is
    /// set; the number of elements of a register if none is.
    pub fn index(&self) -> u64 {
        let index = match (self.bits, self.control & 0x40) {
            (0, _) => return elements(self.control) as u64,
            (bits, 0) => bits.trailing_zeros(),
            (bits, _) => 15 - bits.leading_zeros(),
        };
        u64::from(index)
    }

    /// XMM0 of PCMPESTRM and PCMPISTRM: the bits, or one element each if bit 6 of the immediate is set.
    pub fn mask(&self) -> [u64; 2] {
        if self.control & 0x40 == 0 {
            return [u64::from(self.bits), 0];
        }
        let width = 128 / elements(self.control);
        let ones = u128::MAX >> (128 - width);
        let mask = (0..elements(self.control))
            .filter(|element| self.bits >> element & 1 != 0)
            .fold(0_u128, |mask, element| mask | ones << (element * width));
        [mask as u64, (mask >> 64) as u64]
    }
}

/// How many elements a register holds: 8 words or 16 bytes, by bit 0 of the immediate.
fn elements(control: u8) -> usize {
    if control & 1 != 0 { 8 } else { 16 }
}

/// The elements of a register as numbers, of the signedness of bit 1 of the immediate.
fn unpack(a: [u64; 2], control: u8) -> [i32; 16] {
    std::array::from_fn(|element| {
        let bits = if control & 1 != 0 {
            let element = element & 7;
            (a[element >> 2] >> ((element & 3) * 16)) as u16
        } else {
            u16::from((a[element >> 3] >> ((element & 7) * 8)) as u8)
        };
        match control & 3 {
            2 => i32::from(bits as i8),
            3 => i32::from(bits as i16),
            _ => i32::from(bits),
        }
    })
}

/// PCMPISTRI and PCMPISTRM: each string ends at its first zero.
pub fn pcmpistr(a: [u64; 2], b: [u64; 2], control: u8) -> StringComparison {
    let most = elements(control);
    let length = |string: [i32; 16]| string.iter().take(most).position(|&element| element == 0).unwrap_or(most);
    let (first, second) = (unpack(a, control), unpack(b, control));
    compare(&first, length(first), &second, length(second), control)
}

/// PCMPESTRI and PCMPESTRM: the lengths, in elements, are the absolute values of EAX and EDX (with REX.W: RAX and RDX), sign-extended.
pub fn pcmpestr(a: [u64; 2], length_a: i64, b: [u64; 2], length_b: i64, control: u8) -> StringComparison {
    let length = |length: i64| length.unsigned_abs().min(elements(control) as u64) as usize;
    compare(&unpack(a, control), length(length_a), &unpack(b, control), length(length_b), control)
}

fn compare(a: &[i32; 16], length_a: usize, b: &[i32; 16], length_b: usize, control: u8) -> StringComparison {
    let most = elements(control);
    let (valid_a, valid_b) = (&a[..length_a.min(most)], &b[..length_b.min(most)]);
    let matches = |element: usize| match control >> 2 & 3 {
        // Equal any.
        0 => valid_b.get(element).is_some_and(|b| valid_a.contains(b)),
        // Ranges.
        1 => {
            valid_b.get(element).is_some_and(|b| valid_a.chunks_exact(2).any(|range| range[0] <= *b && *b <= range[1]))
        }
        // Equal each.
        2 => valid_a.get(element) == valid_b.get(element),
        // Equal ordered: the first string stands here, as far as the register reaches.
        _ => valid_a.iter().take(most - element).enumerate().all(|(i, a)| valid_b.get(element + i) == Some(a)),
    };
    let mut bits = (0..most).filter(|&element| matches(element)).fold(0_u16, |bits, element| bits | 1 << element);
    let all = |length: usize| ((1_u32 << length) - 1) as u16;
    match control >> 4 & 3 {
        1 => bits ^= all(most),
        3 => bits ^= all(valid_b.len()),
        _ => {}
    }
    StringComparison {
        bits,
        carry: bits != 0,
        zero: length_b < most,
        sign: length_a < most,
        overflow: bits & 1 != 0,
        control,
    }
}
