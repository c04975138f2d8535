//! Completion queues, and the channel on which a thread sleeps until there is a completion.

use super::context::{Context, set_nonblocking};
use super::types::{ibv_comp_channel, ibv_cq, ibv_wc};
use super::{VerbsError, check, log_failure};
use std::ffi::c_int;
use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// A descriptor that becomes readable when one of its queues has a completion and was asked to notify.
pub(crate) struct CompletionChannel {
    raw: NonNull<ibv_comp_channel>,
    context: Arc<Context>,
}

// SAFETY: the library's functions may be called on it by any thread at any time; its descriptor is constant.
unsafe impl Send for CompletionChannel {}
// SAFETY: as for `Send`.
unsafe impl Sync for CompletionChannel {}

impl CompletionChannel {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Arc<CompletionChannel>, VerbsError> {
        // SAFETY: the context is open.
        let raw = unsafe { (context.library.ibv_create_comp_channel)(context.raw.as_ptr()) };
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last("ibv_create_comp_channel"))?;
        let channel = Arc::new(CompletionChannel { raw, context: context.clone() });
        set_nonblocking("ibv_create_comp_channel", channel.fd())?;
        Ok(channel)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel's own descriptor, open as long as the channel.
        unsafe { BorrowedFd::borrow_raw((*self.raw.as_ptr()).fd) }
    }

    /// Takes and acknowledges all notifications; returns their number.
    ///
    /// The descriptor is not readable afterwards. Each queue needs a new request
    /// ([`CompletionQueue::request_notification`]).
    pub(crate) fn drain(&self) -> Result<usize, VerbsError> {
        let library = self.context.library;
        let mut taken = 0;
        loop {
            let (mut cq, mut cookie) = (null_mut(), null_mut());
            // SAFETY: the channel is alive, and both results are pointers.
            if unsafe { (library.ibv_get_cq_event)(self.raw.as_ptr(), &raw mut cq, &raw mut cookie) } != 0 {
                let error = VerbsError::last("ibv_get_cq_event");
                match error.errno {
                    libc::EINTR => continue,
                    libc::EAGAIN => return Ok(taken),
                    _ => return Err(error),
                }
            }
            // SAFETY: a queue is not destroyed before the events taken from it are acknowledged.
            unsafe { (library.ibv_ack_cq_events)(cq, 1) };
            taken += 1;
        }
    }
}

impl Drop for CompletionChannel {
    fn drop(&mut self) {
        // SAFETY: destroyed once, after the queues made with it, which hold it.
        log_failure(check("ibv_destroy_comp_channel", unsafe {
            (self.context.library.ibv_destroy_comp_channel)(self.raw.as_ptr())
        }));
    }
}

/// A queue that receives the completions of requests.
pub(crate) struct CompletionQueue {
    pub(super) raw: NonNull<ibv_cq>,
    context: Arc<Context>,
    _channel: Option<Arc<CompletionChannel>>,
}

// SAFETY: the library's functions may be called on it by any thread at any time. Providers lock, unless the environment
// declares the process single-threaded.
unsafe impl Send for CompletionQueue {}
// SAFETY: as for `Send`.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// Creates a queue for at least `entries` completions. An overrun breaks the queue and its queue pairs.
    pub(crate) fn new(
        context: &Arc<Context>,
        entries: u32,
        channel: Option<&Arc<CompletionChannel>>,
    ) -> Result<Arc<CompletionQueue>, VerbsError> {
        let call = "ibv_create_cq";
        let entries = c_int::try_from(entries).map_err(|_| VerbsError { call, errno: libc::EINVAL })?;
        let raw_channel = channel.map_or(null_mut(), |channel| channel.raw.as_ptr());
        // SAFETY: the context is open, the channel is alive, and the cookie is never read.
        let raw = unsafe { (context.library.ibv_create_cq)(context.raw.as_ptr(), entries, null_mut(), raw_channel, 0) };
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last(call))?;
        Ok(Arc::new(CompletionQueue { raw, context: context.clone(), _channel: channel.cloned() }))
    }

    /// Takes as many completions as there are and fit; returns their number.
    #[inline]
    pub(crate) fn poll(&self, into: &mut [ibv_wc]) -> Result<usize, VerbsError> {
        let room = c_int::try_from(into.len()).unwrap_or(c_int::MAX);
        // SAFETY: as the header's ibv_poll_cq. The queue is alive, and `into` has room for the requested number.
        let found = unsafe {
            let cq = self.raw.as_ptr();
            let poll = (*(*cq).context).ops.poll_cq.ok_or(missing("ibv_poll_cq"))?;
            poll(cq, room, into.as_mut_ptr())
        };
        // The manual defines a negative number as a failure, but gives it no meaning.
        usize::try_from(found).map_err(|_| VerbsError { call: "ibv_poll_cq", errno: libc::EIO })
    }

    /// Requests that the next completion makes the channel readable.
    ///
    /// With `solicited_only`, only a solicited receive request or any failed request counts. A completion that is there
    /// already does not count, so poll after this call and before sleeping.
    pub(crate) fn request_notification(&self, solicited_only: bool) -> Result<(), VerbsError> {
        // SAFETY: as the header's ibv_req_notify_cq. The queue is alive.
        let result = unsafe {
            let cq = self.raw.as_ptr();
            let request = (*(*cq).context).ops.req_notify_cq.ok_or(missing("ibv_req_notify_cq"))?;
            request(cq, c_int::from(solicited_only))
        };
        check("ibv_req_notify_cq", result)
    }
}

/// The error for an operation that the device's provider lacks.
pub(super) fn missing(call: &'static str) -> VerbsError {
    VerbsError { call, errno: libc::EOPNOTSUPP }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: destroyed once, after the queue pairs that use it, which hold it. Its channel is a field and is
        // dropped later.
        log_failure(check("ibv_destroy_cq", unsafe { (self.context.library.ibv_destroy_cq)(self.raw.as_ptr()) }));
    }
}
