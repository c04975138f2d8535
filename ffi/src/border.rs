//! The boundary between C and Rust: catches panics, turns errors into codes, and turns pointers into references.

use crate::failure::Failure;
use crate::log_callback;
use crate::result::galerna_result_t::{self, GALERNA_OK};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

thread_local! {
    /// The last failure of this thread. It is taken out when its text is first requested.
    static LAST: Cell<Option<Failure>> = const { Cell::new(None) };
    static TEXT: RefCell<CString> = RefCell::default();
}

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

/// `PTHREAD_CANCEL_DISABLE`.
const CANCEL_DISABLE: c_int = 1;

/// Disables cancellation of this thread until it is dropped. Unwinding a cancelled thread would leave locks held for
/// ever.
struct Uncancelled(c_int);

impl Uncancelled {
    fn new() -> Uncancelled {
        let mut before = CANCEL_DISABLE;
        // SAFETY: a POSIX function, which writes the old state to a local variable.
        unsafe { pthread_setcancelstate(CANCEL_DISABLE, &raw mut before) };
        Uncancelled(before)
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        // SAFETY: a POSIX function; it accepts a null pointer for the old state.
        unsafe { pthread_setcancelstate(self.0, std::ptr::null_mut()) };
    }
}

/// Runs the body of an ABI function and returns its result code.
pub(crate) fn call(body: impl FnOnce() -> Result<(), Failure>) -> galerna_result_t {
    let _uncancelled = Uncancelled::new();
    let body = || log_callback::not_inside().and_then(|()| body());
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(Failure::Panic(panic_text(&*panic))));
    let Err(failure) = result else {
        return GALERNA_OK;
    };
    let code = failure.code();
    // This fails while the destructors of an ending thread run. Such a thread then has no last error.
    let _ = LAST.try_with(|last| last.set(Some(failure)));
    code
}

/// Returns the text of a panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a text".to_owned())
}

/// Returns the text of this thread's last failure.
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

/// Locks `mutex`, also after a panic of a thread that held it: the data is whole between two calls.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a text for C. Zero bytes in the text are removed.
pub(crate) fn c_string(text: &impl ToString) -> CString {
    let mut bytes = text.to_string().into_bytes();
    bytes.retain(|&byte| byte != 0);
    CString::new(bytes).unwrap_or_default()
}

/// A timeout without an end, for every parameter `timeout_ms`.
pub const GALERNA_WAIT_FOREVER: u32 = u32::MAX;

/// The wait of [`GALERNA_WAIT_FOREVER`]: a hundred years. It can be added to the present time without an overflow.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Converts a timeout that C passed.
pub(crate) fn timeout(timeout_ms: u32) -> Duration {
    match timeout_ms {
        GALERNA_WAIT_FOREVER => FOREVER,
        timeout_ms => Duration::from_millis(timeout_ms.into()),
    }
}

/// Converts a string that C passed.
///
/// # Safety
/// NULL, or a string that ends with a zero byte and does not change during `'a`.
pub(crate) unsafe fn text<'a>(name: &'static str, pointer: *const c_char) -> Result<&'a str, Failure> {
    if pointer.is_null() {
        return Err(Failure::Argument(name, "is NULL"));
    }
    // SAFETY: not NULL; the caller guarantees the rest.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Failure::Argument(name, "is not UTF-8"))
}

/// Copies a text to C: as much as fits into `capacity` bytes, including a zero byte at the end.
///
/// # Safety
/// NULL, or memory of `capacity` bytes that is not used by anything else during the call.
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
    // The text is cut between two characters, never inside one.
    let whole = text.to_str().unwrap_or_default();
    let end = (0..=room.min(whole.len())).rev().find(|&end| whole.is_char_boundary(end)).unwrap_or(0);
    // SAFETY: `end` is below `capacity`, and both texts are bytes; the caller guarantees the rest.
    unsafe {
        place.copy_from_nonoverlapping(text.as_ptr(), end);
        place.add(end).write(0);
    }
    Ok(())
}

