//! The hard state of a member of a group with a log. It holds the view, the promise and the accepted value.
//!
//! A member saves its hard state to disk before it publishes any of it. After a crash it continues from the hard state, so that
//! one epoch never has two decisions.

use super::row::Ballot;
use super::view::{View, ViewDecision};
use super::{Beginning, Membership, Peer};
use crate::types::MemberId;
use crate::words::{words, words_of};

/// The first word of a hard state: identifies it and its format.
const FORMAT: u64 = u64::from_le_bytes(*b"gledger\x02");

/// A vote that must be on disk before it is published.
#[derive(Debug, Clone)]
pub(super) struct Vote {
    pub(super) promise: Ballot,
    pub(super) accept: Option<(Ballot, ViewDecision)>,
    /// The vote is the leader's own proposal.
    pub(super) propose: bool,
    /// The vote was handed out to be saved.
    pub(super) asked: bool,
}

impl Vote {
    pub(super) fn promise(promise: Ballot) -> Vote {
        Vote { promise, accept: None, propose: false, asked: false }
    }

    /// Accepts a ballot, which also promises it.
    pub(super) fn accept(ballot: Ballot, value: ViewDecision, propose: bool) -> Vote {
        Vote { promise: ballot, accept: Some((ballot, value)), propose, asked: false }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HardState {
    /// The member that wrote the hard state, as that view names it.
    pub(super) me: Peer,
    /// The decision that began the view. For view 0 it is made up, and names the founders.
    pub(super) began: ViewDecision,
    pub(super) promise: Ballot,
    pub(super) accepted: Option<(Ballot, ViewDecision)>,
}

impl HardState {
    /// The view that the member was in.
    pub(crate) fn view(&self) -> &View {
        &self.began.view
    }

    /// The member as the view names it.
    pub(crate) fn me(&self) -> Peer {
        self.me
    }

    /// Whether the view has the member, in any incarnation. It is false for a member that has left.
    ///
    /// A member that had no vote yet has its whole log all the same, since the hard state is written after the log.
    pub(crate) fn is_member(&self) -> bool {
        self.began.view.members.iter().any(|member| member.peer.is_same_member(self.me))
    }

    /// Returns the hard state as it would be after `decision`, the payload of a log record that begins a view.
    ///
    /// This repairs a crash after the record was written and before the hard state was.
    pub(crate) fn advance(self, decision: &[u8]) -> HardState {
        match ViewDecision::decode(&words_of(decision)) {
            Some(value) if value.view.number > self.view().number && value.view.is_whole() => {
                HardState::new(self.me, value)
            }
            _ => self,
        }
    }

    pub(super) fn new(me: Peer, began: ViewDecision) -> HardState {
        // With the incarnation that the view names.
        let named = began.view.members.iter().map(|member| member.peer).find(|peer| peer.is_same_member(me));
        HardState { me: named.unwrap_or(me), began, promise: Ballot::default(), accepted: None }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let began = self.began.encode();
        let (ballot, accepted) = match &self.accepted {
            Some((ballot, value)) => (*ballot, value.encode()),
            None => (Ballot::default(), Vec::new()),
        };
        let place = u64::from(self.me.id.0) | (self.me.slot as u64) << 32;
        let lengths = began.len() as u64 | (accepted.len() as u64) << 32;
        let head = [FORMAT, place, self.me.incarnation, self.promise.0, ballot.0, lengths];
        words(head.into_iter().chain(began).chain(accepted))
    }

    /// Decodes a saved hard state. The error describes what is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<HardState, &'static str> {
        let [format, place, incarnation, promise, ballot, lengths, ref values @ ..] = words_of(bytes)[..] else {
            return Err("it is too short");
        };
        if format != FORMAT {
            return Err("it is of another format, perhaps a newer one");
        }
        let (began, accepted) = (lengths as u32 as usize, (lengths >> 32) as usize);
        if !bytes.len().is_multiple_of(8) || began.checked_add(accepted) != Some(values.len()) {
            return Err("its lengths do not fit");
        }
        let (slot, id) = ((place >> 32) as usize, MemberId(place as u32));
        let me = Peer { slot, id, incarnation };
        let (began, accepted) = values.split_at(began);
        let decode = |words| ViewDecision::decode(words).filter(|value| value.view.is_whole());
        let began = decode(began).ok_or("the decision in it is none")?;
        let accepted = match accepted {
            [] => None,
            words => Some((Ballot(ballot), decode(words).ok_or("the value that was accepted is none")?)),
        };
        Ok(HardState { me, began, promise: Ballot(promise), accepted })
    }
}

impl Membership {
    /// The decision that begins this process's next view, or its first view.
    fn beginning(&self) -> Option<&ViewDecision> {
        self.epoch.decided.as_ref().or(self.invited.as_ref()).or(self.began.as_ref())
    }

