//! The additional calls of a group with a log: frontiers, checkpoints, and reading the log.

use crate::border::{self, Out, VersionedOut};
use crate::callbacks::not_in_callback;
use crate::drive::TURN;
use crate::entry::Member;
use crate::group::{self, galerna_group_t};
use crate::log::{self, galerna_log_t, galerna_version_t};
use crate::result::galerna_result_t;
use engine::{Error, Frontiers, SubgroupId};
use std::thread::JoinHandle;
use std::time::Duration;

/// The progress of a group with a log, as this member knows it.
///
/// Except for `view` and `closed_ns`, each frontier is a sequence number of the total order: all messages with smaller
/// numbers have reached that stage. No frontier ever goes back.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_group_frontiers_t {
    /// Set it to sizeof(galerna_group_frontiers_t).
    pub size: usize,
    /// Number of the present view.
    pub view: u64,
    /// Received by every member, and handed to the log at this member.
    pub stable: u64,
    /// Persisted: written and synced to this member's disk.
    pub persisted: u64,
    /// Persisted by all voters. Such messages can no longer be revoked.
    pub persisted_all: u64,
    /// Persisted by all voters, or by as many voters as `log.durable_members` specifies.
    pub durable: u64,
    /// The closed time. Up to this time the log is the same at every member and does not change any more: no later
    /// record has this time or an earlier one.
    ///
    /// In nanoseconds since 1970, by the group's own clock, which also sets `time_ns` of a record.
    pub closed_ns: u64,
}

border::versioned_struct!(galerna_group_frontiers_t, min: stable, last: closed_ns);

impl From<Frontiers> for galerna_group_frontiers_t {
    fn from(frontiers: Frontiers) -> galerna_group_frontiers_t {
        let Frontiers { view, stable, persisted, persisted_all, durable, closed_ns } = frontiers;
        let size = size_of::<galerna_group_frontiers_t>();
        galerna_group_frontiers_t { size, view, stable, persisted, persisted_all, durable, closed_ns }
    }
}

/// Gets the progress of a group.
///
/// In a busy group the result may be some passes of the engine old. In a group without a log all fields except `size`
/// are 0.
///
/// - `subgroup`: its number. Subgroup 0 contains every member.
/// - `frontiers`: receives the frontiers. Its `size` must be set.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_UNKNOWN_SUBGROUP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_frontiers(
    group: *const galerna_group_t,
    subgroup: u16,
    frontiers: *mut galerna_group_frontiers_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `frontiers`.
        let out = unsafe { VersionedOut::new("frontiers", frontiers)? };
        group::with(group, |member| {
            out.set(member.group.frontiers(SubgroupId(subgroup))?.into());
            Ok(())
        })
    })
}

/// Waits until the message `sequence` and all messages before it are durable.
///
/// Durable means: on the disks of all voters, or of as many as `log.durable_members` specifies.
///
/// - `subgroup`: its number. Subgroup 0 contains every member.
/// - `sequence`: the `sequence` of a message.
/// - `timeout_ms`: how long to wait, in milliseconds.
///
/// May be called from any thread, but not inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_MISUSE (inside a callback, or the group has no log), GALERNA_ERR_TIMED_OUT,
/// GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_LEFT, and the error that stopped the group.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_group_wait_durable(
    group: *mut galerna_group_t,
    subgroup: u16,
    sequence: u64,
    timeout_ms: u32,
) -> galerna_result_t {
    wait(group, timeout_ms, |member, timeout| member.group.wait_durable(SubgroupId(subgroup), sequence, timeout))
}

/// Waits until the closed time of the group reaches `time_ns`.
///
/// From then on the log up to that time is the same at every member and does not change any more.
///
/// - `subgroup`: its number. Subgroup 0 contains every member.
/// - `time_ns`: nanoseconds since 1970, as in a record's `time_ns`.
/// - `timeout_ms`: how long to wait, in milliseconds.
///
/// May be called from any thread, but not inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_MISUSE (inside a callback, or the group has no log), GALERNA_ERR_TIMED_OUT,
/// GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_LEFT, and the error that stopped the group.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_group_wait_closed(
    group: *mut galerna_group_t,
    subgroup: u16,
    time_ns: u64,
    timeout_ms: u32,
) -> galerna_result_t {
    wait(group, timeout_ms, |member, timeout| member.group.wait_closed(SubgroupId(subgroup), time_ns, timeout))
}

/// Waits until a frontier has been reached.
fn wait(
    group: *const galerna_group_t,
    timeout_ms: u32,
    wait: impl Fn(&Member, Duration) -> Result<(), Error>,
) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        let timeout = border::timeout(timeout_ms);
        group::with(group, |member| {
            let looked = || match wait(member, Duration::ZERO) {
                Err(Error::TimedOut { .. }) => None,
                other => Some(other),
            };
            Ok(member.wait("waiting for the log", timeout, || wait(member, timeout), looked)?)
        })
    })
}

