//! `galerna_group_stats_t`: counters.

use crate::border::{self, VersionedOut};
use crate::group::{self, galerna_group_t};
use crate::result::galerna_result_t;
use engine::{RingSpace, Stats, SubgroupId};

/// Counters of one subgroup at this member, since the start.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_group_stats_t {
    /// Set it to sizeof(galerna_group_stats_t).
    pub size: usize,
    /// Messages sent.
    pub messages_sent: u64,
    /// Payload bytes of the messages sent.
    pub bytes_sent: u64,
    /// Null messages sent. They keep the order going while this member has nothing to send.
    pub nulls_sent: u64,
    /// Batches in which messages and null messages were published.
    pub batches_sent: u64,
    /// Messages delivered.
    pub messages_delivered: u64,
    /// Payload bytes of the messages delivered.
    pub bytes_delivered: u64,
    /// Passes of the engine that delivered at least one message.
    pub batches_delivered: u64,
    /// Passes of the engine.
    pub passes: u64,
    /// Number of times the engine slept.
    pub sleeps: u64,
    /// Writes given to the transport, one per peer.
    pub fabric_writes_posted: u64,
    /// Bytes sent on the wire, headers included. On shared memory: bytes of the ranges that were announced.
    pub fabric_bytes_sent: u64,
    /// Bytes received from the wire, headers included. Zero on shared memory.
    pub fabric_bytes_received: u64,
    /// System calls that moved data or woke a peer. On RDMA they are made by the device's driver, if at all.
    pub fabric_system_calls: u64,
    /// Requests given to an RDMA device: writes, wake-ups and reads.
    pub fabric_work_requests: u64,
    /// Calls that passed requests to an RDMA device. Each one rings the doorbell once.
    pub fabric_doorbells: u64,
}

border::versioned_struct!(galerna_group_stats_t, min: bytes_sent, last: fabric_doorbells);

impl From<Stats> for galerna_group_stats_t {
    fn from(stats: Stats) -> galerna_group_stats_t {
        galerna_group_stats_t {
            size: size_of::<galerna_group_stats_t>(),
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

/// Gets the counters of a subgroup.
///
/// In a busy group the counters may be some passes of the engine old. They are brought up to date when the group is
/// idle and when it ends. They remain available after the leave.
///
/// - `subgroup`: its number. Subgroup 0 contains every member.
/// - `stats`: receives the counters. Its `size` must be set.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_UNKNOWN_SUBGROUP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_stats(
    group: *const galerna_group_t,
    subgroup: u16,
    stats: *mut galerna_group_stats_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `stats`.
        let out = unsafe { VersionedOut::new("stats", stats)? };
        group::with(group, |member| {
            out.set(member.group.stats(SubgroupId(subgroup))?.into());
            Ok(())
        })
    })
}

/// The space of this member's ring. With it a sender can control its own rate.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_group_ring_t {
    /// Set it to sizeof(galerna_group_ring_t).
    pub size: usize,
    /// Size of the ring in bytes.
    pub ring_bytes: u64,
    /// Bytes that no message occupies. A message takes its payload, rounded up to 8 bytes, and a header of 8 bytes, in a
    /// group with a log of 16.
    pub free_bytes: u64,
    /// 1 if a message was refused, or had to wait, since space was last freed; otherwise 0.
    pub is_short: u64,
}

border::versioned_struct!(galerna_group_ring_t, min: ring_bytes, last: is_short);

/// Gets the space of this member's ring.
///
/// - `subgroup`: its number. Subgroup 0 contains every member.
/// - `ring`: receives the space. Its `size` must be set.
///
/// May be called from any thread, also inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_UNKNOWN_SUBGROUP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_ring(
    group: *const galerna_group_t,
    subgroup: u16,
    ring: *mut galerna_group_ring_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `ring`.
        let out = unsafe { VersionedOut::new("ring", ring)? };
        group::with(group, |member| {
            let RingSpace { ring_bytes, free_bytes, short } = member.group.ring_space(SubgroupId(subgroup))?;
            let size = size_of::<galerna_group_ring_t>();
            out.set(galerna_group_ring_t { size, ring_bytes, free_bytes, is_short: u64::from(short) });
            Ok(())
        })
    })
}
