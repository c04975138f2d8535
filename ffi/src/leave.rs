//! The end of a membership: the leave, and the end of the handle.

use crate::border;
use crate::callbacks::not_in_callback;
use crate::group::{self, galerna_group_t};
use crate::result::galerna_result_t;

/// Leaves the group.
///
/// The call accepts no further messages, sends those that were accepted before, and asks the other members to continue
/// without this process. They do so in the next view, which lists this member in `left`. By then they have
/// delivered all messages that this process sent. Callbacks continue during the call. Afterwards, calls that need the
/// group return GALERNA_ERR_LEFT. The handle must still be freed.
///
/// An open reservation holds back the messages after it. The leave waits for half of its timeout for
/// galerna_group_commit() or galerna_group_abandon(), then drops the reservation: its message is not sent, and its
/// galerna_group_commit() returns GALERNA_ERR_LEFT. The application may write to its bytes until that commit, or until
/// galerna_group_free().
///
/// While the process joins (galerna_group_join_start()), the call cancels the join and returns GALERNA_OK once `joined` has
/// returned, or GALERNA_ERR_TIMED_OUT. With GALERNA_DRIVE_DISPATCH it dispatches for that. After a join that failed there is
/// nothing to leave, and the call returns GALERNA_OK.
///
/// - `timeout_ms`: how long to wait, in milliseconds. If the timeout passes before the other members go on without this
///   process, it leaves anyway, and they see it fail.
///
/// May be called from any thread, also while another thread is in galerna_group_dispatch(), but not inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_MISUSE (inside a callback), GALERNA_ERR_TIMED_OUT, GALERNA_ERR_LEFT, and the
/// error that stopped the group.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_group_leave(group: *mut galerna_group_t, timeout_ms: u32) -> galerna_result_t {
    border::call(|| {
        not_in_callback()?;
        let timeout = border::timeout(timeout_ms);
        group::with_entry(group, |entry| {
            if entry.member().is_err() && entry.cancel_join(timeout)? {
                return Ok(());
            }
            let member = entry.member()?;
            let left = match member.driven() {
                None => member.group.leave(timeout),
                Some(turn) => turn.leave(&member.group, timeout),
            };
            Ok(left?)
        })
    })
}

/// Begins to leave the group, and returns at once.
///
/// Like galerna_group_leave(), except that nothing waits: the `left` callback tells when the leave is over, and with which
/// result. Callbacks continue until then. With GALERNA_DRIVE_DISPATCH, `left` is called in galerna_group_dispatch(), which
/// then returns GALERNA_ERR_LEFT. If the handle is freed before, `left` is called with GALERNA_ERR_LEFT in
/// galerna_group_free().
///
/// While the process joins (galerna_group_join_start()), the call cancels the join. Then the `joined` callback is called
/// with GALERNA_ERR_LEFT; or, if the process has joined by then, `joined` is called with GALERNA_OK, and `left` follows.
///
/// - `timeout_ms`: how long the leave may last, in milliseconds. If the timeout passes before the other members go on
///   without this process, it leaves anyway, they see it fail, and `left` is called with GALERNA_ERR_TIMED_OUT.
///
/// May be called from any thread, also inside a callback.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_LEFT (a leave has begun already), and the error that ended the join or stopped
/// the group. After an error `left` is not called.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_group_leave_start(group: *mut galerna_group_t, timeout_ms: u32) -> galerna_result_t {
    border::call(|| group::with_entry(group, |entry| entry.leave_start(border::timeout(timeout_ms))))
}

/// Frees a group's handle.
///
/// Without a galerna_group_leave() before, the other members see this member fail. Calls that wait in other threads
/// return GALERNA_ERR_LEFT. When the function returns, no callback is running and none will run again. In callbacks that
/// run during the call the handle is invalid already. Open reservations are invalid. NULL and a handle that was already
/// freed are ignored and return GALERNA_OK.
///
/// While the process joins, the call cancels the join and waits for its end. A process that is in the group by then
/// leaves it, for which it has one second. Threads of the library that ask or dial other processes may need a few more
/// seconds to end. They call nothing of the program, and give their descriptors back.
///
/// May be called from any thread, but not inside a callback, and not while holding a lock that a callback waits for.
///
/// Errors: GALERNA_ERR_HANDLE (`group` never was a group's handle), GALERNA_ERR_MISUSE (inside a callback; the group
/// continues).
#[unsafe(no_mangle)]
pub extern "C" fn galerna_group_free(group: *mut galerna_group_t) -> galerna_result_t {
    border::call(|| {
        if group.is_null() {
            return Ok(());
        }
        not_in_callback()?;
        group::remove(group)
    })
}
