//! How a process gets into a running group: asks for a place, and links itself with all others.

use super::door::{self, STEP_TIME, Visit};
use super::join::incarnation;
use super::linking::Linking;
use super::shared::Shared;
use super::wire::{self, Place, Reply, Request};
use crate::config::{Config, FabricKind, MemberId};
use crate::error::Error;
use crate::fabric::{Connection, meet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a process asks for a place before it looks again whether the group runs.
const ADMISSION_TIME: Duration = Duration::from_secs(2);
/// Pause between questions to the same processes.
const AGAIN_TIME: Duration = Duration::from_millis(100);

/// A place in the group.
pub(super) struct Admitted {
    pub(super) group_id: u64,
    pub(super) fabric: FabricKind,
    pub(super) me: Place,
    /// See [`crate::membership::Admission`].
    pub(super) since: u64,
    /// Whom to link with.
    pub(super) others: Vec<Place>,
}

/// Asks for a place until somebody gives or refuses it, or for a while: then the obstacle. The group may have ended meanwhile.
pub(super) fn admission(config: &Config, deadline: Instant) -> Result<Result<Admitted, String>, Error> {
    let (id, address, _) = config.own()?;
    let mut obstacle = String::new();
    let give_up = deadline.min(Instant::now() + ADMISSION_TIME);
    let others = config.members.iter().filter(|member| member.id != id);
    let mut contacts: Vec<String> = others.map(|member| member.address.clone()).collect();
    loop {
        let mut elsewhere = None;
        for contact in &contacts {
            let request = Request::Join {
                group: config.group.clone(),
                agreed: config.agreed(),
                id: id.0,
                incarnation: incarnation(),
                address: address.to_owned(),
            };
            match wire::ask(contact, &request, STEP_TIME).map(|(_, reply)| reply) {
                Ok(Reply::Admitted { group_id, fabric, me, since, others }) => {
                    return Ok(Ok(Admitted { group_id, fabric, me, since, others }));
                }
                Ok(Reply::Elsewhere { address }) => {
                    elsewhere = Some(address);
                    break;
                }
                Ok(Reply::Later { reason }) => obstacle = format!("at {contact}: {reason}"),
                Ok(Reply::Refused { reason }) => return Err(refused(config, contact, reason)),
                Ok(Reply::Disagreement { member, key, value }) => return Err(disagreement(config, member, key, value)),
                Ok(other) => obstacle = format!("at {contact}: an answer to another question: {other:?}"),
                Err(error) => obstacle = format!("at {contact}: {error}"),
            }
        }
        if Instant::now() >= give_up {
            return Ok(Err(obstacle));
        }
        match elsewhere {
            // First of all next time; the others stay, in case it dies.
            Some(address) => {
                contacts.retain(|contact| *contact != address);
                contacts.insert(0, address);
            }
            None => std::thread::sleep(AGAIN_TIME),
        }
    }
}

fn refused(config: &Config, contact: &str, reason: String) -> Error {
    let listed = config.members.iter().find(|member| member.address == contact);
    match listed {
        Some(member) => Error::Refused { member: member.id, reason },
        None => Error::Config(format!("{contact} refused: {reason}")),
    }
}

pub(super) fn disagreement(config: &Config, member: u32, key: String, theirs: String) -> Error {
    let ours = match key.as_str() {
        "group" => config.group.clone(),
        key => meet::check::value_of(&config.agreed(), key),
    };
    Error::Disagreement { member: MemberId(member), key, ours, theirs }
}

/// Links this process with all `others`, in a thread, as the driver goes on. What stands in the way is shown.
pub(super) fn link_all(
    shared: &Arc<Shared>,
    group_id: u64,
    (me, since): (&Place, u64),
    others: &[Place],
    linking: &Linking,
) -> Result<Arc<std::sync::Mutex<String>>, Error> {
    let obstacle = Arc::new(std::sync::Mutex::new(String::new()));
    let (shown, shared, me, others, linking) =
        (obstacle.clone(), shared.clone(), me.clone(), others.to_vec(), linking.clone());
    let link = move || {
        for other in others {
            match link(group_id, (&me, since), &other, &linking) {
                Ok(connection) => shared.visit(Visit::Link { place: other, since, connection }),
                // It may be dead and about to be removed; the leader decides who is needed.
                Err(error) => {
                    if let Ok(mut shown) = shown.lock() {
                        *shown = format!("member {} at {}: {error}", other.id, other.address);
                    }
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name("galerna-link".to_owned()).spawn(link);
    thread.map_err(|e| Error::io("cannot start the thread that links this process", e))?;
    Ok(obstacle)
}

pub(super) fn link(
    group_id: u64,
    (me, since): (&Place, u64),
    other: &Place,
    linking: &Linking,
) -> std::io::Result<Connection> {
    let request = Request::Link { group_id, from: me.clone(), since, to: other.clone() };
    match wire::ask(&other.address, &request, STEP_TIME)? {
        (socket, Reply::Linked {}) => door::connection(socket, other.slot, linking),
        (_, Reply::Refused { reason }) => Err(std::io::Error::other(reason)),
        (_, reply) => Err(std::io::Error::other(format!("an answer to another question: {reply:?}"))),
    }
}
