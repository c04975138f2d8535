//! `galerna_result_t`: the result of a call.

use crate::border;
use std::ffi::c_char;

/// The result of a call: GALERNA_OK, or the reason for which the call had no effect.
///
/// The numbers never change, and no number is ever reused. Any call may also return GALERNA_ERR_INTERNAL, and in a
/// child made by fork() GALERNA_ERR_FORKED.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::enum_variant_names, reason = "the names of C")]
pub enum galerna_result_t {
    /// The call succeeded.
    GALERNA_OK = 0,
    /// An argument is invalid.
    ///
    /// It is NULL where it must not be, misaligned, not a value of its enumeration, not UTF-8, or a struct with
    /// a `size` that this version does not know.
    GALERNA_ERR_ARGUMENT = 1,
    /// The handle is NULL, was freed, or never was a handle of this kind.
    GALERNA_ERR_HANDLE = 2,
    /// The configuration is invalid. The text names the key and the value.
    GALERNA_ERR_CONFIG = 3,
    /// The message is larger than `max_message_bytes`.
    GALERNA_ERR_MESSAGE_TOO_LARGE = 4,
    /// The call would have to wait but must not: its timeout is 0, or it was made inside a callback.
    GALERNA_ERR_WOULD_BLOCK = 5,
    /// The timeout passed.
    GALERNA_ERR_TIMED_OUT = 6,
    /// Some members did not appear before the join's deadline. The text names them.
    GALERNA_ERR_MEMBERS_MISSING = 7,
    /// A member has a different configuration. The text names the key that differs.
    GALERNA_ERR_DISAGREEMENT = 8,
    /// Another member refused this one.
    GALERNA_ERR_REFUSED = 9,
    /// The library cannot listen on this member's address.
    GALERNA_ERR_LISTEN = 10,
    // 11 was GALERNA_ERR_MEMBER_FAILED, from the time when a group stopped at its first failure.
    /// A member violated the protocol while the group was being set up, and its link was severed.
    GALERNA_ERR_CONTRACT = 12,
    // 13 was GALERNA_ERR_MEMBER_LEFT, from the time when a group stopped at its first leave.
    /// This process has left the group.
    GALERNA_ERR_LEFT = 14,
    /// There is no such subgroup.
    GALERNA_ERR_UNKNOWN_SUBGROUP = 15,
    /// The call is not allowed in this state, in this thread, or inside a callback.
    GALERNA_ERR_MISUSE = 16,
    /// The operating system returned an error.
    GALERNA_ERR_IO = 17,
    /// The process holds the maximum number of handles of this kind. Free some of them.
    GALERNA_ERR_LIMIT = 18,
    /// A defect of this library. Please report it together with the text.
    GALERNA_ERR_INTERNAL = 19,
    /// The group stopped here: this process could not reach more than half of the members.
    GALERNA_ERR_PARTITIONED = 20,
    /// The group stopped here: the other members continue without this process, which stood still or was unreachable.
    GALERNA_ERR_REMOVED = 21,
    /// This process joined, but could not take over the group's state.
    GALERNA_ERR_STATE_TRANSFER = 22,
    /// The configuration demands RDMA, and this machine has no usable RDMA device.
    GALERNA_ERR_RDMA = 23,
    /// The log is open for writing elsewhere, in this process or in another one. The text names its directory.
    GALERNA_ERR_LOG_LOCKED = 24,
    /// The log lacks disk space, memory or a file descriptor. No durable record is lost. The log continues as soon as
    /// the resource is available.
    GALERNA_ERR_LOG_FULL = 25,
    /// Durable data of the log has changed on disk or is lost. The text names the file and the offset.
    GALERNA_ERR_LOG_DAMAGED = 26,
    /// The log belongs to another group, subgroup or member. The text names the file and the difference.
    GALERNA_ERR_LOG_FOREIGN = 27,
    /// The log was written by a later version of this library.
    GALERNA_ERR_LOG_FORMAT = 28,
    /// The requested record was trimmed. The text names the oldest record of the log.
    GALERNA_ERR_LOG_TRIMMED = 29,
    /// The disk failed a write or a sync. This is final: records that were not durable by then may be lost. Open the
    /// log again.
    GALERNA_ERR_LOG_FAILED = 30,
    /// The record does not fit into a segment of the log.
    GALERNA_ERR_LOG_RECORD_TOO_LARGE = 31,
    /// The record's version or time is not greater than those of the last record.
    GALERNA_ERR_LOG_ORDER = 32,
    /// The group stopped: a callback of the application threw an exception. The text names the callback.
    GALERNA_ERR_CALLBACK = 33,
    /// The handle was made before a fork() and belongs to the parent process. See galerna_group_t.
    GALERNA_ERR_FORKED = 34,
    /// Two groups have this name and do not know of each other. The text names where each was found.
    GALERNA_ERR_TWO_GROUPS = 35,
    /// The process is joining the group still: see galerna_group_join_start().
    GALERNA_ERR_JOINING = 36,
}

