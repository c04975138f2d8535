//! Clocks, CPU time, memory and histograms.

use crate::Result;
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The longest latency that the histogram distinguishes, in nanoseconds.
const LATENCY_MAX_NS: u64 = 100_000_000_000;

/// The time of `CLOCK_MONOTONIC` in nanoseconds. All processes of a host share this clock.
#[inline]
pub(crate) fn now_ns() -> u64 {
    // The call cannot fail for an existing clock.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| t.num_nanoseconds());
    now as u64
}

/// Sleeps until the time `at_ns` of [`now_ns`].
pub(crate) fn sleep_until(at_ns: u64) {
    while let Some(left) = at_ns.checked_sub(now_ns()).filter(|&left| left > 0) {
        std::thread::sleep(Duration::from_nanos(left));
    }
}

/// Makes this thread's timers fire exactly when they are due, instead of up to 50 µs later.
pub(crate) fn exact_timers() {
    // If this fails, only the latencies of a schedule get longer.
    let _ = nix::sys::prctl::set_timerslack(1);
}

/// The CPU time of this process so far.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Cpu {
    pub(crate) user_us: u64,
    pub(crate) system_us: u64,
}

impl Cpu {
    pub(crate) fn now() -> Cpu {
        getrusage(UsageWho::RUSAGE_SELF).map_or_else(
            |_| Cpu::default(),
            |usage| Cpu {
                user_us: usage.user_time().num_microseconds() as u64,
                system_us: usage.system_time().num_microseconds() as u64,
            },
        )
    }

    pub(crate) fn since(self, earlier: Cpu) -> Cpu {
        Cpu {
            user_us: self.user_us.saturating_sub(earlier.user_us),
            system_us: self.system_us.saturating_sub(earlier.system_us),
        }
    }

    pub(crate) fn total_us(self) -> u64 {
        self.user_us + self.system_us
    }
}

/// A line of `/proc/self/status` in KiB.
///
/// `VmHWM` is the peak resident memory, `VmRSS` the present resident memory.
pub(crate) fn memory_kib(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Latencies in nanoseconds.
#[derive(Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Result<Latencies> {
        Ok(Latencies(Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3)?))
    }

    #[inline]
    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// The recorded values with their counts, to be sent to the parent.
    pub(crate) fn counts(&self) -> Vec<(u64, u64)> {
        let recorded = self.0.iter_recorded();
        recorded.map(|v| (v.value_iterated_to(), v.count_at_value())).collect()
    }

    /// Adds the values that another process has sent.
    pub(crate) fn add(&mut self, counts: &[(u64, u64)]) {
        for &(value, count) in counts {
            self.0.saturating_record_n(value, count);
        }
    }

    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }

    pub(crate) fn summary(&self) -> Option<Summary> {
        let us = |ns: u64| ns as f64 / 1000.0;
        let quantile = |q| us(self.0.value_at_quantile(q));
        (!self.0.is_empty()).then(|| Summary {
            samples: self.0.len(),
            mean: self.0.mean() / 1000.0,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: us(self.0.max()),
        })
    }
}

/// A latency distribution in µs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    pub(crate) samples: u64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
}

/// The median. For an even number of values, the mean of the two middle ones.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (n, half) if n % 2 == 1 => sorted[half],
        (_, half) => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// The distribution of the values of one figure.
#[derive(Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) samples: usize,
    pub(crate) median: f64,
    pub(crate) p99: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let at = |rank: usize| values.get(rank).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        let p99 = at((values.len() * 99).div_ceil(100).saturating_sub(1));
        Spread { samples: values.len(), median: median(&values), p99, min: at(0), max: at(last) }
    }
}
