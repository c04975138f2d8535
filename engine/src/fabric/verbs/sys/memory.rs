//! Memory that a device may read and write.

use super::context::Context;
use super::types::{ibv_mr, ibv_pd};
use super::{VerbsError, check, log_failure};
use std::any::Any;
use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::Arc;

/// A protection domain of memory and queue pairs. Queue pairs of other domains cannot reach the memory.
pub(crate) struct ProtectionDomain {
    pub(super) raw: NonNull<ibv_pd>,
    pub(super) context: Arc<Context>,
}

// SAFETY: the library's functions may be called on it by any thread at any time.
unsafe impl Send for ProtectionDomain {}
// SAFETY: as for `Send`.
unsafe impl Sync for ProtectionDomain {}

impl ProtectionDomain {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Arc<ProtectionDomain>, VerbsError> {
        // SAFETY: the context is open.
        let raw = unsafe { (context.library.ibv_alloc_pd)(context.raw.as_ptr()) };
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last("ibv_alloc_pd"))?;
        Ok(Arc::new(ProtectionDomain { raw, context: context.clone() }))
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: freed once, after everything in it, which holds it.
        log_failure(check("ibv_dealloc_pd", unsafe { (self.context.library.ibv_dealloc_pd)(self.raw.as_ptr()) }));
    }
}

/// Registered memory. Dropping it first revokes the device's access, and then releases the owner of the memory.
pub(crate) struct MemoryRegion {
    raw: NonNull<ibv_mr>,
    domain: Arc<ProtectionDomain>,
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the library's functions may be called on it by any thread at any time; its fields are constant.
unsafe impl Send for MemoryRegion {}
// SAFETY: as for `Send`.
unsafe impl Sync for MemoryRegion {}

impl MemoryRegion {
    /// Registers `len` bytes at `start` with `access`, a set of `IBV_ACCESS_*`.
    ///
    /// The pages stay in memory until the region is dropped, and count against the limit of locked memory.
    ///
    /// # Safety
    /// The range is mapped while `owner` lives, and consists of whole pages that belong to nothing else. It is read and
    /// written only through atomics and raw pointers: with `access` for remote writes, or as the target of a read
    /// request, it changes at any time.
    pub(crate) unsafe fn register(
        domain: &Arc<ProtectionDomain>,
        start: *mut u8,
        len: usize,
        access: u32,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Result<MemoryRegion, VerbsError> {
        let library = domain.context.library;
        // SAFETY: the domain is alive, and the range is mapped, as the caller promises. The library checks the rest.
        let raw = unsafe { (library.ibv_reg_mr)(domain.raw.as_ptr(), start.cast(), len, access as c_int) };
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last("ibv_reg_mr"))?;
        Ok(MemoryRegion { raw, domain: domain.clone(), _owner: owner })
    }

    /// The key of the region in requests of this process.
    pub(crate) fn local_key(&self) -> u32 {
        // SAFETY: registered, and constant.
        unsafe { (*self.raw.as_ptr()).lkey }
    }

    /// The key of the region in requests of peers.
    pub(crate) fn remote_key(&self) -> u32 {
        // SAFETY: registered, and constant.
        unsafe { (*self.raw.as_ptr()).rkey }
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        // SAFETY: deregistered once. The owner is a field and is dropped later.
        log_failure(check("ibv_dereg_mr", unsafe { (self.domain.context.library.ibv_dereg_mr)(self.raw.as_ptr()) }));
    }
}
