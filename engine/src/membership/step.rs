//! One step of the membership: the facts of a pass go in, the actions of the node come out.
//!
//! [`Membership::step`] is the contract between the pure core and [`crate::node::Node`]. The node reports a [`Fact`]
//! that it observed, and the membership appends the [`Action`]s that follow from it. The node carries them out in
//! order (`node/acting.rs`). The result of some actions is another fact, which the node reports before it takes the next
//! action. So the list grows while it is carried out, and the pass ends when no action is left.
//!
//! [`Action::Save`] comes before the [`Action::Show`] of a vote. `Node::show` publishes nothing before the disk has
//! everything that it promises, and each later pass asks for it again.

use super::action::{Action, Actions, Closing, Fact, Moment, Role, Show};
use super::{Cause, Membership, ViewChange, Wanted, row};
use crate::error::Error;
use crate::fabric::{Fabric, Slot};
use crate::multicast::{End, Violation};

const WAS_MUTE: &str = "nothing has come over the link for long";
const JOINS_LATE: &str = "it did not complete its join in time";

impl Membership {
    /// Takes in one `fact`, and appends the actions that follow from it.
    ///
    /// Returns true if anything new was seen, so that another pass is worthwhile.
    ///
    /// # Errors
    /// A violation of the protocol by a member. The actions of this pass are void then; report [`Fact::Breach`].
    pub(crate) fn step(
        &mut self,
        at: &Moment,
        fact: Fact<'_>,
        fabric: &mut dyn Fabric,
        todo: &mut Actions,
    ) -> Result<bool, Violation> {
        let moved = match fact {
            Fact::Pass => return self.begin_pass(at, fabric, todo),
            Fact::Lost { slot, cause, what, sever } => self.lose(at, slot, (cause, what, sever), fabric, todo),
            Fact::Answered(slot) => {
                self.answered(slot, fabric);
                false
            }
            // Invalid frames of a severed member are left for the decision: the decided end may come before them, or
            // other members may have valid frames there.
            Fact::Torn(breach) => match self.is_severed(breach.peer) {
                true => false,
                false => return Err(breach),
            },
            Fact::Breach(breach) => {
                self.blame(at, breach, fabric, todo);
                true
            }
            Fact::GoneOn { peer, view, departure } => {
                self.learn_gone_on(at, peer, view, departure, todo);
                false
            }
            Fact::Wedged(ends) => {
                if self.is_outrun_on(fabric) {
                    // All members of the next view have wedged this one, and this member is not among them.
                    todo.push_back(self.removed());
                } else {
                    self.wedge(ends, at.now_ms, fabric);
                    self.go_on(at, todo);
                }
                true
            }
            Fact::Here { have, awaited } => {
                self.want(have, &awaited, todo);
                false
            }
            Fact::Slow(slot) => {
                let rank = self.view.as_ref().and_then(|view| view.rank_of(slot));
                let what = "it did not answer when its memory was asked for";
                rank.is_some_and(|rank| self.suspect(rank, Cause::Fetch, what, fabric))
            }
            Fact::Clock => self.cast_vote(at, fabric, todo),
            Fact::AfterVote => self.look_for_end(at, fabric, todo),
            Fact::AfterView => self.meet_founders(at, todo),
            Fact::Delivered { all } => {
                self.leave_view(at, all, fabric, todo);
                true
            }
            Fact::Settled { linked } => self.settle(at.now_ms, linked, todo),
        };
        Ok(moved)
    }

    /// Publishes what the node has found to be on disk. Only `Node::show` calls this.
    ///
    /// Returns true if another pass is worthwhile.
    pub(crate) fn publish(&mut self, what: &Show, fabric: &mut dyn Fabric) -> bool {
        match what {
            Show::Vote => {
                self.voted(fabric);
                true
            }
            Show::Flush(ends) => self.flushed(ends, fabric),
            Show::View => {
                self.installed(fabric);
                false
            }
        }
    }