/// Waits until all messages that this process has sent, and all that were delivered here, are durable.
///
/// Durable means: on the disks of all voters, or of as many as `log.durable_members` specifies. An open reservation
/// delays the call.
///
/// - `subgroup`: its number. Subgroup 0 contains every member.
/// - `timeout_ms`: how long to wait, in milliseconds.
///
/// May be called from any thread, but not inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_MISUSE (inside a callback, or the group has no log), GALERNA_ERR_TIMED_OUT,
/// GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_LEFT, and the error that stopped the group.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_group_persist(
    group: *mut galerna_group_t,
    subgroup: u16,
    timeout_ms: u32,
) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        let timeout = border::timeout(timeout_ms);
        group::with(group, |member| {
            let persist = member.group.start_persist(SubgroupId(subgroup))?;
            let engine = || persist.wait(timeout);
            Ok(member.wait("persist", timeout, engine, || persist.is_done().then_some(Ok(())))?)
        })
    })
}

/// Writes a checkpoint of the application's state to this member's disk.
///
/// The call requests the state through the `snapshot` callback. It stores the state once every message contained in it
/// is on the disks of all voters. When this process is started again, `restore` receives the state, and then `deliver`
/// receives the messages after it. galerna_group_trim_log() may delete the records before it.
///
/// - `subgroup`: its number. Subgroup 0 contains every member.
/// - `timeout_ms`: how long to wait for the group and the disk, in milliseconds. If the timeout passes, the checkpoint
///   may still be stored later.
/// - `version`: receives the last version that the checkpoint covers. May be NULL. Not written after an error.
///
/// May be called from any thread, but not inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_MISUSE (inside a callback, or the group has no log),
/// GALERNA_ERR_TIMED_OUT, GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_LEFT, GALERNA_ERR_IO (the `snapshot` callback
/// failed), GALERNA_ERR_LOG_FULL, GALERNA_ERR_LOG_FAILED, and the error that stopped the group.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_checkpoint(
    group: *mut galerna_group_t,
    subgroup: u16,
    timeout_ms: u32,
    version: *mut galerna_version_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `version`.
        let out = unsafe { Out::optional("version", version)? };
        not_in_callback()?;
        let timeout = border::timeout(timeout_ms);
        group::with(group, |member| {
            let covered = checkpoint(member, SubgroupId(subgroup), timeout)?;
            if let Some(out) = out {
                out.set(covered.into());
            }
            Ok(())
        })
    })
}

/// Writes a checkpoint. If this thread drives the group, another thread waits for the checkpoint, so that this one can
/// dispatch.
fn checkpoint(member: &Member, subgroup: SubgroupId, timeout: Duration) -> Result<engine::Version, Error> {
    let group = &member.group;
    // In a group without a log this fails at once.
    group.read_log(subgroup)?;
    let mut thread = None;
    let done = member.wait(
        "checkpoint",
        timeout,
        || group.checkpoint(subgroup, timeout),
        || match thread.take() {
            None => match group.checkpoint_in_thread(subgroup, timeout) {
                Ok(started) => {
                    thread = Some(started);
                    None
                }
                Err(error) => Some(Err(error)),
            },
            Some(running) if running.is_finished() => Some(ended(running)),
            Some(running) => {
                thread = Some(running);
                None
            }
        },
    );
    // The thread ends soon: it has the same timeout, which has passed, or the group has ended.
    if let Some(running) = thread {
        while !running.is_finished() {
            if let Some(turn) = member.driven() {
                turn.end_if_closed();
            }
            std::thread::sleep(TURN);
        }
    }
    done
}

fn ended(thread: JoinHandle<Result<engine::Version, Error>>) -> Result<engine::Version, Error> {
    let lost = |_| Err(Error::Internal("the thread of a checkpoint panicked".to_owned()));
    thread.join().unwrap_or_else(lost)
}

/// Deletes records before a version from the group's log on this member's disk, in whole segments.
///
/// Waits for the disk.
///
/// - `subgroup`: its number. Subgroup 0 contains every member.
/// - `before`: the first record that is still needed. It must not be greater than the version of the newest checkpoint
///   (see galerna_group_checkpoint()).
///
/// May be called from any thread, but not inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_MISUSE (inside a callback, the group has no log, or no checkpoint covers
/// that much), GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_TIMED_OUT, GALERNA_ERR_LOG_DAMAGED (the checkpoint is
/// damaged), GALERNA_ERR_LOG_FAILED, GALERNA_ERR_IO.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_group_trim_log(
    group: *mut galerna_group_t,
    subgroup: u16,
    before: galerna_version_t,
) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        group::with(group, |member| Ok(member.group.trim_log(SubgroupId(subgroup), before.into())?))
    })
}

/// Opens the group's log on this member's disk for reading, also while it grows.
///
/// The result is like a log from galerna_log_open_read_only(), but it also shows records that become durable here
/// later. Records of GALERNA_LOG_KIND_DECISION belong to the group: each ends a view and begins the next one. The
/// group's checkpoints cannot be read from it; they are passed to the `restore` callback.
///
/// - `subgroup`: its number. Subgroup 0 contains every member.
/// - `out`: receives the log, or NULL after an error. Free it with galerna_log_free() or galerna_log_close(). The log
///   may outlive the group; it then shows the records that were there at the end.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`out` is NULL), GALERNA_ERR_MISUSE (the group has no log),
/// GALERNA_ERR_UNKNOWN_SUBGROUP, GALERNA_ERR_LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_log(
    group: *const galerna_group_t,
    subgroup: u16,
    out: *mut *mut galerna_log_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `out`.
        let out = unsafe { Out::new("out", out)? };
        log::open_group(&out, || group::with(group, |member| Ok(member.group.read_log(SubgroupId(subgroup))?)))
    })
}
