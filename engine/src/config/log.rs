//! How the group's log is kept.

use crate::error::Error;
use crate::log::SEGMENT_BYTES_DEFAULT;
use serde::Deserialize;
use std::path::PathBuf;

/// The `[log]` section: with it every message of the group is kept on disk, and the group outlives all of its processes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Where logs are kept; each member has a directory `GROUP-MEMBER` in there. On a disk of this host.
    pub directory: PathBuf,
    /// Bytes of a file of the log, a multiple of 4096 from 8192 to 2^31; every message must fit one.
    #[serde(default = "default_segment_bytes")]
    pub segment_bytes: u64,
    /// A `durable` message is delivered once so many voters have it on disk; 0, or more than there are, means all of them.
    #[serde(default)]
    pub durable_members: usize,
    /// After a failure of all processes: for how long those who are more than half of the last view wait for the others, in
    /// milliseconds.
    #[serde(default = "default_restart_wait_ms")]
    pub restart_wait_ms: u64,
}

fn default_segment_bytes() -> u64 {
    SEGMENT_BYTES_DEFAULT
}

fn default_restart_wait_ms() -> u64 {
    5000
}

impl LogConfig {
    /// A log in `directory`, with every other key at its default.
    pub fn new(directory: impl Into<PathBuf>) -> LogConfig {
        LogConfig {
            directory: directory.into(),
            segment_bytes: default_segment_bytes(),
            durable_members: 0,
            restart_wait_ms: default_restart_wait_ms(),
        }
    }

    pub(super) fn check(&self, max_message: usize) -> Result<(), Error> {
        let fail = |what: String| Err(Error::Config(what));
        if self.directory.as_os_str().is_empty() {
            return fail("`log.directory` is empty: name a directory on a disk of this host".to_owned());
        }
        if !self.segment_bytes.is_multiple_of(4096) || !(8192..=1 << 31).contains(&self.segment_bytes) {
            let value = self.segment_bytes;
            return fail(format!("`log.segment_bytes` must be a multiple of 4096 from 8192 to 2^31, not {value}"));
        }
        // A page of a segment is its own, and a record has a head.
        let most = self.segment_bytes - 4096 - 128;
        if max_message as u64 > most {
            return fail(format!(
                "a message may have {max_message} bytes, but a segment of {} bytes holds at most {most}: raise `log.segment_bytes`, or lower `max_message_bytes`",
                self.segment_bytes
            ));
        }
        Ok(())
    }
}