    fn begin_pass(&mut self, at: &Moment, fabric: &mut dyn Fabric, todo: &mut Actions) -> Result<bool, Violation> {
        if at.role == Role::Parts {
            return Ok(self.part(at, todo));
        }
        let mut news = self.observe(at.now_ms, fabric)?;
        match at.role {
            // With a log, a founder publishes the view once it is on disk.
            Role::Founds if !self.has_shown_view() => todo.push_back(Action::Show(Show::View)),
            Role::Founds => news |= self.meet_founders(at, todo),
            Role::Joins => news |= self.await_view(at, fabric, todo),
            Role::Restarts { last, written } => {
                news |= self.drop_mute_links(fabric, todo);
                news |= self.restart_pass(at.now_ms, (last, written), fabric, todo);
            }
            Role::Runs { is_silent, .. } => {
                if !self.has_shown_view() {
                    todo.push_back(Action::Show(Show::View));
                }
                news |= self.drop_mute_links(fabric, todo);
                for slot in self.expired(at.now_ms) {
                    fabric.release(slot);
                    self.link_down(slot, Cause::LinkDown, JOINS_LATE, fabric);
                    todo.push_back(Action::Lost(slot));
                }
                if is_silent {
                    self.ask_to_leave(fabric);
                }
                if self.must_wedge(is_silent) {
                    todo.push_back(Action::Wedge);
                } else {
                    news |= self.go_on(at, todo);
                }
            }
            Role::Parts | Role::Ended => {}
        }
        Ok(news)
    }

    /// Takes down silent links while the end of the epoch is undecided, so that they are relinked.
    fn drop_mute_links(&mut self, fabric: &mut dyn Fabric, todo: &mut Actions) -> bool {
        let mute = self.take_mute();
        for &slot in &mute {
            fabric.sever(slot);
            self.link_down(slot, Cause::LinkDown, WAS_MUTE, fabric);
            todo.push_back(Action::Lost(slot));
        }
        !mute.is_empty()
    }

    /// What a running member does, by what is known of the end of the epoch.
    fn go_on(&mut self, at: &Moment, todo: &mut Actions) -> bool {
        if self.is_decided() {
            return self.close_view(at, todo);
        }
        if self.is_wedged() {
            todo.extend([Action::DeliverRest, Action::Flush]);
        } else {
            todo.push_back(Action::Run);
        }
        false
    }

    /// Obtains the frames that any candidate has and this member lacks, then takes part in the decision.
    fn want(&mut self, have: Vec<End>, awaited: &[usize], todo: &mut Actions) {
        let comes = |want: &Wanted| awaited.contains(&want.stream) && want.end.frames > have[want.stream].frames;
        match self.wanted(&have) {
            None => {}
            Some(wanted) if wanted.is_empty() => todo.push_back(Action::Show(Show::Flush(have))),
            // The wanted frames lie in new memory of a row, which is not here yet. It will come: its owner published
            // them after this member had shown that it has the memory, or the link is made again.
            Some(wanted) if wanted.iter().any(comes) => {}
            Some(wanted) => todo.push_back(Action::Obtain(wanted)),
        }
        todo.push_back(Action::Vote);
    }

    /// Takes part in the decision. A new vote is saved before it is shown.
    fn cast_vote(&mut self, at: &Moment, fabric: &mut dyn Fabric, todo: &mut Actions) -> bool {
        let moved = self.decide(at.now_ms, fabric);
        todo.extend(self.ledger_to_save().map(Action::Save));
        todo.push_back(Action::Show(Show::Vote));
        moved
    }

