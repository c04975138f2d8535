//! `galerna_view_t`: who is in a group.

use crate::border::{self, Versioned};
use crate::group::{self, galerna_group_t};
use crate::handle::Table;
use crate::result::galerna_result_t;
use engine::{MemberId, View};
use std::ffi::c_void;

/// Who is in the group, and how it came to be so: the same at every member, between the same two messages.
///
/// Each list is a pointer to the ids and their number; the pointers are never NULL. In a callback they are valid until it
/// returns; after galerna_group_view(), until galerna_view_free().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_view_t {
    /// Set it to sizeof(galerna_view_t). In a callback, bytes of this struct as the library knows it.
    pub size: usize,
    /// 0 for the first view, one more for each that follows.
    pub number: u64,
    /// The members in the order of their ranks, the oldest first. The lowest rank, `members[0]`, is the natural leader,
    /// where an application wants one.
    pub members: *const u32,
    /// How many.
    pub member_count: usize,
    /// This process's index in `members`.
    pub rank: usize,
    /// Those of `members` that vote, in the same order: only they count for the majority without which the group stops. A
    /// process that joins is a member first, and votes in a later view, once it has the group's state. Before a member is
    /// restarted or stopped, wait until all others that run are listed here.
    pub voters: *const u32,
    /// How many.
    pub voter_count: usize,
    /// Members that were not in the view before.
    pub joined: *const u32,
    /// How many.
    pub joined_count: usize,
    /// Members of the view before that asked to leave.
    pub left: *const u32,
    /// How many.
    pub left_count: usize,
    /// Members of the view before that died, stood still or could not be reached; see galerna_group_fault().
    pub failed: *const u32,
    /// How many.
    pub failed_count: usize,
    /// The library's.
    pub private_handle: *mut c_void,
}

// SAFETY: `repr(C)`, the size first, integers and unchecked pointers.
unsafe impl Versioned for galerna_view_t {
    const NAME: &'static str = "galerna_view_t";
}

/// The ids that views which C holds point to.
static VIEWS: Table<Ids> = Table::new("view", 5);

/// A view's ids as C reads them, its five lists one after another.
pub(crate) struct Ids(Box<[u32]>);

impl Ids {
    pub(crate) fn of(view: &View) -> Ids {
        let lists = [&view.members, &view.voters, &view.joined, &view.left, &view.failed];
        Ids(lists.into_iter().flatten().map(|id| id.0).collect())
    }
}

impl galerna_view_t {
    /// One that points to nothing.
    const EMPTY: galerna_view_t = galerna_view_t {
        size: size_of::<galerna_view_t>(),
        number: 0,
        members: std::ptr::null(),
        member_count: 0,
        rank: 0,
        voters: std::ptr::null(),
        voter_count: 0,
        joined: std::ptr::null(),
        joined_count: 0,
        left: std::ptr::null(),
        left_count: 0,
        failed: std::ptr::null(),
        failed_count: 0,
        private_handle: std::ptr::null_mut(),
    };

    /// The view as `me` sees it, in the ids made of it; valid as long as these are.
    pub(crate) fn new(view: &View, Ids(ids): &Ids, me: MemberId) -> galerna_view_t {
        let (members, rest) = ids.split_at(view.members.len());
        let (voters, rest) = rest.split_at(view.voters.len());
        let (joined, rest) = rest.split_at(view.joined.len());
        let (left, failed) = rest.split_at(view.left.len());
        galerna_view_t {
            number: view.number,
            members: members.as_ptr(),
            member_count: members.len(),
            rank: view.rank_of(me).unwrap_or(usize::MAX),
            voters: voters.as_ptr(),
            voter_count: voters.len(),
            joined: joined.as_ptr(),
            joined_count: joined.len(),
            left: left.as_ptr(),
            left_count: left.len(),
            failed: failed.as_ptr(),
            failed_count: failed.len(),
            ..galerna_view_t::EMPTY
        }
    }
}

/// The view that the application was told of last; also after the leave, and in a group that has stopped.
///
/// - `view`: its `size` must be set; takes the view, to be freed with galerna_view_free(). After an error it holds nothing.
///
/// Any thread. Errors: HANDLE, ARGUMENT, LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_view(
    group: *const galerna_group_t,
    view: *mut galerna_view_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `view`.
        let out = unsafe { border::versioned_out("view", view)? };
        out.set(galerna_view_t::EMPTY);
        group::with(group, |member| {
            let view = member.group.view();
            let ids = Ids::of(&view);
            // The ids stay where they are when they move into the table: they are in a box.
            let mut filled = galerna_view_t::new(&view, &ids, member.group.member());
            filled.private_handle = VIEWS.insert(ids)?;
            out.set(filled);
            Ok(())
        })
    })
}

/// Frees what galerna_group_view() filled in, and clears it. NULL, a second free, and the free of a copy do nothing.
///
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_view_free(view: *mut galerna_view_t) {
    border::call(|| {
        if view.is_null() {
            return Ok(());
        }
        // SAFETY: what galerna_group_view() filled in, as the documentation asks.
        let (held, place) = unsafe { (border::versioned("view", view)?, border::versioned_out("view", view)?) };
        VIEWS.remove(held.private_handle, |_| {})?;
        place.set(galerna_view_t::EMPTY);
        Ok(())
    });
}
