//! A handler that passes its calls on to another thread, which makes them.

use crate::app::{Handler, Kept, View};
use crate::driver::{CANCEL_TIME, Driver};
use crate::error::Error;
use crate::multicast::Delivery;
use crate::shared::Shared;
use crate::sync::lock;
use crate::types::MemberId;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Maximum payload bytes of the calls that wait. One call may exceed it.
const QUEUE_BYTES: usize = 1 << 20;
/// Approximate memory of a call besides its payload, in bytes.
const CALL_BYTES: usize = 128;
/// Maximum size of a piece of a state, in bytes, and number of pieces that wait.
const PIECE_BYTES: usize = 64 << 10;
const PIECES: usize = 4;

type Snapshot = io::Result<Box<dyn Read + Send>>;

/// One call of a handler, or the end of the join.
pub(super) enum Call {
    Deliver(Kept),
    View(View),
    Suspected(MemberId, String),
    Warned(MemberId, String),
    Durable(u64),
    Stopped(Error),
    Snapshot(SyncSender<Snapshot>),
    Restore(Pieces, SyncSender<io::Result<()>>),
    Joined(Result<(Arc<Shared>, Box<Driver>), Error>),
}

impl Call {
    fn bytes(&self) -> usize {
        CALL_BYTES + if let Call::Deliver(kept) = self { kept.payload.len() } else { 0 }
    }

    /// Makes the call.
    pub(super) fn make(self, handler: &mut dyn Handler) {
        match self {
            Call::Deliver(kept) => handler.deliver(kept.delivery()),
            Call::View(view) => handler.view(&view),
            Call::Suspected(member, what) => handler.suspected(member, &what),
            Call::Warned(member, what) => handler.warned(member, &what),
            Call::Durable(below) => handler.durable(below),
            Call::Stopped(reason) => handler.stopped(&reason),
            // The other end may have given up.
            Call::Snapshot(reply) => drop(reply.send(handler.snapshot())),
            Call::Restore(mut pieces, reply) => drop(reply.send(handler.restore(&mut pieces))),
            Call::Joined(_) => {}
        }
    }
}

/// The queue of calls between two threads.
pub(super) struct Calls {
    queue: Mutex<Queue>,
    /// There is room again, or the queue is closed.
    room: Condvar,
    /// Readable while there may be a call.
    event: EventFd,
}

#[derive(Default)]
struct Queue {
    calls: VecDeque<Call>,
    bytes: usize,
    closed: bool,
}

impl Calls {
    pub(super) fn new() -> Result<Calls, Error> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let event = event.map_err(|e| Error::io("cannot make an event descriptor", e))?;
        Ok(Calls { queue: Mutex::default(), room: Condvar::new(), event })
    }

    pub(super) fn event(&self) -> &EventFd {
        &self.event
    }

    /// Appends a call; waits while too many wait already. Drops it if the queue is closed.
    pub(super) fn push(&self, call: Call) {
        let mut queue = lock(&self.queue);
        while queue.bytes > QUEUE_BYTES && !queue.closed {
            queue = self.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.closed {
            drop(queue);
            if let Call::Joined(Ok((_, driver))) = call {
                let _ = driver.leave(CANCEL_TIME);
            }
            return;
        }
        queue.bytes += call.bytes();
        queue.calls.push_back(call);
        drop(queue);
        self.ring();
    }

    pub(super) fn next(&self) -> Option<Call> {
        let mut queue = lock(&self.queue);
        let call = queue.calls.pop_front()?;
        queue.bytes -= call.bytes();
        drop(queue);
        self.room.notify_all();
        Some(call)
    }

    /// Makes the descriptor readable.
    pub(super) fn ring(&self) {
        // The write fails only if the counter is full, and then the descriptor is readable already.
        let _ = self.event.write(1);
    }

    /// Makes the descriptor unreadable until the next call comes.
    pub(super) fn disarm(&self) {
        // The read would block if nothing was written.
        let _ = self.event.read();
    }

    /// Returns all calls that wait, and drops all later ones. A thread that waits for the reply to a dropped call goes
    /// on.
    pub(super) fn close(&self) -> VecDeque<Call> {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        let calls = std::mem::take(&mut queue.calls);
        drop(queue);
        self.room.notify_all();
        calls
    }
}

/// A state that arrives in pieces from another thread.
pub(super) struct Pieces {
    from: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.from.recv() {
                Ok(piece) => (self.piece, self.at) = (piece?, 0),
                // The other end has sent everything.
                Err(_) => return Ok(0),
            }
        }
        let n = into.len().min(self.piece.len() - self.at);
        into[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// The handler of a join in a thread of the library: the application's thread makes the calls.
pub(super) struct Remote(Arc<Calls>);

fn gone() -> io::Error {
    io::Error::other("the join was cancelled")
}

impl Remote {
    pub(super) fn new(calls: Arc<Calls>) -> Remote {
        Remote(calls)
    }
}

impl Handler for Remote {
    fn deliver(&mut self, message: Delivery<'_>) {
        self.0.push(Call::Deliver((&message).into()));
    }

    fn view(&mut self, view: &View) {
        self.0.push(Call::View(view.clone()));
    }

    fn suspected(&mut self, member: MemberId, what: &str) {
        self.0.push(Call::Suspected(member, what.to_owned()));
    }

    fn warned(&mut self, member: MemberId, what: &str) {
        self.0.push(Call::Warned(member, what.to_owned()));
    }

    fn durable(&mut self, below: u64) {
        self.0.push(Call::Durable(below));
    }

    fn stopped(&mut self, reason: &Error) {
        self.0.push(Call::Stopped(reason.clone()));
    }

    fn snapshot(&mut self) -> Snapshot {
        let (reply, answer) = sync_channel(1);
        self.0.push(Call::Snapshot(reply));
        answer.recv().unwrap_or_else(|_| Err(gone()))
    }

    fn restore(&mut self, state: &mut dyn Read) -> io::Result<()> {
        let (pieces, from) = sync_channel(PIECES);
        let (reply, answer) = sync_channel(1);
        self.0.push(Call::Restore(Pieces { from, piece: Vec::new(), at: 0 }, reply));
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let read = match state.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => {
                    piece.truncate(n);
                    Ok(piece)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            // The application may stop reading early.
            if pieces.send(read).is_err() || failed {
                break;
            }
        }
        drop(pieces);
        answer.recv().unwrap_or_else(|_| Err(gone()))
    }
}
