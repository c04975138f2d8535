//! Additional functions of a group with a log: how far it is durable, reading it, and checkpoints.

use crate::app::Frontiers;
use crate::error::Error;
use crate::log::{Log, LogStats, Reader};
use crate::peers::log_store::DISK_TIME;
use crate::shared::after;
use crate::shared::requests::CheckpointRequest;
use crate::shared::snapshot::Snapshot;
use crate::thread;
use crate::types::{SubgroupId, Version};
use crate::{Group, Wait};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

impl Group {
    /// The group's log. Fails in a group without one.
    pub(super) fn log(&self, subgroup: SubgroupId) -> Result<&Arc<Log>, Error> {
        self.ring(subgroup)?;
        let no_log = Error::Misuse("this group has no log: give it a `[log]` section at every member");
        self.shared.log.as_ref().ok_or(no_log)
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
    pub fn wait_closed(&self, subgroup: SubgroupId, time_ns: u64, timeout: Duration) -> Result<(), Error> {
        self.log(subgroup)?;
        self.await_frontier(timeout, |frontiers| frontiers.closed_ns >= time_ns)
    }

    fn await_frontier(&self, timeout: Duration, reached: impl Fn(&Frontiers) -> bool) -> Result<(), Error> {
        if reached(&self.shared.lock().frontiers) {
            return Ok(());
        }
        if self.shared.in_callback() {
            return Err(Error::WouldBlock("a callback cannot wait for the log"));
        }
        self.shared.wait_until_ended("waiting for the log", timeout, |state| reached(&state.frontiers))
    }

    /// Waits until every message that this process has sent or been delivered is durable.
    pub fn persist(&self, subgroup: SubgroupId, timeout: Duration) -> Result<(), Error> {
        self.start_persist(subgroup)?.wait(timeout)
    }

    /// Begins a [`Group::persist`]; the caller can check later whether it is done.
    pub fn start_persist(&self, subgroup: SubgroupId) -> Result<Wait, Error> {
        self.log(subgroup)?;
        self.shared.check_open()?;
        Ok(Wait::persisted(&self.shared, self.ring(subgroup)?.next_ticket()))
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
            return Err(Error::WouldBlock("a callback cannot wait for a checkpoint"));
        }
        let deadline = after(timeout);
        let left = || deadline.saturating_duration_since(Instant::now());
        let late = || Error::TimedOut { what: "checkpoint", after_ms: crate::shared::millis(timeout) };
        let (reply, answer) = sync_channel(1);
        self.shared.lock().checkpoints.push(CheckpointRequest { reply });
        self.shared.ask();
        // If the group ended before the request was queued, no answer would come.
        self.shared.check_open()?;
        let taken = answer.recv_timeout(left()).map_err(|error| match error {
            RecvTimeoutError::Timeout => late(),
            // The channel is closed because the group has ended.
            RecvTimeoutError::Disconnected => self.shared.check_open().err().unwrap_or(Error::Left),
        })??;
        let Snapshot { covered, mut state } = taken;
        // A checkpoint must not cover messages that a failure can still undo.
        let needs = covered.ahead.last().map_or(covered.below, |last| last + 1);
        self.await_frontier(left(), |frontiers| frontiers.persisted_all >= needs)?;
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
                "the log can be trimmed only up to the last checkpoint, because a restart needs the records after it: write a checkpoint first",
            )),
        }
    }
}
