//! The processes that may know whether the group runs: founders, configured contacts, and members known from before.
//!
//! A process founds a group only where that is safe, because a second group of the same name would accept messages of
//! its own. So every configured contact must answer first, and so must every member of a former group that is not a
//! founder. Founders need not answer here: the group cannot be founded without them anyway.

use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::meet::ask::{Asker, Rest};
use crate::meet::questions::{Place, Reply, Request};
use crate::shortage;
use crate::sync::lock;
use crate::types::MemberId;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Time limit for one round of questions.
pub(crate) const LOOK_TIME: Duration = Duration::from_millis(300);
/// The time that the others have to answer after one process has answered that the group runs. Their answers may show
/// that a second group of this name runs.
///
/// A process that has accepted the connection probably runs, and answers late only because its host is busy. Connecting
/// takes no time of that process, so a host that does not even connect is probably down and must not delay the join.
const REST: Rest = Rest { connected: Duration::from_secs(1), others: Duration::from_millis(50) };
/// The maximum number of obstacles or members that an error text names.
pub(crate) const NAMED_MAX: usize = 8;
/// The maximum number of addresses to ask. Addresses also come from other processes, so the list must be bounded.
const ASKED_MAX: usize = 256;

/// For each former membership of this process: the group id and the members' addresses. Kept until the process ends.
static KEPT: Mutex<BTreeMap<Memory, Kept>> = Mutex::new(BTreeMap::new());

/// Identifies a membership of this process: group name, member id, own address, and the founders of the group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Memory {
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
    pub(crate) fn new(config: &Config) -> Result<Memory, Error> {
        let (id, address, _) = config.own()?;
        let founders = config.members.iter().map(|member| (member.id.0, member.address.clone())).collect();
        Ok(Memory { group: config.group.clone(), id: id.0, address: address.to_owned(), founders })
    }

    /// Keeps the addresses of the members of a view that began.
    pub(crate) fn keep(&self, group_id: u64, places: &[Place]) {
        kept().insert(self.clone(), Kept { group_id, places: places.to_vec() });
    }
}

fn kept() -> MutexGuard<'static, BTreeMap<Memory, Kept>> {
    lock(&KEPT)
}

