//! Where a member is found while the group runs: a thread that listens, and one per visitor while it talks.
//!
//! The door decides nothing that concerns the group: it asks the driver, which alone touches the node.

use super::linking::Linking;
use super::records;
use super::shared::Shared;
use super::transfer::{self, Covered};
use super::wire::{self, First, Place, Reply, Request};
use crate::config::{Config, MemberId};
use crate::fabric::Connection;
use crate::fabric::meet::listen::Listening;
use crate::fabric::meet::{self, Quiet, check};
use crate::log::Version;
use crate::membership::Peer;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::Socket;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a visitor may take over each step.
pub(super) const STEP_TIME: Duration = Duration::from_secs(5);
/// Visitors at a time; more are turned away.
const VISITORS_MAX: usize = 64;

/// What a visitor wants of the driver.
pub(super) enum Visit {
    /// A place in the group.
    Join { id: MemberId, incarnation: u64, address: String, reply: SyncSender<Reply> },
    /// To be attached.
    Link { place: Place, since: u64, connection: Connection },
    /// The application's state, of this view or a later one.
    State { view: u64, reply: SyncSender<io::Result<Snapshot>> },
}

/// A state, and what it covers.
pub(super) struct Snapshot {
    pub(super) covered: Covered,
    pub(super) state: Box<dyn Read + Send>,
}

/// What the door knows of this process.
pub(super) struct Sign {
    pub(super) group: String,
    pub(super) group_id: u64,
    pub(super) agreed: Vec<(String, String)>,
    pub(super) me: Peer,
    /// Where it is found.
    pub(super) address: String,
    /// On shared memory: what is handed to those who link.
    pub(super) linking: Linking,
}

impl Sign {
    pub(super) fn new(config: &Config, group_id: u64, me: Peer, address: &str, linking: Linking) -> Sign {
        let (group, agreed, address) = (config.group.clone(), config.agreed(), address.to_owned());
        Sign { group, group_id, agreed, me, address, linking }
    }
}

