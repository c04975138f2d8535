//! Reliable-connected queue pairs: their states from creation to ready to send, and the posting of requests.

use super::completion::{CompletionQueue, missing};
use super::memory::ProtectionDomain;
use super::types::{
    ibv_ah_attr, ibv_gid, ibv_global_route, ibv_qp, ibv_qp_attr, ibv_qp_cap, ibv_qp_init_attr, ibv_recv_wr, ibv_send_wr,
};
use super::{
    IBV_QP_ACCESS_FLAGS, IBV_QP_AV, IBV_QP_CAP, IBV_QP_DEST_QPN, IBV_QP_MAX_DEST_RD_ATOMIC, IBV_QP_MAX_QP_RD_ATOMIC,
    IBV_QP_MIN_RNR_TIMER, IBV_QP_PATH_MTU, IBV_QP_PKEY_INDEX, IBV_QP_PORT, IBV_QP_RETRY_CNT, IBV_QP_RNR_RETRY,
    IBV_QP_RQ_PSN, IBV_QP_SQ_PSN, IBV_QP_STATE, IBV_QP_TIMEOUT, IBV_QPS_ERR, IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS,
    IBV_QPT_RC, VerbsError, check, log_failure,
};
use std::ffi::c_int;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// The capacity that a queue pair must have. The actual one may be larger: [`QueuePair::capacity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Send requests that are posted and not completed.
    pub(crate) send_requests: u32,
    /// Receive requests that are posted and not completed.
    pub(crate) receive_requests: u32,
    /// Pieces of memory of one send request.
    pub(crate) send_pieces: u32,
    /// Pieces of memory of one receive request.
    pub(crate) receive_pieces: u32,
    /// Bytes of one send request that is posted inline.
    pub(crate) inline_bytes: u32,
}

/// The attributes of this end of a connection. Both ends must have the same `mtu`, and each must serve the read
/// requests that the other may issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// The port of the device, from 1.
    pub(crate) port: u8,
    /// The index in the port's GID table; `None` within an InfiniBand subnet, where a LID suffices.
    pub(crate) gid_index: Option<u8>,
    /// The index in the port's table of partition keys.
    pub(crate) pkey_index: u16,
    /// The operations that the peer may use: a set of `IBV_ACCESS_REMOTE_*`.
    pub(crate) access: u32,
    /// An `IBV_MTU_*` value, at most that of both ports.
    pub(crate) mtu: u32,
    pub(crate) service_level: u8,
    pub(crate) traffic_class: u8,
    /// The number of routers that a packet may pass.
    pub(crate) hop_limit: u8,
    /// A packet without an answer is sent again after 4.096 µs · 2^timeout; 0 waits for ever.
    pub(crate) timeout: u8,
    /// How many times it is sent again, at most 7.
    pub(crate) retry_count: u8,
    /// How many times a request is sent again while the peer has no receive request for it, at most 6; 7 means for
    /// ever.
    pub(crate) rnr_retry: u8,
    /// The time, as a code, after which the peer repeats a request for which this end had no receive request. 12 is
    /// 0.64 ms, 0 is 655 ms.
    pub(crate) min_rnr_timer: u8,
    /// Read requests of this end that are under way at a time.
    pub(crate) reads: u8,
    /// Read requests of the peer that this end serves at a time.
    pub(crate) reads_served: u8,
}

/// The other end of a connection, as it described itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) qp_number: u32,
    /// The number of the first packet that it sends, 24 bits.
    pub(crate) psn: u32,
    /// The LID of its port; 0 on Ethernet.
    pub(crate) lid: u16,
    /// The GID of its port; used if [`Attributes::gid_index`] is given.
    pub(crate) gid: [u8; 16],
}

/// The failure to post a list of requests: only the first `posted` were accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PostFailed {
    pub(crate) posted: usize,
    /// ENOMEM: the queue is full. EINVAL: the first rejected request is not valid, or the queue pair is not connected.
    pub(crate) error: VerbsError,
}

/// A reliable-connected queue pair.
pub(crate) struct QueuePair {
    raw: NonNull<ibv_qp>,
    domain: Arc<ProtectionDomain>,
    _send_completions: Arc<CompletionQueue>,
    _receive_completions: Arc<CompletionQueue>,
}

// SAFETY: the library's functions may be called on it by any thread at any time. Providers lock, unless the environment
// declares the process single-threaded.
unsafe impl Send for QueuePair {}
// SAFETY: as for `Send`.
unsafe impl Sync for QueuePair {}

