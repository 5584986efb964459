//! Sizes as people read them.

/// Longest length of a disk, bytes.
pub(crate) const MOST: u64 = i64::MAX as u64;

/// A number of bytes with three digits and a unit.
pub(crate) fn readable(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    // The next unit is used from 1000 on, so that there are never four digits before the point.
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes as f64 / 1024_f64.powi(unit as i32) >= 1000.0 {
        unit += 1;
    }
    let value = bytes as f64 / 1024_f64.powi(unit as i32);
    format!("{} {}B", three_digits(value), UNITS[unit])
}

/// A number below 1000 with three significant digits and without zeroes at its end.
fn three_digits(value: f64) -> String {
    let decimals = match value {
        0.0..0.9995 => 3,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_unit() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.977 KiB"),
            (1024, "1 KiB"),
            (196 << 10, "196 KiB"),
            (459_264, "448 KiB"),
            (2_297_856, "2.19 MiB"),
            (10 << 20, "10 MiB"),
            (1 << 30, "1 GiB"),
            (1536 << 20, "1.5 GiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(readable(bytes), text);
        }
    }
}
