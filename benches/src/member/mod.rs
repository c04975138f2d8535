//! One member of a measured cluster.

mod sender;
mod tally;

use crate::Result;
use crate::args::{ClusterArgs, Drive, STAMPS_LEN};
use crate::control::{Control, Plan, Word};
use crate::measure::{Cpu, Latencies, exact_timers, memory_kib, now_ns, sleep_until};
use galerna::{Driver, Group, MemberId, Stats, SubgroupId};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use sender::Sender;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tally::{Board, Probe, Tally};

const MAIN: SubgroupId = SubgroupId(0);
/// How often a member that waits for an order of its parent checks for it.
const CONTROL_TICK: Duration = Duration::from_millis(1);
/// A timeout longer than any run: the parent gives up first.
const LONG: Duration = Duration::from_secs(86_400);
/// The number of latencies that each sender samples without a schedule.
const SAMPLES: u64 = 20_000;

/// The measurements of one member, from the start to its last delivery.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) ns: u64,
    pub(crate) delivered: u64,
    pub(crate) cpu: Cpu,
    pub(crate) rss_peak_kib: u64,
    pub(crate) counters: Counters,
    /// Latencies in nanoseconds, with their counts: from the scheduled time to the delivery.
    ///
    /// Without a schedule: from the commit to the delivery.
    pub(crate) latencies: Vec<(u64, u64)>,
    /// With a schedule: the latencies from the commit.
    pub(crate) from_commit: Vec<(u64, u64)>,
}

/// The engine's counters over the measured time.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Counters {
    pub(crate) messages_sent: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) nulls_sent: u64,
    pub(crate) batches_sent: u64,
    pub(crate) batches_delivered: u64,
    pub(crate) passes: u64,
    pub(crate) sleeps: u64,
    pub(crate) writes_posted: u64,
    pub(crate) wire_bytes_sent: u64,
    pub(crate) system_calls: u64,
    pub(crate) work_requests: u64,
    pub(crate) doorbells: u64,
}

impl Counters {
    fn between(before: &Stats, after: &Stats) -> Counters {
        Counters {
            messages_sent: after.messages_sent - before.messages_sent,
            bytes_sent: after.bytes_sent - before.bytes_sent,
            nulls_sent: after.nulls_sent - before.nulls_sent,
            batches_sent: after.batches_sent - before.batches_sent,
            batches_delivered: after.batches_delivered - before.batches_delivered,
            passes: after.passes - before.passes,
            sleeps: after.sleeps - before.sleeps,
            writes_posted: after.fabric.writes_posted - before.fabric.writes_posted,
            wire_bytes_sent: after.fabric.bytes_sent - before.fabric.bytes_sent,
            system_calls: after.fabric.system_calls - before.fabric.system_calls,
            work_requests: after.fabric.work_requests - before.fabric.work_requests,
            doorbells: after.fabric.doorbells - before.fabric.doorbells,
        }
    }

    pub(crate) fn add(&mut self, other: &Counters) {
        self.messages_sent += other.messages_sent;
        self.bytes_sent += other.bytes_sent;
        self.nulls_sent += other.nulls_sent;
        self.batches_sent += other.batches_sent;
        self.batches_delivered += other.batches_delivered;
        self.passes += other.passes;
        self.sleeps += other.sleeps;
        self.writes_posted += other.writes_posted;
        self.wire_bytes_sent += other.wire_bytes_sent;
        self.system_calls += other.system_calls;
        self.work_requests += other.work_requests;
        self.doorbells += other.doorbells;
    }
}

/// The parameters of the run that a member needs at each step.
struct Run<'a> {
    args: &'a ClusterArgs,
    control: &'a Control,
    board: Arc<Board>,
    /// The messages that this member sends for the warm-up, and in total.
    warm: u64,
    total: u64,
    spin: Duration,
    /// The application's own waits on the descriptor, which the engine does not count.
    sleeps: Cell<u64>,
}

