//! Memory as `x` and `xp` show it.

use super::Failure;

/// Most memory that one command shows, bytes.
const LIMIT: u64 = 1 << 20;

/// How memory is shown: the word behind the slash of `x/16xg`. Each part is kept for the next command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    /// `x`, `d`, `u`, `o` or `c`.
    letter: char,
    /// Size of a unit, bytes.
    size: usize,
}

impl Default for Format {
    fn default() -> Format {
        Format { letter: 'x', size: 4 }
    }
}

impl Format {
    /// Reads the word behind the slash. Returns the number of units, too.
    pub(super) fn parse(self, word: &str) -> Result<(Format, u64), Failure> {
        let digits = word.find(|character: char| !character.is_ascii_digit()).unwrap_or(word.len());
        let (count, letters) = word.split_at(digits);
        let count = match count {
            "" => 1,
            _ => count.parse().map_err(|_| Failure::Usage(format!("invalid count '{count}' in format")))?,
        };
        let mut format = self;
        for letter in letters.chars() {
            match letter {
                'x' | 'd' | 'u' | 'o' | 'c' => format.letter = letter,
                'i' => return Err(Failure::Usage("instructions cannot be shown yet; valid are x, d, u, o, c".into())),
                'b' => format.size = 1,
                'h' => format.size = 2,
                'w' => format.size = 4,
                'g' | 'L' => format.size = 8,
                _ => {
                    return Err(Failure::Usage(format!(
                        "invalid char '{letter}' in format; valid are a count, x, d, u, o, c, and a size b, h, w, g"
                    )));
                }
            }
        }
        if format.letter == 'c' {
            format.size = 1;
        }
        Ok((format, count))
    }

    /// Shows `count` units from `address` on, read by `read`, which returns whether it could.
    pub(super) fn show(
        self,
        address: u64,
        count: u64,
        read: impl Fn(u64, &mut [u8]) -> bool,
    ) -> Result<String, Failure> {
        let length = count.checked_mul(self.size as u64).filter(|&length| length <= LIMIT).ok_or_else(|| {
            Failure::Usage(format!("{count} units of {} bytes are more than {LIMIT} bytes", self.size))
        })?;
        let line = if self.size == 1 { 8 } else { 16 };
        let mut text = String::new();
        let mut done = 0;
        while done < length {
            let here = address.wrapping_add(done);
            text.push_str(&format!("{here:016x}:"));
            let mut buffer = [0; 16];
            let part = usize::try_from(length - done).unwrap_or(line).min(line);
            let part = buffer.get_mut(..part).unwrap_or_default();
            if !read(here, part) {
                text.push_str(" Cannot access memory\n");
                break;
            }
            for unit in part.chunks(self.size) {
                text.push(' ');
                text.push_str(&self.unit(unit));
            }
            text.push('\n');
            done += part.len() as u64;
        }
        Ok(text)
    }

    /// What `print` begins with: decimal numbers.
    pub(super) fn for_print() -> Format {
        Format { letter: 'd', size: 8 }
    }

    /// Shows a value without padding.
    pub(super) fn print(self, value: u64) -> String {
        match self.letter {
            'x' => format!("0x{value:x}"),
            'o' if value != 0 => format!("0{value:o}"),
            'c' => character(value as u8),
            'd' => format!("{}", value.cast_signed()),
            _ => format!("{value}"),
        }
    }

    /// Shows one unit of little-endian memory.
    fn unit(self, bytes: &[u8]) -> String {
        let mut whole = [0; 8];
        for (to, from) in whole.iter_mut().zip(bytes) {
            *to = *from;
        }
        let value = u64::from_le_bytes(whole);
        let bits = 8 * self.size;
        let decimal_width = (bits * 10).div_ceil(33);
        match self.letter {
            'o' => {
                // C's alternate form: a leading zero unless there is one.
                let digits = if value == 0 { "0".into() } else { format!("0{value:o}") };
                format!("{digits:>width$}", width = bits.div_ceil(3))
            }
            'u' => format!("{value:>decimal_width$}"),
            'd' => {
                let unused = 64 - bits.min(64);
                let value = (value << unused).cast_signed() >> unused;
                format!("{value:>decimal_width$}")
            }
            'c' => character(value as u8),
            _ => format!("0x{value:0width$x}", width = bits / 4),
        }
    }
}

/// A byte as a C character constant.
fn character(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".into(),
        b'\\' => r"'\\'".into(),
        b'\n' => r"'\n'".into(),
        b'\r' => r"'\r'".into(),
        b' '..=b'~' => format!("'{}'", byte as char),
        _ => format!("'\\x{byte:02x}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(format: &str, length: usize) -> Result<String, Failure> {
        let (format, count) = Format::default().parse(format)?;
        format.show(0x1000, count, |address, buffer| {
            for (offset, byte) in buffer.iter_mut().enumerate() {
                *byte = (address as u8).wrapping_add(offset as u8).wrapping_mul(0x1f).wrapping_sub(2);
            }
            address + buffer.len() as u64 <= 0x1000 + length as u64
        })
    }

    #[test]
    fn lines_have_sixteen_bytes_or_eight_single_ones() {
        assert_eq!(show("", 64).unwrap(), "0000000000001000: 0x5b3c1dfe\n");
        assert_eq!(
            show("6xw", 64).unwrap(),
            "0000000000001000: 0x5b3c1dfe 0xd7b8997a 0x533415f6 0xcfb09172\n0000000000001010: 0x4b2c0dee 0xc7a8896a\n"
        );
        assert_eq!(
            show("9xb", 64).unwrap(),
            "0000000000001000: 0xfe 0x1d 0x3c 0x5b 0x7a 0x99 0xb8 0xd7\n0000000000001008: 0xf6\n"
        );
        assert_eq!(show("1xg", 64).unwrap(), "0000000000001000: 0xd7b8997a5b3c1dfe\n");
        assert_eq!(show("2db", 64).unwrap(), "0000000000001000:   -2   29\n");
        assert_eq!(show("2ub", 64).unwrap(), "0000000000001000:  254   29\n");
        assert_eq!(show("2oh", 64).unwrap(), "0000000000001000: 016776 055474\n");
        assert_eq!(show("4c", 64).unwrap(), r"0000000000001000: '\xfe' '\x1d' '<' '['".to_owned() + "\n");
    }

    #[test]
    fn what_cannot_be_read_ends_the_dump() {
        assert_eq!(
            show("8xw", 16).unwrap(),
            "0000000000001000: 0x5b3c1dfe 0xd7b8997a 0x533415f6 0xcfb09172\n0000000000001010: Cannot access memory\n"
        );
    }

    #[test]
    fn a_format_is_checked() {
        for format in ["4i", "4q", "99999999999999999999x", "9999999999xg", "18446744073709551615xb"] {
            assert!(show(format, 64).is_err(), "{format}");
        }
    }
}
