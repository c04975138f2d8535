//! Additional functions of a group with a log: how far it is durable, reading it, and checkpoints.

use super::driver::Driver;
use super::log_store::{DISK_TIME, PLACES, Places};
use super::shared::{Shared, after};
use super::transfer::Covered;
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

/// The progress of a group with a log, as this member knows it.
///
/// `stable`, `persisted`, `everywhere` and `durable` are sequence numbers of the total order: every message numbered
/// below has reached that stage. No value ever decreases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Frontiers {
    /// The number of the present view.
    pub view: u64,
    /// Received by every member, and handed to the log of this member.
    pub stable: u64,
    /// On this member's disk.
    pub persisted: u64,
    /// On the disks of all voters: no failure can undo it.
    pub everywhere: u64,
    /// On the disks of all voters, or of `log.durable_members` of them if that is configured.
    pub durable: u64,
    /// The closed time: up to it, the log is the same at every member, permanently. No record with this stamp or an
    /// earlier one will be added. In nanoseconds since 1970, by the group's hybrid logical clock.
    pub past_ns: u64,
}

/// Interval at which the driver checks the disk, in milliseconds.
const LOOK_MS: u64 = 50;

/// Detects a disk that stays full, or that makes no progress on pending requests.
///
/// Times are those of [`crate::node::Node::running_ms`]. They leave out the pauses of this process, which are not the
/// disk's fault.
pub(super) struct DiskWatchdog {
    patience_ms: u64,
    /// The limit for a disk without progress. A disk may be slow for longer than it may be full.
    stuck_ms: u64,
    done: u64,
    moved_ms: u64,
    looked_ms: u64,
    since_ms: Option<u64>,
}

impl DiskWatchdog {
    pub(super) fn new(config: &Config) -> DiskWatchdog {
        // Shorter than the time after which the other members would stop as partitioned.
        let stuck_ms = (config.partition_timeout_ms / 2).max(config.failure_timeout_ms);
        let patience_ms = config.failure_timeout_ms;
        DiskWatchdog { patience_ms, stuck_ms, done: 0, moved_ms: 0, looked_ms: 0, since_ms: None }
    }

    fn is_due(&self, now_ms: u64) -> bool {
        now_ms >= self.looked_ms + LOOK_MS
    }

    /// Records the log's requests, made and completed, and its obstacle. Returns the reason if the member must stop.
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

/// A request for a checkpoint.
pub(super) struct Asked {
    /// Receives the application's state and the messages that it covers.
    reply: SyncSender<Result<Taken, Error>>,
}

/// A state, and the messages that it covers.
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

    /// The progress of the group's log; in a busy group it may be some passes old. All values are 0 in a group without
    /// a log.
    pub fn frontiers(&self, subgroup: SubgroupId) -> Result<Frontiers, Error> {
        self.ring(subgroup)?;
        Ok(self.shared.lock().frontiers)
    }

    /// Waits until every message up to number `sequence` is durable, as defined by [`Frontiers::durable`].
    pub fn wait_durable(&self, subgroup: SubgroupId, sequence: u64, timeout: Duration) -> Result<(), Error> {
        self.log(subgroup)?;
        self.await_frontier(timeout, |frontiers| frontiers.durable > sequence)
    }

    /// Waits until the closed time reaches `time_ns`.
    ///
    /// From then on, the part of [`Group::read_log`] up to that time is the same at every member, permanently. With a
    /// zero `timeout`, [`Error::TimedOut`] means that this is not the case yet.
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

    /// Waits until every message that this process has sent or been delivered is durable.
    pub fn persist(&self, subgroup: SubgroupId, timeout: Duration) -> Result<(), Error> {
        self.start_persist(subgroup)?.wait(timeout)
    }

    /// Begins a [`Group::persist`]; the caller can check later whether it is done.
    pub fn start_persist(&self, subgroup: SubgroupId) -> Result<Flush, Error> {
        self.log(subgroup)?;
        self.shared.check_open()?;
        Ok(Flush::persist(&self.shared, self.ring(subgroup)?.next_ticket()))
    }

    /// A reader of this member's log on disk.
    ///
    /// Records of [`crate::log::Kind::Decision`] are not messages of the application: they begin views.
    pub fn read_log(&self, subgroup: SubgroupId) -> Result<Reader, Error> {
        Ok(self.log(subgroup)?.reader())
    }

    /// Counters of this member's log since this process opened it. On average `records / batches` records shared one
    /// sync.
    pub fn log_stats(&self, subgroup: SubgroupId) -> Result<LogStats, Error> {
        Ok(self.log(subgroup)?.stats())
    }