/// Runs the member: see [`crate::control`].
pub(crate) fn work(args: &ClusterArgs, plan: &Plan, control: &Control) -> Result<()> {
    exact_timers();
    let config = args.config(&plan.addresses)?.with_member(MemberId(plan.rank as u32 + 1));
    let board = Arc::new(Board::default());
    let senders = args.senders.count(args.members());
    let (warm, each) = (args.run.warmup(args.messages), args.messages);
    let me = MemberId(plan.rank as u32 + 1);
    let probe = match (args.rate, args.size) {
        // Timestamps from other machines come from other clocks.
        (Some(_), _) => Probe::Scheduled { all: !args.transport.across.any() },
        (None, size) if size < STAMPS_LEN / 2 => Probe::None,
        _ => Probe::Sampled,
    };
    let tally = Tally {
        board: board.clone(),
        delivered: 0,
        warm: warm * senders as u64,
        total: (warm + each) * senders as u64,
        next_mark: if warm == 0 { each } else { warm } * senders as u64,
        me,
        counts_own: args.outstanding.is_some(),
        own: 0,
        probe,
        latencies: Latencies::new()?,
        from_commit: Latencies::new()?,
    };
    if tally.warm == 0 {
        board.mark(|marks| marks.warm = true);
    }
    if plan.progress {
        let board = board.clone();
        control.show_progress(move || board.delivered.load(Ordering::Relaxed));
    }
    let sends = u64::from(plan.rank < senders);
    let run = Run {
        args,
        control,
        board,
        warm: warm * sends,
        total: (warm + each) * sends,
        spin: Duration::from_micros(config.spin_us),
        sleeps: Cell::new(0),
    };
    match args.drive {
        Drive::Dispatch => {
            let (group, mut driver) = Group::join_driven(config, tally)?;
            run.dispatch(&group, &mut driver)
        }
        Drive::Thread => run.thread(&Group::join(config, tally)?),
    }
}