/// The thread that listens; dropped, it ends.
pub(super) struct Door {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    pub(super) fn open(listening: Listening, sign: Sign, shared: Arc<Shared>) -> io::Result<Door> {
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (seen, sign) = (stop.clone(), Arc::new(sign));
        let thread = std::thread::Builder::new()
            .name(format!("galerna-door-{}", sign.me.id))
            .spawn(move || listen(&listening, &seen, &sign, &shared))?;
        Ok(Door { stop, thread: Some(thread) })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // It cannot fail: nobody else writes it.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One of the visitors, until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn listen(listening: &Listening, stop: &EventFd, sign: &Arc<Sign>, shared: &Arc<Shared>) {
    let visitors = Arc::new(AtomicUsize::new(0));
    loop {
        let mut fds =
            [PollFd::new(listening.socket.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        match nix::poll::poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return tracing::error!(%error, "nobody can join by this member any more"),
        }
        if fds[1].revents().is_some_and(|flags| !flags.is_empty()) {
            return;
        }
        match listening.socket.accept() {
            Ok((socket, _)) if visitors.load(Ordering::Relaxed) < VISITORS_MAX => {
                visitors.fetch_add(1, Ordering::Relaxed);
                let (sign, shared, count) = (sign.clone(), shared.clone(), visitors.clone());
                let visit = Counted(count);
                let talk = move || {
                    let _visit = visit;
                    if let Err(error) = talk(socket, &sign, &shared) {
                        tracing::debug!(%error, "a visitor was turned away");
                    }
                };
                if let Err(error) = std::thread::Builder::new().name("galerna-visitor".to_owned()).spawn(talk) {
                    tracing::warn!(%error, "cannot start a thread for a visitor");
                }
            }
            Ok(_) => tracing::warn!("more than {VISITORS_MAX} visitors at a time"),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a visitor");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn talk(mut socket: Socket, sign: &Sign, shared: &Shared) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(STEP_TIME))?;
    socket.set_write_timeout(Some(STEP_TIME))?;
    let request = match wire::first(&mut socket)? {
        First::Request(request) => request,
        // It tries again, until the group runs or is founded.
        First::Hello if shared.restarting.load(Ordering::Relaxed) => return Ok(()),
        First::Hello => return meet::refuse_running(&mut socket, sign.me.id),
    };
    match request {
        Request::Ask { group, founds } if group == sign.group => {
            if let Some(id) = founds {
                shared.founders().meets(MemberId(id));
            }
            wire::answer(&mut socket, &running(sign, shared))
        }
        Request::Ask { .. } => wire::answer(&mut socket, &other_group(sign)),
        Request::Join { group, agreed, id, incarnation, address } => {
            let reply = match () {
                () if group != sign.group => other_group(sign),
                () => match check::difference(&sign.agreed, &agreed) {
                    Some((key, value, _)) => Reply::Disagreement { member: sign.me.id.0, key, value },
                    None => admit(shared, MemberId(id), incarnation, address),
                },
            };
            wire::answer(&mut socket, &reply)
        }
        Request::Link { group_id, from, since, to } => link(socket, sign, shared, group_id, (from, since), &to),
        Request::State { group_id, view } if group_id == sign.group_id => give_state(socket, shared, view),
        Request::Log { group_id, from, below, ended } if group_id == sign.group_id => match &shared.log {
            Some(log) => {
                let version = |(view, sequence)| Version { view, sequence };
                records::give(&mut socket, log, version(from), version(below), ended)
            }
            None => wire::answer(&mut socket, &Reply::Refused { reason: "this group has no log".to_owned() }),
        },
        Request::State { .. } | Request::Log { .. } => wire::answer(&mut socket, &other_group(sign)),
    }
}

/// Whether the group runs, as far as this process knows.
fn running(sign: &Sign, shared: &Shared) -> Reply {
    if shared.lock().stopped.is_some() {
        return Reply::Later { reason: "this member has stopped".to_owned() };
    }
    match shared.restarting.load(Ordering::Relaxed) {
        true => Reply::Restarting {
            group_id: sign.group_id,
            place: Place::new(sign.me, &sign.address),
            agreed: sign.agreed.clone(),
            only_founded: shared.only_founded.load(Ordering::Relaxed),
        },
        false => Reply::Runs {},
    }
}

fn other_group(sign: &Sign) -> Reply {
    Reply::Disagreement { member: sign.me.id.0, key: "group".to_owned(), value: sign.group.clone() }
}

fn admit(shared: &Shared, id: MemberId, incarnation: u64, address: String) -> Reply {
    let (reply, answer) = std::sync::mpsc::sync_channel(1);
    shared.visit(Visit::Join { id, incarnation, address, reply });
    let late = |_| Reply::Later { reason: "this member is busy".to_owned() };
    answer.recv_timeout(STEP_TIME).unwrap_or_else(late)
}

/// A process that was given a place links itself with this one.
fn link(
    mut socket: Socket,
    sign: &Sign,
    shared: &Shared,
    group_id: u64,
    (from, since): (Place, u64),
    to: &Place,
) -> io::Result<()> {
    if group_id != sign.group_id
        || to.peer() != sign.me
        || from.slot >= crate::fabric::SLOTS
        || from.slot == sign.me.slot
    {
        let reason = format!("this is member {} of another life or group", sign.me.id);
        return wire::answer(&mut socket, &Reply::Refused { reason });
    }
    wire::answer(&mut socket, &Reply::Linked {})?;
    let connection = connection(socket, from.slot, &sign.linking)?;
    shared.visit(Visit::Link { place: from, since, connection });
    Ok(())
}

/// Makes a connection that both ends have agreed on the fabric's.
pub(super) fn connection(socket: Socket, peer: usize, linking: &Linking) -> io::Result<Connection> {
    socket.set_read_timeout(None)?;
    socket.set_write_timeout(None)?;
    let links = linking.link(vec![(peer, socket)], Instant::now() + STEP_TIME).map_err(io::Error::other)?;
    let link = links.into_iter().next().ok_or_else(|| io::Error::other("nobody was there to link with"))?;
    Ok(link.1)
}

fn give_state(mut socket: Socket, shared: &Shared, view: u64) -> io::Result<()> {
    let (reply, answer) = std::sync::mpsc::sync_channel(1);
    shared.visit(Visit::State { view, reply });
    let snapshot = answer.recv_timeout(STEP_TIME).map_err(|_| io::Error::other("the driver did not answer"));
    match snapshot.and_then(|given| given) {
        Ok(Snapshot { covered, state }) => {
            wire::answer(&mut socket, &Reply::State { view: covered.view, below: covered.below })?;
            transfer::send(&mut Quiet(&socket), &mut covered.head().chain(state))
        }
        Err(error) => wire::answer(&mut socket, &Reply::Refused { reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FabricKind, Member};
    use crate::group::Group;
    use crate::multicast::Delivery;

    #[test]
    fn no_state_is_handed_out_that_ends_before_the_newcomer_begins() {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let member = Member { id: MemberId(1), address: address.clone() };
        let config = Config::new("door", FabricKind::Tcp, vec![member]).with_member(MemberId(1));
        let _group = Group::join(config.clone(), |_: Delivery<'_>| {}).unwrap();
        let ask = |request| wire::ask(&address, &request, STEP_TIME).unwrap().1;
        let (group, agreed, address) = ("door".to_owned(), config.agreed(), "127.0.0.1:1".to_owned());
        let admitted = ask(Request::Join { group, agreed, id: 2, incarnation: 7, address });
        let Reply::Admitted { group_id, .. } = admitted else { panic!("{admitted:?}") };
        let present = ask(Request::State { group_id, view: 0 });
        assert!(matches!(present, Reply::State { view: 0, .. }), "{present:?}");
        let next = ask(Request::State { group_id, view: 1 });
        assert!(matches!(&next, Reply::Refused { reason } if reason.contains("view 1")), "{next:?}");
    }
}
