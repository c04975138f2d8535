//! The structures of `infiniband/verbs.h` that are exchanged with the library, in the layout of rdma-core 28 to 64.
//!
//! They have their C names, so that `layout.rs` can compare every field with the installed header. Enums are integers
//! here, because a newer library may use a value that is unknown to this list.
#![allow(non_camel_case_types, reason = "the names of the C header")]

use std::ffi::{c_int, c_uint, c_void};
use std::mem::{offset_of, size_of};

/// Defines the structures, and for the test the size and offset of each field.
macro_rules! structures {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            pub(crate) struct $name { $(pub(crate) $field: $type,)* }
        )*

        /// The name and size of each structure, and the name, offset and size of each of its fields.
        #[cfg(test)]
        #[allow(clippy::type_complexity, reason = "a table for one test")]
        pub(crate) fn structures() -> Vec<(&'static str, usize, Vec<(&'static str, usize, usize)>)> {
            fn size_at<T>(_: *const T) -> usize { size_of::<T>() }
            vec![$({
                let here = std::mem::MaybeUninit::<$name>::uninit();
                let fields = vec![$((
                    stringify!($field),
                    offset_of!($name, $field),
                    // SAFETY: takes an address inside of `here`, and reads nothing.
                    size_at(unsafe { &raw const (*here.as_ptr()).$field }),
                ),)*];
                (stringify!($name), size_of::<$name>(), fields)
            },)*]
        }
    };
}

/// Opaque to this program.
#[repr(C)]
pub(crate) struct ibv_device {
    _opaque: [u8; 0],
}

/// Opaque to this program.
#[repr(C)]
pub(crate) struct ibv_srq {
    _opaque: [u8; 0],
}

/// A function pointer that is not used here.
type Unused = Option<unsafe extern "C" fn()>;

