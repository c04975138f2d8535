//! Shows the progress of the run on standard error: a bar on a terminal, otherwise a line from time to time.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_secs(2);

pub(crate) struct Progress {
    total: usize,
    /// Number of lines delivered at each member.
    delivered: Vec<usize>,
    bar: Option<ProgressBar>,
    said: Instant,
}

impl Progress {
    pub(crate) fn new(total: usize, members: usize) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(total as u64));
        let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} lines everywhere, {eta} left");
        if let (Some(bar), Ok(style)) = (&bar, style) {
            bar.set_style(style);
        }
        Progress { total, delivered: vec![0; members], bar, said: Instant::now() }
    }

    /// Ignores a member's progress until its next report.
    pub(crate) fn forget(&mut self, member: usize) {
        self.delivered[member] = usize::MAX;
    }

    pub(crate) fn update(&mut self, member: usize, delivered: usize) {
        self.delivered[member] = delivered;
        let everywhere = self.delivered.iter().copied().min().unwrap_or(0);
        if let Some(bar) = &self.bar {
            bar.set_position(everywhere as u64);
        } else if self.said.elapsed() >= PAUSE {
            self.said = Instant::now();
            // An error is ignored: standard error may be closed.
            let _ = writeln!(std::io::stderr(), "{everywhere} of {} lines everywhere", self.total);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