    /// After the vote: looks whether the epoch can still end with this member.
    fn look_for_end(&mut self, at: &Moment, fabric: &mut dyn Fabric, todo: &mut Actions) -> bool {
        if matches!(at.role, Role::Restarts { .. }) {
            if at.now_ms >= at.until_ms {
                todo.push_back(Action::Stop(self.missing()));
            }
            return false;
        }
        if self.is_decided() {
            return false;
        }
        if self.is_left_behind() {
            todo.push_back(self.removed());
            return true;
        }
        let news = self.suspect_the_stuck(at.now_ms, fabric);
        if self.has_no_primary(at.now_ms) {
            let after_ms = self.partition_timeout_ms();
            todo.push_back(Action::Stop(Error::Partitioned { view: self.number(), after_ms }));
            return true;
        }
        news
    }

    /// Delivers up to the decided ends, if this process may.
    fn close_view(&mut self, at: &Moment, todo: &mut Actions) -> bool {
        let Some(ends) = self.trim() else {
            todo.push_back(match self.everybody_left() && !self.votes() {
                true => Action::Stop(Error::StateTransfer(
                    "every member that had the state of the group has left: start them again first".to_owned(),
                )),
                false => self.removed(),
            });
            return true;
        };
        if !matches!(at.role, Role::Runs { ending: true, .. }) {
            let next = self.beginning_bytes().filter(|_| !self.saves_late());
            todo.push_back(Action::Close(Box::new(Closing { ends, next })));
        }
        todo.push_back(Action::Deliver);
        false
    }

    /// Enters the decided view, or leaves the group, once everything is delivered and saved.
    fn leave_view(&mut self, at: &Moment, all: bool, fabric: &dyn Fabric, todo: &mut Actions) {
        let is_next = self.is_in_next();
        if self.is_outrun_on(fabric) && is_next {
            todo.push_back(self.removed());
        } else if all && is_next && !self.falls_asleep() {
            todo.push_back(Action::Install);
        } else if all {
            todo.push_back(Action::Part(at.now_ms.saturating_add(self.failure_timeout_ms())));
        }
    }

    /// One step of a founder that has published its view: waits until all founders have.
    fn meet_founders(&mut self, at: &Moment, todo: &mut Actions) -> bool {
        if !self.has_shown_view() || at.role != Role::Founds {
            return false;
        }
        let missing = self.not_installed();
        if missing.is_empty() || self.somebody_wedged() {
            self.founded();
            let change = self.view.as_ref().map(|view| {
                let joined = view.members.iter().map(|member| member.peer).collect();
                Box::new(ViewChange { view: view.clone(), joined, departed: Vec::new() })
            });
            todo.push_back(Action::Start(change));
            return true;
        }
        let mut until_ms = at.until_ms;
        // A founder has failed before it was linked with all others. If some of them have the view, they soon publish
        // that they wedged it. Otherwise it never begins.
        if self.has_suspicions() {
            until_ms = until_ms.min(at.now_ms.saturating_add(self.failure_timeout_ms()));
            todo.push_back(Action::Limit(until_ms));
        }
        if at.now_ms < until_ms {
            return false;
        }
        let missing = missing.iter().map(|peer| format!("member {} (met, but it has not met all others)", peer.id));
        let missing = missing.collect::<Vec<_>>().join(", ");
        todo.push_back(Action::Stop(Error::Missing { missing, after_ms: self.settings.join_timeout_ms }));
        true
    }

    /// One step of a joiner: waits for a view that names it.
    fn await_view(&mut self, at: &Moment, fabric: &mut dyn Fabric, todo: &mut Actions) -> bool {
        if self.is_invited() {
            self.accept_invitation(fabric);
            todo.extend(self.beginning_bytes().map(|first| Action::SaveBeginning(Box::new(first))));
            todo.extend([Action::Start(None), Action::Install]);
            return true;
        }
        if at.now_ms < at.until_ms {
            return false;
        }
        todo.push_back(Action::Stop(Error::TimedOut { what: "join", after_ms: self.settings.join_timeout_ms }));
        true
    }

