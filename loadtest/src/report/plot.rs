//! Plots as inline SVG that takes its text colour from the page, so that it reads on white and on black.

use super::ReportError;
use super::axis::Axis;
use maud::{Markup, PreEscaped, html};
use plotters::backend::DrawingBackend;
use plotters::chart::ChartContext;
use plotters::coord::cartesian::Cartesian2d;
use plotters::prelude::*;

const WIDTH: u32 = 900;
const HEIGHT: u32 = 320;
/// What a linear vertical axis has above its largest value, so that a line does not run along the edge.
pub const HEADROOM: f64 = 1.08;
/// The height of the legend within an image.
const LEGEND_HEIGHT: u32 = 30;
const DOT_RADIUS: i32 = 4;
/// Stands in for the page's text colour while the plot is drawn; no line has it.
const INK: RGBColor = RGBColor(1, 2, 3);
const INK_IN_SVG: &str = "#010203";

pub const BLUE: RGBColor = RGBColor(46, 134, 222);
pub const ORANGE: RGBColor = RGBColor(224, 116, 20);
pub const RED: RGBColor = RGBColor(200, 50, 66);
const GREEN: RGBColor = RGBColor(40, 160, 90);
const VIOLET: RGBColor = RGBColor(145, 85, 215);
const TEAL: RGBColor = RGBColor(20, 155, 165);
const PINK: RGBColor = RGBColor(222, 80, 160);
const BROWN: RGBColor = RGBColor(150, 105, 50);
const GREY: RGBColor = RGBColor(135, 135, 135);
/// Colours in the order in which lines take them. Each has a contrast of at least 3 to white and to black.
pub const PALETTE: [RGBColor; 9] = [BLUE, ORANGE, RED, GREEN, VIOLET, TEAL, PINK, BROWN, GREY];

/// How the points of a line are shown.
#[derive(Clone, Copy, Debug)]
pub enum Mark {
    /// Joined.
    Line,
    /// Joined, with a dot at each, for points that are few.
    DottedLine,
    /// Joined, with the area down to zero filled.
    Area,
    /// A dot at each, and a bar of this range along the horizontal axis up to this value.
    Bar { from: f64, to: f64, top: f64 },
}

/// Points that belong together.
#[derive(Clone, Debug)]
pub struct Line {
    pub label: String,
    pub color: RGBColor,
    pub points: Vec<(f64, f64)>,
    pub mark: Mark,
}

/// Lines over a common pair of axes, each axis named with its unit.
#[derive(Clone, Debug)]
pub struct Chart {
    pub x_label: &'static str,
    pub y_label: &'static str,
    pub x_axis: Axis,
    pub y_axis: Axis,
    pub lines: Vec<Line>,
}

/// All values of the lines along one axis, for an axis to be made of.
pub fn values(lines: &[Line], coordinate: fn(&(f64, f64)) -> f64) -> impl Iterator<Item = f64> {
    lines.iter().flat_map(|line| &line.points).map(coordinate).filter(|value| value.is_finite())
}

