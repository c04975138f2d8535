//! Views, as an application sees them.

use crate::membership::{Departure, Peer, ViewChange};
use crate::types::MemberId;

/// The members of the group, and the changes since the former view.
///
/// Except for the addresses, a view is the same at every member. It begins at every member between the same two messages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// The number of the view: 0 for the first, one more for each later view.
    pub number: u64,
    /// The members in rank order, the oldest first. An application that needs a leader can use the first one.
    pub members: Vec<MemberId>,
    /// The addresses of the members, in the same order: where other members reach them. Empty where this process does
    /// not know it.
    pub addresses: Vec<String>,
    /// The members that vote, in rank order. Only they count for the majority that the group needs to continue.
    ///
    /// A joiner is a member first, and votes in a later view, once it has the group's state. Before you restart or stop
    /// a member, wait until all other running members are listed here.
    pub voters: Vec<MemberId>,
    /// Members that were not in the former view. After a restart of all processes: every member, because `failed` lists
    /// their former processes.
    pub joined: Vec<MemberId>,
    /// Members of the former view that asked to leave.
    pub left: Vec<MemberId>,
    /// Members of the former view that died, stood still, or could not be reached.
    pub failed: Vec<MemberId>,
}

impl View {
    pub(crate) fn new(change: &ViewChange, address_of: impl Fn(Peer) -> Option<String>) -> View {
        let departed = |why| change.departed.iter().filter(move |(_, w)| *w == why).map(|(peer, _)| peer.id).collect();
        View {
            number: change.view.number,
            members: change.view.ids(),
            addresses: change.view.members.iter().map(|member| address_of(member.peer).unwrap_or_default()).collect(),
            voters: change.view.members.iter().filter(|member| member.voter).map(|member| member.peer.id).collect(),
            joined: change.joined.iter().map(|peer| peer.id).collect(),
            left: departed(Departure::Left),
            failed: departed(Departure::Failed),
        }
    }

    /// The rank of a member, 0 for the first; `None` if it is not in the view.
    pub fn rank_of(&self, member: MemberId) -> Option<usize> {
        self.members.iter().position(|&id| id == member)
    }
}
