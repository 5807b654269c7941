//! Draws one plot as SVG: axes, grid, series, and the data from which the page's script shows
//! values under the pointer. Knows nothing of a run.
//!
//! Invariants: every point of a series is a point of its path, however many there are, and a path
//! has gaps where a series has no value; all text goes through maud, which escapes it.

use std::fmt::Write;

use maud::{Markup, PreEscaped, html};
use serde_json::json;

use crate::report::scale::Scale;

/// Size of the drawing in its own units; the page scales it to its width.
const WIDTH: f64 = 1000.0;
/// As [`WIDTH`].
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 50.0;
/// More points than this get no circles of their own: the line would drown in them.
const CIRCLES_MAX: usize = 60;
/// More points than this are drawn with a finer line.
const DENSE: usize = 300;

/// From left to right.
pub const ACROSS: (f64, f64) = (LEFT, WIDTH - RIGHT);
/// From the bottom to the top: places count downwards in a drawing.
pub const UPWARDS: (f64, f64) = (HEIGHT - BOTTOM, TOP);

/// An axis.
pub struct Axis {
    /// Where values lie on it.
    pub scale: Scale,
    /// Values it names.
    pub ticks: Vec<(f64, String)>,
    /// What it shows, with its unit.
    pub title: String,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A line through its points.
    Line,
    /// The same, with the area below it filled.
    Area,
    /// Marks on the horizontal axis where it has a value.
    Marks,
}

/// Values to draw, one for each place of the plot.
pub struct Series {
    /// Its name in the legend and under the pointer.
    pub name: String,
    /// Its class in the style sheet.
    pub class: &'static str,
    /// How it is drawn.
    pub style: Style,
    /// The values.
    pub values: Vec<Option<f64>>,
    /// What is shown of a value under the pointer.
    pub text: fn(f64) -> String,
}

/// A plot.
pub struct Plot {
    /// What the page calls it; no name for people.
    pub id: &'static str,
    /// What it shows.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// Places of the points, rising, each with its name under the pointer.
    pub points: Vec<(f64, String)>,
    /// What is drawn.
    pub series: Vec<Series>,
    /// A part of the horizontal axis that is set apart, with its name.
    pub shaded: Option<(f64, f64, &'static str)>,
}

impl Plot {
    /// The plot with title and legend, or `nothing` in its place if it has no points.
    pub fn figure(&self, nothing: &str) -> Markup {
        html! {
            figure.card data-chart=(self.id) data-points=(self.points.len()) {
                figcaption {
                    h2 { (self.title) }
                    @if !self.points.is_empty() { (self.legend()) }
                }
                @if self.points.is_empty() {
                    p.nothing { (nothing) }
                } @else {
                    div.plot {
                        (self.drawing())
                        div.tip role="status" hidden {}
                        script type="application/json" { (PreEscaped(self.values())) }
                    }
                }
            }
        }
    }

    fn legend(&self) -> Markup {
        html! {
            ul.legend {
                @for series in &self.series {
                    li { span class={ "key " (series.class) } {} (series.name) }
                }
            }
        }
    }

    fn drawing(&self) -> Markup {
        let label = format!("{}. Arrow keys move through its {} points.", self.title, self.points.len());
        html! {
            svg.dense[self.points.len() > DENSE] viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(label) tabindex="0" {
                (self.shade())
                (self.axes())
                @for series in &self.series { (self.path(series)) }
                line.hair x1="0" x2="0" y1=(UPWARDS.1) y2=(UPWARDS.0) visibility="hidden" {}
                @for series in &self.series {
                    circle class={ "spot " (series.class) } r="4.5" visibility="hidden" {}
                }
            }
        }
    }

    fn shade(&self) -> Markup {
        let Some((from, to, name)) = self.shaded else { return html! {} };
        let (from, to) = (self.x.scale.place(from), self.x.scale.place(to));
        html! {
            rect.shade x=(short(from)) width=(short(to - from)) y=(UPWARDS.1) height=(UPWARDS.0 - UPWARDS.1) {}
            @if to - from > 60.0 { text.shade x=(short(from + 6.0)) y=(UPWARDS.1 + 14.0) { (name) } }
        }
    }

    fn axes(&self) -> Markup {
        let middle = (f64::midpoint(ACROSS.0, ACROSS.1), f64::midpoint(UPWARDS.0, UPWARDS.1));
        html! {
            g.grid {
                @for (value, label) in &self.y.ticks {
                    @let y = short(self.y.scale.place(*value));
                    line x1=(ACROSS.0) x2=(ACROSS.1) y1=(y) y2=(y) {}
                    text.y x=(ACROSS.0 - 8.0) y=(y) dy="0.35em" { (label) }
                }
                @for (value, label) in &self.x.ticks {
                    @let x = short(self.x.scale.place(*value));
                    line x1=(x) x2=(x) y1=(UPWARDS.0) y2=(UPWARDS.0 + 5.0) {}
                    text.x x=(x) y=(UPWARDS.0 + 18.0) { (label) }
                }
                line.axis x1=(ACROSS.0) x2=(ACROSS.1) y1=(UPWARDS.0) y2=(UPWARDS.0) {}
            }
            text.title x=(middle.0) y=(HEIGHT - 8.0) { (self.x.title) }
            text.title transform={ "translate(14 " (middle.1) ") rotate(-90)" } { (self.y.title) }
        }
    }

    fn path(&self, series: &Series) -> Markup {
        let places = self.places(series);
        let circles = series.style == Style::Marks || places.len() <= CIRCLES_MAX;
        html! {
            @if series.style == Style::Area { path class={ "area " (series.class) } d=(area(&places)) {} }
            @if series.style != Style::Marks { path class={ "line " (series.class) } d=(line(&places)) {} }
            @if circles {
                @for (x, y) in places.iter().filter_map(|(x, y)| Some((x, (*y)?))) {
                    circle class={ "point " (series.class) } cx=(short(*x)) cy=(short(y)) r="3" {}
                }
            }
        }
    }