/// Converts `length` bytes that C passed.
///
/// # Safety
/// NULL, or memory of `length` initialised bytes that do not change during `'a`.
pub(crate) unsafe fn bytes<'a>(name: &'static str, pointer: *const c_void, length: usize) -> Result<&'a [u8], Failure> {
    check_bytes(name, pointer, length)?;
    match length {
        0 => Ok(&[]),
        // SAFETY: not NULL; the caller guarantees the rest.
        _ => Ok(unsafe { std::slice::from_raw_parts(pointer.cast(), length) }),
    }
}

/// Converts an array of `count` elements that C passed.
///
/// # Safety
/// NULL, or memory of `count` initialised elements that do not change during `'a`.
pub(crate) unsafe fn array<'a, T>(name: &'static str, pointer: *const T, count: usize) -> Result<&'a [T], Failure> {
    let length = count.checked_mul(size_of::<T>()).ok_or(Failure::Argument(name, "has too many elements"))?;
    check_bytes(name, pointer.cast(), length)?;
    if count > 0 && !pointer.is_aligned() {
        return Err(Failure::Argument(name, "is misaligned"));
    }
    match count {
        0 => Ok(&[]),
        // SAFETY: not NULL and aligned; the caller guarantees the rest.
        _ => Ok(unsafe { std::slice::from_raw_parts(pointer, count) }),
    }
}

/// Converts `length` bytes of C memory that the library fills. The bytes are set to zero first.
///
/// # Safety
/// NULL, or memory of `length` bytes that is not used by anything else during `'a`.
pub(crate) unsafe fn bytes_out<'a>(
    name: &'static str,
    pointer: *mut c_void,
    length: usize,
) -> Result<&'a mut [u8], Failure> {
    check_bytes(name, pointer, length)?;
    match length {
        0 => Ok(&mut []),
        // SAFETY: not NULL, and initialised before it becomes a reference; the caller guarantees the rest.
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

/// A place in C memory for a result. It may be uninitialised, so no reference to it is ever made.
pub(crate) struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// # Safety
    /// NULL, or memory for a `T` that is not used by anything else as long as this value exists.
    pub(crate) unsafe fn new(name: &'static str, pointer: *mut T) -> Result<Out<T>, Failure> {
        let place = NonNull::new(pointer).ok_or(Failure::Argument(name, "is NULL"))?;
        match place.is_aligned() {
            true => Ok(Out(place)),
            false => Err(Failure::Argument(name, "is misaligned")),
        }
    }

    /// Makes an output place that C may omit by passing NULL.
    ///
    /// # Safety
    /// As for [`Out::new`].
    pub(crate) unsafe fn optional(name: &'static str, pointer: *mut T) -> Result<Option<Out<T>>, Failure> {
        match pointer.is_null() {
            true => Ok(None),
            // SAFETY: the caller guarantees it.
            false => unsafe { Out::new(name, pointer).map(Some) },
        }
    }

    pub(crate) fn set(&self, value: T) {
        // SAFETY: the place is aligned, and the caller of `new` guaranteed the rest.
        unsafe { self.0.write(value) }
    }
}

/// Copies a value that C passed by pointer. Returns `None` for NULL.
///
/// # Safety
/// NULL, or a `T` that is not written during the call and is valid for any bytes.
pub(crate) unsafe fn copy<T: Copy>(name: &'static str, pointer: *const T) -> Result<Option<T>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    match pointer.is_aligned() {
        // SAFETY: aligned and not NULL; the caller guarantees the rest.
        true => Ok(Some(unsafe { pointer.read() })),
        false => Err(Failure::Argument(name, "is misaligned")),
    }
}

/// The maximum `size` of a struct. A greater number is taken for one that was never set.
const SIZE_MAX: usize = 4096;

/// A struct that begins with its size, so that later versions can append fields.
///
/// # Safety
/// The type is `repr(C)`, has a `usize` as its first field, and has no padding. A type that the library reads is valid
/// for any bytes.
pub(crate) unsafe trait Versioned: Copy {
    /// Its name in C.
    const NAME: &'static str;
    /// The minimum `size`: the fields without which the struct is of no use.
    const SIZE_MIN: usize;
}

