//! `galerna_stats_t`: counters.

use crate::border::{self, Versioned};
use crate::group::{self, galerna_group_t};
use crate::result::galerna_result_t;
use engine::{Stats, SubgroupId};

/// Counters of a subgroup since the start, of this member alone.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_stats_t {
    /// Set it to sizeof(galerna_stats_t).
    pub size: usize,
    /// Messages sent.
    pub messages_sent: u64,
    /// Payload bytes of these.
    pub bytes_sent: u64,
    /// Null messages sent, which keep the order going while this member has nothing to say.
    pub nulls_sent: u64,
    /// Batches in which messages and nulls were published.
    pub batches_sent: u64,
    /// Messages delivered.
    pub messages_delivered: u64,
    /// Payload bytes of these.
    pub bytes_delivered: u64,
    /// Passes of the engine that delivered any.
    pub batches_delivered: u64,
    /// Passes of the engine.
    pub passes: u64,
    /// How often the engine slept.
    pub sleeps: u64,
    /// Writes that the transport was given, one per peer.
    pub fabric_writes_posted: u64,
    /// Bytes put on the wire, headers included; on shared memory the bytes of the ranges that were announced.
    pub fabric_bytes_sent: u64,
    /// Bytes taken from the wire, headers included; zero on shared memory.
    pub fabric_bytes_received: u64,
    /// System calls that moved data or woke a peer; on RDMA it is the device's driver who makes them, if any.
    pub fabric_system_calls: u64,
    /// Requests given to an RDMA device: writes, wake-ups and reads.
    pub fabric_work_requests: u64,
    /// Calls that gave an RDMA device its requests, each one doorbell.
    pub fabric_doorbells: u64,
}

// SAFETY: `repr(C)`, the size first, integers.
unsafe impl Versioned for galerna_stats_t {
    const NAME: &'static str = "galerna_stats_t";
}

impl From<Stats> for galerna_stats_t {
    fn from(stats: Stats) -> galerna_stats_t {
        galerna_stats_t {
            size: size_of::<galerna_stats_t>(),
            messages_sent: stats.messages_sent,
            bytes_sent: stats.bytes_sent,
            nulls_sent: stats.nulls_sent,
            batches_sent: stats.batches_sent,
            messages_delivered: stats.messages_delivered,
            bytes_delivered: stats.bytes_delivered,
            batches_delivered: stats.batches_delivered,
            passes: stats.passes,
            sleeps: stats.sleeps,
            fabric_writes_posted: stats.fabric.writes_posted,
            fabric_bytes_sent: stats.fabric.bytes_sent,
            fabric_bytes_received: stats.fabric.bytes_received,
            fabric_system_calls: stats.fabric.system_calls,
            fabric_work_requests: stats.fabric.work_requests,
            fabric_doorbells: stats.fabric.doorbells,
        }
    }
}

/// Counters of a subgroup. In a busy group they may be some passes of the engine old; an idle one brings them up to date,
/// and so does the end: they stay after the leave.
///
/// - `subgroup`: its number; 0 holds every member.
/// - `stats`: its `size` must be set; takes the counters.
///
/// Any thread. Errors: HANDLE, ARGUMENT, UNKNOWN_SUBGROUP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_stats(
    group: *const galerna_group_t,
    subgroup: u16,
    stats: *mut galerna_stats_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `stats`.
        let out = unsafe { border::versioned_out("stats", stats)? };
        group::with(group, |member| {
            out.set(member.group.stats(SubgroupId(subgroup))?.into());
            Ok(())
        })
    })
}
