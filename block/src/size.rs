//! Sizes as people write them.

/// Why a size cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// It is no number with a suffix.
    #[error("it is no number of bytes")]
    Invalid,
    /// It is negative, or needs more than 64 bits.
    #[error("it is out of range")]
    OutOfRange,
}

/// A number of bytes: decimal digits with a suffix (b, k, M, G, T, P or E, each 1024 times the one before, in either case) and, before
/// one of more than bytes, a fraction; or hexadecimal digits behind `0x`.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim_start();
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let size = parse_unsigned(digits)?;
    if is_negative && size != 0 { Err(SizeError::OutOfRange) } else { Ok(size) }
}

fn parse_unsigned(text: &str) -> Result<u64, SizeError> {
    let too_large = |error: std::num::ParseIntError| match error.kind() {
        std::num::IntErrorKind::PosOverflow => SizeError::OutOfRange,
        _ => SizeError::Invalid,
    };
    if let Some(digits) = text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        let is_hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        return if is_hexadecimal {
            u64::from_str_radix(digits, 16).map_err(too_large)
        } else {
            Err(SizeError::Invalid)
        };
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let shift = match suffix {
        "" | "b" | "B" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        "p" | "P" => 50,
        "e" | "E" => 60,
        _ => return Err(SizeError::Invalid),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return Err(SizeError::Invalid);
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().map_err(too_large)? };
    let mut bytes = whole.checked_mul(1 << shift).ok_or(SizeError::OutOfRange)?;
    if !fraction.is_empty() {
        let part: f64 = format!("0.{fraction}").parse().map_err(|_| SizeError::Invalid)?;
        if shift == 0 && part != 0.0 {
            return Err(SizeError::Invalid);
        }
        let part = (part * (1_u64 << shift) as f64).round() as u64;
        bytes = bytes.checked_add(part).ok_or(SizeError::OutOfRange)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_suffixes() {
        for (text, bytes) in [
            ("1000", 1000),
            ("1b", 1),
            ("1K", 1024),
            ("1m", 1 << 20),
            ("1.5k", 1536),
            ("1.3k", 1331),
            ("0.1M", 104_858),
            (".5k", 512),
            ("1.k", 1024),
            ("0x1000", 4096),
            ("010", 10),
            ("+5", 5),
            (" 5", 5),
            ("-0", 0),
            ("7E", 7 << 60),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "x", "10X", "1.5", "1e3", "5kk", "0x10k", "0x", ".", "1..2k", "k", "5 ", "0x+5"] {
            assert_eq!(parse_size(text), Err(SizeError::Invalid), "{text}");
        }
        for text in ["-1", "16E", "18446744073709551616", "0x10000000000000000"] {
            assert_eq!(parse_size(text), Err(SizeError::OutOfRange), "{text}");
        }
    }
}
