//! How far the run is, on standard error: a bar on a terminal, a line now and then elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_secs(2);

pub(crate) struct Progress {
    total: usize,
    /// Lines delivered at each member.
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

    /// Nothing is expected of a member until it says something again.
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
            // Nobody may read it any more.
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