    /// Where the points of a series are drawn.
    fn places(&self, series: &Series) -> Vec<(f64, Option<f64>)> {
        let y = |value: f64| match series.style {
            Style::Marks => UPWARDS.0,
            Style::Line | Style::Area => self.y.scale.place(value),
        };
        let xs = self.points.iter().map(|(at, _)| self.x.scale.place(*at));
        xs.zip(&series.values).map(|(x, value)| (x, value.map(y))).collect()
    }

    /// Places and texts for the page's script. JSON within a page must not hold `<`: it could end
    /// the element that holds it.
    fn values(&self) -> String {
        let series = |series: &Series| {
            let ys: Vec<_> = self.places(series).into_iter().map(|(_, y)| y.map(rounded)).collect();
            let texts: Vec<_> = series.values.iter().map(|value| value.map(series.text)).collect();
            json!({ "name": series.name, "class": series.class, "y": ys, "text": texts })
        };
        let data = json!({
            "x": self.points.iter().map(|(at, _)| rounded(self.x.scale.place(*at))).collect::<Vec<_>>(),
            "label": self.points.iter().map(|(_, label)| label).collect::<Vec<_>>(),
            "series": self.series.iter().map(series).collect::<Vec<_>>(),
        });
        data.to_string().replace('<', "\\u003c")
    }
}

/// A tenth of a unit is less than a pixel.
fn rounded(place: f64) -> f64 {
    (place * 10.0).round() / 10.0
}

fn short(place: f64) -> String {
    rounded(place).to_string()
}

/// One command for each point; a point with no neighbour is a line of no length, which round ends
/// make a dot.
fn line(places: &[(f64, Option<f64>)]) -> String {
    let mut path = String::new();
    let mut is_drawing = false;
    for (at, (x, y)) in places.iter().enumerate() {
        if let Some(y) = y {
            let command = if is_drawing { 'L' } else { 'M' };
            // Writing to a string cannot fail.
            let _ = write!(path, "{command}{} {}", short(*x), short(*y));
            let is_last = places.get(at + 1).is_none_or(|(_, next)| next.is_none());
            if !is_drawing && is_last {
                path.push_str("h0");
            }
        }
        is_drawing = y.is_some();
    }
    path
}

fn area(places: &[(f64, Option<f64>)]) -> String {
    let mut path = String::new();
    for run in places.split(|(_, y)| y.is_none()) {
        let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { continue };
        let _ = write!(path, "M{} {}", short(*first), UPWARDS.0);
        for (x, y) in run.iter().filter_map(|(x, y)| Some((x, (*y)?))) {
            let _ = write!(path, "L{} {}", short(*x), short(y));
        }
        let _ = write!(path, "L{} {}Z", short(*last), UPWARDS.0);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(values: Vec<Option<f64>>) -> Plot {
        let axis = || Axis {
            scale: Scale::linear((0.0, 10.0), (0.0, 100.0)),
            ticks: vec![(0.0, "<0>".to_owned())],
            title: "a & b".to_owned(),
        };
        let points = (0..values.len()).map(|at| (at as f64, "</script>".to_owned())).collect();
        let series = Series {
            name: "<i>".to_owned(),
            class: "p50",
            style: Style::Line,
            values,
            text: |v| v.to_string(),
        };
        let title = "<b>".to_owned();
        Plot { id: "t", title, x: axis(), y: axis(), points, series: vec![series], shaded: None }
    }

    #[test]
    fn a_path_has_every_point_and_gaps() {
        let places = [(0.0, Some(1.0)), (1.0, Some(2.0)), (2.0, None), (3.0, Some(4.04))];
        assert_eq!(line(&places), "M0 1L1 2M3 4h0");
        assert_eq!(line(&[]), "");
        let many: Vec<_> = (0..3_600).map(|at| (f64::from(at), Some(0.5))).collect();
        assert_eq!(line(&many).matches(['M', 'L']).count(), 3_600);
    }

    #[test]
    fn an_area_closes_each_run_at_the_axis() {
        let bottom = UPWARDS.0;
        let places = [(0.0, Some(1.0)), (1.0, Some(2.0)), (2.0, None), (3.0, Some(4.0))];
        let expected = format!("M0 {bottom}L0 1L1 2L1 {bottom}ZM3 {bottom}L3 4L3 {bottom}Z");
        assert_eq!(area(&places), expected);
    }

    #[test]
    fn nothing_escapes_its_place() {
        let text = plot(vec![Some(1.0), Some(2.0)]).figure("nothing").into_string();
        assert!(!text.contains("<b>") && !text.contains("<i>") && !text.contains("<0>"), "{text}");
        assert_eq!(text.matches("</script>").count(), 1, "only the page's own: {text}");
        assert!(text.contains("a &amp; b") && text.contains("\\u003c/script"), "{text}");
    }

    #[test]
    fn a_plot_without_points_says_so() {
        let text = plot(Vec::new()).figure("no <values>").into_string();
        assert!(text.contains("no &lt;values&gt;") && !text.contains("<svg"), "{text}");
    }

    #[test]
    fn a_plot_with_one_point_shows_it() {
        let text = plot(vec![Some(5.0)]).figure("").into_string();
        assert_eq!(text.matches("<circle class=\"point p50\"").count(), 1);
        let many = plot(vec![Some(5.0); 3_600]).figure("").into_string();
        assert_eq!(many.matches("<circle class=\"point").count(), 0);
    }
}
