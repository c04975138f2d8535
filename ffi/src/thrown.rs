//! Calls of the application's functions, which may be written in C++ and throw exceptions.
//!
//! An exception must not unwind through the engine, and Rust cannot catch a foreign exception: `catch_unwind` aborts
//! the process. So each call goes through a stack frame written in assembly. The personality routine of that frame
//! catches every exception, deletes it, and reports that one was thrown. Anything that is not an exception unwinds
//! further: a forced unwinding (`pthread_exit`, a cancelled thread) and a `longjmp` cannot be stopped, and the
//! application must avoid them.

use std::ffi::c_void;

/// The application's function threw an exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thrown;

/// Calls `function`, which calls the application. Returns [`Thrown`] if an exception was thrown.
pub(crate) fn catch<R>(function: impl FnOnce() -> R) -> Result<R, Thrown> {
    struct Call<F, R> {
        function: Option<F>,
        result: Option<R>,
    }
    /// When an exception passes through this frame, the frame holds no value with a destructor.
    unsafe extern "C-unwind" fn run<F: FnOnce() -> R, R>(call: *mut c_void) {
        // SAFETY: `catch` passes a pointer to its own `Call` and waits until this function returns.
        let call = unsafe { &mut *call.cast::<Call<F, R>>() };
        if let Some(function) = call.function.take() {
            call.result = Some(function());
        }
    }
    let mut call = Call { function: Some(function), result: None };
    // SAFETY: `run` has the type parameters of `call`, and `call` outlives it.
    unsafe { frame::call(run_of(&call), (&raw mut call).cast()) };
    return call.result.ok_or(Thrown);

    fn run_of<F: FnOnce() -> R, R>(_: &Call<F, R>) -> unsafe extern "C-unwind" fn(*mut c_void) {
        run::<F, R>
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod frame {
    use std::ffi::{c_int, c_void};

    /// Constants that the unwinder passes to a personality routine and expects from it: Itanium C++ ABI, part I.
    const SEARCH_PHASE: c_int = 1;
    const HANDLER_FRAME: c_int = 4;
    const FORCE_UNWIND: c_int = 8;
    const HANDLER_FOUND: c_int = 6;
    const INSTALL_CONTEXT: c_int = 7;
    const CONTINUE_UNWIND: c_int = 8;

    unsafe extern "C" {
        /// Calls `function` with `argument`. It also returns if `function` throws, and the exception is deleted then.
        #[link_name = "galerna_private_call"]
        pub(super) fn call(function: unsafe extern "C-unwind" fn(*mut c_void), argument: *mut c_void);
        #[link_name = "galerna_private_caught"]
        static CAUGHT: u8;
        fn _Unwind_SetGR(context: *mut c_void, register: c_int, value: usize);
        fn _Unwind_SetIP(context: *mut c_void, address: usize);
    }

    /// The personality routine: the unwinder calls it for the frame of [`call`].
    unsafe extern "C" fn personality(
        _version: c_int,
        actions: c_int,
        _class: u64,
        exception: *mut c_void,
        context: *mut c_void,
    ) -> c_int {
        if actions & FORCE_UNWIND != 0 {
            return CONTINUE_UNWIND;
        }
        if actions & SEARCH_PHASE != 0 {
            return HANDLER_FOUND;
        }
        if actions & HANDLER_FRAME == 0 {
            return CONTINUE_UNWIND;
        }
        // SAFETY: the unwinder passes its own context, in the phase in which it may be changed. Register 0 is the first
        // register that both architectures pass to a landing pad.
        unsafe {
            _Unwind_SetGR(context, 0, exception.addr());
            _Unwind_SetIP(context, (&raw const CAUGHT).addr());
        }
        INSTALL_CONTEXT
    }

    // The call, followed by the landing pad. The unwinder enters the landing pad with the exception in the first
    // register.
    #[cfg(target_arch = "x86_64")]
    std::arch::global_asm!(
        ".pushsection .text.galerna_private_call,\"ax\",@progbits",
        ".globl galerna_private_call",
        ".hidden galerna_private_call",
        ".type galerna_private_call,@function",
        ".globl galerna_private_caught",
        ".hidden galerna_private_caught",
        "galerna_private_call:",
        ".cfi_startproc",
        ".cfi_personality 0x9b, .Lgalerna_private_personality",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "mov rax, rdi",
        "mov rdi, rsi",
        "call rax",
        "pop rbp",
        ".cfi_remember_state",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_restore_state",
        "galerna_private_caught:",
        "mov rdi, rax",
        "call _Unwind_DeleteException@PLT",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        ".size galerna_private_call, . - galerna_private_call",
        ".popsection",
        ".pushsection .data.rel.ro.galerna_private_call,\"aw\",@progbits",
        ".balign 8",
        ".Lgalerna_private_personality:",
        ".quad {personality}",
        ".popsection",
        personality = sym personality,
    );

    #[cfg(target_arch = "aarch64")]
    std::arch::global_asm!(
        ".pushsection .text.galerna_private_call,\"ax\",@progbits",
        ".globl galerna_private_call",
        ".hidden galerna_private_call",
        ".type galerna_private_call,@function",
        ".globl galerna_private_caught",
        ".hidden galerna_private_caught",
        ".balign 4",
        "galerna_private_call:",
        ".cfi_startproc",
        ".cfi_personality 0x9b, .Lgalerna_private_personality",
        "stp x29, x30, [sp, #-16]!",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset x29, -16",
        ".cfi_offset x30, -8",
        "mov x29, sp",
        ".cfi_def_cfa_register x29",
        "mov x8, x0",
        "mov x0, x1",
        "blr x8",
        "b 1f",
        "galerna_private_caught:",
        "bl _Unwind_DeleteException",
        "1:",
        "ldp x29, x30, [sp], #16",
        ".cfi_restore x29",
        ".cfi_restore x30",
        ".cfi_def_cfa sp, 0",
        "ret",
        ".cfi_endproc",
        ".size galerna_private_call, . - galerna_private_call",
        ".popsection",
        ".pushsection .data.rel.ro.galerna_private_call,\"aw\",@progbits",
        ".balign 8",
        ".Lgalerna_private_personality:",
        ".quad {personality}",
        ".popsection",
        personality = sym personality,
    );
}

/// On other architectures an exception ends the process, as the header documents.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod frame {
    use std::ffi::c_void;

    pub(super) unsafe fn call(function: unsafe extern "C-unwind" fn(*mut c_void), argument: *mut c_void) {
        // SAFETY: the caller guarantees it.
        unsafe { function(argument) }
    }
}
