//! A plot as inline SVG: axes, lines, dots. Colours come from the page's style, so that light, dark and print differ there alone.

use std::fmt::Write as _;

use crate::harness::text::for_html;
use crate::report::three_digits;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;
/// Colours that the page's style has.
pub const NUM_COLOURS: usize = 6;

/// From values to places.
#[derive(Clone, Debug)]
pub struct Axis {
    pub label: String,
    low: f64,
    high: f64,
    is_logarithmic: bool,
    /// Values that are marked, with their words.
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to above the largest value.
    pub fn linear(label: &str, values: impl Iterator<Item = f64>) -> Self {
        let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        let step = nice_step(if most > 0.0 { most } else { 1.0 });
        let high = (most / step).ceil().max(1.0) * step;
        let ticks = (0..=(high / step).round() as usize).map(|index| index as f64 * step);
        let ticks = ticks.map(|value| (value, tick(value))).collect();
        Self { label: label.to_owned(), low: 0.0, high, is_logarithmic: false, ticks }
    }

    /// From 0 to `most` itself.
    pub fn until(label: &str, most: f64) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let mut axis = Self::linear(label, std::iter::once(most));
        axis.ticks.retain(|(value, _)| *value <= most);
        Self { high: most, ..axis }
    }

    /// Logarithmic where the values differ by more than a factor of 20, else from 0.
    pub fn spread(label: &str, values: impl Iterator<Item = f64> + Clone) -> Self {
        let positive = values.clone().filter(|value| value.is_finite() && *value > 0.0);
        let (least, most) =
            positive.fold((f64::MAX, 0.0), |(a, b), value| (value.min(a), value.max(b)));
        if most <= 0.0 || most / least <= 20.0 {
            return Self::linear(label, values);
        }
        let (low, high) = (step_below(least), step_above(most));
        let mut ticks = Vec::new();
        let mut decade = 10_f64.powf(low.log10().floor());
        while decade <= high {
            for times in [1.0, 2.0, 5.0] {
                let value = decade * times;
                let is_shown = times == 1.0 || high / low < 300.0;
                if is_shown && value >= low * 0.999 && value <= high * 1.001 {
                    ticks.push((value, tick(value)));
                }
            }
            decade *= 10.0;
        }
        Self { label: label.to_owned(), low, high, is_logarithmic: true, ticks }
    }

    /// Given ends and marks.
    pub fn fixed(label: &str, low: f64, high: f64, ticks: Vec<(f64, String)>) -> Self {
        Self { label: label.to_owned(), low, high, is_logarithmic: false, ticks }
    }

    /// 0 at the low end, 1 at the high end.
    fn place(&self, value: f64) -> f64 {
        let place = if self.is_logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        place.clamp(0.0, 1.0)
    }
}

/// 1, 2 or 5 times a power of ten, so that four to eight steps make `most`.
fn nice_step(most: f64) -> f64 {
    let power = 10_f64.powf((most / 4.0).log10().floor());
    let times = most / 4.0 / power;
    power
        * if times >= 5.0 {
            5.0
        } else if times >= 2.0 {
            2.0
        } else {
            1.0
        }
}

fn step_below(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [5.0, 2.0, 1.0]
        .into_iter()
        .map(|times| times * power)
        .find(|&step| step <= value)
        .unwrap_or(power)
}

fn step_above(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|times| times * power)
        .find(|&step| step >= value)
        .unwrap_or(10.0 * power)
}

fn tick(value: f64) -> String {
    match value {
        v if v >= 10_000.0 => format!("{}k", (v / 1000.0).round()),
        v if v == v.round() => format!("{v:.0}"),
        v => format!("{v:.3}").trim_end_matches('0').trim_end_matches('.').to_owned(),
    }
}

/// How points are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Line,
    Dashed,
    /// A line with a dot at each point.
    Dots,
    /// Filled down to the axis.
    Area,
}

#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    pub colour: usize,
    pub style: Style,
    pub points: Vec<(f64, f64)>,
    /// Words beside the points; empty: none.
    pub labels: Vec<String>,
}

/// A plot with its title and legend. `bound`: a value of y that is drawn as a line, with its words.
pub fn figure(
    title: &str,
    x: &Axis,
    y: &Axis,
    series: &[Series],
    bound: Option<(f64, &str)>,
) -> String {
    let mut html = format!("<figure><figcaption>{}</figcaption>", for_html(title));
    if series.len() > 1 {
        html += "<div class=legend>";
        for one in series.iter().filter(|one| !one.name.is_empty()) {
            let dashed = if one.style == Style::Dashed { " dashed" } else { "" };
            let _ = write!(
                html,
                "<span><i class=\"c{}{dashed}\"></i>{}</span>",
                one.colour % NUM_COLOURS,
                for_html(&one.name)
            );
        }
        html += "</div>";
    }
    let _ = write!(
        html,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"{}\">",
        for_html(title)
    );
    axes(&mut html, x, y);
    if let Some((value, words)) = bound {
        let at = y_at(y, value);
        let _ = write!(
            html,
            "<path class=bound d=\"M{LEFT} {at:.1}H{:.1}\"/><text class=bound x={:.1} y={:.1} text-anchor=end>{}</text>",
            WIDTH - RIGHT,
            WIDTH - RIGHT,
            at - 4.0,
            for_html(words)
        );
    }
    for one in series {
        line(&mut html, x, y, one);
    }
    html + "</svg></figure>"
}

