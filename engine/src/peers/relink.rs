//! Makes broken links again while the end of an epoch is undecided. `node/relink.rs` decides when that is allowed.
//!
//! Both processes of a broken link dial; where the network works in one direction only, one of them succeeds. The
//! process in the lower slot dials first, after a pause within which most failures are decided: a dead process is not
//! dialled in the middle of its failover. The other one dials only when the link has been down for a while.
//!
//! After an outage both dial at the same time. If both connections were made, one end would replace the first by the
//! second, and the link would be down for a moment after the members have counted on it. So a process that has allowed
//! the other one to dial gives its own request up, and the one in the lower slot allows nothing while it waits for the
//! answer to its own ([`Dialler::yield_to`]).
//!
//! One thread dials for all links of a process. It runs while there are links to dial, and does not block on any of
//! them, nor on the name service.

use crate::error::Error;
use crate::fabric::Slot;
use crate::meet::asking::Asking;
use crate::meet::dial::Dial;
use crate::meet::names::Names;
use crate::meet::questions::{self, Place, Reply, Request};
use crate::membership::Peer;
use crate::peers::acceptor;
use crate::peers::linking::{self, Linking};
use crate::process::Private;
use crate::shared::Shared;
use crate::shared::requests::PeerRequest;
use crate::sync::lock;
use crate::thread::{self, OWN_STACK_BYTES};
use nix::poll::PollTimeout;
use socket2::Socket;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Pause between two dials of one process, and the maximum random addition in milliseconds.
const PAUSE: Duration = Duration::from_millis(200);
const JITTER_MS: u64 = 100;
/// Pause after a link was handed to the driver, which takes it in its next pass.
const HANDED_OVER: Duration = Duration::from_secs(1);
/// Time limit for a dial, up to the answer.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// Interval at which the thread checks the list of links to dial, in milliseconds.
const LOOK_MS: u8 = 20;

/// The process that dials, and its means to make a link.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) shared: Arc<Shared>,
    pub(crate) linking: Linking,
    pub(crate) group_id: u64,
    pub(crate) me: Place,
}

/// The thread that dials. It ends when this is dropped.
pub(crate) struct Dialler(Arc<Mutex<Work>>);

/// The links that the thread dials.
struct Work {
    over: bool,
    /// The present view. Its end is undecided.
    view: u64,
    places: Vec<Place>,
    /// The incarnations of the processes that have been sent a request and have not answered it.
    asked: HashSet<u64>,
}

impl Dialler {
    /// Starts the thread. The end of `view` is undecided, and `places` are the processes to dial.
    pub(crate) fn start(caller: Caller, view: u64, places: Vec<Place>) -> Result<Dialler, Error> {
        let work = Arc::new(Mutex::new(Work { over: false, view, places, asked: HashSet::new() }));
        let dials = Dials { work: work.clone(), caller, names: Names::default(), attempts: Vec::new() };
        thread::spawn("galerna-relink", "makes broken links again", OWN_STACK_BYTES, move || dials.run())?;
        Ok(Dialler(work))
    }

    /// Replaces the list of processes to dial.
    pub(crate) fn set(&self, view: u64, places: Vec<Place>) {
        let mut work = lock(&self.0);
        (work.view, work.places) = (view, places);
    }

    /// Gives up to dial `peer`, which asks to make its link itself. Returns false if this process `insists` and waits
    /// for the answer of `peer` to its own request.
    pub(crate) fn yield_to(&self, peer: Peer, insists: bool) -> bool {
        let mut work = lock(&self.0);
        let yields = !(insists && work.asked.contains(&peer.incarnation));
        if yields {
            work.places.retain(|place| place.incarnation != peer.incarnation);
        }
        yields
    }
}

impl Drop for Dialler {
    fn drop(&mut self) {
        lock(&self.0).over = true;
    }
}

/// The state of the dialling thread.
struct Dials {
    work: Arc<Mutex<Work>>,
    caller: Caller,
    names: Names,
    attempts: Vec<Attempt>,
}

/// A process that is dialled repeatedly.
struct Attempt {
    place: Place,
    /// The addresses of the process; `None` until the first request.
    dial: Option<Dial>,
    /// Number of requests so far.
    count: usize,
    /// The time at which the next request begins.
    next: Instant,
    call: Option<Call>,
}

impl Dials {
    fn run(mut self) {
        let mut one_works = false;
        loop {
            let (view, places) = match &*lock(&self.work) {
                Work { over: true, .. } => return,
                Work { view, places, .. } => (*view, places.clone()),
            };
            if self.keep_only(&places) || one_works {
                // One link works again, so the outage is over, and the other members should return before the group
                // goes on. Connections that are not established yet are begun anew: they may date from the outage, and
                // TCP retries them only after a second.
                for attempt in &mut self.attempts {
                    attempt.next = Instant::now();
                    attempt.call = attempt.call.take().filter(|call| call.asking.is_connected());
                }
            }
            for place in places {
                if !self.attempts.iter().any(|attempt| attempt.place == place) {
                    self.attempts.push(Attempt { place, dial: None, count: 0, next: Instant::now(), call: None });
                }
            }
            for at in 0..self.attempts.len() {
                self.begin(at, view);
            }
            self.show_asked();
            self.wait();
            // The driver may have given some up in the meantime.
            let places = lock(&self.work).places.clone();
            one_works = self.keep_only(&places);
            for at in 0..self.attempts.len() {
                self.go_on(at, view);
            }
            self.show_asked();
        }
    }

