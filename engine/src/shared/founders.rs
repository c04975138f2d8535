//! The founders that a restarting process has heard of.

use crate::config::Config;
use crate::types::MemberId;
use std::collections::HashSet;

/// The founders that have nothing to lose by founding anew.
#[derive(Default)]
pub(crate) struct Founders {
    meet: bool,
    with_nothing: HashSet<MemberId>,
}

impl Founders {
    /// Notes a founder that has no log and waits for the other founders.
    pub(crate) fn meets(&mut self, id: MemberId) {
        self.meet = true;
        self.with_nothing.insert(id);
    }

    /// Notes a founder that is being restarted. `only_founded`: its log contains nothing but the first view.
    pub(crate) fn restarts(&mut self, id: MemberId, only_founded: bool) {
        match only_founded {
            true => self.with_nothing.insert(id),
            false => self.with_nothing.remove(&id),
        };
    }

    /// Whether the founders may found the group anew, although `me` has a log that contains nothing.
    ///
    /// That is so if a founder waits for the others, and all founders other than `me` are known to have nothing.
    pub(crate) fn may_begin_anew(&self, config: &Config, me: MemberId) -> bool {
        self.meet && config.members.iter().all(|member| member.id == me || self.with_nothing.contains(&member.id))
    }
}
