//! One connection to a peer, from its first byte to its end.

use super::Tables;
use super::fetch::Dealings;
use super::receive::{Inbox, Received};
use super::send::{Outbox, Sent};
use super::wire::Place;
use crate::fabric::{Event, FabricStats, Row, Slot};
use crate::process::Private;
use nix::sys::epoll::EpollFlags;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;

/// A link to a peer that is up.
///
/// Readiness is edge-triggered. The kernel reports each change once, and the link remembers it until a short read or
/// write disproves it. So no system call is spent on changing the set of awaited events.
pub(super) struct Link {
    pub(super) stream: Private<TcpStream>,
    pub(super) outbox: Outbox,
    inbox: Inbox,
    /// The socket may hold bytes to read.
    readable: bool,
    /// The socket may take bytes.
    writable: bool,
    /// The kernel has reported the end of the stream: a short read is no reason to stop reading.
    hung_up: bool,
    /// The peer's end of the stream was read.
    peer_ended: bool,
    /// The end of our stream was sent.
    own_ended: bool,
    /// Why sending failed. The bytes that the peer had sent are still read; then the link is down.
    broken: Option<io::Error>,
}

/// How a link ended.
pub(super) enum End {
    /// In order, as this process wanted.
    Closed,
    /// By the peer or the network; the text is the cause.
    Down(String),
    /// By the peer's violation of the protocol, which the text describes.
    Violation(String),
}

impl Link {
    pub(super) fn new(stream: Private<TcpStream>, rows: Vec<Arc<Row>>) -> Link {
        Link {
            stream,
            outbox: Outbox::new(),
            inbox: Inbox::new(rows),
            readable: false,
            writable: true,
            hung_up: false,
            peer_ended: false,
            own_ended: false,
            broken: None,
        }
    }

    /// Requests `place` from the peer; the data will go to `row`.
    pub(super) fn ask(&mut self, place: Place, row: Arc<Row>) {
        self.inbox.ask(place, row, &mut self.outbox);
    }

    /// True while writes may be queued.
    pub(super) fn takes_writes(&self) -> bool {
        self.broken.is_none()
    }

    /// True if another pass at once is worthwhile.
    pub(super) fn has_work(&self) -> bool {
        (self.readable && !self.peer_ended) || (self.writable && !self.outbox.is_empty())
    }

    /// Records an event of the epoll.
    pub(super) fn note(&mut self, flags: EpollFlags) {
        let ended = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        self.hung_up |= flags.intersects(ended);
        self.readable |= flags.intersects(ended | EpollFlags::EPOLLIN);
        // A broken socket counts as writable: the attempt to send returns the error.
        self.writable |= flags.intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
    }

    /// Receives and sends for one pass. Returns how the link ended, if it did.
    pub(super) fn serve(
        &mut self,
        peer: Slot,
        tables: &Tables,
        closing: bool,
        events: &mut Vec<Event>,
        stats: &mut FabricStats,
    ) -> Option<End> {
        if self.readable && !self.peer_ended {
            let mute = self.own_ended || self.broken.is_some();
            let mut dealings = Dealings { peer, tables, outbox: &mut self.outbox, mute, events };
            match self.inbox.receive(self.stream.as_fd(), self.hung_up, &mut dealings, stats) {
                Received::More => {}
                Received::Drained => self.readable = false,
                Received::End => self.peer_ended = true,
                Received::Failed(e) => return Some(broken(&self.broken.take().unwrap_or(e))),
                Received::Violation(what) => return Some(End::Violation(what)),
            }
        }
        if !self.peer_ended || closing {
            self.send(&tables.own, closing, stats);
        }
        match (&self.broken, self.peer_ended) {
            (_, false) => None,
            (Some(e), true) => Some(broken(e)),
            (None, true) if closing => self.own_ended.then_some(End::Closed),
            (None, true) if self.inbox.inside_write() => {
                Some(End::Down("the peer closed the connection in the middle of a write".into()))
            }
            (None, true) => Some(End::Down("the peer closed the connection".into())),
        }
    }

    /// Sends one pass of the queue, and the end of our stream after it when closing.
    pub(super) fn send(&mut self, own: &[Arc<Row>], closing: bool, stats: &mut FabricStats) {
        if self.broken.is_some() {
            return;
        }
        if self.writable && !self.outbox.is_empty() {
            match self.outbox.send(self.stream.as_fd(), own, stats) {
                Sent::Ready => {}
                Sent::Full => self.writable = false,
                Sent::Failed(e) => {
                    self.outbox.clear();
                    self.broken = Some(e);
                    // The shutdown ends the stream, so that a last read finds the end.
                    let _ = self.stream.shutdown(Shutdown::Both);
                    self.readable = true;
                    self.hung_up = true;
                    return;
                }
            }
        }
        if closing && !self.own_ended && self.outbox.is_empty() {
            // Fails only on a connection that broke, which the next read reports.
            let _ = self.stream.shutdown(Shutdown::Write);
            self.own_ended = true;
        }
    }
}

/// The end of a link on which the system reports this error.
///
/// A peer that ends with unread bytes resets the connection: then an error comes in place of the end of the stream.
fn broken(error: &io::Error) -> End {
    End::Down(match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            format!("the peer closed the connection ({error})")
        }
        _ => error.to_string(),
    })
}