    /// In a group with a log: the record and the hard state that must be saved before this member acts in that view.
    pub(super) fn beginning_bytes(&self) -> Option<Beginning> {
        let value = self.beginning().filter(|_| self.settings.logs)?;
        Some(Beginning {
            version: value.version(),
            time_ns: value.time_ns,
            payload: words(value.encode()),
            hard_state: HardState::new(self.me, value.clone()).encode(),
        })
    }

    /// Returns the hard state with a new vote, to be saved. [`Membership::voted`] then publishes the vote.
    pub(super) fn ledger_to_save(&mut self) -> Option<Vec<u8>> {
        let (me, began) = (self.my_rank()?, self.began.clone()?);
        let vote = self.epoch.vote.as_mut().filter(|vote| !vote.asked)?;
        vote.asked = true;
        let promise = vote.promise.max(self.epoch.shown[me].promise);
        let accepted = vote.accept.clone().or_else(|| self.epoch.shown[me].accepted.clone());
        Some(HardState { me: self.me, began, promise, accepted }.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{Parser, as_it_is, run};
    use crate::membership::shard::ShardId;
    use crate::membership::view::EndedShard;
    use crate::membership::{Member, Shard};
    use crate::multicast::End;
    use crate::multicast::order::Order;
    use crate::types::SubgroupId;

    const ME: Peer = Peer { slot: 3, id: MemberId(7), incarnation: 9 };

    fn decision_of(number: u64) -> ViewDecision {
        let id = ShardId::only(SubgroupId(0));
        let shard = Shard { id, members: vec![0], order: Order { senders: 1, base: 4, first: 6 } };
        let view = View { number, members: vec![Member { peer: ME, voter: true }], shards: vec![shard] };
        let ended = vec![EndedShard { id, ends: vec![(0, End { messages: 4, frames: 3, word: 2 })] }];
        ViewDecision { view, old: vec![ME], ended, left: 0, time_ns: 77 }
    }

    fn hard_state() -> HardState {
        let accepted = Some((Ballot(4), decision_of(5)));
        HardState { me: ME, began: decision_of(5), promise: Ballot(5), accepted }
    }

    #[test]
    fn it_survives_and_a_part_of_it_does_not() {
        let bytes = hard_state().encode();
        assert_eq!(HardState::decode(&bytes), Ok(hard_state()));
        for len in 0..bytes.len() {
            assert!(HardState::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_shard_without_the_members_of_its_view_is_refused() {
        let mut state = hard_state();
        state.began.view.shards[0].members.clear();
        assert_eq!(HardState::decode(&state.encode()), Err("the decision in it is none"));
        assert_eq!(HardState::new(state.me, decision_of(4)).advance(&words(state.began.encode())).view().number, 4);
        assert_eq!(HardState::new(state.me, decision_of(4)).advance(&words(decision_of(5).encode())).view().number, 5);
    }

    #[test]
    fn fuzz_hard_state() {
        let none = HardState { accepted: None, ..hard_state() };
        let seeds = vec![hard_state().encode(), none.encode(), HardState::new(none.me, none.began).encode()];
        // The words, the members of two views, and the ends of two decisions.
        let parser = Parser { name: "hard state", seeds, repair: &as_it_is, heap_max: (8, 4 << 10) };
        run(&parser, |bytes| {
            let Ok(state) = HardState::decode(bytes) else { return false };
            assert_eq!(HardState::decode(&state.encode()).as_ref(), Ok(&state));
            let _ = state.is_member();
            // The bytes as the payload of a decision that a damaged log might hold.
            let _ = state.advance(bytes);
            true
        });
    }
}
