//! A page of any sections, each with a plot and a table.

use super::axis::Axis;
use super::page::{Frame, section};
use super::plot::{Chart, HEADROOM, Line, Mark, PALETTE, values};
use super::{Machine, ReportError};
use crate::results::median;
use maud::{Markup, html};
use std::fmt::Write;

/// Points of a line above which none has a dot.
const DOTS_MAX: usize = 60;
/// The part of its column that a bar takes.
const BAR_WIDTH: f64 = 0.6;

/// A page about measurements, of one HTML file. All text is plain text: it is escaped.
#[derive(Clone, Debug)]
pub struct Document<'a> {
    /// The heading.
    pub title: &'a str,
    /// One or two sentences under it: what was done and what came of it.
    pub summary: &'a str,
    /// The command that made the measurements.
    pub command_line: &'a str,
    /// Where they were made.
    pub machine: &'a Machine,
    /// The content, in order.
    pub sections: Vec<Section>,
}

/// A part of a document under a heading of its own.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// The heading.
    pub title: String,
    /// What is shown, in a sentence or two; may be empty.
    pub note: String,
    /// Figures, shown under the plot.
    pub table: Option<Table>,
    /// A picture of the figures.
    pub plot: Option<Plot>,
}

/// Rows of cells under a head. A column of figures is aligned to the right.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The names of the columns.
    pub head: Vec<String>,
    /// The rows, each with a cell for each column.
    pub rows: Vec<Vec<String>>,
}

/// Lines over a common pair of axes, with a dot at each point while these are few; or bars, see [`Scale::Categorical`].
#[derive(Clone, Debug)]
pub struct Plot {
    /// The name of the horizontal axis, with its unit.
    pub x_label: &'static str,
    /// The name of the vertical axis, with its unit.
    pub y_label: &'static str,
    /// How the horizontal axis is divided.
    pub x_scale: Scale,
    /// How the vertical axis is divided.
    pub y_scale: Scale,
    /// The lines, each in a colour of its own while there are no more of them than colours.
    pub series: Vec<Series>,
}

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// The same difference has the same length; zero is always shown.
    Linear,
    /// The same ratio has the same length. Points at zero or below have no place on it and are left out.
    Log,
    /// A column for each series, under its label: a bar up to the median of its values, and a dot for each value, in
    /// their order. Where the points are along this axis is not looked at. For the horizontal axis; a vertical one is
    /// linear then.
    Categorical,
}

/// One line of a plot.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Its name in the legend.
    pub label: String,
    /// Its points, joined in this order. Points with a coordinate that is not finite are left out.
    pub points: Vec<(f64, f64)>,
}

impl Document<'_> {
    /// Lays the document out as one HTML page that needs no other file.
    ///
    /// # Errors
    /// A plot cannot be drawn.
    pub fn to_html(&self) -> Result<String, ReportError> {
        let sections = self.sections.iter().map(Section::to_markup).collect::<Result<Vec<_>, _>>()?;
        let frame =
            Frame { title: self.title, summary: self.summary, command_line: self.command_line, machine: self.machine };
        Ok(frame.around(&html! { @for section in &sections { (section) } }).into_string())
    }
}

impl Section {
    fn to_markup(&self) -> Result<Markup, ReportError> {
        let plot = self.plot.as_ref().map(|plot| plot.chart().to_markup()).transpose()?;
        let content = html! {
            @if let Some(plot) = &plot { (plot) }
            @if let Some(table) = &self.table { (table.to_markup()) }
        };
        Ok(section(&self.title, &self.note, &content))
    }
}