    /// When the next pass is due even if nothing arrives, in milliseconds of this process's clock.
    pub(crate) fn due_ms(&self, at: &Moment) -> u64 {
        let look = self.next_look_ms();
        match at.role {
            Role::Runs { .. } | Role::Restarts { .. } if self.is_wedged() => {
                // An attempt that has timed out is repeated at the next look.
                let attempt = self.next_attempt_ms();
                if attempt > at.now_ms { look.min(attempt) } else { look }
            }
            // The rows that it waits for change by themselves, unless a link must be made again.
            Role::Parts if self.cut_off_heirs().is_empty() => self.parts_until_ms(at),
            Role::Parts => self.parts_until_ms(at).min(at.now_ms.saturating_add(self.beat_ms())),
            _ => look,
        }
    }

    /// Takes in that the link to the process in `slot` is down.
    fn lose(
        &mut self,
        at: &Moment,
        slot: Slot,
        (cause, what, sever): (Cause, &str, bool),
        fabric: &mut dyn Fabric,
        todo: &mut Actions,
    ) -> bool {
        if sever {
            fabric.sever(slot);
        }
        if cause != Cause::Violation {
            self.link_down(slot, cause, what, fabric);
            todo.push_back(Action::Lost(slot));
            return false;
        }
        self.link_down(slot, cause, &format!("it broke the protocol and was severed: {what}"), fabric);
        todo.push_back(Action::Lost(slot));
        let mut members = self.view.iter().flat_map(|view| &view.members).map(|member| member.peer);
        let founder = members.find(|peer| peer.slot == slot).filter(|_| at.role == Role::Founds);
        // View 0 cannot begin without one of its members.
        todo.extend(founder.map(|peer| Action::Stop(Error::Contract { member: peer.id, what: what.to_owned() })));
        false
    }

    /// Severs a member that violated the protocol and accuses it.
    fn blame(&mut self, at: &Moment, breach: Violation, fabric: &mut dyn Fabric, todo: &mut Actions) {
        let Violation { peer: rank, what } = breach;
        let peer = match &self.view {
            Some(view) => view.members.get(rank).map(|member| member.peer),
            // A joiner knows the members by their slots only.
            None => self.links.get(rank).copied().flatten().map(|link| link.peer),
        };
        let Some(peer) = peer else {
            let what = "a member showed something that is no part of the protocol";
            return todo.push_back(Action::Stop(Error::Misuse(what)));
        };
        if peer == self.me {
            return todo.push_back(Action::Stop(Error::Internal(what)));
        }
        if !self.is_linked(peer) {
            // Its remaining data cannot be used. If it has entered a later view, on shared memory, this member was
            // removed.
            return todo.push_back(match self.has_gone_on(peer.slot) {
                true => self.removed(),
                false => Action::Stop(Error::Contract { member: peer.id, what }),
            });
        }
        if fabric.shares_rows() && self.has_gone_on(peer.slot) {
            // The data read may be of a later view, so it proves nothing. A wedged member will learn the decision.
            if !self.is_wedged() {
                todo.push_back(self.removed());
            }
            return;
        }
        fabric.sever(peer.slot);
        self.link_down(peer.slot, Cause::Violation, &format!("it broke the protocol and was severed: {what}"), fabric);
        todo.push_back(Action::Lost(peer.slot));
        if matches!(at.role, Role::Joins | Role::Founds) {
            todo.push_back(Action::Stop(Error::Contract { member: peer.id, what }));
        }
    }

    pub(super) fn removed(&self) -> Action {
        let view = self.view.as_ref().map_or(0, |view| view.number + 1);
        Action::Stop(Error::Removed { view })
    }

    /// Whether this member has published that it runs its view.
    fn has_shown_view(&self) -> bool {
        self.table.load(self.me.slot, row::INSTALLED) > self.number()
    }

    fn is_outrun_on(&self, fabric: &dyn Fabric) -> bool {
        fabric.shares_rows() && self.is_outrun()
    }
}
