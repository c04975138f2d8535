//! The border itself: where panics stop, errors become codes, and pointers become references.

use crate::failure::Failure;
use crate::result::galerna_result_t::{self, GALERNA_OK};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

thread_local! {
    /// The last failure of this thread, until somebody asks for its text.
    static LAST: Cell<Option<Failure>> = const { Cell::new(None) };
    static TEXT: RefCell<CString> = RefCell::default();
}

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

/// `PTHREAD_CANCEL_DISABLE`.
const CANCEL_DISABLE: c_int = 1;

/// This thread cannot be cancelled until it is dropped: the unwinding would leave locks behind that nobody opens.
struct Uncancelled(c_int);

impl Uncancelled {
    fn new() -> Uncancelled {
        let mut before = CANCEL_DISABLE;
        // SAFETY: a function of POSIX, which writes where it is told.
        unsafe { pthread_setcancelstate(CANCEL_DISABLE, &raw mut before) };
        Uncancelled(before)
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        // SAFETY: as in `new`.
        unsafe { pthread_setcancelstate(self.0, std::ptr::null_mut()) };
    }
}

/// Runs the body of a function of the ABI.
pub(crate) fn call(body: impl FnOnce() -> Result<(), Failure>) -> galerna_result_t {
    let _uncancelled = Uncancelled::new();
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(Failure::Panic(panic_text(&*panic))));
    let Err(failure) = result else {
        return GALERNA_OK;
    };
    let code = failure.code();
    // It fails in the destructors of a thread that ends, which then has no last error.
    let _ = LAST.try_with(|last| last.set(Some(failure)));
    code
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a text".to_owned())
}

/// The text of this thread's last failure.
pub(crate) fn last_error() -> *const c_char {
    let text = TEXT.try_with(|text| {
        let mut text = text.try_borrow_mut().ok()?;
        if let Some(failure) = LAST.try_with(Cell::take).ok().flatten() {
            *text = c_string(&failure);
        }
        Some(text.as_ptr())
    });
    text.ok().flatten().unwrap_or(c"".as_ptr())
}

/// A text for C, which ends at the first zero byte.
pub(crate) fn c_string(text: &impl ToString) -> CString {
    let mut bytes = text.to_string().into_bytes();
    bytes.retain(|&byte| byte != 0);
    CString::new(bytes).unwrap_or_default()
}

/// A string that C passed.
///
/// # Safety
/// NULL, or a string that ends with a zero byte and stays as it is during `'a`.
pub(crate) unsafe fn text<'a>(name: &'static str, pointer: *const c_char) -> Result<&'a str, Failure> {
    if pointer.is_null() {
        return Err(Failure::Argument(name, "is NULL"));
    }
    // SAFETY: not NULL; the rest is the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Failure::Argument(name, "is not UTF-8"))
}

/// Copies a text to C, as much of it as there is room for, with a zero byte at the end.
///
/// # Safety
/// NULL, or memory for `capacity` bytes that nobody else uses meanwhile.
pub(crate) unsafe fn copy_text(
    name: &'static str,
    place: *mut c_char,
    capacity: usize,
    text: &CStr,
) -> Result<(), Failure> {
    let Some(room) = capacity.checked_sub(1) else { return Ok(()) };
    if place.is_null() {
        return Err(Failure::Argument(name, "is NULL"));
    }
    // Cut between two characters.
    let whole = text.to_str().unwrap_or_default();
    let end = (0..=room.min(whole.len())).rev().find(|&end| whole.is_char_boundary(end)).unwrap_or(0);
    // SAFETY: `end` is below `capacity`, and both texts are bytes; the rest is the caller's promise.
    unsafe {
        place.copy_from_nonoverlapping(text.as_ptr(), end);
        place.add(end).write(0);
    }
    Ok(())
}

/// Bytes that C passed, `length` of them.
///
/// # Safety
/// NULL, or memory of `length` initialised bytes that stay as they are during `'a`.
pub(crate) unsafe fn bytes<'a>(name: &'static str, pointer: *const c_void, length: usize) -> Result<&'a [u8], Failure> {
    check_bytes(name, pointer, length)?;
    match length {
        0 => Ok(&[]),
        // SAFETY: not NULL; the rest is the caller's promise.
        _ => Ok(unsafe { std::slice::from_raw_parts(pointer.cast(), length) }),
    }
}

