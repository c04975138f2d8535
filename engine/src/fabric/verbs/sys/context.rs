//! An opened device.

use super::library::{DeviceList, Library};
use super::types::{ibv_async_event, ibv_context, ibv_device_attr, ibv_event_element, ibv_port_attr};
use super::{
    IBV_EVENT_COMM_EST, IBV_EVENT_LID_CHANGE, IBV_EVENT_PORT_ACTIVE, IBV_EVENT_PORT_ERR, IBV_EVENT_QP_ACCESS_ERR,
    IBV_EVENT_QP_FATAL, IBV_EVENT_QP_LAST_WQE_REACHED, IBV_EVENT_QP_REQ_ERR, IBV_EVENT_SQ_DRAINED, VerbsError, check,
    log_failure,
};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

/// An opened device. Every object created on it keeps it open.
pub(crate) struct Context {
    pub(super) library: &'static Library,
    pub(super) raw: NonNull<ibv_context>,
}

// SAFETY: the library's functions may be called on a context by any thread at any time. Its fields are constant while
// it is open.
unsafe impl Send for Context {}
// SAFETY: as for `Send`.
unsafe impl Sync for Context {}

/// An event that the device reports outside of completions. It is acknowledged already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AsyncEvent {
    /// An `IBV_EVENT_*` value; [`super::event_type`] describes it.
    pub(crate) event_type: u32,
    /// The queue pair that the event concerns, if any.
    pub(crate) qp_number: Option<u32>,
    /// The port that the event concerns, if any.
    pub(crate) port: Option<i32>,
}

impl Context {
    /// Opens the device with this name; `None` if there is none.
    pub(crate) fn open(
        devices: &DeviceList,
        library: &'static Library,
        name: &str,
    ) -> Result<Option<Arc<Context>>, VerbsError> {
        let Some(device) = devices.find(name) else { return Ok(None) };
        // SAFETY: the device is of the list, which is alive.
        let raw = unsafe { (library.ibv_open_device)(device) };
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last("ibv_open_device"))?;
        let context = Arc::new(Context { library, raw });
        // The event descriptor is read in a loop that must not block.
        set_nonblocking("ibv_open_device", context.events_fd())?;
        Ok(Some(context))
    }

    /// The properties and limits of the device.
    pub(crate) fn query_device(&self) -> Result<ibv_device_attr, VerbsError> {
        let mut attributes = MaybeUninit::<ibv_device_attr>::zeroed();
        // SAFETY: open, and the structure has the size that the library expects.
        check("ibv_query_device", unsafe {
            (self.library.ibv_query_device)(self.raw.as_ptr(), attributes.as_mut_ptr())
        })?;
        // SAFETY: zeroes are a valid value of the structure, and the library has filled it in.
        Ok(unsafe { attributes.assume_init() })
    }

    /// The state of a port; the first port is 1.
    pub(crate) fn query_port(&self, port: u8) -> Result<ibv_port_attr, VerbsError> {
        let mut attributes = ibv_port_attr::default();
        // SAFETY: open. The exported symbol stores the 48 bytes up to `flags`, and there is room for more.
        check("ibv_query_port", unsafe {
            (self.library.ibv_query_port)(self.raw.as_ptr(), port, &raw mut attributes)
        })?;
        Ok(attributes)
    }

    /// The descriptor that becomes readable when there is an event.
    pub(crate) fn events_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the context's own descriptor, open as long as the context.
        unsafe { BorrowedFd::borrow_raw((*self.raw.as_ptr()).async_fd) }
    }

    /// The next event, if there is one.
    pub(crate) fn next_event(&self) -> Result<Option<AsyncEvent>, VerbsError> {
        let mut event = ibv_async_event { element: ibv_event_element { port_num: 0 }, event_type: 0 };
        // SAFETY: open, and the event has the size that the library expects.
        while unsafe { (self.library.ibv_get_async_event)(self.raw.as_ptr(), &raw mut event) } != 0 {
            let error = VerbsError::last("ibv_get_async_event");
            match error.errno {
                libc::EINTR => {}
                libc::EAGAIN => return Ok(None),
                _ => return Err(error),
            }
        }
        let qp_number = matches!(
            event.event_type,
            IBV_EVENT_QP_FATAL
                | IBV_EVENT_QP_REQ_ERR
                | IBV_EVENT_QP_ACCESS_ERR
                | IBV_EVENT_COMM_EST
                | IBV_EVENT_SQ_DRAINED
                | IBV_EVENT_QP_LAST_WQE_REACHED
        )
        // SAFETY: events of these types concern a queue pair, which is not destroyed before they are acknowledged.
        .then(|| unsafe { (*event.element.qp).qp_num });
        let port = matches!(event.event_type, IBV_EVENT_PORT_ACTIVE | IBV_EVENT_PORT_ERR | IBV_EVENT_LID_CHANGE)
            // SAFETY: events of these types concern a port.
            .then(|| unsafe { event.element.port_num });
        // SAFETY: acknowledged once, as the library returned it.
        unsafe { (self.library.ibv_ack_async_event)(&raw mut event) };
        Ok(Some(AsyncEvent { event_type: event.event_type, qp_number, port }))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: closed once, after everything made on it, which holds it.
        log_failure(check("ibv_close_device", unsafe { (self.library.ibv_close_device)(self.raw.as_ptr()) }));
    }
}

/// Makes reads from a descriptor of the library return at once.
pub(super) fn set_nonblocking(call: &'static str, fd: BorrowedFd<'_>) -> Result<(), VerbsError> {
    let failed = |errno: nix::errno::Errno| VerbsError { call, errno: errno as i32 };
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).map_err(failed)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(failed)?;
    Ok(())
}
