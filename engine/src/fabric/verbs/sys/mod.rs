//! The bindings of libibverbs: its structures, its functions, and owners of the objects that it returns.
//!
//! [`Library::get`] loads it. [`Context`] is an opened device, on which [`ProtectionDomain`], [`MemoryRegion`],
//! [`CompletionChannel`], [`CompletionQueue`] and [`QueuePair`] are created. Each object keeps alive the objects from
//! which it was made. So all are destroyed in the order that the library demands, in whichever order they are dropped.
//!
//! A failed call returns a [`VerbsError`] with the name of the call, the errno and, if there is one, the usual remedy.
//! The manual pages report errors differently: calls that return a pointer set errno, and most calls that return a
//! number return the errno itself. [`check`] handles both.
//!
//! The handles may be used by any thread: the library locks where necessary.

mod completion;
mod constants;
mod context;
#[cfg(test)]
mod layout;
mod library;
mod memory;
mod queue_pair;
mod types;

pub(crate) use completion::{CompletionChannel, CompletionQueue};
pub(crate) use constants::*;
pub(crate) use context::Context;
pub(crate) use library::{DeviceList, Library};
pub(crate) use memory::{MemoryRegion, ProtectionDomain};
#[cfg(test)]
pub(crate) use queue_pair::PostFailed;
pub(crate) use queue_pair::{Attributes, Capacity, QueuePair, Remote};
pub(crate) use types::{ibv_recv_wr, ibv_send_wr, ibv_sge, ibv_wc, ibv_wr, ibv_wr_rdma};

use std::ffi::c_int;
use std::io;

/// The failure of a call of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VerbsError {
    /// The function of the library.
    pub(crate) call: &'static str,
    /// As in errno(3).
    pub(crate) errno: i32,
}

impl VerbsError {
    /// The error of a call that returned NULL or -1. Must be called while errno is still that of the call.
    fn last(call: &'static str) -> VerbsError {
        VerbsError { call, errno: io::Error::last_os_error().raw_os_error().unwrap_or(0) }
    }

    /// The usual meaning of this errno from this call, and what to do.
    fn remedy(&self) -> &'static str {
        match (self.call, self.errno) {
            ("ibv_reg_mr", libc::ENOMEM) | ("ibv_create_qp" | "ibv_create_cq", libc::ENOMEM) => {
                ": more than this device takes, or locked memory exceeds its limit (ulimit -l, LimitMEMLOCK= in a systemd unit)"
            }
            (_, libc::EIO | libc::ENODEV) => ": the device was removed, or its driver gave it up",
            _ => "",
        }
    }
}

impl std::fmt::Display for VerbsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.errno == 0 {
            return write!(f, "{} failed and gave no reason", self.call);
        }
        let text = io::Error::from_raw_os_error(self.errno);
        write!(f, "{}: {text}{}", self.call, self.remedy())
    }
}

impl std::error::Error for VerbsError {}

impl From<VerbsError> for io::Error {
    fn from(e: VerbsError) -> io::Error {
        io::Error::new(io::Error::from_raw_os_error(e.errno).kind(), e)
    }
}

/// Checks the result of a call that returns 0 for success.
///
/// A failure is an errno (as documented), its negative, or -1 with errno set (as some providers did). Must be called at
/// once, while errno is still that of the call.
fn check(call: &'static str, result: c_int) -> Result<(), VerbsError> {
    match result {
        0 => Ok(()),
        -1 => Err(VerbsError::last(call)),
        errno => Err(VerbsError { call, errno: errno.saturating_abs() }),
    }
}

/// For destructors, which can report a failure only to the log.
fn log_failure(result: Result<(), VerbsError>) {
    if let Err(e) = result {
        tracing::warn!("{e}");
    }
}

#[cfg(test)]
mod tests {
    use super::{VerbsError, check, event_type, mtu_bytes, mtu_code, wc_status};

    #[test]
    fn errors_name_the_call_the_reason_and_the_remedy() {
        let error = check("ibv_reg_mr", libc::ENOMEM).unwrap_err();
        assert_eq!(error, VerbsError { call: "ibv_reg_mr", errno: libc::ENOMEM });
        let text = std::io::Error::from(error).to_string();
        assert!(text.starts_with("ibv_reg_mr: Cannot allocate memory") && text.contains("ulimit -l"), "{text}");
        assert_eq!(check("ibv_modify_qp", -libc::EINVAL).unwrap_err().errno, libc::EINVAL);
        assert_eq!(check("ibv_modify_qp", 0), Ok(()));
        assert_eq!(
            VerbsError { call: "ibv_open_device", errno: 0 }.to_string(),
            "ibv_open_device failed and gave no reason"
        );
    }

    #[test]
    fn values_in_words() {
        assert!(wc_status(12).contains("does not answer") && wc_status(5).starts_with("flushed"));
        assert!(wc_status(999).contains("does not know") && event_type(999).contains("does not know"));
        assert_eq!([0, 1, 3, 5, 6].map(mtu_bytes), [None, Some(256), Some(1024), Some(4096), None]);
        assert_eq!([100, 256, 1500, 4096, 9000].map(mtu_code), [1, 1, 3, 5, 5]);
    }
}
