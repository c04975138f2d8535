//! Views as an application sees them.

use crate::config::MemberId;
use crate::membership::{Departure, ViewChange};

/// Who is in the group, and how it came to be so: the same at every member, between the same two messages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// 0 for the first, one more for each that follows.
    pub number: u64,
    /// The members in rank order, the oldest first. The lowest rank is the natural leader, where an application wants one.
    pub members: Vec<MemberId>,
    /// Those of `members` that vote, in rank order: only they count for the majority without which the group stops. A process
    /// that joins is a member first, and votes in a later view, once it has the group's state. Before a member is restarted or
    /// stopped, wait until all others that run are listed here.
    pub voters: Vec<MemberId>,
    /// Members that were not in the view before. After a restart of all processes: every member, as `failed` has their former
    /// processes.
    pub joined: Vec<MemberId>,
    /// Members of the view before that asked to leave.
    pub left: Vec<MemberId>,
    /// Members of the view before that died, stood still, or could not be reached.
    pub failed: Vec<MemberId>,
}

impl View {
    pub(super) fn new(change: &ViewChange) -> View {
        let departed = |why| change.departed.iter().filter(move |(_, w)| *w == why).map(|(peer, _)| peer.id).collect();
        View {
            number: change.view.number,
            members: change.view.ids(),
            voters: change.view.members.iter().filter(|member| member.voter).map(|member| member.peer.id).collect(),
            joined: change.joined.iter().map(|peer| peer.id).collect(),
            left: departed(Departure::Left),
            failed: departed(Departure::Failed),
        }
    }

    /// The rank of a member, 0 for the first.
    pub fn rank_of(&self, member: MemberId) -> Option<usize> {
        self.members.iter().position(|&id| id == member)
    }
}
