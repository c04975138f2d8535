//! The constants of `infiniband/verbs.h` that are used, under their C names. So `layout.rs` can compare each with the
//! installed header.

/// Defines the constants, and for the test a list of them.
macro_rules! constants {
    ($($(#[$meta:meta])* $group:ident { $($name:ident = $value:expr,)* })*) => {
        $($(#[$meta])* $(#[allow(dead_code, reason = "groups are complete, as the header has them")] pub(crate) const $name: u32 = $value;)*)*

        /// All constants, by name.
        #[cfg(test)]
        pub(crate) const CONSTANTS: &[(&str, u32)] = &[$($((stringify!($name), $name),)*)*];
    };
}

constants! {
    ibv_access_flags {
        IBV_ACCESS_LOCAL_WRITE = 1,
        IBV_ACCESS_REMOTE_WRITE = 1 << 1,
        IBV_ACCESS_REMOTE_READ = 1 << 2,
    }
    ibv_qp_type { IBV_QPT_RC = 2, }
    ibv_qp_state {
        IBV_QPS_RESET = 0,
        IBV_QPS_INIT = 1,
        IBV_QPS_RTR = 2,
        IBV_QPS_RTS = 3,
        IBV_QPS_SQD = 4,
        IBV_QPS_SQE = 5,
        IBV_QPS_ERR = 6,
    }
    ibv_qp_attr_mask {
        IBV_QP_STATE = 1,
        IBV_QP_ACCESS_FLAGS = 1 << 3,
        IBV_QP_PKEY_INDEX = 1 << 4,
        IBV_QP_PORT = 1 << 5,
        IBV_QP_AV = 1 << 7,
        IBV_QP_PATH_MTU = 1 << 8,
        IBV_QP_TIMEOUT = 1 << 9,
        IBV_QP_RETRY_CNT = 1 << 10,
        IBV_QP_RNR_RETRY = 1 << 11,
        IBV_QP_RQ_PSN = 1 << 12,
        IBV_QP_MAX_QP_RD_ATOMIC = 1 << 13,
        IBV_QP_MIN_RNR_TIMER = 1 << 15,
        IBV_QP_SQ_PSN = 1 << 16,
        IBV_QP_MAX_DEST_RD_ATOMIC = 1 << 17,
        IBV_QP_CAP = 1 << 19,
        IBV_QP_DEST_QPN = 1 << 20,
    }
    ibv_wr_opcode {
        IBV_WR_RDMA_WRITE = 0,
        IBV_WR_RDMA_WRITE_WITH_IMM = 1,
        IBV_WR_SEND = 2,
        IBV_WR_SEND_WITH_IMM = 3,
        IBV_WR_RDMA_READ = 4,
    }
    ibv_send_flags {
        IBV_SEND_FENCE = 1,
        IBV_SEND_SIGNALED = 1 << 1,
        IBV_SEND_SOLICITED = 1 << 2,
        IBV_SEND_INLINE = 1 << 3,
    }
    ibv_wc_status {
        IBV_WC_SUCCESS = 0,
        IBV_WC_LOC_LEN_ERR = 1,
        IBV_WC_LOC_QP_OP_ERR = 2,
        IBV_WC_LOC_EEC_OP_ERR = 3,
        IBV_WC_LOC_PROT_ERR = 4,
        IBV_WC_WR_FLUSH_ERR = 5,
        IBV_WC_MW_BIND_ERR = 6,
        IBV_WC_BAD_RESP_ERR = 7,
        IBV_WC_LOC_ACCESS_ERR = 8,
        IBV_WC_REM_INV_REQ_ERR = 9,
        IBV_WC_REM_ACCESS_ERR = 10,
        IBV_WC_REM_OP_ERR = 11,
        IBV_WC_RETRY_EXC_ERR = 12,
        IBV_WC_RNR_RETRY_EXC_ERR = 13,
        IBV_WC_LOC_RDD_VIOL_ERR = 14,
        IBV_WC_REM_INV_RD_REQ_ERR = 15,
        IBV_WC_REM_ABORT_ERR = 16,
        IBV_WC_INV_EECN_ERR = 17,
        IBV_WC_INV_EEC_STATE_ERR = 18,
        IBV_WC_FATAL_ERR = 19,
        IBV_WC_RESP_TIMEOUT_ERR = 20,
        IBV_WC_GENERAL_ERR = 21,
    }
    ibv_wc_opcode {
        IBV_WC_SEND = 0,
        IBV_WC_RDMA_WRITE = 1,
        IBV_WC_RDMA_READ = 2,
        IBV_WC_RECV = 1 << 7,
        IBV_WC_RECV_RDMA_WITH_IMM = (1 << 7) + 1,
    }
    ibv_wc_flags { IBV_WC_WITH_IMM = 1 << 1, }
    ibv_mtu {
        IBV_MTU_256 = 1,
        IBV_MTU_512 = 2,
        IBV_MTU_1024 = 3,
        IBV_MTU_2048 = 4,
        IBV_MTU_4096 = 5,
    }
    ibv_port_state {
        IBV_PORT_NOP = 0,
        IBV_PORT_DOWN = 1,
        IBV_PORT_INIT = 2,
        IBV_PORT_ARMED = 3,
        IBV_PORT_ACTIVE = 4,
        IBV_PORT_ACTIVE_DEFER = 5,
    }
    link_layer {
        IBV_LINK_LAYER_UNSPECIFIED = 0,
        IBV_LINK_LAYER_INFINIBAND = 1,
        IBV_LINK_LAYER_ETHERNET = 2,
    }
    /// In the `flags` of a port: a global route header is needed even within the subnet.
    port_flags { IBV_QPF_GRH_REQUIRED = 1, }
    ibv_event_type {
        IBV_EVENT_CQ_ERR = 0,
        IBV_EVENT_QP_FATAL = 1,
        IBV_EVENT_QP_REQ_ERR = 2,
        IBV_EVENT_QP_ACCESS_ERR = 3,
        IBV_EVENT_COMM_EST = 4,
        IBV_EVENT_SQ_DRAINED = 5,
        IBV_EVENT_PATH_MIG = 6,
        IBV_EVENT_PATH_MIG_ERR = 7,
        IBV_EVENT_DEVICE_FATAL = 8,
        IBV_EVENT_PORT_ACTIVE = 9,
        IBV_EVENT_PORT_ERR = 10,
        IBV_EVENT_LID_CHANGE = 11,
        IBV_EVENT_PKEY_CHANGE = 12,
        IBV_EVENT_SM_CHANGE = 13,
        IBV_EVENT_SRQ_ERR = 14,
        IBV_EVENT_SRQ_LIMIT_REACHED = 15,
        IBV_EVENT_QP_LAST_WQE_REACHED = 16,
        IBV_EVENT_CLIENT_REREGISTER = 17,
        IBV_EVENT_GID_CHANGE = 18,
        IBV_EVENT_WQ_FATAL = 19,
    }
}

/// The bytes of an MTU value of the header.
pub(crate) fn mtu_bytes(mtu: u32) -> Option<u32> {
    (IBV_MTU_256..=IBV_MTU_4096).contains(&mtu).then(|| 128 << mtu)
}

/// The largest MTU value of the header that is at most `bytes` bytes.
pub(crate) fn mtu_code(bytes: u32) -> u32 {
    (IBV_MTU_256..=IBV_MTU_4096).rfind(|code| mtu_bytes(*code) <= Some(bytes)).unwrap_or(IBV_MTU_256)
}

/// Describes the status of a completion.
pub(crate) fn wc_status(status: u32) -> &'static str {
    match status {
        IBV_WC_SUCCESS => "success",
        IBV_WC_LOC_LEN_ERR => "local length error: the message is longer than the port or the receive buffer takes",
        IBV_WC_LOC_QP_OP_ERR => "local queue pair operation error: the work request is not one that the device can do",
        IBV_WC_LOC_EEC_OP_ERR => "local end-to-end context operation error",
        IBV_WC_LOC_PROT_ERR => "local protection error: the source or target memory is not registered under its key",
        IBV_WC_WR_FLUSH_ERR => "flushed: the queue pair was in error before the request was done",
        IBV_WC_MW_BIND_ERR => "memory window bind error",
        IBV_WC_BAD_RESP_ERR => "bad response: the peer answered with an unexpected opcode",
        IBV_WC_LOC_ACCESS_ERR => "local access error: the local memory does not permit the received write or read",
        IBV_WC_REM_INV_REQ_ERR => "the peer's device refuses the request as invalid",
        IBV_WC_REM_ACCESS_ERR => {
            "the peer's device refuses access: the address range or key is not registered for remote access, or not any more"
        }
        IBV_WC_REM_OP_ERR => "the peer's device could not complete the operation",
        IBV_WC_RETRY_EXC_ERR => "transport retries exceeded: the peer does not answer; it ended, or the network is cut",
        IBV_WC_RNR_RETRY_EXC_ERR => "receiver-not-ready retries exceeded: the peer posts no receive requests",
        IBV_WC_LOC_RDD_VIOL_ERR => "local reliable datagram domain violation",
        IBV_WC_REM_INV_RD_REQ_ERR => "the peer's device refuses the read request as invalid",
        IBV_WC_REM_ABORT_ERR => "the peer's device aborted the operation",
        IBV_WC_INV_EECN_ERR => "invalid end-to-end context number",
        IBV_WC_INV_EEC_STATE_ERR => "invalid end-to-end context state",
        IBV_WC_FATAL_ERR => "fatal error of the device",
        IBV_WC_RESP_TIMEOUT_ERR => "response timeout",
        IBV_WC_GENERAL_ERR => "general error of the device's driver",
        _ => "a status that this version does not know",
    }
}

/// Describes the type of an asynchronous event.
pub(crate) fn event_type(event: u32) -> &'static str {
    match event {
        IBV_EVENT_CQ_ERR => "completion queue in error (overrun)",
        IBV_EVENT_QP_FATAL => "queue pair in fatal error",
        IBV_EVENT_QP_REQ_ERR => "the peer sent a request that the queue pair cannot take",
        IBV_EVENT_QP_ACCESS_ERR => "the peer tried to reach memory that is not open to it",
        IBV_EVENT_COMM_EST => "first message on a queue pair that is not ready to send",
        IBV_EVENT_SQ_DRAINED => "send queue drained",
        IBV_EVENT_PATH_MIG => "path migrated",
        IBV_EVENT_PATH_MIG_ERR => "path migration failed",
        IBV_EVENT_DEVICE_FATAL => "device in fatal error",
        IBV_EVENT_PORT_ACTIVE => "port became active",
        IBV_EVENT_PORT_ERR => "port went down",
        IBV_EVENT_LID_CHANGE => "the port's LID changed",
        IBV_EVENT_PKEY_CHANGE => "the port's table of partition keys changed",
        IBV_EVENT_SM_CHANGE => "the subnet manager changed",
        IBV_EVENT_SRQ_ERR => "shared receive queue in error",
        IBV_EVENT_SRQ_LIMIT_REACHED => "limit of a shared receive queue reached",
        IBV_EVENT_QP_LAST_WQE_REACHED => "last receive request of a queue pair in error reached",
        IBV_EVENT_CLIENT_REREGISTER => "the subnet manager asks to register anew",
        IBV_EVENT_GID_CHANGE => "the port's table of GIDs changed",
        IBV_EVENT_WQ_FATAL => "work queue in fatal error",
        _ => "an event that this version does not know",
    }
}
