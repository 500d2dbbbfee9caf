//! Tables of figures next to goals.

use std::fmt::Write as _;

use crate::published;

/// What a figure should be.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// One line: the first figures are ours.
pub(crate) struct Row {
    pub(crate) name: String,
    /// Of each contender, one for each seed.
    pub(crate) figures: Vec<Vec<f64>>,
    pub(crate) goal: Goal,
}

/// A figure of real processes.
pub(crate) struct Real {
    pub(crate) name: String,
    pub(crate) figure: f64,
    /// What holds in virtual time.
    pub(crate) goal: Goal,
    /// What is enough here.
    pub(crate) allowed: Goal,
    /// How often its scene was run.
    pub(crate) runs: usize,
}

impl Goal {
    pub(crate) fn is_met(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(least) => figure >= least,
            Self::AtMost(most) => figure <= most,
        }
    }

    fn shown(self) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {}", shown(least)),
            Self::AtMost(most) => format!("<= {}", shown(most)),
        }
    }

    fn worst(self, figures: &[f64]) -> f64 {
        let worse = match self {
            Self::AtLeast(_) => f64::min,
            Self::AtMost(_) => f64::max,
        };
        figures.iter().copied().fold(f64::NAN, worse)
    }
}

impl Row {
    pub(crate) fn is_met(&self) -> bool {
        self.goal.is_met(mean(&self.figures[0]))
    }

    /// The mean, and the worst in brackets where it looks different.
    fn shown(&self, figures: &[f64]) -> String {
        let (mean, worst) = (shown(mean(figures)), shown(self.goal.worst(figures)));
        if mean == worst {
            mean
        } else {
            format!("{mean} ({worst})")
        }
    }
}

/// As markdown. Where others are not measured next to us there is what they publish.
pub(crate) fn draw(names: &[&str], rows: &[Row]) -> String {
    let is_alone = names.len() == 1;
    let mut text = format!(
        "| | {} |{} goal | |\n|---|{}{}--:|---|\n",
        names.join(" | "),
        if is_alone { " others |" } else { "" },
        "--:|".repeat(names.len()),
        if is_alone { "---|" } else { "" },
    );
    for row in rows {
        let mut figures: Vec<String> = row.figures.iter().map(|figures| row.shown(figures)).collect();
        if is_alone {
            figures.push(published::of(&row.name).to_owned());
        }
        let goal = row.goal.shown();
        let verdict = if row.is_met() { "met" } else { "missed" };
        writeln!(text, "| {} | {} | {goal} | {verdict} |", row.name, figures.join(" | "))
            .expect("a `String` takes all text");
    }
    text
}

impl Real {
    pub(crate) fn is_met(&self) -> bool {
        self.allowed.is_met(self.figure)
    }
}

/// As markdown.
pub(crate) fn draw_real(rows: &[Real]) -> String {
    let mut text = "| | sinew | goal in virtual time | allowed here | runs | |\n|---|--:|--:|--:|--:|---|\n".to_owned();
    for row in rows {
        let (figure, goal, allowed) = (shown(row.figure), row.goal.shown(), row.allowed.shown());
        let verdict = if row.is_met() { "met" } else { "missed" };
        writeln!(
            text,
            "| {} | {figure} | {goal} | {allowed} | {} | {verdict} |",
            row.name, row.runs
        )
        .expect("a `String` takes all text");
    }
    text
}

fn mean(figures: &[f64]) -> f64 {
    figures.iter().sum::<f64>() / figures.len() as f64
}

fn shown(figure: f64) -> String {
    match figure {
        figure if figure.is_nan() => "-".to_owned(),
        figure if figure >= 10.0 || figure == 0.0 => format!("{figure:.0}"),
        figure if figure < 0.1 => format!("{figure:.4}"),
        // 99.95 % is not all.
        figure if (0.9995..1.0).contains(&figure) => format!("{figure:.5}"),
        figure => format!("{figure:.3}"),
    }
}
