//! Detects a disk that holds up the group.

use crate::config::Config;
use crate::error::Error;
use crate::log::Log;
use crate::node::{Node, Phase};

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

    /// Stops this member if its disk stays full for `failure_timeout_ms`, or makes no progress for `stuck_ms`.
    ///
    /// It would hold up all durable messages of the group. The other members continue without it.
    pub(super) fn check(&mut self, node: &mut Node, log: &Log) {
        let now_ms = node.running_ms();
        if !self.is_due(now_ms) {
            return;
        }
        let reason = self.look(now_ms, log.progress(), log.obstacle());
        if let Some(reason) = reason.filter(|_| !matches!(node.phase(), Phase::Left | Phase::Stopped(_))) {
            node.fail(reason);
        }
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
        let what = || {
            // A log that has failed counts no requests any more.
            let pending = asked.saturating_sub(done);
            format!(
                "the disk of the log has not completed any of {pending} writes for {still_ms} ms, so this member stopped in order not to hold \
                 up the group; check the disk, and start it again"
            )
        };
        (still_ms >= self.stuck_ms).then(|| Error::io(what(), std::io::Error::from(std::io::ErrorKind::TimedOut)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FabricKind, Member};
    use crate::types::MemberId;

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
        // The log has failed.
        assert!(disk.look(14_000, (0, 99), None).is_none());
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