structures! {
    #[derive(Clone, Copy, Default, PartialEq, Eq)]
    #[repr(align(8))]
    ibv_gid { raw: [u8; 16], }

    ibv_context_ops {
        _compat_query_device: Unused,
        _compat_query_port: Unused,
        _compat_alloc_pd: Unused,
        _compat_dealloc_pd: Unused,
        _compat_reg_mr: Unused,
        _compat_rereg_mr: Unused,
        _compat_dereg_mr: Unused,
        alloc_mw: Unused,
        bind_mw: Unused,
        dealloc_mw: Unused,
        _compat_create_cq: Unused,
        poll_cq: Option<unsafe extern "C" fn(*mut ibv_cq, c_int, *mut ibv_wc) -> c_int>,
        req_notify_cq: Option<unsafe extern "C" fn(*mut ibv_cq, c_int) -> c_int>,
        _compat_cq_event: Unused,
        _compat_resize_cq: Unused,
        _compat_destroy_cq: Unused,
        _compat_create_srq: Unused,
        _compat_modify_srq: Unused,
        _compat_query_srq: Unused,
        _compat_destroy_srq: Unused,
        post_srq_recv: Unused,
        _compat_create_qp: Unused,
        _compat_query_qp: Unused,
        _compat_modify_qp: Unused,
        _compat_destroy_qp: Unused,
        post_send: Option<unsafe extern "C" fn(*mut ibv_qp, *mut ibv_send_wr, *mut *mut ibv_send_wr) -> c_int>,
        post_recv: Option<unsafe extern "C" fn(*mut ibv_qp, *mut ibv_recv_wr, *mut *mut ibv_recv_wr) -> c_int>,
        _compat_create_ah: Unused,
        _compat_destroy_ah: Unused,
        _compat_attach_mcast: Unused,
        _compat_detach_mcast: Unused,
        _compat_async_event: Unused,
    }

    ibv_context {
        device: *mut ibv_device,
        ops: ibv_context_ops,
        cmd_fd: c_int,
        async_fd: c_int,
        num_comp_vectors: c_int,
        mutex: libc::pthread_mutex_t,
        abi_compat: *mut c_void,
    }

    ibv_pd {
        context: *mut ibv_context,
        handle: u32,
    }

    ibv_mr {
        context: *mut ibv_context,
        pd: *mut ibv_pd,
        addr: *mut c_void,
        length: usize,
        handle: u32,
        lkey: u32,
        rkey: u32,
    }

    ibv_comp_channel {
        context: *mut ibv_context,
        fd: c_int,
        refcnt: c_int,
    }

    ibv_cq {
        context: *mut ibv_context,
        channel: *mut ibv_comp_channel,
        cq_context: *mut c_void,
        handle: u32,
        cqe: c_int,
        mutex: libc::pthread_mutex_t,
        cond: libc::pthread_cond_t,
        comp_events_completed: u32,
        async_events_completed: u32,
    }

    ibv_qp {
        context: *mut ibv_context,
        qp_context: *mut c_void,
        pd: *mut ibv_pd,
        send_cq: *mut ibv_cq,
        recv_cq: *mut ibv_cq,
        srq: *mut ibv_srq,
        handle: u32,
        qp_num: u32,
        state: c_uint,
        qp_type: c_uint,
        mutex: libc::pthread_mutex_t,
        cond: libc::pthread_cond_t,
        events_completed: u32,
    }

    /// A piece of a work request's memory, registered under `lkey` unless the request is inline.
    #[derive(Debug, Clone, Copy)]
    ibv_sge {
        addr: u64,
        length: u32,
        lkey: u32,
    }

    /// `imm_data` is in network byte order. `bind_mw` reserves space for operations that are not used.
    #[derive(Clone, Copy)]
    ibv_send_wr {
        wr_id: u64,
        next: *mut ibv_send_wr,
        sg_list: *mut ibv_sge,
        num_sge: c_int,
        opcode: c_uint,
        send_flags: c_uint,
        imm_data: u32,
        wr: ibv_wr,
        qp_type: u32,
        bind_mw: [u64; 6],
    }

    #[derive(Debug, Clone, Copy)]
    ibv_recv_wr {
        wr_id: u64,
        next: *mut ibv_recv_wr,
        sg_list: *mut ibv_sge,
        num_sge: c_int,
    }

    /// A completion. In a failed one only `wr_id`, `status`, `qp_num` and `vendor_err` are valid.
    #[derive(Debug, Clone, Copy, Default)]
    ibv_wc {
        wr_id: u64,
        status: c_uint,
        opcode: c_uint,
        vendor_err: u32,
        byte_len: u32,
        imm_data: u32,
        qp_num: u32,
        src_qp: u32,
        wc_flags: c_uint,
        pkey_index: u16,
        slid: u16,
        sl: u8,
        dlid_path_bits: u8,
    }

    #[derive(Clone, Copy, Default)]
    ibv_global_route {
        dgid: ibv_gid,
        flow_label: u32,
        sgid_index: u8,
        hop_limit: u8,
        traffic_class: u8,
    }

    #[derive(Clone, Copy, Default)]
    ibv_ah_attr {
        grh: ibv_global_route,
        dlid: u16,
        sl: u8,
        src_path_bits: u8,
        static_rate: u8,
        is_global: u8,
        port_num: u8,
    }

    #[derive(Debug, Clone, Copy, Default)]
    ibv_qp_cap {
        max_send_wr: u32,
        max_recv_wr: u32,
        max_send_sge: u32,
        max_recv_sge: u32,
        max_inline_data: u32,
    }

    /// `padding` must be zero. rdma-core 33 reads these trailing bytes, which are unnamed in C, as a mask of
    /// extensions, and refuses unknown ones.
    #[derive(Clone, Copy)]
    ibv_qp_init_attr {
        qp_context: *mut c_void,
        send_cq: *mut ibv_cq,
        recv_cq: *mut ibv_cq,
        srq: *mut ibv_srq,
        cap: ibv_qp_cap,
        qp_type: c_uint,
        sq_sig_all: c_int,
        padding: u32,
    }

    #[derive(Clone, Copy, Default)]
    ibv_qp_attr {
        qp_state: c_uint,
        cur_qp_state: c_uint,
        path_mtu: c_uint,
        path_mig_state: c_uint,
        qkey: u32,
        rq_psn: u32,
        sq_psn: u32,
        dest_qp_num: u32,
        qp_access_flags: c_uint,
        cap: ibv_qp_cap,
        ah_attr: ibv_ah_attr,
        alt_ah_attr: ibv_ah_attr,
        pkey_index: u16,
        alt_pkey_index: u16,
        en_sqd_async_notify: u8,
        sq_draining: u8,
        max_rd_atomic: u8,
        max_dest_rd_atomic: u8,
        min_rnr_timer: u8,
        port_num: u8,
        timeout: u8,
        retry_cnt: u8,
        rnr_retry: u8,
        alt_port_num: u8,
        alt_timeout: u8,
        rate_limit: u32,
    }

    /// The fields that the exported symbol `ibv_query_port` fills in every version, up to `flags`. Only the header's
    /// inline function queries later fields (`port_cap_flags2`, `active_speed_ex`), through the extended operations.
    /// `room` protects against a library that writes more nevertheless.
    #[derive(Debug, Clone, Copy, Default)]
    ibv_port_attr {
        state: c_uint,
        max_mtu: c_uint,
        active_mtu: c_uint,
        gid_tbl_len: c_int,
        port_cap_flags: u32,
        max_msg_sz: u32,
        bad_pkey_cntr: u32,
        qkey_viol_cntr: u32,
        pkey_tbl_len: u16,
        lid: u16,
        sm_lid: u16,
        lmc: u8,
        max_vl_num: u8,
        sm_sl: u8,
        subnet_timeout: u8,
        init_type_reply: u8,
        active_width: u8,
        active_speed: u8,
        phys_state: u8,
        link_layer: u8,
        flags: u8,
        room: [u64; 10],
    }

    #[derive(Clone, Copy)]
    ibv_device_attr {
        fw_ver: [u8; 64],
        node_guid: u64,
        sys_image_guid: u64,
        max_mr_size: u64,
        page_size_cap: u64,
        vendor_id: u32,
        vendor_part_id: u32,
        hw_ver: u32,
        max_qp: c_int,
        max_qp_wr: c_int,
        device_cap_flags: c_uint,
        max_sge: c_int,
        max_sge_rd: c_int,
        max_cq: c_int,
        max_cqe: c_int,
        max_mr: c_int,
        max_pd: c_int,
        max_qp_rd_atom: c_int,
        max_ee_rd_atom: c_int,
        max_res_rd_atom: c_int,
        max_qp_init_rd_atom: c_int,
        max_ee_init_rd_atom: c_int,
        atomic_cap: c_uint,
        max_ee: c_int,
        max_rdd: c_int,
        max_mw: c_int,
        max_raw_ipv6_qp: c_int,
        max_raw_ethy_qp: c_int,
        max_mcast_grp: c_int,
        max_mcast_qp_attach: c_int,
        max_total_mcast_qp_attach: c_int,
        max_ah: c_int,
        max_fmr: c_int,
        max_map_per_fmr: c_int,
        max_srq: c_int,
        max_srq_wr: c_int,
        max_srq_sge: c_int,
        max_pkeys: u16,
        local_ca_ack_delay: u8,
        phys_port_cnt: u8,
    }

    #[derive(Clone, Copy)]
    ibv_async_event {
        element: ibv_event_element,
        event_type: c_uint,
    }
}

