//! The processes that may know whether the group runs: founders, configured contacts, and members that this process has
//! heard of before.
//!
//! A process founds a group only where that is safe: a second group of the same name would accept messages of its own. So
//! every configured contact must answer first, and so must every member of a former group that is no founder. Founders need
//! not: without them nothing is founded.

use super::ask::Asker;
use super::wire::{Place, Reply, Request};
use crate::config::{Config, MemberId};
use crate::error::Error;
use crate::shortage;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a look may take.
pub(super) const LOOK_TIME: Duration = Duration::from_millis(300);
/// How long the others have to answer once one has said that the group runs.
const REST_TIME: Duration = Duration::from_millis(50);
/// The most obstacles that a text names.
const NAMED_MAX: usize = 8;
/// The most addresses that are asked: what others say must not grow without end.
const ASKED_MAX: usize = 256;

/// What this process knows of the group that its members of the same configuration were in last, as long as it runs.
static KEPT: Mutex<BTreeMap<Memory, Kept>> = Mutex::new(BTreeMap::new());

/// Under which name, number and address this process is, or was, in a group, and who founded that.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Memory {
    group: String,
    id: u32,
    address: String,
    founders: Vec<(u32, String)>,
}

#[derive(Debug, Clone)]
struct Kept {
    group_id: u64,
    places: Vec<Place>,
}

impl Memory {
    pub(super) fn new(config: &Config) -> Result<Memory, Error> {
        let (id, address, _) = config.own()?;
        let founders = config.members.iter().map(|member| (member.id.0, member.address.clone())).collect();
        Ok(Memory { group: config.group.clone(), id: id.0, address: address.to_owned(), founders })
    }

    /// A view began, whose members are found here.
    pub(super) fn keep(&self, group_id: u64, places: &[Place]) {
        kept().insert(self.clone(), Kept { group_id, places: places.to_vec() });
    }
}

fn kept() -> MutexGuard<'static, BTreeMap<Memory, Kept>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the module.
pub(super) struct Contacts {
    config: Config,
    own: String,
    asker: Asker,
    asked: usize,
    /// Must answer before this process founds, and why.
    required: Vec<(String, String)>,
    /// Of the first founder: the last one, where nobody else dials it. Each of the others is dialled by those behind it.
    last: Option<(MemberId, String)>,
    /// The group that this process was in, and how it knows that.
    knows: Option<(u64, &'static str)>,
    /// It has a log, which says so for good.
    has_log: bool,
    /// Where members of its former group are found.
    former: Vec<Place>,
    /// Where members of the running group are found, as of the last look: those that answered first.
    running: Vec<String>,
    obstacles: Vec<String>,
}

/// What a look at all contacts came to.
pub(super) struct Look {
    /// The group runs.
    pub(super) runs: bool,
    /// Why this process must not found the group now, as far as the contacts are concerned.
    pub(super) obstacle: Option<String>,
}

impl Contacts {
    /// `log`: the id of the group whose log this process has, and where its members were found.
    pub(super) fn new(config: &Config, log: Option<(u64, Vec<Place>)>) -> Result<Contacts, Error> {
        let (id, own, _) = config.own()?;
        let has_log = log.is_some();
        let remembered = kept().get(&Memory::new(config)?).map(|kept| (kept.group_id, kept.places.clone()));
        let (knows, former) = match (log, remembered) {
            (Some((group_id, places)), _) => (Some((group_id, "this process's log")), places),
            (None, Some((group_id, places))) => (Some((group_id, "in which this process was")), places),
            (None, None) => (None, Vec::new()),
        };
        let mut contacts = Contacts {
            config: config.clone(),
            own: own.to_owned(),
            asker: Asker::new([]),
            asked: 0,
            required: Vec::new(),
            last: None,
            knows,
            has_log,
            former: former.into_iter().filter(|place| place.id != id.0).collect(),
            running: Vec::new(),
            obstacles: Vec::new(),
        };
        for member in &config.members {
            contacts.add(&member.address);
        }
        if let [first, .., last] = &config.members[..]
            && first.id == id
        {
            contacts.last = Some((last.id, last.address.clone()));
        }
        for contact in &config.contacts {
            contacts.require(contact, &format!("the contact at {contact}"));
        }
        for place in contacts.former.clone() {
            let Place { id, address, .. } = place;
            contacts.require(&address, &format!("member {id} of the group that this process was in, at {address}"));
        }
        Ok(contacts)
    }