/// Memory of C's, `length` bytes, which takes others. It is cleared first.
///
/// # Safety
/// NULL, or memory of `length` bytes that nobody else uses during `'a`.
pub(crate) unsafe fn bytes_out<'a>(
    name: &'static str,
    pointer: *mut c_void,
    length: usize,
) -> Result<&'a mut [u8], Failure> {
    check_bytes(name, pointer, length)?;
    match length {
        0 => Ok(&mut []),
        // SAFETY: not NULL, and initialised before it is a reference; the rest is the caller's promise.
        _ => Ok(unsafe {
            pointer.write_bytes(0, length);
            std::slice::from_raw_parts_mut(pointer.cast(), length)
        }),
    }
}

fn check_bytes(name: &'static str, pointer: *const c_void, length: usize) -> Result<(), Failure> {
    if pointer.is_null() && length > 0 {
        return Err(Failure::Argument(name, "is NULL"));
    }
    match isize::try_from(length) {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::Argument("length", "is more than an object can have")),
    }
}

/// A place of C's that a result is written to. It may be uninitialised, so it is never a reference.
pub(crate) struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// # Safety
    /// NULL, or memory for a `T` that nobody else uses as long as this value lives.
    pub(crate) unsafe fn new(name: &'static str, pointer: *mut T) -> Result<Out<T>, Failure> {
        let place = NonNull::new(pointer).ok_or(Failure::Argument(name, "is NULL"))?;
        match place.is_aligned() {
            true => Ok(Out(place)),
            false => Err(Failure::Argument(name, "is misaligned")),
        }
    }

    /// The same for a place that C may leave out.
    ///
    /// # Safety
    /// As [`Out::new`].
    pub(crate) unsafe fn optional(name: &'static str, pointer: *mut T) -> Result<Option<Out<T>>, Failure> {
        match pointer.is_null() {
            true => Ok(None),
            // SAFETY: the caller's promise.
            false => unsafe { Out::new(name, pointer).map(Some) },
        }
    }

    pub(crate) fn set(&self, value: T) {
        // SAFETY: aligned, and the promise of `new`.
        unsafe { self.0.write(value) }
    }
}

/// A copy of a value that C passed a pointer to; none for NULL.
///
/// # Safety
/// NULL, or a `T`, which nobody writes meanwhile and which is valid for any bytes.
pub(crate) unsafe fn copy<T: Copy>(name: &'static str, pointer: *const T) -> Result<Option<T>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    match pointer.is_aligned() {
        // SAFETY: aligned and not NULL; the rest is the caller's promise.
        true => Ok(Some(unsafe { pointer.read() })),
        false => Err(Failure::Argument(name, "is misaligned")),
    }
}

/// A struct that begins with its size, so that later versions can append fields.
///
/// # Safety
/// `repr(C)`, with a `usize` as first field, and valid for any bytes.
pub(crate) unsafe trait Versioned: Copy {
    /// Its name in C.
    const NAME: &'static str;
    /// The sizes that it had before: what a program of that time fills in ends there, and the rest counts as zero.
    const FORMER: &'static [usize] = &[];
}

/// Checks the size that C wrote in a struct, this version's or one of the `former`, and that the struct can be accessed.
///
/// # Safety
/// NULL, or a struct of at least the size in its first field, which nobody writes meanwhile.
unsafe fn check_size<T: Versioned>(name: &'static str, pointer: *const T, former: &[usize]) -> Result<usize, Failure> {
    if pointer.is_null() {
        return Err(Failure::Argument(name, "is NULL"));
    }
    if !pointer.is_aligned() {
        return Err(Failure::Argument(name, "is misaligned"));
    }
    // SAFETY: aligned; the first field is the size, which C has written.
    let size = unsafe { pointer.cast::<usize>().read() };
    match size == size_of::<T>() || former.contains(&size) {
        true => Ok(size),
        false => Err(Failure::Size(T::NAME, size, size_of::<T>())),
    }
}

/// A struct that C filled, in this version or in a former one.
///
/// # Safety
/// NULL, or a struct of at least the size in its first field, initialised, which nobody writes meanwhile.
pub(crate) unsafe fn versioned<T: Versioned>(name: &'static str, pointer: *const T) -> Result<T, Failure> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the caller's promise; after the check it covers `size` bytes, at most a `T`, and a `T` may be any bytes.
    unsafe {
        let size = check_size(name, pointer, T::FORMER)?;
        value.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(pointer.cast(), size);
        Ok(value.assume_init())
    }
}

/// A struct of which C filled the size, for the library to fill.
///
/// # Safety
/// NULL, or a struct of at least the size in its first field, that nobody else uses as long as the result lives.
pub(crate) unsafe fn versioned_out<T: Versioned>(name: &'static str, pointer: *mut T) -> Result<Out<T>, Failure> {
    // SAFETY: the caller's promise.
    unsafe {
        check_size(name, pointer, &[])?;
        Out::new(name, pointer)
    }
}
