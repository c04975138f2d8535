//! Accepts connections from other processes while the group runs: one thread that listens, and one per connection.
//!
//! These threads (the "acceptor") decide nothing that concerns the group. They ask the driver; only the driver uses the
//! node.

use crate::config::Config;
use crate::error::Error;
use crate::meet::listen::Listening;
use crate::meet::questions::{self, First, Place, Reply, Request};
use crate::meet::{self, check};
use crate::membership::Peer;
use crate::peers::giver::Giver;
use crate::peers::linking::{self, LINK_TIME, Linking, STEP_TIME, Seated, connection};
use crate::peers::relink::{self, Relink};
use crate::process::{Life, Private};
use crate::shared::Shared;
use crate::shared::pulse::Ticker;
use crate::shared::requests::PeerRequest;
use crate::shortage;
use crate::thread::{self, OWN_STACK_BYTES};
use crate::types::{MemberId, Version};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::Socket;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time limit in which a joiner must answer at its address.
const DIAL_TIME: Duration = Duration::from_secs(2);
/// Maximum number of visitors at a time; further connections are closed.
const VISITORS_MAX: usize = 64;

/// The data about this process that the acceptor needs for its answers.
pub(crate) struct LocalIdentity {
    pub(crate) group: String,
    pub(crate) group_id: u64,
    pub(crate) agreed: Vec<(String, String)>,
    pub(crate) me: Peer,
    /// The address at which other processes reach this one.
    pub(crate) address: String,
    /// Makes links. On shared memory and verbs it contains the offer for the other process.
    pub(crate) linking: Linking,
}

impl LocalIdentity {
    pub(crate) fn new(config: &Config, group_id: u64, me: Peer, address: &str, linking: Linking) -> LocalIdentity {
        let (group, agreed, address) = (config.group.clone(), config.agreed(), address.to_owned());
        LocalIdentity { group, group_id, agreed, me, address, linking }
    }
}

/// The thread that listens, and that also counts the ticks of the engine's time limit. It ends when this is dropped.
pub(crate) struct Acceptor {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    life: Life,
}