    /// Writes a checkpoint of the application's state to disk, and returns the version that it covers.
    ///
    /// The state comes from [`crate::Handler::snapshot`]. The call waits until everything that it covers is on the
    /// disks of all voters. A later restart begins with the checkpoint, and [`Group::trim_log`] may then delete the
    /// records that it covers.
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
        // If the group ended before the request was queued, no answer would come.
        self.shared.check_open()?;
        let taken = answer.recv_timeout(left()).map_err(|error| match error {
            RecvTimeoutError::Timeout => late(),
            // The channel is closed because the group has ended.
            RecvTimeoutError::Disconnected => self.shared.check_open().err().unwrap_or(Error::Left),
        })??;
        let Taken { covered, mut state } = taken;
        // A checkpoint must not cover messages that a failure can still undo.
        let needs = covered.ahead.last().map_or(covered.below, |last| last + 1);
        self.await_frontier(left(), |frontiers| frontiers.everywhere >= needs)?;
        let version = Version { view: covered.view, sequence: covered.below.saturating_sub(1) };
        // The number itself may belong to a null message, which has no record.
        let time_ns = log.reader().last_at_or_before(version)?.map_or(0, |entry| entry.time_ns());
        let mut checkpoint = log.snapshot(version, time_ns)?;
        checkpoint.write(&covered.head())?;
        checkpoint.fill(&mut *state, "reading the application's `snapshot`")?;
        log.install(checkpoint, left())?;
        Ok(version)
    }

    /// Runs [`Group::checkpoint`] in a thread of its own, for a caller that drives the group in that time. For the C
    /// ABI.
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

    /// Deletes the records before `before`, in whole segments.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the last checkpoint does not cover all of these records: the application still needs them.
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
    /// Updates the visible progress of the log, and notifies the application.
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
        // This includes messages that became durable while the log was replayed to the application.
        if durable > self.notified_durable && !self.newcomer.is_new() {
            self.notified_durable = durable;
            self.call(|handler| handler.durable(durable));
        }
    }

    /// Stops this member if its disk stays full for `failure_timeout_ms`, or makes no progress for
    /// `DiskWatchdog::stuck_ms`.
    ///
    /// It would hold up all durable messages of the group. The other members continue without it.
    pub(super) fn check_space(&mut self) {
        let now_ms = self.node.running_ms();
        let Some(log) = self.shared.log.as_ref().filter(|_| self.watchdog.is_due(now_ms)) else { return };
        let reason = self.watchdog.look(now_ms, log.progress(), log.obstacle());
        if let Some(reason) = reason.filter(|_| !matches!(self.node.phase(), Phase::Left | Phase::Stopped(_))) {
            self.node.fail(reason);
        }
    }

    /// Keeps the addresses of the members of the new view.
    ///
    /// They are for processes that ask this one, for the next start of this process, and for its next attempt to join.
    pub(super) fn keep_places(&mut self) {
        let Some(view) = self.node.view() else { return };
        let found = view.members.iter().filter_map(|member| {
            let address = self.join_service.address_of(member.peer)?;
            Some(Place::new(member.peer, &address))
        });
        let places: Vec<Place> = found.collect();
        self.shared.lock().places = Arc::new(places.clone());
        self.join_service.remember(&places);
        if !self.shared.logs() {
            return;
        }
        match toml::to_string(&Places { fabric: self.join_service.fabric(), places }) {
            Ok(text) => self.node.save(PLACES, text.as_bytes()),
            Err(error) => tracing::error!(%error, "cannot keep where members are found"),
        }
    }

    /// Answers a request for a checkpoint with the application's present state.
    pub(super) fn take_checkpoint(&mut self, asked: &Asked) {
        let taken = self.state_of_now();
        // The thread that asked may have given up.
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

    fn watchdog() -> DiskWatchdog {
        let member = Member { id: MemberId(1), address: "127.0.0.1:1".to_owned() };
        let config = Config::new("full", FabricKind::Tcp, vec![member]);
        DiskWatchdog::new(&Config { failure_timeout_ms: 1000, partition_timeout_ms: 8000, ..config })
    }

    fn full() -> Option<Error> {
        Some(Error::LogFull { file: "segment".to_owned(), bytes: 1, shortage: "the disk is full" })
    }

    #[test]
    fn a_disk_that_stands_still_is_given_up_and_one_that_moves_is_not() {
        let mut disk = watchdog();
        assert!((0..100).all(|n| disk.look(100 * n, (n + 5, n), None).is_none()));
        assert!((100..139).all(|n| disk.look(100 * n, (200, 99), None).is_none()));
        let reason = disk.look(13_900, (200, 99), None).map(|reason| reason.to_string());
        assert!(reason.is_some_and(|reason| reason.contains("4000 ms")));
        // There are no pending requests.
        let mut idle = watchdog();
        assert!((0..100).all(|n| idle.look(100 * n, (7, 7), None).is_none()));
    }

    #[test]
    fn a_disk_that_stays_full_is_given_up_earlier() {
        let mut disk = watchdog();
        assert!((0..10).all(|n| disk.look(100 * n, (9, 1), full()).is_none()));
        assert!(matches!(disk.look(1000, (9, 1), full()), Some(Error::LogFull { .. })));
        let mut emptied = watchdog();
        assert!(emptied.look(100, (9, 1), full()).is_none());
        assert!(emptied.look(900, (9, 1), None).is_none());
        assert!(emptied.look(1200, (9, 1), full()).is_none());
    }
}