impl Table {
    /// Lays the table out in columns that are aligned to the right, a line for each row.
    #[must_use]
    pub fn to_text(&self) -> String {
        let lines: Vec<&Vec<String>> = [&self.head].into_iter().chain(&self.rows).collect();
        let width =
            |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..self.head.len()).filter_map(width).collect();
        let mut text = String::new();
        for line in lines {
            for (cell, width) in line.iter().zip(&widths) {
                // Writing to a String cannot fail.
                let _ = write!(text, "  {cell:>width$}");
            }
            text.push('\n');
        }
        text
    }

    fn to_markup(&self) -> Markup {
        let class = |column: usize| self.has_figures(column).then_some("figure");
        html! {
            div.wide {
                table {
                    tr { @for (column, name) in self.head.iter().enumerate() { th class=[class(column)] { (name) } } }
                    @for row in &self.rows {
                        tr { @for (column, cell) in row.iter().enumerate() { td class=[class(column)] { (cell) } } }
                    }
                }
            }
        }
    }

    /// Whether every cell of a column begins with a digit, unless nothing is to be said there.
    fn has_figures(&self, column: usize) -> bool {
        let is_figure =
            |cell: &String| cell.is_empty() || cell == "–" || cell.starts_with(|c: char| c.is_ascii_digit());
        self.rows.iter().filter_map(|row| row.get(column)).all(is_figure)
    }
}

impl Plot {
    /// The plot as an SVG file of its own, with its legend.
    ///
    /// # Errors
    /// It cannot be drawn.
    pub fn to_image(&self) -> Result<String, ReportError> {
        self.chart().to_image()
    }

    fn chart(&self) -> Chart {
        let is_categorical = self.x_scale == Scale::Categorical;
        let colors = PALETTE.into_iter().cycle();
        let lines = self.series.iter().zip(colors).enumerate().map(|(column, (series, color))| {
            let mark = if series.points.len() > DOTS_MAX { Mark::Line } else { Mark::DottedLine };
            let (points, mark) = if is_categorical { series.bar(column) } else { (series.points.clone(), mark) };
            Line { label: series.label.clone(), color, points, mark }
        });
        let lines: Vec<Line> = lines.collect();
        let x_axis = if is_categorical {
            Axis::Categorical(self.series.iter().map(|series| series.label.clone()).collect())
        } else {
            self.x_scale.axis(values(&lines, |point| point.0), 1.0)
        };
        Chart {
            x_label: self.x_label,
            y_label: self.y_label,
            x_axis,
            y_axis: self.y_scale.axis(values(&lines, |point| point.1), HEADROOM),
            lines,
        }
    }
}

impl Series {
    /// The values side by side within a bar of the column.
    fn bar(&self, column: usize) -> (Vec<(f64, f64)>, Mark) {
        let values: Vec<f64> = self.points.iter().map(|point| point.1).filter(|value| value.is_finite()).collect();
        let from = column as f64 + (1.0 - BAR_WIDTH) / 2.0;
        let place = |number: usize| from + BAR_WIDTH * (number as f64 + 0.5) / values.len() as f64;
        let points = values.iter().enumerate().map(|(number, value)| (place(number), *value)).collect();
        (points, Mark::Bar { from, to: from + BAR_WIDTH, top: median(&values) })
    }
}