/// The address at the peer that a one-sided operation reads or writes.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct ibv_wr_rdma {
    pub(crate) remote_addr: u64,
    pub(crate) rkey: u32,
}

/// The union `wr` of [`ibv_send_wr`]; `atomic` determines its size.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union ibv_wr {
    pub(crate) rdma: ibv_wr_rdma,
    pub(crate) atomic: [u64; 4],
}

/// The union `element` of [`ibv_async_event`]. The type of the event determines which member is valid.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union ibv_event_element {
    pub(crate) cq: *mut ibv_cq,
    pub(crate) qp: *mut ibv_qp,
    pub(crate) port_num: c_int,
}

impl Default for ibv_qp_init_attr {
    fn default() -> Self {
        ibv_qp_init_attr {
            qp_context: std::ptr::null_mut(),
            send_cq: std::ptr::null_mut(),
            recv_cq: std::ptr::null_mut(),
            srq: std::ptr::null_mut(),
            cap: ibv_qp_cap::default(),
            qp_type: 0,
            sq_sig_all: 0,
            padding: 0,
        }
    }
}

impl Default for ibv_send_wr {
    fn default() -> Self {
        ibv_send_wr {
            wr_id: 0,
            next: std::ptr::null_mut(),
            sg_list: std::ptr::null_mut(),
            num_sge: 0,
            opcode: 0,
            send_flags: 0,
            imm_data: 0,
            wr: ibv_wr { atomic: [0; 4] },
            qp_type: 0,
            bind_mw: [0; 6],
        }
    }
}