impl Chart {
    /// The plot as a file of its own, dark on white, with the legend in it.
    pub fn to_image(&self) -> Result<String, ReportError> {
        let svg = self.to_svg()?;
        let height = HEIGHT + LEGEND_HEIGHT;
        let column = WIDTH as usize / self.lines.len().max(1);
        let names = html! {
            @for (number, line) in self.lines.iter().enumerate() {
                rect x=(20 + number * column) y="9" width="12" height="12" fill=(css(line.color)) {}
                text x=(38 + number * column) y="20" { (line.label) }
            }
        };
        Ok(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" color=\"#1c2329\" \
             font-family=\"sans-serif\" font-size=\"13\"><rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\
             {}<g transform=\"translate(0 {LEGEND_HEIGHT})\">{svg}</g></svg>\n",
            names.into_string()
        ))
    }

    /// The plot with a legend over it, which is text of the page. Where the axis has the names, there is no legend.
    pub fn to_markup(&self) -> Result<Markup, ReportError> {
        let svg = self.to_svg()?;
        Ok(html! {
            @if !matches!(self.x_axis, Axis::Categorical(_)) {
                p.legend {
                    @for line in &self.lines {
                        span { i style={ "background:" (css(line.color)) } {} (line.label) }
                    }
                }
            }
            (PreEscaped(svg))
        })
    }

    fn to_svg(&self) -> Result<String, ReportError> {
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
            let mut chart = ChartBuilder::on(&area)
                .margin(10)
                .margin_right(24)
                .x_label_area_size(44)
                .y_label_area_size(78)
                .build_cartesian_2d(self.x_axis.clone(), self.y_axis.clone())
                .map_err(ReportError::drawing)?;
            let text = ("sans-serif", 13).into_font().color(&INK);
            chart
                .configure_mesh()
                .x_desc(self.x_label)
                .y_desc(self.y_label)
                .axis_style(INK.mix(0.6))
                .bold_line_style(INK.mix(0.15))
                .light_line_style(INK.mix(0.0))
                .label_style(text.clone())
                .axis_desc_style(text)
                .draw()
                .map_err(ReportError::drawing)?;
            for line in &self.lines {
                self.draw_line(line, &mut chart).map_err(ReportError::drawing)?;
            }
            area.present().map_err(ReportError::drawing)?;
        }
        Ok(svg.replace(INK_IN_SVG, "currentColor"))
    }

    /// Draws those points of a line that have a place on both axes.
    fn draw_line<'a, B: DrawingBackend + 'a>(
        &self,
        line: &Line,
        chart: &mut ChartContext<'a, B, Cartesian2d<Axis, Axis>>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let color = line.color;
        let has = |(x, y): &(f64, f64)| self.x_axis.has(*x) && self.y_axis.has(*y);
        let points = line.points.iter().copied().filter(has);
        let dots = points.clone().map(|point| Circle::new(point, DOT_RADIUS, color.filled()));
        match line.mark {
            Mark::Line => {
                chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
            }
            Mark::DottedLine => {
                chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
                chart.draw_series(dots)?;
            }
            Mark::Area => {
                let area = AreaSeries::new(points, 0.0, color.mix(0.25)).border_style(color.stroke_width(1));
                chart.draw_series(area)?;
            }
            Mark::Bar { from, to, top } => {
                let corners = [(from, self.y_axis.base()), (to, top)];
                let bar = self.y_axis.has(top).then(|| Rectangle::new(corners, color.mix(0.35).filled()));
                chart.draw_series(bar)?;
                chart.draw_series(dots)?;
            }
        }
        Ok(())
    }
}

fn css(color: RGBColor) -> String {
    format!("#{:02x}{:02x}{:02x}", color.0, color.1, color.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contrast ratio of two colours as WCAG 2 defines it.
    fn contrast(one: RGBColor, other: RGBColor) -> f64 {
        let luminance = |RGBColor(red, green, blue)| {
            let linear = |value: u8| ((f64::from(value) / 255.0 + 0.055) / 1.055).powf(2.4);
            0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
        };
        let (one, other) = (luminance(one) + 0.05, luminance(other) + 0.05);
        one.max(other) / one.min(other)
    }

    #[test]
    fn colours_read_on_white_and_on_black() {
        for color in PALETTE {
            assert!(contrast(color, WHITE) >= 3.0 && contrast(color, RGBColor(0x14, 0x18, 0x1c)) >= 3.0, "{color:?}");
        }
    }

    #[test]
    fn plots_take_the_colour_of_the_page_even_when_empty() {
        for y_axis in [Axis::linear([].into_iter(), 1.0), Axis::log([].into_iter())] {
            let x_axis = Axis::percentile([].into_iter());
            let chart = Chart { x_label: "time (s)", y_label: "records", x_axis, y_axis, lines: vec![] };
            let svg = chart.to_svg().unwrap();
            assert!(svg.contains("currentColor") && !svg.contains(INK_IN_SVG));
            assert!(svg.contains("time (s)"));
        }
    }
}