impl Acceptor {
    pub(crate) fn open(listening: Listening, sign: LocalIdentity, shared: Arc<Shared>) -> Result<Acceptor, Error> {
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let stop = Arc::new(stop.map_err(|e| Error::io("cannot make an event descriptor", e))?);
        let (seen, sign) = (stop.clone(), Arc::new(sign));
        let name = format!("galerna-acceptor-{}", sign.me.id);
        let listens = move || listen(&listening, &seen, &sign, &shared);
        let thread = thread::spawn(name, "listens for processes that join", OWN_STACK_BYTES, listens)?;
        Ok(Acceptor { stop, thread: Some(thread), life: Life::present() })
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        if self.life.is_over() {
            // The descriptor and the thread belong to the parent process.
            std::mem::forget(self.thread.take());
            return;
        }
        // The write cannot fail, because no other thread writes this counter.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Counts one visitor until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn listen(listening: &Listening, stop: &EventFd, sign: &Arc<LocalIdentity>, shared: &Arc<Shared>) {
    let visitors = Arc::new(AtomicUsize::new(0));
    let mut ticker = Ticker::new(&shared.pulse);
    loop {
        let fds = [listening.socket.as_fd(), stop.as_fd(), ticker.fd()];
        let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        // The time is rounded up. Otherwise a short rest would become a busy loop.
        let rest = ticker.rest().map(|rest| PollTimeout::try_from(rest + Duration::from_millis(1)));
        match nix::poll::poll(&mut fds, rest.map_or(PollTimeout::NONE, |rest| rest.unwrap_or(PollTimeout::MAX))) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                return tracing::error!(%error, "cannot wait for connections: no process can join through this member any more");
            }
        }
        let [visited, stopped, called] = fds.map(|fd| fd.revents().is_some_and(|flags| !flags.is_empty()));
        if stopped {
            return;
        }
        ticker.turn(called);
        if !visited {
            continue;
        }
        match listening.socket.accept() {
            Ok((socket, _)) if visitors.load(Ordering::Relaxed) < VISITORS_MAX => {
                visitors.fetch_add(1, Ordering::Relaxed);
                let socket = Private::new(socket);
                let (sign, shared_state, count) = (sign.clone(), shared.clone(), visitors.clone());
                let counted = Counted(count);
                let talk = move || {
                    let _counted = counted;
                    if let Err(error) = talk(socket, &sign, &shared_state) {
                        tracing::debug!(%error, "closed an incoming connection");
                    }
                };
                // The thread may read the application's `snapshot`, so it gets the configured stack size.
                if let Err(error) =
                    thread::spawn("galerna-visitor", "serves an incoming connection", shared.stack_bytes, talk)
                {
                    tracing::warn!(%error, "cannot serve an incoming connection");
                }
            }
            Ok(_) => tracing::warn!("closed an incoming connection: there are more than {VISITORS_MAX} at a time"),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn talk(mut socket: Private<Socket>, sign: &LocalIdentity, shared: &Shared) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(STEP_TIME))?;
    socket.set_write_timeout(Some(STEP_TIME))?;
    let request = match questions::first(&mut socket)? {
        First::Request(request) => request,
        First::Hello if matches!(running(sign, shared), Reply::Runs { .. }) => {
            return meet::refuse_running(&mut socket, sign.me.id);
        }
        // The connection is closed. The process tries again until the group runs or is founded.
        First::Hello => return Ok(()),
    };
    match request {
        Request::Ask { group, founds } if group == sign.group => {
            if let Some(id) = founds {
                shared.founders().meets(MemberId(id));
            }
            questions::answer(&mut socket, &running(sign, shared))
        }
        Request::Ask { .. } => questions::answer(&mut socket, &other_group(sign)),
        Request::Join { group, agreed, id, incarnation, address } => {
            let reply = match () {
                () if group != sign.group => other_group(sign),
                () => match check::difference(&sign.agreed, &agreed) {
                    Some((key, value, _)) => Reply::Disagreement { member: sign.me.id.0, key, value },
                    None => admit(sign, shared, MemberId(id), incarnation, address),
                },
            };
            questions::answer(&mut socket, &reply)
        }
        // The leader dials the address of a joiner. Either the joiner gave this process's address instead of its own,
        // or this process is that joiner and was admitted already.
        Request::Dial { incarnation } if incarnation == sign.me.incarnation => {
            questions::answer(&mut socket, &Reply::Dialled {})
        }
        Request::Dial { .. } => {
            questions::answer(&mut socket, &Reply::Refused { reason: format!("member {} listens there", sign.me.id) })
        }
        Request::Relay { group_id, from, since, to } => {
            let address = to.address.clone();
            let dialled = questions::ask(&address, &Request::DialBack { group_id, from, since, to }, LINK_TIME);
            let refused = |e: io::Error| Reply::Refused { reason: e.to_string() };
            questions::answer(&mut socket, &dialled.map_or_else(refused, |(_, reply)| reply))
        }
        Request::DialBack { group_id, from, since, to } => {
            let reply = dial_back(sign, shared, group_id, from, &Seated { place: to, since });
            questions::answer(&mut socket, &reply)
        }
        Request::Link { group_id, from, since, to } => {
            link(socket, sign, shared, group_id, Seated { place: from, since }, &to)
        }
        Request::Relink { group_id, view, from, to } => {
            relink::answer(socket, sign, shared, &Relink { group_id, view, from, to })
        }
        Request::State { group_id, view, asker } if group_id == sign.group_id => {
            Giver::new(&socket, sign, shared, asker).give_state(view)
        }
        Request::Log { group_id, from, below, ended, asker } if group_id == sign.group_id => match &shared.log {
            Some(log) => {
                let version = |(view, sequence)| Version { view, sequence };
                Giver::new(&socket, sign, shared, asker).give_log(log, version(from), version(below), ended)
            }
            None => questions::answer(&mut socket, &Reply::Refused { reason: "this group has no log".to_owned() }),
        },
        Request::State { group_id, .. } | Request::Log { group_id, .. } => {
            questions::answer(&mut socket, &Reply::Refused { reason: other_id(sign, group_id) })
        }
    }
}

