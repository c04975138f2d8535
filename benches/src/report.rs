//! The output of results: one JSON object, or lines of text.

use crate::Result;
use crate::measure::Summary;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::IsTerminal;

/// Prints `report` as JSON, or else `text`.
pub(crate) fn show(report: &impl Serialize, json: bool, text: impl FnOnce() -> String) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        println!("{}", text());
    }
    Ok(())
}

/// Prints the measurements of this command's member in a run across machines. The command of member 1 shows the rest.
pub(crate) fn show_own(kind: &'static str, rank: usize, report: &impl Serialize, json: bool) -> Result<()> {
    #[derive(Serialize)]
    struct Own<'a, R> {
        kind: &'static str,
        member: usize,
        report: &'a R,
    }
    let own = Own { kind, member: rank + 1, report };
    let text = serde_json::to_string_pretty(report)?;
    show(&own, json, || format!("member {} of the {kind}: {text}", rank + 1))
}

/// A line of text about a latency distribution.
pub(crate) fn latency(what: &str, summary: Option<&Summary>) -> String {
    summary.map_or_else(String::new, |s| {
        format!(
            "\n{what} [µs]: p50 {:.1}, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1} ({} samples)",
            s.p50, s.p90, s.p99, s.p99_9, s.max, s.samples
        )
    })
}

/// The ratio `a / b`, if it is finite.
pub(crate) fn ratio(a: f64, b: f64) -> Option<f64> {
    Some(a / b).filter(|r| r.is_finite())
}

/// A ratio as text.
pub(crate) fn shown(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.2}"))
}

/// Shows the number of completed rounds on standard error.
///
/// On a terminal it is a bar, elsewhere a line after every `every` rounds.
pub(crate) struct Rounds {
    total: u64,
    what: &'static str,
    every: u64,
    bar: Option<ProgressBar>,
}

impl Rounds {
    pub(crate) fn new(total: u64, what: &'static str, every: u64) -> Rounds {
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(total));
        let style = ProgressStyle::with_template(&format!("{{bar:30}} {{pos}}/{{len}} {what}, {{eta}} to go"));
        if let (Some(bar), Ok(style)) = (&bar, style) {
            bar.set_style(style);
        }
        Rounds { total, what, every, bar }
    }

    pub(crate) fn show(&self, done: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if done.is_multiple_of(self.every) || done == self.total => {
                eprintln!("{done} of {} {}", self.total, self.what);
            }
            None => {}
        }
    }

    pub(crate) fn end(&self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}