/// Returns a short description of a result code, in English.
///
/// The string is static. It is never NULL, also for numbers that are not result codes. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_strerror(result: RawResult) -> *const c_char {
    known(result).map_or("no result code of this library\0", |(_, text)| text).as_ptr().cast()
}

/// Returns the name of a result code, for example "GALERNA_ERR_ARGUMENT".
///
/// For a number that is no result code it returns "unknown result". The string is static. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_result_name(result: RawResult) -> *const c_char {
    known(result).map_or("unknown result\0", |(name, _)| name).as_ptr().cast()
}

/// Returns the text of the last error in the calling thread: the problem, the value, and the remedy.
///
/// Successful calls do not change it. The string is empty if no call has failed in this thread, and never NULL. It is
/// valid until this thread's next call of this function. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_last_error() -> *const c_char {
    border::last_error()
}

/// Returns the version of the library, for example "1.2.3".
///
/// The string is static. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// A `galerna_result_t` as C passes it: any number.
pub type RawResult = i32;

/// Lists the results with their descriptions. A result without a line is an error of the compiler.
macro_rules! results {
    ($($result:ident $text:literal)*) => {
        const RESULTS: &[galerna_result_t] = &[$(galerna_result_t::$result),*];

        /// The name and the description of a result, each with a zero byte at its end.
        fn name_and_text(result: galerna_result_t) -> (&'static str, &'static str) {
            match result {
                $(galerna_result_t::$result => (concat!(stringify!($result), "\0"), concat!($text, "\0")),)*
            }
        }
    };
}

results! {
    GALERNA_OK "done"
    GALERNA_ERR_ARGUMENT "invalid argument"
    GALERNA_ERR_HANDLE "invalid handle"
    GALERNA_ERR_CONFIG "unusable configuration"
    GALERNA_ERR_MESSAGE_TOO_LARGE "message too large"
    GALERNA_ERR_WOULD_BLOCK "the call would have to wait"
    GALERNA_ERR_TIMED_OUT "timed out"
    GALERNA_ERR_MEMBERS_MISSING "members are missing"
    GALERNA_ERR_DISAGREEMENT "a member has another configuration"
    GALERNA_ERR_REFUSED "a member refused this one"
    GALERNA_ERR_LISTEN "cannot listen on the own address"
    GALERNA_ERR_CONTRACT "a member broke the protocol"
    GALERNA_ERR_LEFT "this process has left the group"
    GALERNA_ERR_UNKNOWN_SUBGROUP "unknown subgroup"
    GALERNA_ERR_MISUSE "the call cannot be made here"
    GALERNA_ERR_IO "the operating system refused something"
    GALERNA_ERR_LIMIT "too many handles"
    GALERNA_ERR_INTERNAL "internal error"
    GALERNA_ERR_PARTITIONED "cut off from more than half of the group"
    GALERNA_ERR_REMOVED "removed from the group"
    GALERNA_ERR_STATE_TRANSFER "the group's state could not be taken"
    GALERNA_ERR_RDMA "no RDMA that can be used"
    GALERNA_ERR_LOG_LOCKED "the log is open for writing already"
    GALERNA_ERR_LOG_FULL "the log's disk is full"
    GALERNA_ERR_LOG_DAMAGED "the log is damaged"
    GALERNA_ERR_LOG_FOREIGN "the log is another's"
    GALERNA_ERR_LOG_FORMAT "the log has a later format"
    GALERNA_ERR_LOG_TRIMMED "trimmed from the log"
    GALERNA_ERR_LOG_FAILED "the log has stopped, as its disk failed"
    GALERNA_ERR_LOG_RECORD_TOO_LARGE "record too large for the log"
    GALERNA_ERR_LOG_ORDER "the record does not follow the log's last one"
    GALERNA_ERR_CALLBACK "a callback threw an exception"
    GALERNA_ERR_FORKED "made by the parent of this process"
    GALERNA_ERR_TWO_GROUPS "two groups have this name"
    GALERNA_ERR_JOINING "this process is joining the group still"
}

fn known(result: RawResult) -> Option<(&'static str, &'static str)> {
    RESULTS.iter().find(|known| **known as RawResult == result).map(|known| name_and_text(*known))
}