/// Dials the process `from`, which cannot reach this one, and links with it.
fn dial_back(sign: &LocalIdentity, shared: &Shared, group_id: u64, from: Place, me: &Seated) -> Reply {
    let linked = match group_id == sign.group_id && me.place.peer() == sign.me {
        true => linking::link(group_id, me, &from, &sign.linking),
        false => Err(io::Error::other(format!("this is member {} of another life or group", sign.me.id))),
    };
    match linked {
        Ok(connection) => {
            shared.request(PeerRequest::Link { place: from, since: me.since, connection });
            Reply::Linked {}
        }
        Err(error) => Reply::Refused { reason: error.to_string() },
    }
}

/// The answer to the question whether the group runs, as far as this process knows.
fn running(sign: &LocalIdentity, shared: &Shared) -> Reply {
    if shared.lock().stopped.is_some() {
        return Reply::Later { reason: "this member has stopped".to_owned() };
    }
    match shared.restarting.load(Ordering::Relaxed) {
        true => Reply::Restarting {
            group_id: sign.group_id,
            place: Place::new(sign.me, &sign.address),
            agreed: sign.agreed.clone(),
            only_founded: shared.only_founded.load(Ordering::Relaxed),
            view: shared.view_on_disk.load(Ordering::Relaxed),
        },
        false => {
            let places = shared.lock().places.to_vec();
            match places.is_empty() {
                // The first view has not begun yet.
                true => Reply::Waits { been: false, places },
                false => Reply::Runs { group_id: sign.group_id, member: sign.me.id.0, places },
            }
        }
    }
}

/// The reason why a process of group `group_id` is refused here.
fn other_id(sign: &LocalIdentity, group_id: u64) -> String {
    let LocalIdentity { group, group_id: ours, me, .. } = sign;
    format!(
        "member {} is in group {ours:#018x}, and the question came from group {group_id:#018x}: two groups are named `{group}`",
        me.id
    )
}

/// The reason why a request for another incarnation or group is refused here.
pub(super) fn other_process(sign: &LocalIdentity) -> String {
    format!("this is another incarnation of member {}, or another group", sign.me.id)
}

fn other_group(sign: &LocalIdentity) -> Reply {
    Reply::Disagreement { member: sign.me.id.0, key: "group".to_owned(), value: sign.group.clone() }
}

/// Admits a joiner if it can be reached at its address. An unreachable member would block all later joiners, because
/// each joiner links with all members.
fn admit(sign: &LocalIdentity, shared: &Shared, id: MemberId, incarnation: u64, address: String) -> Reply {
    let late = |_| Reply::Later { reason: "this member is busy".to_owned() };
    let (reply, answer) = std::sync::mpsc::sync_channel(1);
    shared.request(PeerRequest::Leads { reply });
    match answer.recv_timeout(STEP_TIME) {
        Ok(true) => {
            if let Err(reply) = dial(sign, shared, &address, incarnation) {
                return reply;
            }
        }
        // The answer to the join request then names the leader.
        Ok(false) => {}
        Err(error) => return late(error),
    }
    let (reply, answer) = std::sync::mpsc::sync_channel(1);
    shared.request(PeerRequest::Join { id, incarnation, address, reply });
    answer.recv_timeout(STEP_TIME).unwrap_or_else(late)
}

/// Dials a joiner at its address. The error is the reply for the joiner.
fn dial(sign: &LocalIdentity, shared: &Shared, address: &str, incarnation: u64) -> Result<(), Reply> {
    let reason = |what: &str| {
        format!(
            "the joining process cannot be reached at {address}, which it gives as its address: {what}; give it an `address` at which all members reach it, and a `listen` if it listens elsewhere"
        )
    };
    // The name may become resolvable later.
    questions::resolve(address).map_err(|error| Reply::Later { reason: reason(&error.to_string()) })?;
    match questions::ask(address, &Request::Dial { incarnation }, DIAL_TIME) {
        Ok((_, Reply::Dialled {})) => Ok(()),
        Ok((_, Reply::Refused { reason: what })) => Err(Reply::Refused { reason: reason(&what) }),
        Ok(_) => Err(Reply::Refused { reason: reason("another process answers there") }),
        Err(error) if is_elsewhere(&error) => Err(Reply::Refused { reason: reason(&error.to_string()) }),
        // This member lacks a resource, and a joiner can do nothing about it.
        Err(error) if shortage::advice(&error).is_some() => {
            let shortage = shortage::explained(&error);
            note_shortage(sign, shared, format!("this process cannot connect to a joining process: {shortage}"));
            Err(Reply::Later {
                reason: format!("the group's leader cannot connect to the joining process now, and reports: {error}"),
            })
        }
        // The joiner may only be slow.
        Err(error) => Err(Reply::Later { reason: reason(&error.to_string()) }),
    }
}

