//! What a group with a log offers beside the stream: how far it is durable, checkpoints, and its log to be read.

use crate::border::{self, Out, Versioned};
use crate::callbacks::not_in_callback;
use crate::group::{self, Member, galerna_group_t};
use crate::log::{self, galerna_log_t, galerna_version_t};
use crate::result::galerna_result_t;
use engine::{Error, Frontiers, SubgroupId};
use std::thread::JoinHandle;
use std::time::Duration;

/// How far a group with a log has come, as this member knows it. Numbers are of the total order: everything below has got that
/// far. None of them ever goes back.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_frontiers_t {
    /// Set it to sizeof(galerna_frontiers_t).
    pub size: usize,
    /// The number of the present view.
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
    /// earlier one. In nanoseconds since 1970, by the group's own clock, which is that of `time_ns` in a record.
    pub past_ns: u64,
}

// SAFETY: `repr(C)`, the size first, integers.
unsafe impl Versioned for galerna_frontiers_t {
    const NAME: &'static str = "galerna_frontiers_t";
}

impl From<Frontiers> for galerna_frontiers_t {
    fn from(frontiers: Frontiers) -> galerna_frontiers_t {
        let Frontiers { view, stable, persisted, everywhere, durable, past_ns } = frontiers;
        let size = size_of::<galerna_frontiers_t>();
        galerna_frontiers_t { size, view, stable, persisted, everywhere, durable, past_ns }
    }
}

/// How far a group has come. In a busy group it may be some passes of the engine old. Of a group without a log all but `size`
/// is 0.
///
/// - `subgroup`: its number; 0 holds every member.
/// - `frontiers`: its `size` must be set; takes the frontiers.
///
/// Any thread. Errors: HANDLE, ARGUMENT, UNKNOWN_SUBGROUP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_frontiers(
    group: *const galerna_group_t,
    subgroup: u16,
    frontiers: *mut galerna_frontiers_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `frontiers`.
        let out = unsafe { border::versioned_out("frontiers", frontiers)? };
        group::with(group, |member| {
            out.set(member.group.frontiers(SubgroupId(subgroup))?.into());
            Ok(())
        })
    })
}

/// Waits until everything up to number `sequence` is durable, wherever that has to be.
///
/// - `subgroup`: its number; 0 holds every member.
/// - `sequence`: the `sequence` of a message.
/// - `timeout_ms`: how long to wait, in milliseconds.
///
/// Any thread, but not inside a callback. Errors: HANDLE, MISUSE (inside a callback, or the group has no log), TIMED_OUT,
/// UNKNOWN_SUBGROUP, LEFT, and the reason why the group stopped.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_wait_durable(
    group: *mut galerna_group_t,
    subgroup: u16,
    sequence: u64,
    timeout_ms: u32,
) -> galerna_result_t {
    wait(group, timeout_ms, |member, timeout| member.group.wait_durable(SubgroupId(subgroup), sequence, timeout))
}

/// Waits until the group's past reaches a time: from then on its log up to that time is the same at every member, for good.
///
/// - `subgroup`: its number; 0 holds every member.
/// - `time_ns`: nanoseconds since 1970, as in a record's `time_ns`.
/// - `timeout_ms`: how long to wait, in milliseconds.
///
/// Any thread, but not inside a callback. Errors: HANDLE, MISUSE (inside a callback, or the group has no log), TIMED_OUT,
/// UNKNOWN_SUBGROUP, LEFT, and the reason why the group stopped.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_wait_past(
    group: *mut galerna_group_t,
    subgroup: u16,
    time_ns: u64,
    timeout_ms: u32,
) -> galerna_result_t {
    wait(group, timeout_ms, |member, timeout| member.group.wait_past(SubgroupId(subgroup), time_ns, timeout))
}

/// Waits for a frontier.
fn wait(
    group: *const galerna_group_t,
    timeout_ms: u32,
    wait: impl Fn(&Member, Duration) -> Result<(), Error>,
) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        let timeout = Duration::from_millis(timeout_ms.into());
        group::with(group, |member| {
            let looked = || match wait(member, Duration::ZERO) {
                Err(Error::TimedOut { .. }) => None,
                other => Some(other),
            };
            Ok(member.wait("waiting for the log", timeout, || wait(member, timeout), looked)?)
        })
    })
}