    /// Drops the attempts for all other processes. Returns true if there were any.
    fn keep_only(&mut self, places: &[Place]) -> bool {
        let before = self.attempts.len();
        self.attempts.retain(|attempt| places.contains(&attempt.place));
        self.attempts.len() < before
    }

    /// Shows the driver which processes have been asked.
    fn show_asked(&self) {
        let waits = |attempt: &&Attempt| attempt.call.as_ref().is_some_and(|call| call.asking.is_connected());
        let asked = self.attempts.iter().filter(waits).map(|attempt| attempt.place.incarnation).collect();
        lock(&self.work).asked = asked;
    }

    /// Dials if it is time.
    fn begin(&mut self, at: usize, view: u64) {
        let Dials { caller: Caller { me, group_id, .. }, names, attempts, .. } = self;
        let attempt = &mut attempts[at];
        let now = Instant::now();
        if attempt.call.is_some() || now < attempt.next {
            return;
        }
        attempt.count += 1;
        let request = Request::Relink { group_id: *group_id, view, from: me.clone(), to: attempt.place.clone() };
        let dial = match attempt.dial.take() {
            Some(dial) => Ok(dial),
            None => Dial::new(&attempt.place.address, names, now),
        };
        let begun = dial.and_then(|dial| {
            attempt.dial = Some(dial);
            questions::question(&request)
        });
        match begun {
            Ok(question) => {
                attempt.call = Some(Call { view, asking: Asking::new(question), deadline: now + ANSWER_TIME });
                self.go_on(at, view);
            }
            Err(error) => attempt.failed(&error),
        }
    }

    /// Waits until a dial can continue, or until the next check is due.
    fn wait(&self) {
        let calls = self.attempts.iter().filter_map(|attempt| attempt.call.as_ref());
        let mut fds: Vec<_> = calls.filter_map(|call| call.asking.waits_for()).collect();
        if let Err(error) = nix::poll::poll(&mut fds, PollTimeout::from(LOOK_MS)) {
            tracing::debug!(%error, "cannot wait for connection attempts");
            std::thread::sleep(Duration::from_millis(u64::from(LOOK_MS)));
        }
    }

    fn go_on(&mut self, at: usize, view: u64) {
        let attempt = &mut self.attempts[at];
        let (Some(call), Some(dial)) = (&mut attempt.call, &mut attempt.dial) else { return };
        let asked = call.view;
        let error = match call.asking.step(dial, Instant::now()) {
            Ok(None) if Instant::now() < call.deadline => return,
            Ok(None) => io::Error::new(io::ErrorKind::TimedOut, "it does not answer"),
            Ok(Some(Reply::Linked {})) => {
                let Some(socket) = attempt.call.take().and_then(|call| call.asking.into_socket()) else { return };
                match linking::connection(socket, attempt.place.slot, &self.caller.linking, true) {
                    Ok(connection) => {
                        attempt.next = Instant::now() + HANDED_OVER;
                        let peer = attempt.place.peer();
                        return self.caller.shared.request(PeerRequest::Relink {
                            peer,
                            view,
                            dialled: true,
                            connection,
                        });
                    }
                    Err(error) => {
                        note_shortage(&self.caller.shared, attempt.place.id, &error);
                        error
                    }
                }
            }
            Ok(Some(Reply::GoneOn { view: next, left })) => {
                tracing::info!(
                    member = attempt.place.id,
                    view = next,
                    left,
                    "the group has gone on without this member"
                );
                self.caller.shared.request(PeerRequest::GoneOn { peer: attempt.place.peer(), view: asked, left });
                io::Error::other(format!("view {next} began without this member"))
            }
            Ok(Some(other)) => io::Error::other(format!("an unexpected answer: {other:?}")),
            Err(error) => error,
        };
        attempt.failed(&error);
    }
}

impl Attempt {
    fn failed(&mut self, error: &io::Error) {
        tracing::debug!(%error, member = self.place.id, address = self.place.address, "a broken link could not be made again; trying again");
        self.call = None;
        let jitter_ms = RandomState::new().hash_one(self.count) % JITTER_MS;
        self.next = Instant::now() + PAUSE + Duration::from_millis(jitter_ms);
    }
}

/// A request on its way.
struct Call {
    /// The view of this process when it asked.
    view: u64,
    asking: Asking,
    deadline: Instant,
}

