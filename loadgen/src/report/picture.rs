//! Line charts as inline SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;

/// One line of a chart.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    /// A class of the page's style: its colour.
    pub(super) class: &'a str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A scale from values to a length.
pub(super) struct Axis {
    pub(super) logarithmic: bool,
    /// Marked values and their labels; the first and the last bound the chart.
    pub(super) marks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0, in round steps, to at least `most`.
    pub(super) fn linear(most: f64, label: impl Fn(f64) -> String) -> Axis {
        let step = round_step(most.max(1e-9) / 5.0);
        let count = (most / step).ceil().max(1.0) as u64;
        let marks = (0..=count).map(|number| number as f64 * step);
        Axis {
            logarithmic: false,
            marks: marks.map(|value| (value, label(value))).collect(),
        }
    }

    /// By powers of ten around all values, which are above 0.
    pub(super) fn powers_of_ten(least: f64, most: f64, label: impl Fn(f64) -> String) -> Axis {
        let from = least.max(1e-3).log10().floor() as i32;
        let to = (most.max(1e-3).log10().ceil() as i32).max(from + 1);
        let marks = (from..=to).map(|power| 10f64.powi(power));
        Axis {
            logarithmic: true,
            marks: marks.map(|value| (value, label(value))).collect(),
        }
    }

    /// Where a value lies, 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| match self.logarithmic {
            true => value.max(1e-9).log10(),
            false => value,
        };
        let ends = (self.marks.first(), self.marks.last());
        let (Some((first, _)), Some((last, _))) = ends else {
            return 0.0;
        };
        let (first, last) = (scale(*first), scale(*last));
        ((scale(value) - first) / (last - first)).clamp(0.0, 1.0)
    }
}

/// 1, 2 or 5 times a power of ten, at least `value`.
fn round_step(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors.into_iter().find(|factor| factor * power >= value);
    factor.unwrap_or(10.0) * power
}

/// A chart with its legend. `what` says what it shows, for those who cannot see it.
pub(super) fn chart(what: &str, across: &Axis, up: &Axis, lines: &[Line<'_>]) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = write_chart(&mut out, what, across, up, lines);
    out
}

fn write_chart(
    out: &mut String,
    what: &str,
    across: &Axis,
    up: &Axis,
    lines: &[Line<'_>],
) -> std::fmt::Result {
    let x = |value: f64| LEFT + across.place(value) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - up.place(value) * (HEIGHT - TOP - BOTTOM);
    writeln!(
        out,
        "<figure><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(what)
    )?;
    for (value, label) in &up.marks {
        let y = y(*value);
        writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"up\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            escape(label)
        )?;
    }
    for (value, label) in &across.marks {
        let x = x(*value);
        writeln!(
            out,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/><text class=\"across\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0,
            escape(label)
        )?;
    }
    for line in lines {
        let points: Vec<String> = line
            .points
            .iter()
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .map(|(a, b)| format!("{:.1},{:.1}", x(*a), y(*b)))
            .collect();
        writeln!(
            out,
            "<polyline class=\"{}\" points=\"{}\"><title>{}</title></polyline>",
            line.class,
            points.join(" "),
            escape(line.name)
        )?;
    }
    write!(out, "</svg><figcaption>")?;
    for line in lines {
        write!(
            out,
            "<span class=\"{}\"><i></i>{}</span> ",
            line.class,
            escape(line.name)
        )?;
    }
    writeln!(out, "</figcaption></figure>")
}

/// Text as HTML and as an attribute.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_round_marks_that_hold_all_values() {
        let axis = Axis::linear(9_300.0, |value| format!("{value}"));
        assert_eq!(axis.marks.first().unwrap().0, 0.0);
        assert_eq!(axis.marks.last().unwrap().0, 10_000.0);
        let axis = Axis::powers_of_ten(38.0, 1_200.0, |value| format!("{value}"));
        let marks: Vec<f64> = axis.marks.iter().map(|mark| mark.0).collect();
        assert_eq!(marks, [10.0, 100.0, 1_000.0, 10_000.0]);
        assert!((axis.place(100.0) - 1.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(
            escape("<a href='x'>&\""),
            "&lt;a href=&#39;x&#39;&gt;&amp;&quot;"
        );
    }
}
