//! Figures: medians, ratios with their spread, the geometric mean, and the table.

use std::fmt;

use super::Times;

/// Median, smallest and largest of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Spread {
    /// Of `values`; `None` if there are none.
    fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Spread { median, least, most })
    }
}

/// One workload.
pub(super) struct Row {
    pub(super) name: String,
    brolga: Option<Spread>,
    qemu: Option<Spread>,
    native: Option<Spread>,
    /// QEMU's seconds divided by Brolga's, round by round: above 1, Brolga is faster.
    pub(super) ratio: Option<Spread>,
}

impl Row {
    pub(super) fn new(name: &str, times: &Times) -> Row {
        let ratios: Vec<f64> = times.brolga.iter().zip(&times.qemu).map(|(ours, theirs)| theirs / ours).collect();
        Row {
            name: name.into(),
            brolga: Spread::of(&times.brolga),
            qemu: Spread::of(&times.qemu),
            native: Spread::of(&times.native),
            ratio: Spread::of(&ratios),
        }
    }
}

/// All workloads of one guest.
pub(super) struct Summary {
    pub(super) architecture: &'static str,
    pub(super) rows: Vec<Row>,
}

impl Summary {
    /// Geometric mean of the ratios' medians, of all but the boot.
    pub(super) fn geometric_mean(&self) -> f64 {
        let work = self.rows.iter().filter(|row| !row.name.starts_with(super::measure::BOOT));
        let ratios: Vec<f64> = work.filter_map(|row| row.ratio).map(|ratio| ratio.median.ln()).collect();
        (ratios.iter().sum::<f64>() / ratios.len() as f64).exp()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |spread: Option<Spread>| match spread {
            Some(Spread { median, least, most }) => format!("{median:.2} ({least:.2}..{most:.2})"),
            None => "-".into(),
        };
        let native = |row: &Row| row.native.map_or("-".into(), |native| format!("{:.3}", native.median));
        writeln!(
            f,
            "{:<13} {:>22} {:>22} {:>8} {:>22}",
            self.architecture, "Brolga, s", "QEMU, s", "native", "QEMU / Brolga"
        )?;
        for row in &self.rows {
            let (brolga, qemu, ratio) = (text(row.brolga), text(row.qemu), text(row.ratio));
            writeln!(f, "{:<13} {brolga:>22} {qemu:>22} {:>8} {ratio:>22}", row.name, native(row))?;
        }
        writeln!(f, "geometric mean of QEMU / Brolga without the boot: {:.2}", self.geometric_mean())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_are_taken_round_by_round() {
        let times = Times { brolga: vec![2.0, 1.0, 4.0], qemu: vec![4.0, 3.0, 4.0], native: Vec::new() };
        let row = Row::new("x", &times);
        assert_eq!(row.ratio, Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(row.native, None);
        let other = Row::new("y", &Times { brolga: vec![8.0], qemu: vec![4.0], native: Vec::new() });
        let boot = Row::new("boot", &Times { brolga: vec![1.0], qemu: vec![100.0], native: Vec::new() });
        let summary = Summary { architecture: "riscv64", rows: vec![boot, row, other] };
        assert!((summary.geometric_mean() - 1.0).abs() < 1e-9);
    }
}
