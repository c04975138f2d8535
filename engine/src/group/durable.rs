//! What a group with a log offers beside the stream: how far it is durable, what it holds, and checkpoints.

use super::driver::Driver;
use super::shared::{Shared, after};
use super::transfer::Covered;
use super::vault::{DISK_TIME, PLACES, Places};
use super::wire::Place;
use super::{Flush, Group};
use crate::config::{Config, SubgroupId};
use crate::error::Error;
use crate::log::{Log, LogStats, Reader, Version};
use crate::node::Phase;
use crate::thread;
use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How far a group with a log has come, as this member knows it. Numbers are of the total order: everything below has got
/// that far. None of them ever goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Frontiers {
    /// The present view.
    pub view: u64,
    /// Received by every member, and handed to the log here.
    pub stable: u64,
    /// On this member's disk.
    pub persisted: u64,
    /// On the disks of all voters: nothing can take it back.
    pub everywhere: u64,
    /// On the disks of all voters, or of as many as `log.durable_members` says.
    pub durable: u64,
    /// The log up to this time is the same at every member, for good: no record that is still to come bears this time or an
    /// earlier one. In nanoseconds since 1970, by the group's hybrid logical clock.
    pub past_ns: u64,
}

/// How often the driver looks whether the disk is full, in milliseconds.
const LOOK_MS: u64 = 50;

/// Since when the disk has been full, or has done nothing although it was asked. Times are of [`crate::node::Node::running_ms`]: a
/// process that was stopped finds its disk where it left it, and that is not the disk's fault.
pub(super) struct Fullness {
    patience_ms: u64,
    /// A disk may be slow for longer than it may be full.
    stuck_ms: u64,
    done: u64,
    moved_ms: u64,
    looked_ms: u64,
    since_ms: Option<u64>,
}

impl Fullness {
    pub(super) fn new(config: &Config) -> Fullness {
        // Before the others give themselves up.
        let stuck_ms = (config.partition_timeout_ms / 2).max(config.failure_timeout_ms);
        let patience_ms = config.failure_timeout_ms;
        Fullness { patience_ms, stuck_ms, done: 0, moved_ms: 0, looked_ms: 0, since_ms: None }
    }

    fn is_due(&self, now_ms: u64) -> bool {
        now_ms >= self.looked_ms + LOOK_MS
    }

    /// Takes in what was asked of the log and what is done, and what stands in its way; why the member has to stop, if it has to.
    fn look(&mut self, now_ms: u64, (asked, done): (u64, u64), obstacle: Option<Error>) -> Option<Error> {
        self.looked_ms = now_ms;
        if done != self.done || asked <= done {
            (self.done, self.moved_ms) = (done, now_ms);
        }
        if let Some(obstacle) = obstacle {
            let since_ms = *self.since_ms.get_or_insert(now_ms);
            if now_ms - since_ms >= self.patience_ms {
                return Some(obstacle);
            }
        } else {
            self.since_ms = None;
        }
        let still_ms = now_ms - self.moved_ms;
        let what = || format!("the log's disk has done nothing for {still_ms} ms, although it was asked to");
        (still_ms >= self.stuck_ms).then(|| Error::io(what(), std::io::Error::from(std::io::ErrorKind::TimedOut)))
    }
}

/// A checkpoint that the application is asked for.
pub(super) struct Asked {
    /// What it has handed out, once it has, and what that covers.
    reply: SyncSender<Result<Taken, Error>>,
}

/// A state, and what it covers.
struct Taken {
    covered: Covered,
    state: Box<dyn Read + Send>,
}

impl Group {
    fn log(&self, subgroup: SubgroupId) -> Result<&Arc<Log>, Error> {
        self.ring(subgroup)?;
        self.shared
            .log
            .as_ref()
            .ok_or(Error::Misuse("this group has no log: give it a `[log]` section at every member"))
    }

    /// How far the group has come; in a busy group it may be some passes old. Of a group without a log all but the view is 0.
    pub fn frontiers(&self, subgroup: SubgroupId) -> Result<Frontiers, Error> {
        self.ring(subgroup)?;
        Ok(self.shared.lock().frontiers)
    }

    /// Waits until everything up to number `sequence` is durable, wherever that has to be.
    pub fn wait_durable(&self, subgroup: SubgroupId, sequence: u64, timeout: Duration) -> Result<(), Error> {
        self.log(subgroup)?;
        self.await_frontier(timeout, |frontiers| frontiers.durable > sequence)
    }

    /// Waits until the past reaches `time_ns`: from then on [`Group::read_log`] up to that time is the same at every member,
    /// for good. With no time to wait, [`Error::TimedOut`] says that it is not so yet.
    pub fn wait_past(&self, subgroup: SubgroupId, time_ns: u64, timeout: Duration) -> Result<(), Error> {
        self.log(subgroup)?;
        self.await_frontier(timeout, |frontiers| frontiers.past_ns >= time_ns)
    }