impl Run<'_> {
    fn sender<'g>(&'g self, group: &'g Group) -> Sender<'g> {
        let source = (0..self.args.size).map(|i| i as u8).collect();
        let mut sender = Sender {
            group,
            board: &self.board,
            outstanding: self.args.outstanding.unwrap_or(u64::MAX),
            mode: self.args.mode.into(),
            source,
            sent: 0,
            burst: self.args.burst.unwrap_or(u64::MAX),
            sample_every: (self.args.messages / SAMPLES).max(1),
            schedule: None,
        };
        sender.put(0, 0);
        sender
    }

    fn step_ns(&self) -> Option<f64> {
        self.args.rate.map(|rate| 1e9 / rate as f64)
    }

    fn report(&self, start_ns: u64, cpu: Cpu, before: &Stats, after: &Stats) -> Result<()> {
        let mut counters = Counters::between(before, after);
        counters.sleeps += self.sleeps.get();
        let Some(finish) = self.board.marks().finish.take() else {
            return Err("the member finished, but the time of its last delivery is missing".into());
        };
        self.control.done(&Report {
            ns: finish.at_ns.saturating_sub(start_ns),
            delivered: self.args.messages * self.args.senders.count(self.args.members()) as u64,
            cpu: finish.cpu.since(cpu),
            rss_peak_kib: memory_kib("VmHWM"),
            counters,
            latencies: finish.latencies,
            from_commit: finish.from_commit,
        })
    }

    /// Runs the measurement with [`Drive::Thread`].
    fn thread(&self, group: &Group) -> Result<()> {
        let mut sender = self.sender(group);
        sender.schedule = self.step_ns().map(|step| (now_ns(), step));
        sender.send_all(0, self.warm)?;
        self.board.wait(|marks| marks.warm)?;
        self.control.say(&Word::Ready)?;
        let start_ns = self.control.wait_start();
        sleep_until(start_ns);
        let (before, cpu) = (group.stats(MAIN)?, Cpu::now());
        sender.schedule = self.step_ns().map(|step| (start_ns, step));
        sender.send_all(self.warm, self.total)?;
        self.board.wait(|marks| marks.finish.is_some())?;
        self.report(start_ns, cpu, &before, &group.stats(MAIN)?)?;
        self.control.wait_end();
        Ok(())
    }

    /// Runs the measurement with [`Drive::Dispatch`].
    fn dispatch(&self, group: &Group, driver: &mut Driver) -> Result<()> {
        let mut sender = self.sender(group);
        sender.schedule = self.step_ns().map(|step| (now_ns(), step));
        self.drive(driver, &mut sender, 0, self.warm, None, |_| self.board.look(|marks| marks.warm))?;
        self.control.say(&Word::Ready)?;
        let mut start_ns = None;
        self.drive(driver, &mut sender, 0, 0, Some(CONTROL_TICK), |_| {
            start_ns = start_ns.or_else(|| self.control.start_ns());
            Ok(start_ns.is_some_and(|start| start <= now_ns()))
        })?;
        let start_ns = start_ns.unwrap_or(0);
        let (before, cpu) = (group.stats(MAIN)?, Cpu::now());
        self.sleeps.set(0);
        sender.schedule = self.step_ns().map(|step| (start_ns, step));
        self.drive(driver, &mut sender, self.warm, self.total, None, |_| {
            self.board.look(|marks| marks.finish.is_some())
        })?;
        let after = group.stats(MAIN)?;
        self.report(start_ns, cpu, &before, &after)?;
        self.drive(driver, &mut sender, 0, 0, Some(CONTROL_TICK), |_| Ok(self.control.ended()))
    }

    /// The application's loop: sends as far as possible up to message `target`, polls, and sleeps when idle, until
    /// `done`.
    ///
    /// Messages are due from message `from` on. `tick` is the longest sleep.
    fn drive(
        &self,
        driver: &mut Driver,
        sender: &mut Sender<'_>,
        from: u64,
        target: u64,
        tick: Option<Duration>,
        mut done: impl FnMut(&Board) -> Result<bool>,
    ) -> Result<()> {
        let mut idle_since = None;
        let mut idle = 0u32;
        loop {
            let sent = sender.sent < target && sender.send_some(from, target)?;
            let moved = driver.poll();
            if done(&self.board)? {
                return Ok(());
            }
            if sent || moved {
                idle_since = None;
            } else if self.args.busy_poll {
                idle += 1;
                if idle.is_multiple_of(256) { std::thread::yield_now() } else { std::hint::spin_loop() }
            } else if self.looks_again(&mut idle_since) {
                std::thread::yield_now();
            } else {
                let due_ns = (sender.schedule.is_some() && sender.sent < target).then(|| sender.due_ns(from));
                self.sleep(driver, due_ns, tick, || Ok(sender.sent < target && sender.send_some(from, target)?))?;
                idle_since = None;
            }
        }
    }

    /// Whether the loop has been idle for less than the spin time.
    fn looks_again(&self, idle_since: &mut Option<Instant>) -> bool {
        !self.spin.is_zero() && idle_since.get_or_insert_with(Instant::now).elapsed() < self.spin
    }

    /// Sleeps until the group has work to do, the next message is due, or `tick` has passed.
    fn sleep(
        &self,
        driver: &mut Driver,
        due_ns: Option<u64>,
        tick: Option<Duration>,
        send: impl FnOnce() -> Result<bool>,
    ) -> Result<()> {
        let delivered = self.board.delivered.load(Ordering::Relaxed);
        driver.dispatch()?;
        // The dispatch may have delivered or freed ring space, and no further event may come that would end the sleep.
        if !send()? && self.board.delivered.load(Ordering::Relaxed) == delivered {
            let due = due_ns.map(|due| Duration::from_nanos(due.saturating_sub(now_ns())));
            let timeout = due.into_iter().chain(tick).min().map(TimeSpec::from);
            let mut fds = [PollFd::new(driver.fd(), PollFlags::POLLIN)];
            self.sleeps.set(self.sleeps.get() + 1);
            // An interrupted wait is only a shorter one.
            let _ = ppoll(&mut fds, timeout, None);
        }
        driver.disarm();
        Ok(())
    }
}