/// Waits until everything that this process has sent, and all that was delivered here, is durable: on the disks of all
/// voters, or of as many as `log.durable_members` says.
///
/// - `subgroup`: its number; 0 holds every member.
/// - `timeout_ms`: how long to wait, in milliseconds.
///
/// Any thread, but not inside a callback. A reservation that is open holds it up. Errors: HANDLE, MISUSE (inside a callback,
/// or the group has no log), TIMED_OUT, UNKNOWN_SUBGROUP, LEFT, and the reason why the group stopped.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_persist(group: *mut galerna_group_t, subgroup: u16, timeout_ms: u32) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        let timeout = Duration::from_millis(timeout_ms.into());
        group::with(group, |member| {
            let persist = member.group.start_persist(SubgroupId(subgroup))?;
            let engine = || persist.wait(timeout);
            Ok(member.wait("persist", timeout, engine, || persist.is_done().then_some(Ok(())))?)
        })
    })
}

/// Writes a checkpoint: asks the application's `snapshot` callback for the state, and keeps it on this member's disk, once all
/// that is in it is on the disks of all voters. When this process is started again its `restore` callback is given it, and then
/// `deliver` what came after it; galerna_trim_log() may drop what came before.
///
/// - `subgroup`: its number; 0 holds every member.
/// - `timeout_ms`: how long to wait for each of the group and the disk, in milliseconds. When it passes, the checkpoint may be
///   kept all the same.
/// - `version`: takes the last version that the checkpoint covers; may be NULL. Not written after an error.
///
/// Any thread, but not inside a callback. Errors: HANDLE, ARGUMENT, MISUSE (inside a callback, or the group has no log),
/// TIMED_OUT, UNKNOWN_SUBGROUP, LEFT, IO (the application's `snapshot` failed), LOG_FULL, LOG_FAILED, and the reason why the
/// group stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_checkpoint(
    group: *mut galerna_group_t,
    subgroup: u16,
    timeout_ms: u32,
    version: *mut galerna_version_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `version`.
        let out = unsafe { Out::optional("version", version)? };
        not_in_callback()?;
        let timeout = Duration::from_millis(timeout_ms.into());
        group::with(group, |member| {
            let covered = checkpoint(member, SubgroupId(subgroup), timeout)?;
            if let Some(out) = out {
                out.set(covered.into());
            }
            Ok(())
        })
    })
}

/// In a group that this thread drives, another one waits for the checkpoint meanwhile.
fn checkpoint(member: &Member, subgroup: SubgroupId, timeout: Duration) -> Result<engine::log::Version, Error> {
    let group = &member.group;
    // A group without a log says so at once.
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
    // Its own timeout has passed, too.
    if let Some(running) = thread {
        let _ = running.join();
    }
    done
}

fn ended(thread: JoinHandle<Result<engine::log::Version, Error>>) -> Result<engine::log::Version, Error> {
    let lost = |_| Err(Error::Internal("the thread of a checkpoint panicked".to_owned()));
    thread.join().unwrap_or_else(lost)
}

/// Drops records of the group's log before a version, in whole segments, on this member's disk.
///
/// - `subgroup`: its number; 0 holds every member.
/// - `before`: the first record that is still needed, at most what galerna_checkpoint() gave last.
///
/// It waits for the disk. Any thread, but not inside a callback. Errors: HANDLE, MISUSE (inside a callback, the group has no
/// log, or no checkpoint covers that much), UNKNOWN_SUBGROUP, TIMED_OUT, LOG_DAMAGED (the checkpoint is), LOG_FAILED, IO.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_trim_log(
    group: *mut galerna_group_t,
    subgroup: u16,
    before: galerna_version_t,
) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        group::with(group, |member| Ok(member.group.trim_log(SubgroupId(subgroup), before.into())?))
    })
}

/// The group's log as this member has it on disk, to be read with the calls of a log, also while it grows. It is as one that
/// galerna_log_open_read_only() gives, but shows what becomes durable here later too. Records of GALERNA_LOG_KIND_DECISION in
/// it are the group's own: they begin views. Its checkpoints are not to be read here, but come by the `restore` callback.
///
/// - `subgroup`: its number; 0 holds every member.
/// - `out`: takes the log, to be freed with galerna_log_free() or galerna_log_close(), or NULL after an error. It may outlive
///   the group, and then shows what was there at the end.
///
/// Any thread. Errors: HANDLE, ARGUMENT (`out` is NULL), MISUSE (the group has no log), UNKNOWN_SUBGROUP, LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_log(
    group: *const galerna_group_t,
    subgroup: u16,
    out: *mut *mut galerna_log_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `out`.
        let out = unsafe { Out::new("out", out)? };
        log::open_group(&out, || group::with(group, |member| Ok(member.group.read_log(SubgroupId(subgroup))?)))
    })
}