/// Records a shortage of this process as its own fault.
fn note_shortage(sign: &LocalIdentity, shared: &Shared, what: String) {
    shared.request(PeerRequest::Fault { member: sign.me.id, what });
}

/// Whether the error shows that no process listens at the address. A process that asks to join does listen.
fn is_elsewhere(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, NotFound};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable | NotFound)
}

/// Handles the request of an admitted process to link with this one.
fn link(
    mut socket: Private<Socket>,
    sign: &LocalIdentity,
    shared: &Shared,
    group_id: u64,
    asker: Seated,
    to: &Place,
) -> io::Result<()> {
    let Seated { place: from, since } = asker;
    if group_id != sign.group_id {
        tracing::warn!(member = from.id, from.address, "{}", other_id(sign, group_id));
        return questions::answer(&mut socket, &Reply::Refused { reason: other_id(sign, group_id) });
    }
    if to.peer() != sign.me || from.slot >= crate::fabric::SLOTS || from.slot == sign.me.slot {
        let reason = format!("member {} was restarted, or its slot belongs to another process", sign.me.id);
        return questions::answer(&mut socket, &Reply::Refused { reason });
    }
    questions::answer(&mut socket, &Reply::Linked {})?;
    // The joiner cannot see the reason, and this process holds it up.
    let connection = connection(socket, from.slot, &sign.linking, false).inspect_err(|error| {
        if let Some(shortage) = linking::own_shortage(error) {
            note_shortage(
                sign,
                shared,
                format!("this process cannot make its end of the link to member {}, which joins: {shortage}", from.id),
            );
        }
    })?;
    shared.request(PeerRequest::Link { place: from, since, connection });
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Group;
    use crate::config::{FabricKind, Member};
    use crate::multicast::Delivery;

    /// A joiner that answers one dial-back of the leader.
    pub(crate) fn answers_once(own: u64) -> (std::thread::JoinHandle<()>, String) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answers = move || {
            let mut socket = Socket::from(listener.accept().unwrap().0);
            let first = questions::first(&mut socket);
            assert!(matches!(first, Ok(First::Request(Request::Dial { incarnation })) if incarnation == own));
            questions::answer(&mut socket, &Reply::Dialled {}).unwrap();
        };
        (std::thread::spawn(answers), address)
    }

    #[test]
    fn a_lack_of_ports_here_is_not_the_fault_of_the_joiner() {
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        assert!(is_elsewhere(&refused) && shortage::advice(&refused).is_none());
        let no_port = io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
        assert!(!is_elsewhere(&no_port) && shortage::explained(&no_port).contains("`net.ipv4.ip_local_port_range`"));
    }

    #[test]
    fn no_state_is_handed_out_that_ends_before_the_newcomer_begins() {
        let address = format!("127.0.0.1:{}", crate::meet::tests::free_port());
        let member = Member { id: MemberId(1), address: address.clone() };
        let config = Config::new("acceptor", FabricKind::Tcp, vec![member]).with_member(MemberId(1));
        let _group = Group::join(config.clone(), |_: Delivery<'_>| {}).unwrap();
        let ask = |request| questions::ask(&address, &request, STEP_TIME).unwrap().1;
        let (dialled, listens_at) = answers_once(7);
        let (group, agreed) = ("acceptor".to_owned(), config.agreed());
        let admitted = ask(Request::Join { group, agreed, id: 2, incarnation: 7, address: listens_at });
        dialled.join().unwrap();
        let Reply::Admitted { group_id, .. } = admitted else { panic!("{admitted:?}") };
        let asker = questions::Asker { id: 2, incarnation: 7, left_ms: 5000 };
        let present = ask(Request::State { group_id, view: 0, asker });
        assert!(matches!(present, Reply::State { view: 0, .. }), "{present:?}");
        let next = ask(Request::State { group_id, view: 1, asker });
        assert!(matches!(&next, Reply::Refused { reason } if reason.contains("view 1")), "{next:?}");
    }
}
