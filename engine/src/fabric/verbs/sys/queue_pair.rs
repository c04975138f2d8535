//! Reliable-connected queue pairs: from creation to ready to send, and the posting of requests.

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

/// What a queue pair is to hold; what it does hold may be more: [`QueuePair::capacity`].
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

/// How this end of a connection behaves. Equal at both ends: `mtu`; and what one may ask for the other must serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// The port of the device, from 1.
    pub(crate) port: u8,
    /// Entry of the port's GID table; `None` on InfiniBand inside of a subnet, where a LID is enough.
    pub(crate) gid_index: Option<u8>,
    /// Entry of the port's table of partition keys.
    pub(crate) pkey_index: u16,
    /// What the peer may do, of `IBV_ACCESS_REMOTE_*`.
    pub(crate) access: u32,
    /// `IBV_MTU_*`, at most that of both ports.
    pub(crate) mtu: u32,
    pub(crate) service_level: u8,
    pub(crate) traffic_class: u8,
    /// How many routers a packet may pass.
    pub(crate) hop_limit: u8,
    /// A packet without an answer is sent again after 4.096 µs · 2^timeout; 0 waits for ever.
    pub(crate) timeout: u8,
    /// How often, at most 7.
    pub(crate) retry_count: u8,
    /// How often a request is sent again for which the peer has no receive request, at most 6; 7 is for ever.
    pub(crate) rnr_retry: u8,
    /// How long the peer then waits, as a code; 12 is 0.64 ms, 0 is 655 ms.
    pub(crate) min_rnr_timer: u8,
    /// Read requests of this end that are under way at one time.
    pub(crate) reads: u8,
    /// Read requests of the peer that this end serves at one time.
    pub(crate) reads_served: u8,
}

/// The other end of a connection, as it told us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) qp_number: u32,
    /// The number of the first packet that it sends, 24 bits.
    pub(crate) psn: u32,
    /// Of its port; 0 on Ethernet.
    pub(crate) lid: u16,
    /// Of its port; looked at if [`Attributes::gid_index`] is given.
    pub(crate) gid: [u8; 16],
}

/// A list of requests of which only the first `posted` were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PostFailed {
    pub(crate) posted: usize,
    /// ENOMEM: the queue is full. EINVAL: the request after the last taken one is not valid, or the queue pair not connected.
    pub(crate) error: VerbsError,
}

/// A reliable-connected queue pair.
pub(crate) struct QueuePair {
    raw: NonNull<ibv_qp>,
    domain: Arc<ProtectionDomain>,
    _send_completions: Arc<CompletionQueue>,
    _receive_completions: Arc<CompletionQueue>,
}

// SAFETY: the library's functions may be called on it by any thread at any time: providers lock, unless the environment
// says that the process has a single thread.
unsafe impl Send for QueuePair {}
// SAFETY: see above.
unsafe impl Sync for QueuePair {}

impl QueuePair {
    /// A new queue pair, in reset.
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
        // SAFETY: domain and queues live, and as fields they outlive the queue pair.
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
        // SAFETY: lives, and is constant.
        unsafe { (*self.raw.as_ptr()).qp_num }
    }

    /// What it really holds.
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
        // SAFETY: lives; both structures are the library's own size.
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

    /// From initialised to ready to receive: what the peer sends is taken.
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

    /// From ready to receive to ready to send; `psn` is the number of the first packet, as the peer was told.
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

    /// Out of service, from any state: requests end with `IBV_WC_WR_FLUSH_ERR`, and nothing of the peer is taken any more.
    pub(crate) fn to_error(&self) -> Result<(), VerbsError> {
        self.modify(ibv_qp_attr { qp_state: IBV_QPS_ERR, ..ibv_qp_attr::default() }, IBV_QP_STATE)
    }

    /// As new: requests are forgotten without a completion.
    #[cfg(test)]
    pub(crate) fn to_reset(&self) -> Result<(), VerbsError> {
        self.modify(ibv_qp_attr { qp_state: super::IBV_QPS_RESET, ..ibv_qp_attr::default() }, IBV_QP_STATE)
    }

    fn modify(&self, mut attributes: ibv_qp_attr, mask: u32) -> Result<(), VerbsError> {
        // SAFETY: lives; the structure is the library's own size.
        let result = unsafe {
            (self.domain.context.library.ibv_modify_qp)(self.raw.as_ptr(), &raw mut attributes, mask as c_int)
        };
        check("ibv_modify_qp", result)
    }

    /// Posts the requests in their order, with one call, so one doorbell. Links them.
    ///
    /// # Safety
    /// Of each request `sg_list` points to `num_sge` pieces. The bytes of one with `IBV_SEND_INLINE` are readable now; of any
    /// other they stay as the device may find them until its completion, or that of a later one (the device itself
    /// checks that they are registered).
    #[inline]
    pub(crate) unsafe fn post_send(&self, requests: &mut [ibv_send_wr]) -> Result<(), PostFailed> {
        let mut next = null_mut();
        for request in requests.iter_mut().rev() {
            request.next = next;
            next = request;
        }
        let mut bad: *mut ibv_send_wr = null_mut();
        // SAFETY: as the header's ibv_post_send: lives; the list is of `requests`, the rest is the caller's promise.
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

    /// Posts receive requests in their order. Links them.
    ///
    /// # Safety
    /// Of each request `sg_list` points to `num_sge` pieces, whose bytes are registered memory, and nobody else's until its
    /// completion.
    pub(crate) unsafe fn post_receive(&self, requests: &mut [ibv_recv_wr]) -> Result<(), PostFailed> {
        let mut next = null_mut();
        for request in requests.iter_mut().rev() {
            request.next = next;
            next = request;
        }
        let mut bad: *mut ibv_recv_wr = null_mut();
        // SAFETY: as the header's ibv_post_recv: lives; the list is of `requests`, the rest is the caller's promise.
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

/// How many of the `len` requests from `first` lie before `bad`, which the provider says was the first not taken; none, if it
/// does not say.
fn position<T>(first: *const T, bad: *const T, len: usize) -> usize {
    let bytes = (bad as usize).wrapping_sub(first as usize);
    Some(bytes / size_of::<T>()).filter(|n| !bad.is_null() && *n < len).unwrap_or(0)
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: destroyed once; domain and queues, fields, go after it.
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