/// The fields of a [`Request::Relink`].
pub(crate) struct Relink {
    pub(crate) group_id: u64,
    pub(crate) view: u64,
    pub(crate) from: Place,
    pub(crate) to: Place,
}

/// Handles the request of a member to make its link with this one again. Runs in a visitor's thread.
pub(crate) fn answer(
    mut socket: Private<Socket>,
    sign: &acceptor::LocalIdentity,
    shared: &Shared,
    request: &Relink,
) -> io::Result<()> {
    let &Relink { group_id, view, ref from, ref to } = request;
    if group_id != sign.group_id || to.peer() != sign.me || !is_other(from.slot, sign.me.slot) {
        let reason = acceptor::other_process(sign);
        return questions::answer(&mut socket, &Reply::Refused { reason });
    }
    // A process that was paused finds all requests from that time. Most of their senders have given up.
    still_there(&socket)?;
    let (reply, answer) = std::sync::mpsc::sync_channel(1);
    shared.request(PeerRequest::MayRelink { peer: from.peer(), view, reply });
    let busy = |_| Reply::Later { reason: "this member is busy".to_owned() };
    let reply = answer.recv_timeout(linking::STEP_TIME).unwrap_or_else(busy);
    if reply != (Reply::Linked {}) {
        return questions::answer(&mut socket, &reply);
    }
    still_there(&socket)?;
    questions::answer(&mut socket, &reply)?;
    let connection = linking::connection(socket, from.slot, &sign.linking, true);
    let connection = connection.inspect_err(|error| note_shortage(shared, from.id, error))?;
    shared.request(PeerRequest::Relink { peer: from.peer(), view, dialled: false, connection });
    Ok(())
}

/// Records a shortage of this process, because of which a link to `member` is not made again, as its own fault.
fn note_shortage(shared: &Shared, member: u32, error: &io::Error) {
    if let Some(shortage) = linking::own_shortage(error) {
        let what = format!("the broken link to member {member} cannot be made again: {shortage}");
        shared.request(PeerRequest::Fault { member: shared.me, what });
    }
}

/// Checks that the other end still waits for an answer: the connection is open, and no more bytes have arrived.
fn still_there(socket: &Socket) -> io::Result<()> {
    let mut byte = [MaybeUninit::uninit()];
    match socket.recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it gave up its request to make a link again")),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "it sent bytes after its request")),
        Err(error) => Err(error),
    }
}

fn is_other(slot: Slot, me: Slot) -> bool {
    slot < crate::fabric::SLOTS && slot != me
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Group;
    use crate::config::{Config, FabricKind, Member};
    use crate::multicast::Delivery;
    use crate::types::Mode;
    use crate::types::{MemberId, SubgroupId};

    /// Requests with wrong slots, incarnations and views have no effect, and the group continues.
    #[test]
    fn a_link_is_made_again_with_members_only() {
        let address = format!("127.0.0.1:{}", crate::meet::tests::free_port());
        let member = Member { id: MemberId(1), address: address.clone() };
        let config = Config::new("relink", FabricKind::Tcp, vec![member]).with_member(MemberId(1));
        let group = Group::join(config.clone(), |_: Delivery<'_>| {}).unwrap();
        let ask = |request| questions::ask(&address, &request, linking::STEP_TIME).unwrap().1;
        let (name, agreed) = ("relink".to_owned(), config.agreed());
        let (dialled, listens_at) = acceptor::tests::answers_once(7);
        let admitted = ask(Request::Join { group: name, agreed, id: 2, incarnation: 7, address: listens_at });
        dialled.join().unwrap();
        let Reply::Admitted { group_id, me: admitted, others, .. } = admitted else { panic!("{admitted:?}") };
        let member = others[0].clone();
        let from = |slot| Place { slot, ..admitted.clone() };
        let strangers = [from(admitted.slot), from(member.slot), from(crate::fabric::SLOTS), from(usize::MAX >> 1)];
        for (from, view) in
            strangers.into_iter().flat_map(|from| [0, 1, u64::MAX >> 1].map(|view| (from.clone(), view)))
        {
            let reply = ask(Request::Relink { group_id, view, from, to: member.clone() });
            assert!(matches!(reply, Reply::Refused { .. } | Reply::Later { .. }), "{reply:?}");
        }
        for (group_id, incarnation) in [(group_id ^ 1, member.incarnation), (group_id, member.incarnation ^ 1)] {
            let to = Place { incarnation, ..member.clone() };
            let reply = ask(Request::Relink { group_id, view: 0, from: admitted.clone(), to });
            assert!(matches!(&reply, Reply::Refused { reason } if reason.contains("another incarnation")), "{reply:?}");
        }
        group.send(SubgroupId(0), Mode::Safe, b"x", Duration::from_secs(10)).unwrap();
        group.flush(SubgroupId(0), crate::Copies::All, Duration::from_secs(10)).unwrap();
    }
}