    /// Asks the process at this address, too, from now on.
    pub(super) fn add(&mut self, address: &str) {
        if *address != self.own && self.asked < ASKED_MAX && self.asker.add(address.to_owned()) {
            self.asked += 1;
        }
    }

    /// As [`Contacts::add`]; it must answer before this process founds, unless it founds with this one.
    pub(super) fn require(&mut self, address: &str, what: &str) {
        self.add(address);
        let founds = self.config.members.iter().any(|member| member.address == *address);
        if !founds && *address != self.own && !self.required.iter().any(|(known, _)| known == address) {
            self.required.push((address.to_owned(), what.to_owned()));
        }
    }

    /// Some process says that the group's members are found there.
    pub(super) fn learn(&mut self, places: &[Place]) {
        places.iter().for_each(|place| self.add(&place.address));
    }

    /// Where all of them are found.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.asker.addresses().map(str::to_owned).collect()
    }

    /// The ways into the running group, if it ran at the last look: those that said so first.
    pub(super) fn ways(&self) -> Vec<String> {
        self.running.clone()
    }

    /// The log is gone: it had nothing of worth.
    pub(super) fn forget_log(&mut self) {
        if self.has_log {
            (self.has_log, self.knows) = (false, None);
        }
    }

    /// What stood in the way at the last look.
    pub(super) fn obstacles(&self) -> String {
        let mut text = self.obstacles.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        if self.obstacles.len() > NAMED_MAX {
            text += &format!(", and {} more", self.obstacles.len() - NAMED_MAX);
        }
        text
    }

    /// The members of a former group that are no founders, for the other founders.
    pub(super) fn former_addresses(&self) -> Vec<String> {
        self.required.iter().map(|(address, _)| address.clone()).filter(|a| !self.config.contacts.contains(a)).collect()
    }

    /// What this process says to those that ask while it is in no group.
    pub(super) fn waits(&self) -> Reply {
        let strangers = !self.former_addresses().is_empty();
        Reply::Waits { been: self.has_log || strangers, places: self.former.clone() }
    }

    /// Whether this is the id of the group that this process was in, or it was in none.
    ///
    /// # Errors
    /// [`Error::TwoGroups`], if the log is that of another group.
    pub(super) fn check_id(&self, group_id: u64, address: &str) -> Result<(), Error> {
        match self.knows {
            Some((ours, how)) if self.has_log && ours != group_id => Err(Error::TwoGroups {
                group: self.config.group.clone(),
                ours: format!("{ours:#018x} ({how})"),
                theirs: format!("{group_id:#018x} (runs at {address})"),
            }),
            _ => Ok(()),
        }
    }

    /// Asks all whether the group runs. `founds`: this process has no log, and waits for all founders.
    ///
    /// # Errors
    /// [`Error::TwoGroups`], if a group runs that is not the one of this process's log, or two groups run.
    pub(super) fn look(&mut self, founds: Option<MemberId>, time: Duration) -> Result<Look, Error> {
        let request = Request::Ask { group: self.config.group.clone(), founds: founds.map(|id| id.0) };
        let mut replies = Vec::new();
        let asked = self.asker.ask(&request, time, |address, reply| {
            let runs = matches!(reply, Ok(Reply::Runs { .. }));
            replies.push((address.to_owned(), reply));
            runs.then_some(REST_TIME)
        });
        if let Err(error) = asked {
            tracing::warn!(%error, "cannot ask the other members whether the group runs");
            return Ok(Look { runs: false, obstacle: Some(format!("the other members ({error})")) });
        }
        let mut groups: Vec<(u64, String)> = Vec::new();
        let mut forbids = Vec::new();
        self.obstacles.clear();
        for (address, reply) in replies {
            match reply {
                Ok(Reply::Runs { group_id, places, .. }) => {
                    self.learn(&places);
                    groups.push((group_id, address));
                }
                reply => self.note(&address, reply, &mut forbids),
            }
        }
        self.settle(groups)?;
        forbids.truncate(NAMED_MAX);
        let obstacle = (!forbids.is_empty()).then(|| forbids.join(", "));
        Ok(Look { runs: !self.running.is_empty(), obstacle })
    }