impl QueuePair {
    /// Creates a queue pair, in the reset state.
    pub(crate) fn new(
        domain: &Arc<ProtectionDomain>,
        send_completions: &Arc<CompletionQueue>,
        receive_completions: &Arc<CompletionQueue>,
        capacity: Capacity,
    ) -> Result<QueuePair, VerbsError> {
        let mut attributes = ibv_qp_init_attr {
            send_cq: send_completions.raw.as_ptr(),
            recv_cq: receive_completions.raw.as_ptr(),
            cap: ibv_qp_cap {
                max_send_wr: capacity.send_requests,
                max_recv_wr: capacity.receive_requests,
                max_send_sge: capacity.send_pieces,
                max_recv_sge: capacity.receive_pieces,
                max_inline_data: capacity.inline_bytes,
            },
            qp_type: IBV_QPT_RC,
            ..ibv_qp_init_attr::default()
        };
        // SAFETY: the domain and the queues are alive, and as fields they outlive the queue pair.
        let raw = unsafe { (domain.context.library.ibv_create_qp)(domain.raw.as_ptr(), &raw mut attributes) };
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last("ibv_create_qp"))?;
        Ok(QueuePair {
            raw,
            domain: domain.clone(),
            _send_completions: send_completions.clone(),
            _receive_completions: receive_completions.clone(),
        })
    }

    /// Its number on this device, 24 bits.
    pub(crate) fn number(&self) -> u32 {
        // SAFETY: alive, and constant.
        unsafe { (*self.raw.as_ptr()).qp_num }
    }

    /// The actual capacity.
    pub(crate) fn capacity(&self) -> Result<Capacity, VerbsError> {
        let cap = self.query(IBV_QP_CAP)?.cap;
        Ok(Capacity {
            send_requests: cap.max_send_wr,
            receive_requests: cap.max_recv_wr,
            send_pieces: cap.max_send_sge,
            receive_pieces: cap.max_recv_sge,
            inline_bytes: cap.max_inline_data,
        })
    }

    /// The attributes that `mask` (of `IBV_QP_*`) names; others may be stale.
    pub(crate) fn query(&self, mask: u32) -> Result<ibv_qp_attr, VerbsError> {
        let mut attributes = ibv_qp_attr::default();
        let mut init = ibv_qp_init_attr::default();
        // SAFETY: alive, and both structures have the size that the library expects.
        let result = unsafe {
            (self.domain.context.library.ibv_query_qp)(
                self.raw.as_ptr(),
                &raw mut attributes,
                mask as c_int,
                &raw mut init,
            )
        };
        check("ibv_query_qp", result)?;
        Ok(attributes)
    }

    /// From reset to initialised: receive requests may be posted.
    pub(crate) fn to_init(&self, own: &Attributes) -> Result<(), VerbsError> {
        let attributes = ibv_qp_attr {
            qp_state: IBV_QPS_INIT,
            pkey_index: own.pkey_index,
            port_num: own.port,
            qp_access_flags: own.access,
            ..ibv_qp_attr::default()
        };
        self.modify(attributes, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS)
    }

    /// From initialised to ready to receive: requests of the peer are accepted.
    pub(crate) fn to_ready_to_receive(&self, own: &Attributes, peer: &Remote) -> Result<(), VerbsError> {
        let mut path =
            ibv_ah_attr { dlid: peer.lid, sl: own.service_level, port_num: own.port, ..ibv_ah_attr::default() };
        if let Some(index) = own.gid_index {
            path.is_global = 1;
            path.grh = ibv_global_route {
                dgid: ibv_gid { raw: peer.gid },
                flow_label: 0,
                sgid_index: index,
                hop_limit: own.hop_limit,
                traffic_class: own.traffic_class,
            };
        }
        let attributes = ibv_qp_attr {
            qp_state: IBV_QPS_RTR,
            path_mtu: own.mtu,
            dest_qp_num: peer.qp_number,
            rq_psn: peer.psn,
            max_dest_rd_atomic: own.reads_served,
            min_rnr_timer: own.min_rnr_timer,
            ah_attr: path,
            ..ibv_qp_attr::default()
        };
        let mask = IBV_QP_STATE
            | IBV_QP_AV
            | IBV_QP_PATH_MTU
            | IBV_QP_DEST_QPN
            | IBV_QP_RQ_PSN
            | IBV_QP_MAX_DEST_RD_ATOMIC
            | IBV_QP_MIN_RNR_TIMER;
        self.modify(attributes, mask)
    }

    /// From ready to receive to ready to send; `psn` is the number of the first packet, which the peer has received.
    pub(crate) fn to_ready_to_send(&self, own: &Attributes, psn: u32) -> Result<(), VerbsError> {
        let attributes = ibv_qp_attr {
            qp_state: IBV_QPS_RTS,
            timeout: own.timeout,
            retry_cnt: own.retry_count,
            rnr_retry: own.rnr_retry,
            sq_psn: psn,
            max_rd_atomic: own.reads,
            ..ibv_qp_attr::default()
        };
        let mask = IBV_QP_STATE
            | IBV_QP_TIMEOUT
            | IBV_QP_RETRY_CNT
            | IBV_QP_RNR_RETRY
            | IBV_QP_SQ_PSN
            | IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify(attributes, mask)
    }

    /// Out of service, from any state: requests end with `IBV_WC_WR_FLUSH_ERR`, and nothing of the peer is accepted any
    /// more.
    pub(crate) fn to_error(&self) -> Result<(), VerbsError> {
        self.modify(ibv_qp_attr { qp_state: IBV_QPS_ERR, ..ibv_qp_attr::default() }, IBV_QP_STATE)
    }

    /// Back to reset: requests are dropped without a completion.
    #[cfg(test)]
    pub(crate) fn to_reset(&self) -> Result<(), VerbsError> {
        self.modify(ibv_qp_attr { qp_state: super::IBV_QPS_RESET, ..ibv_qp_attr::default() }, IBV_QP_STATE)
    }

    fn modify(&self, mut attributes: ibv_qp_attr, mask: u32) -> Result<(), VerbsError> {
        // SAFETY: alive, and the structure has the size that the library expects.
        let result = unsafe {
            (self.domain.context.library.ibv_modify_qp)(self.raw.as_ptr(), &raw mut attributes, mask as c_int)
        };
        check("ibv_modify_qp", result)
    }

    /// Links the requests and posts them in order, with one call and so one doorbell.
    ///
    /// # Safety
    /// In each request, `sg_list` points to `num_sge` pieces. With `IBV_SEND_INLINE` the bytes must be readable now.
    /// Otherwise the device may access them at any time until the completion of this request or a later one, and they
    /// must allow that. (The device itself checks that they are registered.)
    #[inline]
    pub(crate) unsafe fn post_send(&self, requests: &mut [ibv_send_wr]) -> Result<(), PostFailed> {
        let mut next = null_mut();
        for request in requests.iter_mut().rev() {
            request.next = next;
            next = request;
        }
        let mut bad: *mut ibv_send_wr = null_mut();
        // SAFETY: as the header's ibv_post_send. Alive, and the list is of `requests`; the rest is the caller's
        // promise.
        let result = unsafe {
            let qp = self.raw.as_ptr();
            match (*(*qp).context).ops.post_send {
                _ if next.is_null() => Ok(()),
                Some(post) => check("ibv_post_send", post(qp, next, &raw mut bad)),
                None => Err(missing("ibv_post_send")),
            }
        };
        result.map_err(|error| PostFailed { posted: position(next, bad, requests.len()), error })
    }

    /// Links the receive requests and posts them in order.
    ///
    /// # Safety
    /// In each request, `sg_list` points to `num_sge` pieces of registered memory, which nothing else uses until the
    /// request's completion.
    pub(crate) unsafe fn post_receive(&self, requests: &mut [ibv_recv_wr]) -> Result<(), PostFailed> {
        let mut next = null_mut();
        for request in requests.iter_mut().rev() {
            request.next = next;
            next = request;
        }
        let mut bad: *mut ibv_recv_wr = null_mut();
        // SAFETY: as the header's ibv_post_recv. Alive, and the list is of `requests`; the rest is the caller's
        // promise.
        let result = unsafe {
            let qp = self.raw.as_ptr();
            match (*(*qp).context).ops.post_recv {
                _ if next.is_null() => Ok(()),
                Some(post) => check("ibv_post_recv", post(qp, next, &raw mut bad)),
                None => Err(missing("ibv_post_recv")),
            }
        };
        result.map_err(|error| PostFailed { posted: position(next, bad, requests.len()), error })
    }
}

/// Counts the requests, of `len` from `first`, that precede `bad`: the first one that the provider has rejected. Zero
/// if the provider does not name one.
fn position<T>(first: *const T, bad: *const T, len: usize) -> usize {
    let bytes = (bad as usize).wrapping_sub(first as usize);
    Some(bytes / size_of::<T>()).filter(|n| !bad.is_null() && *n < len).unwrap_or(0)
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: destroyed once. The domain and the queues are fields and are dropped later.
        log_failure(check("ibv_destroy_qp", unsafe {
            (self.domain.context.library.ibv_destroy_qp)(self.raw.as_ptr())
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::{ibv_send_wr, position};

    #[test]
    fn the_first_request_not_taken_is_found() {
        let list = [ibv_send_wr::default(); 3];
        assert_eq!(position(&raw const list[0], &raw const list[2], 3), 2);
        assert_eq!(position(&raw const list[0], std::ptr::null(), 3), 0);
        assert_eq!(position(&raw const list[1], &raw const list[0], 2), 0);
    }
}