impl Scale {
    fn axis(self, values: impl Iterator<Item = f64>, stretch: f64) -> Axis {
        match self {
            Self::Linear | Self::Categorical => Axis::linear(values, stretch),
            Self::Log => Axis::log(values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<const N: usize>(cells: [&str; N]) -> Vec<String> {
        cells.map(str::to_owned).to_vec()
    }

    fn html_of(sections: Vec<Section>) -> String {
        let machine = Machine::from_proc();
        let document = Document { title: "a < b", summary: "", command_line: "x && y", machine: &machine, sections };
        document.to_html().unwrap()
    }

    fn plot(x_scale: Scale, y_scale: Scale, series: Vec<Series>) -> Section {
        let plot = Plot { x_label: "records", y_label: "time (ms)", x_scale, y_scale, series };
        Section { title: "Plot".to_owned(), plot: Some(plot), ..Section::default() }
    }

    #[test]
    fn a_page_is_whole_and_escaped() {
        let table =
            Table { head: texts(["<peer>", "rate"]), rows: vec![texts(["a & b", "12/s"]), texts(["c", "–"])] };
        let series = vec![Series { label: "<i>".to_owned(), points: vec![(1.0, 2.0), (3.0, 4.0)] }];
        let with_table = Section { note: "x > y".to_owned(), table: Some(table), ..Section::default() };
        let page = html_of(vec![plot(Scale::Log, Scale::Linear, series), with_table]);
        assert_eq!((page.matches("<svg").count(), page.matches("<circle").count()), (1, 2));
        for text in ["a &lt; b", "x &amp;&amp; y", "&lt;i&gt;", "x &gt; y", "&lt;peer&gt;", "a &amp; b"] {
            assert!(page.contains(text), "{text} in {page}");
        }
        assert!(page.contains(r#"<th class="figure">rate"#) && page.contains("<td>c</td>"), "{page}");
        assert!(!page.contains("http-equiv") && !page.contains("src="));
    }

    #[test]
    fn columns_are_aligned_to_the_right() {
        let table = Table { head: texts(["at", "p50"]), rows: vec![texts(["1,000", "1 ms"]), texts(["1", "–"])] };
        assert_eq!(table.to_text(), "     at   p50\n  1,000  1 ms\n      1     –\n");
    }

    #[test]
    fn points_without_a_place_are_left_out() {
        let points = vec![(0.0, 1.0), (1.0, 0.0), (-1.0, 5.0), (f64::NAN, 1.0), (2.0, f64::INFINITY), (2.0, 3.0)];
        let series = vec![Series { label: String::new(), points }, Series::default()];
        for (x_scale, y_scale, dots) in [
            (Scale::Log, Scale::Log, 1),
            (Scale::Linear, Scale::Log, 3),
            (Scale::Log, Scale::Linear, 2),
            (Scale::Linear, Scale::Linear, 4),
        ] {
            let page = html_of(vec![plot(x_scale, y_scale, series.clone())]);
            assert_eq!(page.matches("<circle").count(), dots, "{x_scale:?} {y_scale:?}");
            assert!(!page.contains("NaN") && !page.contains("inf"));
        }
    }

    #[test]
    fn every_line_of_many_is_drawn() {
        let line = |number: u32| Series { label: format!("line {number}"), points: vec![(1.0, number.into())] };
        let page = html_of(vec![plot(Scale::Linear, Scale::Linear, (0..20).map(line).collect())]);
        assert_eq!((page.matches("<circle").count(), page.matches("<i style").count()), (20, 20));
    }

    #[test]
    fn bars_are_named_and_end_at_the_median() {
        let bar = |label: &str, values: &[f64]| Series {
            label: label.to_owned(),
            points: values.iter().map(|value| (f64::NAN, *value)).collect(),
        };
        let series = vec![bar("a & b", &[3.0, 100.0, 7.0]), bar("none", &[]), bar("c", &[0.0, f64::NAN])];
        for (y_scale, bars, dots) in [(Scale::Linear, 3, 4), (Scale::Log, 1, 3), (Scale::Categorical, 3, 4)] {
            let page = html_of(vec![plot(Scale::Categorical, y_scale, series.clone())]);
            assert_eq!(page.matches("<circle").count(), dots, "{y_scale:?}");
            assert_eq!(page.matches("<rect").count(), bars, "{y_scale:?}");
            assert!(page.contains("a &amp; b") && page.contains("none") && !page.contains("NaN"), "{page}");
        }
        let (points, mark) = series[0].bar(2);
        assert!(matches!(mark, Mark::Bar { top: 7.0, from, to } if from > 2.0 && to < 3.0), "{mark:?}");
        assert!(points.iter().all(|point| point.0 > 2.0 && point.0 < 3.0), "{points:?}");
    }

    #[test]
    fn a_document_may_be_empty() {
        let page = html_of(vec![plot(Scale::Log, Scale::Log, vec![])]);
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
        assert!(html_of(vec![]).contains("Machine and command"));
    }
}