    /// Notes what an answer, or none, says against joining through that process, and whether it forbids founding.
    fn note(&mut self, address: &str, reply: std::io::Result<Reply>, forbids: &mut Vec<String>) {
        let is_reached = reply.is_ok();
        let what = match reply {
            Ok(Reply::Waits { been: false, .. }) => {
                self.obstacles.push(format!("at {address}: it is not in the group itself yet"));
                return;
            }
            Ok(Reply::Waits { been: true, places }) => {
                for Place { id, address: at, .. } in places {
                    self.require(
                        &at,
                        &format!("member {id} of the group that the process at {address} was in, at {at}"),
                    );
                }
                let what = "it has been in the group, and is not in it any more";
                forbids.push(format!("the process at {address} ({what})"));
                what.to_owned()
            }
            Ok(Reply::Restarting { group_id, only_founded, .. }) => {
                let what = format!("it waits for the other members of group {group_id:#018x}, which all ended");
                if !only_founded {
                    forbids.push(format!("the process at {address} ({what})"));
                }
                what
            }
            Ok(Reply::Later { reason }) => reason,
            Ok(Reply::Disagreement { key, value, .. }) if key == "group" => format!("it is of group `{value}`"),
            Ok(other) => format!("an answer to another question: {other:?}"),
            Err(error) => shortage::explained(&error),
        };
        if let Some((id, _)) = self.last.as_ref().filter(|(_, last)| !is_reached && last == address) {
            forbids.push(format!(
                "member {id} where others would reach it, at {address} ({what}): give it an `address` at which it listens"
            ));
        }
        if let Some((_, required)) = self.required.iter().find(|(known, _)| known == address) {
            forbids.push(format!("{required} ({what}), which must answer before the group is founded"));
        }
        self.obstacles.push(format!("at {address}: {what}"));
    }

    /// Which of the groups that run is this process's.
    fn settle(&mut self, groups: Vec<(u64, String)>) -> Result<(), Error> {
        let ours = self.knows.map(|(id, _)| id).filter(|id| groups.iter().any(|(group, _)| group == id));
        let mut ids: Vec<u64> = groups.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        let at = |id: u64| groups.iter().find(|(group, _)| *group == id).map_or("", |(_, address)| address.as_str());
        if let (None, Some(id)) = (ours, ids.first()) {
            self.check_id(*id, at(*id))?;
        }
        let shown = |id: u64| format!("{id:#018x} (runs at {})", at(id));
        match (ours, &ids[..]) {
            (None, [first, second, ..]) => {
                return Err(Error::TwoGroups {
                    group: self.config.group.clone(),
                    ours: shown(*first),
                    theirs: shown(*second),
                });
            }
            (Some(ours), [_, _, ..]) => {
                let theirs = ids.iter().find(|id| **id != ours).map(|id| shown(*id)).unwrap_or_default();
                tracing::error!(ours = shown(ours), theirs, "two groups are named `{}`", self.config.group);
            }
            (None, [id]) if self.knows.is_some() => {
                tracing::warn!("the group that this process was in is gone; another of its name runs: {}", shown(*id));
            }
            _ => {}
        }
        let keeps = ours.or(ids.first().copied());
        self.running = groups.into_iter().filter(|(id, _)| Some(*id) == keeps).map(|(_, address)| address).collect();
        Ok(())
    }
}