// SAFETY: plain data. Its pointers are followed only where a request is posted, under the promises made there.
unsafe impl Send for ibv_send_wr {}
// SAFETY: as for `ibv_send_wr`.
unsafe impl Send for ibv_recv_wr {}

// The structures that the data path accesses without a library function, and those that the library reads and writes
// here.
const _: () = {
    assert!(offset_of!(ibv_context, ops) == 8 && size_of::<ibv_context_ops>() == 256);
    assert!(offset_of!(ibv_context_ops, poll_cq) == 88 && offset_of!(ibv_context_ops, req_notify_cq) == 96);
    assert!(offset_of!(ibv_context_ops, post_send) == 200 && offset_of!(ibv_context_ops, post_recv) == 208);
    assert!(offset_of!(ibv_context, cmd_fd) == 264 && offset_of!(ibv_context, async_fd) == 268);
    assert!(offset_of!(ibv_qp, qp_num) == 52 && offset_of!(ibv_cq, cqe) == 28 && offset_of!(ibv_comp_channel, fd) == 8);
    assert!(size_of::<ibv_mr>() == 48 && offset_of!(ibv_mr, lkey) == 36 && offset_of!(ibv_mr, rkey) == 40);
    assert!(size_of::<ibv_send_wr>() == 128 && offset_of!(ibv_send_wr, wr) == 40);
    assert!(offset_of!(ibv_send_wr, wr.rdma.rkey) == 48 && offset_of!(ibv_send_wr, qp_type) == 72);
    assert!(size_of::<ibv_recv_wr>() == 32 && size_of::<ibv_sge>() == 16 && size_of::<ibv_pd>() == 16);
    assert!(size_of::<ibv_wc>() == 48 && offset_of!(ibv_wc, wc_flags) == 36);
    assert!(size_of::<ibv_gid>() == 16 && size_of::<ibv_global_route>() == 24 && size_of::<ibv_ah_attr>() == 32);
    assert!(size_of::<ibv_qp_attr>() == 144 && size_of::<ibv_qp_init_attr>() == 64 && size_of::<ibv_qp_cap>() == 20);
    assert!(size_of::<ibv_device_attr>() == 232 && offset_of!(ibv_device_attr, phys_port_cnt) == 227);
    assert!(size_of::<ibv_port_attr>() == 128 && offset_of!(ibv_port_attr, link_layer) == 46);
    assert!(size_of::<ibv_async_event>() == 16);
};

// These contain mutexes and condition variables, which have platform-specific sizes.
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
const _: () = assert!(size_of::<ibv_context>() == 328 && size_of::<ibv_qp>() == 160 && size_of::<ibv_cq>() == 128);