/// Implements [`Versioned`] for a struct: `versioned_struct!(type, min: field, last: field)`. A program may be compiled
/// with a header that lacks the fields from `min` on; without `min` it needs all fields. The struct must end with the
/// field `last`, without padding.
macro_rules! versioned_struct {
    ($type:ident, last: $last:ident) => {
        $crate::border::versioned_struct!(@ $type, size_of::<$type>(), $last);
    };
    ($type:ident, min: $min:ident, last: $last:ident) => {
        $crate::border::versioned_struct!(@ $type, std::mem::offset_of!($type, $min), $last);
    };
    (@ $type:ident, $min:expr, $last:ident) => {
        // SAFETY: the struct is `repr(C)`, and its first field is the size. The fields are integers, enumerations that
        // the library only writes, unchecked pointers, and nullable function pointers, which C fills in.
        unsafe impl $crate::border::Versioned for $type {
            const NAME: &'static str = stringify!($type);
            const SIZE_MIN: usize = $min;
        }

        const _: () = {
            let last_len = $crate::border::field_len(|value: &$type| &value.$last);
            assert!(std::mem::offset_of!($type, $last) + last_len == size_of::<$type>(), "the struct ends with padding");
            assert!(std::mem::offset_of!($type, size) == 0, "the size is not the first field");
        };
    };
}
pub(crate) use versioned_struct;

/// The size of a field in bytes.
pub(crate) const fn field_len<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// Checks the size that C set in a struct, and that the struct can be accessed.
///
/// # Safety
/// NULL, or a struct of at least the size in its first field, which is not written during the call.
unsafe fn check_size<T: Versioned>(name: &'static str, pointer: *const T) -> Result<usize, Failure> {
    if pointer.is_null() {
        return Err(Failure::Argument(name, "is NULL"));
    }
    if !pointer.is_aligned() {
        return Err(Failure::Argument(name, "is misaligned"));
    }
    // SAFETY: aligned; the first field is the size, which C has written.
    let size = unsafe { pointer.cast::<usize>().read() };
    match (T::SIZE_MIN..=SIZE_MAX).contains(&size) {
        true => Ok(size),
        false => Err(Failure::Size { name: T::NAME, given: size, min: T::SIZE_MIN, max: SIZE_MAX }),
    }
}

/// Copies a struct that C filled in. Fields that the program's header does not have are zero. Fields that this library
/// does not know must be zero.
///
/// # Safety
/// NULL, or an initialised struct of at least the size in its first field, which is not written during the call.
pub(crate) unsafe fn versioned<T: Versioned>(name: &'static str, pointer: *const T) -> Result<T, Failure> {
    let known = size_of::<T>();
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the caller guarantees `size` bytes. At most a `T` is copied, and a `T` may be any bytes.
    unsafe {
        let size = check_size(name, pointer)?;
        value.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(pointer.cast(), size.min(known));
        let unknown = std::slice::from_raw_parts(pointer.cast::<u8>().add(size.min(known)), size.saturating_sub(known));
        if unknown.iter().any(|&byte| byte != 0) {
            return Err(Failure::NewerHeader { name: T::NAME, given: size, known });
        }
        Ok(value.assume_init())
    }
}

/// A struct in which C set the size and which the library fills in.
pub(crate) struct VersionedOut<T> {
    place: NonNull<T>,
    size: usize,
}

impl<T: Versioned> VersionedOut<T> {
    /// # Safety
    /// NULL, or a struct of at least the size in its first field that is not used by anything else as long as the
    /// result exists.
    pub(crate) unsafe fn new(name: &'static str, pointer: *mut T) -> Result<VersionedOut<T>, Failure> {
        // SAFETY: the caller guarantees it.
        let size = unsafe { check_size(name, pointer)? };
        let place = NonNull::new(pointer).ok_or(Failure::Argument(name, "is NULL"))?;
        Ok(VersionedOut { place, size })
    }

    /// Fills in the fields that the program's header has. The size stays as C set it. Fields that this library does not
    /// know become zero.
    pub(crate) fn set(&self, value: T) {
        let known = size_of::<T>().min(self.size);
        let place = self.place.as_ptr().cast::<u8>();
        // SAFETY: `size` bytes belong to this value, as promised to `new`, and `known` is no more than a `T`.
        unsafe {
            place.copy_from_nonoverlapping((&raw const value).cast(), known);
            place.add(known).write_bytes(0, self.size - known);
            place.cast::<usize>().write(self.size);
        }
    }
}
