//! `galerna_view_t`: the members of a group.

use crate::border::{self, VersionedOut};
use crate::group::{self, galerna_group_t};
use crate::handle::Table;
use crate::result::galerna_result_t;
use engine::{MemberId, View};
use std::ffi::{CString, c_char, c_void};

/// A view: the members of the group, and the changes since the previous view.
///
/// All members are notified of a view between the same two messages. All fields except `rank` and `addresses` have the same values at
/// every member.
///
/// Each list consists of a pointer to member ids and their count. The pointers are never NULL. In a callback they are
/// valid until the callback returns. After galerna_group_view() they are valid until galerna_view_free().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct galerna_view_t {
    /// Set it to sizeof(galerna_view_t). In a callback: the size in bytes of this struct in the library's version.
    pub size: usize,
    /// Private to the library.
    pub private_handle: *mut c_void,
    /// Number of the view. The first view has number 0, and each later view one more than the view before.
    pub number: u64,
    /// The members in rank order, the oldest first. If the application needs a leader, use the lowest rank,
    /// `members[0]`.
    pub members: *const u32,
    /// Number of ids in `members`.
    pub member_count: usize,
    /// This process's index in `members`.
    pub rank: usize,
    /// The voters: the subset of `members` that counts for the majority, in the same order.
    ///
    /// The group stops without a majority of the voters. A joining process first becomes a member, and becomes a voter
    /// in a later view, when it has the group's state. Before you restart or stop a member, wait until all other
    /// running members are listed here.
    pub voters: *const u32,
    /// Number of ids in `voters`.
    pub voter_count: usize,
    /// Members that were not in the previous view.
    pub joined: *const u32,
    /// Number of ids in `joined`.
    pub joined_count: usize,
    /// Members of the previous view that asked to leave.
    pub left: *const u32,
    /// Number of ids in `left`.
    pub left_count: usize,
    /// Members of the previous view that died, stood still or could not be reached. See galerna_group_fault().
    pub failed: *const u32,
    /// Number of ids in `failed`.
    pub failed_count: usize,
    /// The addresses of the members, as many as `members` and in the same order: zero-terminated strings, empty where
    /// this process does not know the address. They may differ from member to member.
    pub addresses: *const *const c_char,
}

border::versioned_struct!(galerna_view_t, min: rank, last: addresses);

/// The lists that the views held by C programs point to.
static VIEWS: Table<Lists> = Table::new("view", 5);

/// The lists of a view as C reads them.
pub(crate) struct Lists {
    /// The five lists of ids, one after another.
    ids: Box<[u32]>,
    /// Points into `texts`.
    addresses: Box<[*const c_char]>,
    _texts: Vec<CString>,
}

// SAFETY: the pointers point into the strings of the same value, which nothing changes.
unsafe impl Send for Lists {}
// SAFETY: as above.
unsafe impl Sync for Lists {}

impl Lists {
    pub(crate) fn of(view: &View) -> Lists {
        let ids = [&view.members, &view.voters, &view.joined, &view.left, &view.failed];
        // An address with a zero byte cannot be in a configuration.
        let texts = view.addresses.iter().map(|address| CString::new(address.as_str()).unwrap_or_default());
        let texts: Vec<CString> = texts.collect();
        // Moving a string does not move its bytes.
        let addresses = texts.iter().map(|text| text.as_ptr()).collect();
        Lists { ids: ids.into_iter().flatten().map(|id| id.0).collect(), addresses, _texts: texts }
    }
}

impl galerna_view_t {
    /// A view that points to nothing.
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
        addresses: std::ptr::null(),
        private_handle: std::ptr::null_mut(),
    };

    /// Makes the view as member `me` sees it. It points into `lists`, which were made from it, and is valid as long as
    /// they are.
    pub(crate) fn new(view: &View, lists: &Lists, me: MemberId) -> galerna_view_t {
        let (members, rest) = lists.ids.split_at(view.members.len());
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
            addresses: lists.addresses.as_ptr(),
            ..galerna_view_t::EMPTY
        }
    }
}

/// Gets the last view that the application was notified of. Also works after the leave and after the group has stopped.
///
/// - `view`: receives the view. Its `size` must be set. Free it with galerna_view_free(). After an error it holds
///   nothing.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT, GALERNA_ERR_LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_group_view(
    group: *const galerna_group_t,
    view: *mut galerna_view_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `view`.
        let out = unsafe { VersionedOut::new("view", view)? };
        out.set(galerna_view_t::EMPTY);
        group::with(group, |member| {
            let view = member.group.view();
            let lists = Lists::of(&view);
            // Moving the lists into the table does not change their address, because they are in a box.
            let mut filled = galerna_view_t::new(&view, &lists, member.group.member());
            filled.private_handle = VIEWS.insert(lists)?;
            out.set(filled);
            Ok(())
        })
    })
}

/// Frees a view that galerna_group_view() filled in, and clears it.
///
/// NULL, a view that was already freed, and a copy of such a view are ignored. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_view_free(view: *mut galerna_view_t) {
    border::call(|| {
        if view.is_null() {
            return Ok(());
        }
        // SAFETY: the C caller guarantees that galerna_group_view() filled in `view`.
        let (held, place) = unsafe { (border::versioned("view", view)?, VersionedOut::new("view", view)?) };
        VIEWS.remove(held.private_handle, |_| {})?;
        place.set(galerna_view_t::EMPTY);
        Ok(())
    });
}