/// The processes that may know whether the group runs, and their latest answers.
pub(crate) struct Contacts {
    config: Config,
    own: String,
    asker: Asker,
    asked: usize,
    /// Addresses of processes that must answer before this process founds the group, each with a description.
    required: Vec<(String, String)>,
    /// The last founder's id and address, at the first founder only.
    ///
    /// Founders connect to founders of lower rank only, so no founder connects to the last one and would notice that
    /// its address is wrong. The first founder therefore checks it.
    last: Option<(MemberId, String)>,
    /// The id of the group that this process was in, and the source of that knowledge.
    knows: Option<(u64, &'static str)>,
    /// The group id comes from a log, so it is certain.
    has_log: bool,
    /// The addresses of the members of the former group.
    former: Vec<Place>,
    /// Addresses of members of the running group, as of the latest round, in the order of their answers.
    running: Vec<String>,
    obstacles: Vec<String>,
}

/// The result of asking all contacts.
pub(crate) struct Look {
    /// The group runs.
    pub(crate) runs: bool,
    /// The reason why this process must not found the group now, as far as the contacts show.
    pub(crate) obstacle: Option<String>,
}

impl Contacts {
    /// Collects the known processes. `log` is the group id from this process's log, and the members' addresses found in
    /// it.
    pub(crate) fn new(config: &Config, log: Option<(u64, Vec<Place>)>) -> Result<Contacts, Error> {
        let (id, own, _) = config.own()?;
        let has_log = log.is_some();
        let remembered = kept().get(&Memory::new(config)?).map(|kept| (kept.group_id, kept.places.clone()));
        let (knows, former) = match (log, remembered) {
            (Some((group_id, places)), _) => (Some((group_id, "this process's log")), places),
            (None, Some((group_id, places))) => (Some((group_id, "this process was in it")), places),
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

    /// Adds the process at this address to all later rounds.
    pub(crate) fn add(&mut self, address: &str) {
        if *address != self.own && self.asked < ASKED_MAX && self.asker.add(address.to_owned()) {
            self.asked += 1;
        }
    }

    /// Like [`Contacts::add`], but the process must answer before this process founds, unless it is a founder itself.
    pub(crate) fn require(&mut self, address: &str, what: &str) {
        self.add(address);
        let founds = self.config.members.iter().any(|member| member.address == *address);
        if !founds && *address != self.own && !self.required.iter().any(|(known, _)| known == address) {
            self.required.push((address.to_owned(), what.to_owned()));
        }
    }

    /// Adds the members' addresses that some process reported.
    pub(crate) fn learn(&mut self, places: &[Place]) {
        places.iter().for_each(|place| self.add(&place.address));
    }

    /// The addresses of all known processes.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.asker.addresses().map(str::to_owned).collect()
    }

    /// The addresses of members of the running group, in the order of their answers in the latest round. Empty if it
    /// does not run.
    pub(crate) fn ways(&self) -> Vec<String> {
        self.running.clone()
    }

    /// Forgets the log, which was removed because it contained nothing of value.
    pub(crate) fn forget_log(&mut self) {
        if self.has_log {
            (self.has_log, self.knows) = (false, None);
        }
    }

    /// The obstacles that the latest round found, as text.
    pub(crate) fn obstacles(&self) -> String {
        let mut text = self.obstacles.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        if self.obstacles.len() > NAMED_MAX {
            text += &format!(", and {} more", self.obstacles.len() - NAMED_MAX);
        }
        text
    }

    /// The addresses of members of a former group that are not founders, for the other founders.
    pub(crate) fn former_addresses(&self) -> Vec<String> {
        self.required.iter().map(|(address, _)| address.clone()).filter(|a| !self.config.contacts.contains(a)).collect()
    }

    /// The answer to questions while this process is in no group.
    pub(crate) fn waits(&self) -> Reply {
        let strangers = !self.former_addresses().is_empty();
        Reply::Waits { been: self.has_log || strangers, places: self.former.clone() }
    }

    /// Checks that `group_id` is the group of this process's log, if it has a log.
    ///
    /// # Errors
    /// [`Error::TwoGroups`] if the log belongs to another group.
    pub(crate) fn check_id(&self, group_id: u64, address: &str) -> Result<(), Error> {
        match self.knows {
            Some((ours, how)) if self.has_log && ours != group_id => Err(Error::TwoGroups {
                group: self.config.group.clone(),
                ours: format!("{ours:#018x} ({how})"),
                theirs: format!("{group_id:#018x} (runs at {address})"),
            }),
            _ => Ok(()),
        }
    }

    /// Asks all known processes whether the group runs. `founds` is this process's id if it has no log and waits for
    /// all founders.
    ///
    /// # Errors
    /// [`Error::TwoGroups`] if the running group is not the one of this process's log, or if two groups run.
    pub(crate) fn look(&mut self, founds: Option<MemberId>, deadline: &Deadline) -> Result<Look, Error> {
        let request = Request::Ask { group: self.config.group.clone(), founds: founds.map(|id| id.0) };
        let mut replies = Vec::new();
        let asked = self.asker.ask(&request, LOOK_TIME, deadline, |address, reply| {
            let runs = matches!(reply, Ok(Reply::Runs { .. }));
            replies.push((address.to_owned(), reply));
            runs.then_some(REST)
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

    /// Records an answer or error that is an obstacle to joining through that process, and whether it forbids founding.
    fn note(&mut self, address: &str, reply: std::io::Result<Reply>, forbids: &mut Vec<String>) {
        let is_reached = reply.is_ok();
        let what = match reply {
            Ok(Reply::Waits { been: false, .. }) => {
                self.obstacles.push(format!("at {address}: it is not in the group yet"));
                return;
            }
            Ok(Reply::Waits { been: true, places }) => {
                for Place { id, address: at, .. } in places {
                    self.require(
                        &at,
                        &format!("member {id} of the group that the process at {address} was in, at {at}"),
                    );
                }
                let what = "it was in the group, and is not in it any more";
                forbids.push(format!("the process at {address} ({what})"));
                what.to_owned()
            }
            Ok(Reply::Restarting { group_id, only_founded, .. }) => {
                let what = format!("it waits for the other members of group {group_id:#018x}, which have all ended");
                if !only_founded {
                    forbids.push(format!("the process at {address} ({what})"));
                }
                what
            }
            Ok(Reply::Later { reason }) => reason,
            Ok(Reply::Disagreement { key, value, .. }) if key == "group" => format!("it belongs to group `{value}`"),
            Ok(other) => format!("an unexpected answer: {other:?}"),
            Err(error) => shortage::explained(&error),
        };
        if let Some((id, _)) = self.last.as_ref().filter(|(_, last)| !is_reached && last == address) {
            forbids.push(format!(
                "member {id} at {address}, its address for the other members ({what}): give it an `address` at which it listens"
            ));
        }
        if let Some((_, required)) = self.required.iter().find(|(known, _)| known == address) {
            forbids.push(format!("{required} ({what}), which must answer before the group is founded"));
        }
        self.obstacles.push(format!("at {address}: {what}"));
    }

    /// Decides which of the running groups is this process's, and keeps the addresses of its members.
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
                tracing::warn!(
                    "the group that this process was in does not run any more, but another group of its name does: {}",
                    shown(*id)
                );
            }
            _ => {}
        }
        let keeps = ours.or(ids.first().copied());
        self.running = groups.into_iter().filter(|(id, _)| Some(*id) == keeps).map(|(_, address)| address).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FabricKind, Member};
    use crate::meet::questions::send_reply;
    use socket2::{Domain, Socket, Type};
    use std::io::Read;
    use std::net::{SocketAddr, TcpListener};
    use std::time::Instant;

    fn far() -> Deadline {
        (Instant::now() + Duration::from_secs(600)).into()
    }

    /// A member of the group with this id, which takes this time for each answer.
    fn runs(group_id: u64, delay: Duration) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 1024]);
                std::thread::sleep(delay);
                let _ = send_reply(&mut stream, &Reply::Runs { group_id, member: 1, places: Vec::new() });
            }
        });
        address
    }

    /// Process 9, which has a founder and a contact at these addresses.
    fn contacts(founder: &str, contact: &str) -> Contacts {
        let founders = vec![Member { id: MemberId(1), address: founder.to_owned() }];
        let config = Config::new("g", FabricKind::Tcp, founders).with_member(MemberId(9));
        let config = Config { address: Some("127.0.0.1:1".to_owned()), contacts: vec![contact.to_owned()], ..config };
        Contacts::new(&config, None).unwrap()
    }

    /// A member of a second group, on a busy host, answers long after the first group's member.
    #[test]
    fn a_slow_answer_of_a_second_group_is_waited_for() {
        let (first, second) = (runs(1, Duration::ZERO), runs(2, LOOK_TIME + REST.others));
        for (founder, contact) in [(&first, &second), (&second, &first)] {
            let error = contacts(founder, contact).look(None, &far()).err();
            assert!(matches!(error, Some(Error::TwoGroups { .. })), "{error:?}");
        }
    }

    /// A host that is down, a closed port and a name that is not found delay a join by no more than a moment.
    #[test]
    fn a_process_that_does_not_connect_is_not_waited_for() {
        // A listener with a full backlog answers nobody.
        let hole = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        hole.bind(&any.into()).unwrap();
        hole.listen(0).unwrap();
        let address = hole.local_addr().unwrap();
        let fills: Vec<_> = (0..4).map(|_| crate::meet::dial::connect(&address).unwrap()).collect();
        let unreachable = address.as_socket().unwrap().to_string();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let member = runs(1, Duration::ZERO);
        for absent in [unreachable, closed] {
            // On a busy machine this thread may be delayed, so the fastest of several rounds counts.
            let took = (0..10).map(|_| {
                let begun = Instant::now();
                assert!(contacts(&member, &absent).look(None, &far()).unwrap().runs);
                begun.elapsed()
            });
            let fastest = took.min().unwrap();
            assert!(fastest < REST.connected, "{absent}: {fastest:?}");
        }
        drop(fills);
    }

    /// A process that hangs accepts connections, because the system does that, and never answers.
    #[test]
    fn a_process_that_hangs_delays_one_round_only() {
        let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut contacts = contacts(&runs(1, Duration::ZERO), &hangs.local_addr().unwrap().to_string());
        let mut round = || {
            let begun = Instant::now();
            assert!(contacts.look(None, &far()).unwrap().runs);
            begun.elapsed()
        };
        assert!(round() >= REST.connected);
        let fastest = (0..10).map(|_| round()).min().unwrap();
        assert!(fastest < REST.connected, "{fastest:?}");
    }
}
