//! Line plots as inline SVG that takes its text colour from the page, so that it reads on white and on black.

use super::ReportError;
use plotters::coord::ranged1d::{AsRangedCoord, KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use std::ops::Range;

const WIDTH: u32 = 900;
const HEIGHT: u32 = 320;
/// Stands in for the page's text colour while the plot is drawn; no line has it.
const INK: RGBColor = RGBColor(1, 2, 3);
const INK_IN_SVG: &str = "#010203";

/// One line of a plot, or a filled area down to zero.
pub struct Series {
    pub label: String,
    pub color: RGBColor,
    pub points: Vec<(f64, f64)>,
    pub filled: bool,
}

/// Lines over a common pair of axes, each named with its unit.
pub struct Plot {
    pub x_label: &'static str,
    pub y_label: &'static str,
    pub series: Vec<Series>,
}

impl Plot {
    /// Draws the plot over a linear time axis, both axes starting at zero.
    pub fn draw_linear(&self) -> Result<String, ReportError> {
        let x_max = self.max_of(|point| point.0).max(1e-3);
        // The legend of several lines takes a strip of its own above them.
        let headroom = if self.series.len() > 1 { 1.25 } else { 1.08 };
        let y_max = self.max_of(|point| point.1).max(1e-3) * headroom;
        self.draw(0.0..x_max, 0.0..y_max)
    }

    /// Draws the plot over the distance from 100 %: x is log10 of 1/(1 − p), labelled with the percentile. The y axis
    /// is logarithmic.
    pub fn draw_percentiles(&self) -> Result<String, ReportError> {
        let x_max = self.max_of(|point| point.0).max(1.0) + 0.05;
        let positive = self.series.iter().flat_map(|series| &series.points).map(|point| point.1).filter(|y| *y > 0.0);
        let y_min = positive.fold(f64::INFINITY, f64::min).min(self.max_of(|point| point.1).max(1e-3));
        let y_max = self.max_of(|point| point.1).max(1e-3);
        let y_range = 10f64.powf(y_min.log10().floor())..10f64.powf((y_max * 1.01).log10().ceil());
        self.draw(PercentileAxis(0.0..x_max), y_range.log_scale())
    }

    fn max_of(&self, coordinate: impl Fn(&(f64, f64)) -> f64) -> f64 {
        self.series.iter().flat_map(|series| &series.points).map(coordinate).fold(0.0, f64::max)
    }

    fn draw<X, Y>(&self, x_range: X, y_range: Y) -> Result<String, ReportError>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
            let mut chart = ChartBuilder::on(&area)
                .margin(10)
                .margin_right(24)
                .x_label_area_size(44)
                .y_label_area_size(78)
                .build_cartesian_2d(x_range, y_range)
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
                .axis_desc_style(text.clone())
                .y_label_formatter(&|value| axis_number(*value))
                .draw()
                .map_err(ReportError::drawing)?;
            for series in &self.series {
                let (color, points) = (series.color, series.points.iter().copied());
                let drawn = if series.filled {
                    chart.draw_series(AreaSeries::new(points, 0.0, color.mix(0.25)).border_style(color.stroke_width(1)))
                } else {
                    chart.draw_series(LineSeries::new(points, color.stroke_width(2)))
                };
                drawn
                    .map_err(ReportError::drawing)?
                    .label(series.label.clone())
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(3)));
            }
            if self.series.len() > 1 {
                chart
                    .configure_series_labels()
                    .position(SeriesLabelPosition::UpperRight)
                    .label_font(text)
                    .margin(6)
                    .legend_area_size(26)
                    .draw()
                    .map_err(ReportError::drawing)?;
            }
            area.present().map_err(ReportError::drawing)?;
        }
        Ok(svg.replace(INK_IN_SVG, "currentColor"))
    }
}

/// Writes a number for an axis as short as it can be: `250`, `1.5k`, `20k`, `3M`.
fn axis_number(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        size if size >= 999_999.5 => (value / 1e6, "M"),
        size if size >= 10_000.0 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    // Six digits hide what binary fractions leave over, and no axis here needs more.
    let text = format!("{scaled:.6}");
    format!("{}{suffix}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// An axis from the median's side of a distribution to its tail, one unit for each further nine.
struct PercentileAxis(Range<f64>);

impl Ranged for PercentileAxis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    /// An axis is a few thousand pixels long at most, so the cast loses nothing.
    #[allow(clippy::cast_possible_truncation)]
    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.0.start) / (self.0.end - self.0.start);
        limit.0 + (f64::from(limit.1 - limit.0) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        let median = 2f64.log10();
        let nines = (0u8..).map(f64::from).take_while(|nines| *nines <= self.0.end);
        nines.flat_map(|nines| if nines == 0.0 { vec![0.0, median] } else { vec![nines] }).collect()
    }

    fn range(&self) -> Range<f64> {
        self.0.clone()
    }
}

impl ValueFormatter<f64> for PercentileAxis {
    fn format(value: &f64) -> String {
        let percentile = 100.0 - 100.0 / 10f64.powf(*value);
        format!("{}%", axis_number(percentile))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.1 + 0.2, "0.3"),
            (250.0, "250"),
            (1500.0, "1500"),
            (20_000.0, "20k"),
            (12_500.0, "12.5k"),
            (3e6, "3M"),
            (999_999.9, "1M"),
        ] {
            assert_eq!(axis_number(value), text);
        }
    }

    #[test]
    fn the_percentile_axis_is_labelled_by_nines() {
        let labels: Vec<String> = [0.0, 2f64.log10(), 1.0, 2.0, 3.0, 4.0].iter().map(PercentileAxis::format).collect();
        assert_eq!(labels, ["0%", "50%", "90%", "99%", "99.9%", "99.99%"]);
    }

    #[test]
    fn plots_take_the_colour_of_the_page_even_when_empty() {
        let empty = Plot { x_label: "time (s)", y_label: "records", series: vec![] };
        for svg in [empty.draw_linear().unwrap(), empty.draw_percentiles().unwrap()] {
            assert!(svg.contains("currentColor") && !svg.contains(INK_IN_SVG));
            assert!(svg.contains("time (s)"));
        }
    }
}