    fn await_frontier(&self, timeout: Duration, reached: impl Fn(&Frontiers) -> bool) -> Result<(), Error> {
        if reached(&self.shared.lock().frontiers) {
            return Ok(());
        }
        if self.shared.in_callback() {
            return Err(Error::WouldBlock("a frontier cannot be waited for in a callback"));
        }
        self.shared.wait_until(after(timeout), "waiting for the log", timeout, |state| {
            if reached(&state.frontiers) {
                return Some(Ok(()));
            }
            let stopped = state.stopped.clone().map(Err);
            stopped.or_else(|| state.ended.as_ref().map(|_| Err(Error::Left)))
        })?
    }

    /// Returns when everything that this process has sent or been delivered is durable.
    pub fn persist(&self, subgroup: SubgroupId, timeout: Duration) -> Result<(), Error> {
        self.start_persist(subgroup)?.wait(timeout)
    }

    /// Begins a [`Group::persist`] that can be asked later whether it is done.
    pub fn start_persist(&self, subgroup: SubgroupId) -> Result<Flush, Error> {
        self.log(subgroup)?;
        self.shared.check_open()?;
        Ok(Flush::persist(&self.shared, self.ring(subgroup)?.next_ticket()))
    }

    /// The log as this member has it on disk. Records of [`crate::log::Kind::Decision`] in it are the group's own: they begin
    /// views.
    pub fn read_log(&self, subgroup: SubgroupId) -> Result<Reader, Error> {
        Ok(self.log(subgroup)?.reader())
    }

    /// What this member's log has made durable since this process opened it; `records / batches` of it shared a sync.
    pub fn log_stats(&self, subgroup: SubgroupId) -> Result<LogStats, Error> {
        Ok(self.log(subgroup)?.stats())
    }

    /// Writes a checkpoint: asks the application for its [`crate::Handler::snapshot`], and keeps it on disk with the version
    /// that it covers, which is returned, once all of that is on the disks of all voters. A restart then begins there, and
    /// [`Group::trim_log`] may drop what came before it.
    pub fn checkpoint(&self, subgroup: SubgroupId, timeout: Duration) -> Result<Version, Error> {
        let log = self.log(subgroup)?;
        self.shared.check_open()?;
        if self.shared.in_callback() {
            return Err(Error::WouldBlock("a checkpoint cannot be waited for in a callback"));
        }
        let deadline = after(timeout);
        let left = || deadline.saturating_duration_since(Instant::now());
        let late = || Error::TimedOut { what: "checkpoint", after_ms: super::shared::millis(timeout) };
        let (reply, answer) = sync_channel(1);
        self.shared.lock().checkpoints.push(Asked { reply });
        self.shared.ask();
        // Nobody answers any more if the group ended before the question was there.
        self.shared.check_open()?;
        let taken = answer.recv_timeout(left()).map_err(|error| match error {
            RecvTimeoutError::Timeout => late(),
            // The group has ended.
            RecvTimeoutError::Disconnected => self.shared.check_open().err().unwrap_or(Error::Left),
        })??;
        let Taken { covered, mut state } = taken;
        // No checkpoint covers what may still be taken back.
        let needs = covered.ahead.last().map_or(covered.below, |last| last + 1);
        self.await_frontier(left(), |frontiers| frontiers.everywhere >= needs)?;
        let version = Version { view: covered.view, sequence: covered.below.saturating_sub(1) };
        // The number itself may be one of nobody's message, which no record has.
        let time_ns = log.reader().last_at_or_before(version)?.map_or(0, |entry| entry.time_ns());
        let mut checkpoint = log.snapshot(version, time_ns)?;
        checkpoint.write(&covered.head())?;
        checkpoint.fill(&mut *state, "reading the application's `snapshot`")?;
        log.install(checkpoint, left())?;
        Ok(version)
    }

    /// [`Group::checkpoint`] in a thread of its own, for a caller that drives the group meanwhile: for the C ABI.
    #[doc(hidden)]
    pub fn checkpoint_in_thread(
        &self,
        subgroup: SubgroupId,
        timeout: Duration,
    ) -> Result<JoinHandle<Result<Version, Error>>, Error> {
        let (group, stack_bytes) = (self.clone(), self.shared.stack_bytes);
        thread::spawn("galerna-checkpoint", "writes a checkpoint", stack_bytes, move || {
            group.checkpoint(subgroup, timeout)
        })
    }

    /// Drops records before `before`, in whole segments; at most those that the last checkpoint covers.
    pub fn trim_log(&self, subgroup: SubgroupId, before: Version) -> Result<(), Error> {
        let log = self.log(subgroup)?;
        let covered = log.load_snapshot()?.map(|checkpoint| checkpoint.version);
        match covered {
            Some(version) if before <= version => log.trim(before, DISK_TIME),
            _ => Err(Error::Misuse(
                "the log can be trimmed up to the last checkpoint only: the application needs the rest",
            )),
        }
    }
}

impl Shared {
    /// Whether the group has a log.
    pub(super) fn logs(&self) -> bool {
        self.log.is_some()
    }
}

