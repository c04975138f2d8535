//! `galerna_result_t`: what every call answers.

use crate::border;
use std::ffi::{CStr, c_char};

/// What a call answers: GALERNA_OK, or why it did nothing. The numbers never change, and none is ever reused.
///
/// Any call may also return GALERNA_ERR_INTERNAL, and in a forked child GALERNA_ERR_FORKED.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::enum_variant_names, reason = "the names of C")]
pub enum galerna_result_t {
    /// It is done.
    GALERNA_OK = 0,
    /// An argument is NULL where it must not be, misaligned, no value of its enumeration, not UTF-8, or a struct
    /// whose `size` is not the one of this version.
    GALERNA_ERR_ARGUMENT = 1,
    /// The handle is NULL, was freed, or never was one.
    GALERNA_ERR_HANDLE = 2,
    /// The configuration is not usable; the text names the key and the value.
    GALERNA_ERR_CONFIG = 3,
    /// The message exceeds `max_message_bytes`.
    GALERNA_ERR_MESSAGE_TOO_LARGE = 4,
    /// The call would have to wait and must not: its timeout is 0, or it was made inside a callback.
    GALERNA_ERR_WOULD_BLOCK = 5,
    /// The timeout passed.
    GALERNA_ERR_TIMED_OUT = 6,
    /// Members did not appear before the join deadline; the text names them.
    GALERNA_ERR_MEMBERS_MISSING = 7,
    /// A member has another configuration; the text says which key differs.
    GALERNA_ERR_DISAGREEMENT = 8,
    /// A member refused this one.
    GALERNA_ERR_REFUSED = 9,
    /// The member's own address cannot be listened on.
    GALERNA_ERR_LISTEN = 10,
    // 11 was GALERNA_ERR_MEMBER_FAILED, of groups that stopped with their first failure.
    /// A member broke the protocol while the group was being set up, and was severed.
    GALERNA_ERR_CONTRACT = 12,
    // 13 was GALERNA_ERR_MEMBER_LEFT, of groups that stopped with their first leave.
    /// This process has left the group.
    GALERNA_ERR_LEFT = 14,
    /// There is no such subgroup.
    GALERNA_ERR_UNKNOWN_SUBGROUP = 15,
    /// The call cannot be made in this state, from this thread, or from inside a callback.
    GALERNA_ERR_MISUSE = 16,
    /// The operating system refused something.
    GALERNA_ERR_IO = 17,
    /// The process holds as many handles as it can: free some.
    GALERNA_ERR_LIMIT = 18,
    /// A defect of this library; please report it, with the text.
    GALERNA_ERR_INTERNAL = 19,
    /// The group stopped here: this process is cut off from more than half of the members.
    GALERNA_ERR_PARTITIONED = 20,
    /// The group stopped here: the others went on without this process, which they could not reach or which stood still.
    GALERNA_ERR_REMOVED = 21,
    /// This process joined, but could not take the group's state.
    GALERNA_ERR_STATE_TRANSFER = 22,
    /// The configuration demands RDMA, and this machine has none that can be used.
    GALERNA_ERR_RDMA = 23,
    /// Somebody has the log open for writing, in this process or in another; the text names its directory.
    GALERNA_ERR_LOG_LOCKED = 24,
    /// The log needs space, memory or a file descriptor, and there is none. Nothing that was durable is lost, and the log goes on
    /// when there is.
    GALERNA_ERR_LOG_FULL = 25,
    /// Something that was durable is not as it was written; the text names the file and the offset.
    GALERNA_ERR_LOG_DAMAGED = 26,
    /// The log is another group's, subgroup's or member's; the text names the file and what differs.
    GALERNA_ERR_LOG_FOREIGN = 27,
    /// The log was written by a later version of this library.
    GALERNA_ERR_LOG_FORMAT = 28,
    /// What was asked for was trimmed away; the text says how far back the log goes.
    GALERNA_ERR_LOG_TRIMMED = 29,
    /// The disk refused a write or a sync. That is final: what was not durable by then may be lost. Open the log again.
    GALERNA_ERR_LOG_FAILED = 30,
    /// The record does not fit a segment of the log.
    GALERNA_ERR_LOG_RECORD_TOO_LARGE = 31,
    /// The record's version or time is not greater than the last one's.
    GALERNA_ERR_LOG_ORDER = 32,
    /// The group stopped: a callback of the application threw an exception; the text names the callback.
    GALERNA_ERR_CALLBACK = 33,
    /// What the handle stands for was made before a fork, and is the parent's: see galerna_group_t.
    GALERNA_ERR_FORKED = 34,
    /// Two groups have this name, and know nothing of each other; the text says where both are found.
    GALERNA_ERR_TWO_GROUPS = 35,
}

/// A short description of a result code, in English.
///
/// Returns a static string, never NULL, also for numbers that are no code. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_strerror(result: RawResult) -> *const c_char {
    describe(result).as_ptr()
}

/// The text of the last error in the calling thread: what was wrong, the value, and what to do. Successful calls leave it
/// as it is.
///
/// Returns a string that is valid until the thread's next call of this function, and empty when no call has failed in
/// this thread. Never NULL. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_last_error() -> *const c_char {
    border::last_error()
}

/// The version of the library, as in "1.2.3".
///
/// Returns a static string. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// `galerna_result_t` as C passes it: any number.
pub type RawResult = i32;

fn describe(result: RawResult) -> &'static CStr {
    const NONE: &CStr = c"no result code of this library";
    const TEXTS: [&CStr; 36] = [
        c"done",
        c"invalid argument",
        c"invalid handle",
        c"unusable configuration",
        c"message too large",
        c"the call would have to wait",
        c"timed out",
        c"members are missing",
        c"a member has another configuration",
        c"a member refused this one",
        c"cannot listen on the own address",
        NONE,
        c"a member broke the protocol",
        NONE,
        c"this process has left the group",
        c"unknown subgroup",
        c"the call cannot be made here",
        c"the operating system refused something",
        c"too many handles",
        c"internal error",
        c"cut off from more than half of the group",
        c"removed from the group",
        c"the group's state could not be taken",
        c"no RDMA that can be used",
        c"the log is open for writing already",
        c"the log's disk is full",
        c"the log is damaged",
        c"the log is another's",
        c"the log has a later format",
        c"trimmed from the log",
        c"the log has stopped, as its disk failed",
        c"record too large for the log",
        c"the record does not follow the log's last one",
        c"a callback threw an exception",
        c"made by the parent of this process",
        c"two groups have this name",
    ];
    let text = usize::try_from(result).ok().and_then(|index| TEXTS.get(index));
    text.copied().unwrap_or(NONE)
}
