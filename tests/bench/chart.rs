//! Draws the ratios as bars, with their spread, in an SVG file that every browser shows.

use std::fmt::Write as _;

use crate::report::{Measure, RATIO, figure};

const WIDTH: usize = 900;
const TEXT_WIDTH: usize = 470;
const BAR_WIDTH: f64 = 340.0;
const LINE: usize = 20;

/// Returns an SVG chart with one bar for each ratio. All bars of a group have the same scale.
pub fn svg(measures: &[Measure], machine: &str) -> String {
    let ratios: Vec<&Measure> = measures.iter().filter(|measure| measure.unit == RATIO).collect();
    let groups: Vec<&[&Measure]> = ratios.chunk_by(|one, other| one.group == other.group).collect();
    let lines = ratios.len() + 2 * groups.len() + 3;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\"><rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n",
        height = lines * LINE
    );
    let mut y = LINE;
    text(&mut svg, 10, y, "font-size=\"11\" fill=\"#555\"", &format!("median and spread; {machine}"));
    for group in groups {
        y += 2 * LINE;
        text(&mut svg, 10, y, "font-weight=\"bold\"", group[0].group);
        let greatest = group.iter().map(|measure| measure.spread().1).fold(f64::MIN_POSITIVE, f64::max);
        for measure in group {
            y += LINE;
            bar(&mut svg, y, measure, BAR_WIDTH / greatest);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn bar(svg: &mut String, y: usize, measure: &Measure, scale: f64) {
    let (median, (least, greatest)) = (measure.median(), measure.spread());
    text(svg, 20, y, "", &measure.what);
    let at = |value: f64| TEXT_WIDTH as f64 + value * scale;
    let _ = writeln!(
        svg,
        "<rect x=\"{TEXT_WIDTH}\" y=\"{}\" width=\"{:.1}\" height=\"12\" fill=\"#4a7fb5\"/>\
         <path d=\"M{:.1} {} H{:.1}\" stroke=\"#222\" stroke-width=\"2\"/>",
        y - 11,
        median * scale,
        at(least),
        y - 5,
        at(greatest)
    );
    text(svg, at(greatest) as usize + 8, y, "", &figure(median));
}

fn text(svg: &mut String, x: usize, y: usize, style: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" {style}>{text}</text>");
}