impl Driver {
    /// Shows how far the log is, and tells the application.
    pub(super) fn show_frontiers(&mut self) {
        if !self.shared.logs() {
            return;
        }
        let view = self.node.view().map_or(0, |view| view.number);
        let (stable, persisted) = self.node.multicast().logged();
        let durable = self.node.multicast().durable();
        let everywhere = self.node.multicast().persisted_by_all();
        let now = Frontiers { view, stable, persisted, everywhere, durable, past_ns: self.node.past_ns() };
        let before = std::mem::replace(&mut self.frontiers, now);
        if !matches!(self.node.phase(), Phase::Running | Phase::Leaving) {
            return;
        }
        if before != now {
            self.shared.lock().frontiers = now;
            self.shared.notify();
        }
        // Also what has become durable while the application was told its log.
        if durable > self.told_durable && !self.newcomer.is_new() {
            self.told_durable = durable;
            self.call(|handler| handler.durable(durable));
        }
    }

    /// A member whose disk stays full for as long as another may stand still holds up everybody's durable messages no longer:
    /// it stops, and the others go on without it.
    pub(super) fn check_space(&mut self) {
        let now_ms = self.node.running_ms();
        let Some(log) = self.shared.log.as_ref().filter(|_| self.fullness.is_due(now_ms)) else { return };
        let reason = self.fullness.look(now_ms, log.progress(), log.obstacle());
        if let Some(reason) = reason.filter(|_| !matches!(self.node.phase(), Phase::Left | Phase::Stopped(_))) {
            self.node.fail(reason);
        }
    }

    /// Keeps where the members of the view that began are found: for those that ask this process, for its next life, and for
    /// its next attempt to join.
    pub(super) fn keep_places(&mut self) {
        let Some(view) = self.node.view() else { return };
        let found = view.members.iter().filter_map(|member| {
            let address = self.reception.address_of(member.peer)?;
            Some(Place::new(member.peer, &address))
        });
        let places: Vec<Place> = found.collect();
        self.shared.lock().places = Arc::new(places.clone());
        self.reception.remember(&places);
        if !self.shared.logs() {
            return;
        }
        match toml::to_string(&Places { fabric: self.reception.fabric(), places }) {
            Ok(text) => self.node.save(PLACES, text.as_bytes()),
            Err(error) => tracing::error!(%error, "cannot keep where members are found"),
        }
    }

    /// The application's state as of now.
    pub(super) fn take_checkpoint(&mut self, asked: &Asked) {
        let taken = self.state_of_now();
        // Whoever asked may have lost its patience.
        let _ = asked.reply.try_send(taken);
    }

    fn state_of_now(&mut self) -> Result<Taken, Error> {
        if self.newcomer.is_new() || !matches!(self.node.phase(), Phase::Running | Phase::Leaving) {
            return Err(Error::Misuse("this process does not have the group's whole state yet"));
        }
        let covered = Covered::of(&self.node);
        let mut given = None;
        self.call(|handler| given = Some(handler.snapshot()));
        let state = given.unwrap_or_else(|| Err(std::io::Error::other("the application's `snapshot` panicked")));
        let state = state.map_err(|e| Error::io("the application's `snapshot`", e))?;
        Ok(Taken { covered, state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FabricKind, Member, MemberId};

    fn fullness() -> Fullness {
        let member = Member { id: MemberId(1), address: "127.0.0.1:1".to_owned() };
        let config = Config::new("full", FabricKind::Tcp, vec![member]);
        Fullness::new(&Config { failure_timeout_ms: 1000, partition_timeout_ms: 8000, ..config })
    }

    fn full() -> Option<Error> {
        Some(Error::LogFull { file: "segment".to_owned(), bytes: 1, shortage: "the disk is full" })
    }

    #[test]
    fn a_disk_that_stands_still_is_given_up_and_one_that_moves_is_not() {
        let mut disk = fullness();
        assert!((0..100).all(|n| disk.look(100 * n, (n + 5, n), None).is_none()));
        assert!((100..139).all(|n| disk.look(100 * n, (200, 99), None).is_none()));
        let reason = disk.look(13_900, (200, 99), None).map(|reason| reason.to_string());
        assert!(reason.is_some_and(|reason| reason.contains("4000 ms")));
        // Nothing is asked of it.
        let mut idle = fullness();
        assert!((0..100).all(|n| idle.look(100 * n, (7, 7), None).is_none()));
    }

    #[test]
    fn a_disk_that_stays_full_is_given_up_earlier() {
        let mut disk = fullness();
        assert!((0..10).all(|n| disk.look(100 * n, (9, 1), full()).is_none()));
        assert!(matches!(disk.look(1000, (9, 1), full()), Some(Error::LogFull { .. })));
        let mut emptied = fullness();
        assert!(emptied.look(100, (9, 1), full()).is_none());
        assert!(emptied.look(900, (9, 1), None).is_none());
        assert!(emptied.look(1200, (9, 1), full()).is_none());
    }
}