fn x_at(x: &Axis, value: f64) -> f64 {
    LEFT + x.place(value) * (WIDTH - LEFT - RIGHT)
}

fn y_at(y: &Axis, value: f64) -> f64 {
    HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM)
}

fn axes(html: &mut String, x: &Axis, y: &Axis) {
    for (value, words) in &y.ticks {
        let at = y_at(y, *value);
        let _ = write!(
            html,
            "<path class=grid d=\"M{LEFT} {at:.1}H{:.1}\"/><text x={:.1} y={:.1} text-anchor=end>{words}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0
        );
    }
    for (value, words) in &x.ticks {
        let at = x_at(x, *value);
        let (top, bottom) = (TOP, HEIGHT - BOTTOM);
        let _ = write!(
            html,
            "<path class=grid d=\"M{at:.1} {top}V{bottom}\"/><text x={at:.1} y={:.1} text-anchor=middle>{words}</text>",
            bottom + 15.0
        );
    }
    let _ = write!(
        html,
        "<text class=axis x={:.1} y={:.1} text-anchor=end>{}</text>",
        WIDTH - RIGHT,
        HEIGHT - 6.0,
        for_html(&x.label)
    );
    let _ = write!(
        html,
        "<text class=axis x=4 y={:.1} text-anchor=start>{}</text>",
        HEIGHT - 6.0,
        for_html(&y.label)
    );
}

fn line(html: &mut String, x: &Axis, y: &Axis, series: &Series) {
    let places: Vec<(f64, f64)> =
        series.points.iter().map(|&(a, b)| (x_at(x, a), y_at(y, b))).collect();
    let (Some(first), Some(last)) = (places.first(), places.last()) else { return };
    let mut path = String::new();
    for (index, (a, b)) in places.iter().enumerate() {
        let _ = write!(path, "{}{a:.1} {b:.1}", if index == 0 { "M" } else { "L" });
    }
    let colour = series.colour % NUM_COLOURS;
    if series.style == Style::Area {
        let bottom = HEIGHT - BOTTOM;
        let _ = write!(
            html,
            "<path class=\"area c{colour}\" d=\"{path}L{:.1} {bottom}L{:.1} {bottom}Z\"/>",
            last.0, first.0
        );
    }
    let dashed = if series.style == Style::Dashed { " dashed" } else { "" };
    let _ = write!(html, "<path class=\"line c{colour}{dashed}\" d=\"{path}\"/>");
    if series.style != Style::Dots && places.len() > 1 {
        return;
    }
    for (index, (a, b)) in places.iter().enumerate() {
        let (px, py) = series.points[index];
        let label = series.labels.get(index).map(|label| for_html(label)).unwrap_or_default();
        let told = format!("{label}: {} · {}", three_digits(px), three_digits(py));
        let _ = write!(
            html,
            "<circle class=c{colour} cx={a:.1} cy={b:.1} r=3.5><title>{told}</title></circle>"
        );
        if !label.is_empty() {
            // Beside the dot, where the plot has room.
            let (anchor, shift) = if *a > WIDTH * 0.75 { ("end", -7.0) } else { ("start", 7.0) };
            let _ = write!(
                html,
                "<text class=label x={:.1} y={:.1} text-anchor={anchor}>{label}</text>",
                a + shift,
                b - 5.0
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_all_values_at_round_marks() {
        let words =
            |axis: &Axis| axis.ticks.iter().map(|(_, words)| words.clone()).collect::<Vec<_>>();
        let linear = Axis::linear("x", [3.0, 37.0].into_iter());
        assert_eq!(words(&linear), ["0", "5", "10", "15", "20", "25", "30", "35", "40"]);
        assert_eq!((linear.place(0.0), linear.place(40.0), linear.place(99.0)), (0.0, 1.0, 1.0));
        let spread = Axis::spread("x", [3.0, 370.0].into_iter());
        assert_eq!(words(&spread), ["2", "5", "10", "20", "50", "100", "200", "500"]);
        for empty in
            [Axis::linear("x", std::iter::empty()), Axis::spread("x", [0.0, f64::NAN].into_iter())]
        {
            assert!(empty.high > empty.low && !empty.ticks.is_empty());
        }
    }
}
