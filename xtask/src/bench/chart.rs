//! The chart in `docs/`: for each workload how many times QEMU's speed Brolga has, on a logarithmic scale.

use std::fmt::Write;

use super::table::Summary;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 120.0;
const ROW: f64 = 20.0;
/// Ratios at the ends of the scale.
const SCALE: (f64, f64) = (0.125, 16.0);

/// Where a ratio stands.
fn x(ratio: f64) -> f64 {
    let place = (ratio.clamp(SCALE.0, SCALE.1) / SCALE.0).ln() / (SCALE.1 / SCALE.0).ln();
    LEFT + place * (WIDTH - LEFT - 60.0)
}

/// The chart as SVG.
pub(super) fn draw(summaries: &[Summary]) -> String {
    let mut body = String::new();
    let mut y = 34.0;
    for summary in summaries {
        let title = format!("{} guest, geometric mean {:.2}", summary.architecture, summary.geometric_mean());
        text(&mut body, 10.0, y, "start", "bold", &title);
        let top = y + 8.0;
        y += ROW + 4.0;
        let mut bars = String::new();
        for row in &summary.rows {
            let Some(ratio) = row.ratio else { continue };
            text(&mut bars, LEFT - 8.0, y + 12.0, "end", "normal", &row.name);
            let (from, to) = (x(1.0).min(x(ratio.median)), x(1.0).max(x(ratio.median)));
            let colour = if ratio.median >= 1.0 { "#3a7d44" } else { "#b5523b" };
            let _ = writeln!(
                bars,
                r#"<rect x="{from:.1}" y="{:.1}" width="{:.1}" height="12" fill="{colour}"/>"#,
                y + 2.0,
                to - from
            );
            let _ = writeln!(
                bars,
                r##"<path d="M{:.1} {:.1}H{:.1}" stroke="#222" stroke-width="1.5"/>"##,
                x(ratio.least),
                y + 8.0,
                x(ratio.most)
            );
            text(
                &mut bars,
                x(ratio.most).max(x(1.0)) + 6.0,
                y + 12.0,
                "start",
                "normal",
                &format!("{:.2}", ratio.median),
            );
            y += ROW;
        }
        for mark in [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0] {
            let colour = if mark == 1.0 { "#222" } else { "#ccc" };
            let _ = writeln!(body, r#"<path d="M{:.1} {top:.1}V{y:.1}" stroke="{colour}"/>"#, x(mark));
            text(&mut body, x(mark), y + 14.0, "middle", "normal", &format!("{mark}"));
        }
        body.push_str(&bars);
        y += 46.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    ) + &format!(
        "<text x=\"10\" y=\"16\">Brolga's speed in units of QEMU's (TCG); the lines are the spread over the rounds</text>\n\
         {body}</svg>\n"
    )
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, weight: &str, content: &str) {
    let _ =
        writeln!(out, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-weight="{weight}">{content}</text>"#);
}
