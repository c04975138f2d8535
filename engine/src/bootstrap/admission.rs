//! Brings a process into a running group: it asks to be admitted, then links with all other processes.

use crate::config::{Config, FabricKind};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::meet::questions::{self, Place, Reply, Request};
use crate::meet::{asking, check};
use crate::peers::contacts::Contacts;
use crate::peers::linking::{Linking, STEP_TIME, Seated, link};
use crate::shared::Shared;
use crate::shared::requests::PeerRequest;
use crate::shortage;
use crate::thread::{self, OWN_STACK_BYTES};
use crate::types::MemberId;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time limit for asking to be admitted; afterwards the process checks again whether the group runs.
const ADMISSION_TIME: Duration = Duration::from_secs(2);
/// Maximum number of members asked in one round. It stops a loop between two members that name each other as the
/// leader.
const QUESTIONS_MAX: usize = 80;
/// Pause between two rounds of questions.
const AGAIN_TIME: Duration = Duration::from_millis(100);
/// Maximum number of members that are asked to relay a link request to an unreachable process.
const RELAYS_MAX: usize = 2;

/// The data that an admitted process receives.
pub(crate) struct Admitted {
    pub(crate) group_id: u64,
    pub(crate) fabric: FabricKind,
    pub(crate) me: Place,
    /// The view in which the slot was assigned; see [`crate::membership::Admission`].
    pub(crate) since: u64,
    /// The processes to link with.
    pub(crate) others: Vec<Place>,
}

/// Asks to be admitted until a member admits or refuses this process, or until a time limit.
///
/// After the time limit it returns the obstacle; the group may have ended by then. The member that admits this process
/// first dials its address, where it must answer with this incarnation.
pub(crate) fn admission(
    config: &Config,
    contacts: &mut Contacts,
    deadline: &Deadline,
    incarnation: u64,
) -> Result<Result<Admitted, String>, Error> {
    let give_up = Instant::now() + ADMISSION_TIME;
    let mut obstacle = contacts.obstacles();
    loop {
        let mut ways: VecDeque<String> = contacts.ways().into();
        let mut asked = 0;
        while let Some(contact) = ways.pop_front().filter(|_| asked < QUESTIONS_MAX && !deadline.is_over()) {
            asked += 1;
            let is_cut = deadline.left() < STEP_TIME;
            match ask_for_a_place(config, contacts, &contact, incarnation, deadline)? {
                Answer::Admitted(admitted) => return Ok(Ok(*admitted)),
                Answer::Elsewhere(address) => {
                    contacts.add(&address);
                    // The leader is asked next. The other addresses stay in the list in case it dies.
                    ways.retain(|way| *way != address);
                    ways.push_front(address);
                }
                // The deadline of the join cut this question short. An earlier obstacle says more.
                Answer::Unanswered(_) if is_cut && !obstacle.is_empty() => {}
                Answer::Obstacle(what) | Answer::Unanswered(what) => obstacle = format!("at {contact}: {what}"),
            }
        }
        if Instant::now() >= give_up || deadline.is_over() {
            return Ok(Err(obstacle));
        }
        std::thread::sleep(AGAIN_TIME);
        contacts.look(None, deadline)?;
        if asked == 0 {
            obstacle = contacts.obstacles();
        }
    }
}

/// A member's answer to a process that asks to be admitted.
enum Answer {
    Admitted(Box<Admitted>),
    Elsewhere(String),
    Obstacle(String),
    /// No answer came in time.
    Unanswered(String),
}

fn ask_for_a_place(
    config: &Config,
    contacts: &mut Contacts,
    contact: &str,
    incarnation: u64,
    deadline: &Deadline,
) -> Result<Answer, Error> {
    let (id, address, _) = config.own()?;
    let request = Request::Join {
        group: config.group.clone(),
        agreed: config.agreed(),
        id: id.0,
        incarnation,
        address: address.to_owned(),
    };
    Ok(match asking::ask(contact, &request, STEP_TIME, deadline) {
        Ok(Reply::Admitted { group_id, fabric, me, since, others }) => {
            contacts.check_id(group_id, contact)?;
            contacts.learn(&others);
            Answer::Admitted(Box::new(Admitted { group_id, fabric, me, since, others }))
        }
        Ok(Reply::Elsewhere { address }) => Answer::Elsewhere(address),
        Ok(Reply::Later { reason }) => Answer::Obstacle(reason),
        Ok(Reply::Refused { reason }) => return Err(refused(config, contact, reason)),
        Ok(Reply::Disagreement { member, key, value }) => return Err(disagreement(config, member, key, value)),
        Ok(other) => Answer::Obstacle(format!("an unexpected answer: {other:?}")),
        Err(error) if questions::is_timeout(&error) => Answer::Unanswered(error.to_string()),
        Err(error) => Answer::Obstacle(shortage::explained(&error)),
    })
}

fn refused(config: &Config, contact: &str, reason: String) -> Error {
    let listed = config.members.iter().find(|member| member.address == contact);
    match listed {
        Some(member) => Error::Refused { member: member.id, reason },
        None => Error::Config(format!("the process at {contact} refused this process: {reason}")),
    }
}

pub(crate) fn disagreement(config: &Config, member: u32, key: String, theirs: String) -> Error {
    let ours = match key.as_str() {
        "group" => config.group.clone(),
        key => check::value_of(&config.agreed(), key),
    };
    Error::Disagreement { member: MemberId(member), key, ours, theirs }
}

/// Links this process with all `others` in a thread, while the driver continues. Returns the text of the latest
/// obstacle.
pub(crate) fn link_all(
    shared: &Arc<Shared>,
    group_id: u64,
    me: Seated,
    others: &[Place],
    linking: &Linking,
) -> Result<Arc<std::sync::Mutex<String>>, Error> {
    let obstacle = Arc::new(std::sync::Mutex::new(String::new()));
    let (shown, shared, others, linking) = (obstacle.clone(), shared.clone(), others.to_vec(), linking.clone());
    let link = move || {
        let (mut reached, mut missed) = (Vec::new(), Vec::new());
        for other in others {
            match link(group_id, &me, &other, &linking) {
                Ok(connection) => {
                    reached.push(other.address.clone());
                    shared.request(PeerRequest::Link { place: other, since: me.since, connection });
                }
                Err(error) => missed.push((other, error.to_string())),
            }
        }
        // A missed process may be able to reach this one. It may also be dead and about to be removed; the leader
        // decides which links are needed.
        for (other, error) in missed {
            let Seated { place, since } = &me;
            let request = Request::Relay { group_id, from: place.clone(), since: *since, to: other.clone() };
            let relayed = |by: &String| matches!(questions::ask(by, &request, STEP_TIME), Ok((_, Reply::Linked {})));
            if !reached.iter().take(RELAYS_MAX).any(relayed)
                && let Ok(mut shown) = shown.lock()
            {
                *shown = format!("member {} at {}: {error}", other.id, other.address);
            }
        }
    };
    thread::spawn("galerna-link", "links this process with the members", OWN_STACK_BYTES, link)?;
    Ok(obstacle)
}
