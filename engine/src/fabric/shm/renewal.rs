//! New memory for a row, sent to the peers over the streams.
//!
//! Each message carries one descriptor and two native-endian words: the table's number and the epoch.
//!
//! The owner shows the epoch in its header page before any other store that reveals the new memory. So a peer that has
//! seen such a store can check whether it has the memory of that epoch. A message may come late when the kernel accepts
//! no more of them for the moment: the owner sends it at a later poll. A peer that has no room for the descriptor or
//! the map loses the message, and its link goes down. Every new link therefore repeats the message.

use super::super::{Event, Renewed, Row, Slot, TableId, index_of};
use super::sealed::{self, Origin, Spare};
use super::{ShmFabric, exchange, scm};
use crate::error::Error;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{MsgFlags, getsockopt, recv, sockopt::PeerCredentials};
use rustix::process::{PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

const MESSAGE_LEN: usize = 16;
/// Most renewals kept per table. A peer asks for a renewal before the owner can make the second one after it.
const NEWER_MOST: usize = 2;
/// Messages taken from one peer before other work has its turn.
const MESSAGES_PER_TURN: usize = 64;

/// New memory of a peer's row that was received but not asked for yet.
pub(super) struct Newer {
    table: usize,
    epoch: u64,
    pub(super) row: Arc<Row>,
    origin: Origin,
    /// As in [`super::Memory`].
    pub(super) spare: Option<Spare>,
}

/// How a link ends.
pub(super) enum End {
    Down(String),
    Violation(String),
}

/// Opens a descriptor that can be given up when another one is needed.
pub(super) fn reserve() -> Option<EventFd> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).ok()
}

/// The process id at the other end of a stream; 0 if this process cannot name it.
pub(super) fn process(stream: &UnixStream) -> i32 {
    getsockopt(stream, PeerCredentials).map_or(0, |credentials| credentials.pid())
}

/// Whether a process has ended, with all of its threads. A zombie counts as ended.
fn has_ended(process: i32) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(process) else { return false };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1),
        Err(error) => error == rustix::io::Errno::SRCH,
    }
}

impl ShmFabric {
    /// Whether the process that is or was attached in `slot` has certainly ended, so that it reads nothing any more.
    pub(super) fn is_dead(&self, slot: Slot) -> bool {
        let process = self.memory.get(slot).and_then(Option::as_ref).map_or(0, |memory| memory.process);
        process > 0 && has_ended(process)
    }

    /// Gives the own row of a table new memory, and sends it to all peers except the `departed`.
    pub(super) fn give_new_memory(&mut self, table: usize, epoch: u64, departed: &[Slot]) -> Result<Arc<Row>, Error> {
        self.reserve = None;
        let renewed = self.offer.renew(table, &self.rows[table]);
        self.reserve = reserve();
        let row = renewed?;
        self.rows[table] = row.clone();
        self.own.renew(table, epoch);
        let peers = self.links.iter().map(|(peer, _)| peer).filter(|peer| !departed.contains(peer));
        let peers: Vec<Slot> = peers.collect();
        peers.into_iter().for_each(|peer| self.send_renewal(peer, table));
        Ok(row)
    }

    /// Sends a peer that may have earlier memory the present memory of every renewed table.
    pub(super) fn send_renewals(&mut self, peer: Slot) {
        (0..self.specs.len()).for_each(|table| self.send_renewal(peer, table));
    }

    /// Sends the messages that the kernel did not take before.
    pub(super) fn give_what_is_owed(&mut self) {
        for (peer, table) in std::mem::take(&mut self.owed) {
            self.send_renewal(peer, table);
        }
    }

    fn send_renewal(&mut self, peer: Slot, table: usize) {
        let epoch = self.own.epoch(table);
        let (Some(fd), Some(link)) = (self.offer.memory(table).filter(|_| epoch > 0), self.links.get_mut(peer)) else {
            return;
        };
        let words = [u64::from(self.specs[table].id.0), epoch];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let cause = match scm::send(link.stream.as_fd(), &bytes, &[fd.as_fd()]) {
            Ok(MESSAGE_LEN) => return,
            // The peer is gone; its stream reports that.
            Err(Errno::EPIPE | Errno::ECONNRESET) => return,
            // The stream is full, or too many descriptors are in flight in all processes of this user.
            Err(Errno::EAGAIN | Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM | Errno::EINTR) => {
                if !self.owed.contains(&(peer, table)) {
                    self.owed.push((peer, table));
                }
                return;
            }
            Ok(sent) => format!("it accepted {sent} of {MESSAGE_LEN} bytes of a message with new memory"),
            Err(error) => format!("it does not accept new memory: {error}"),
        };
        // New memory that the peer sent before is still valid.
        let _ = self.take_renewals(peer);
        self.drop_link(peer);
        self.unreported.push(Event::LinkDown { peer, cause });
    }

    /// See [`super::super::Fabric::renewed`].
    pub(super) fn take_new_memory(&mut self, peer: Slot, table: usize, epoch: u64) -> Renewed {
        let Some(Some(memory)) = self.memory.get(peer) else { return Renewed::Same };
        // Read the epoch before the stream. If the caller has seen a store that the owner made after renewing, the
        // message of this epoch is in the stream by now, or the owner still has to send it.
        let shown = memory.header.epoch(table);
        if memory.epochs[table] == shown {
            return Renewed::Same;
        }
        let mut events = Vec::new();
        self.hear(peer, &mut events);
        self.unreported.append(&mut events);
        let Some(Some(memory)) = self.memory.get_mut(peer) else { return Renewed::Same };
        let is_due = |newer: &mut Newer| newer.table == table && newer.epoch <= epoch;
        let due = memory.newer.extract_if(.., is_due).max_by_key(|newer| newer.epoch);
        let renewed = due.map(|Newer { epoch, row, origin, spare, .. }| {
            (memory.rows[table], memory.origins[table], memory.spares[table]) = (row.clone(), origin, spare);
            memory.epochs[table] = epoch;
            row
        });
        let used = memory.epochs[table];
        // An owner that has gone on to a later epoch has sent everything before it, and this process is left behind.
        if shown <= epoch && used < shown {
            return Renewed::Awaited;
        }
        renewed.map_or(Renewed::Same, Renewed::New)
    }

    /// Takes in the messages of the peer's stream; returns how the link ended, if it did.
    pub(super) fn take_renewals(&mut self, peer: Slot) -> Option<End> {
        for _ in 0..MESSAGES_PER_TURN {
            let link = self.links.get_mut(peer)?;
            let mut byte = [0];
            let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
            if recv(link.stream.as_raw_fd(), &mut byte, flags) == Err(Errno::EAGAIN) {
                return None;
            }
            let (mut bytes, mut fds) = ([0; MESSAGE_LEN], Vec::new());
            self.reserve = None;
            let received = scm::receive(link.stream.as_fd(), &mut bytes, &mut fds);
            let taken = match received {
                Ok(0) => Err(End::Down("the peer closed the link, or its process died".to_owned())),
                Ok(len) => self.keep(peer, &bytes[..len], fds),
                Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
                Err(Errno::EMFILE | Errno::ENFILE) => Err(End::Down(exchange::NO_DESCRIPTOR.to_owned())),
                Err(error) => Err(End::Down(format!("the link broke: {error}"))),
            };
            self.reserve = reserve();
            if let Err(end) = taken {
                return Some(end);
            }
        }
        // There is more: the next poll continues.
        self.look = true;
        None
    }

    fn keep(&mut self, peer: Slot, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<(), End> {
        let breach = |what: &str| End::Violation(format!("{what} after the set-up of the shared memory"));
        let [fd] = &fds[..] else { return Err(breach(&format!("it passed {} descriptors", fds.len()))) };
        let (Some(table), Some(epoch), MESSAGE_LEN) = (word(bytes, 0), word(bytes, 8), bytes.len()) else {
            return Err(breach(&format!("it sent {} bytes", bytes.len())));
        };
        let known = u16::try_from(table).ok().map(TableId).filter(|id| self.specs.iter().any(|spec| spec.id == *id));
        let Some(id) = known else { return Err(breach(&format!("it sent memory of table {table}"))) };
        let table = index_of(&self.specs, id);
        let Some(Some(memory)) = self.memory.get_mut(peer) else { return Ok(()) };
        let spec = self.specs[table];
        let (row, origin) = sealed::open(fd.as_fd(), spec.row_len, spec.columns_len).map_err(End::Down)?;
        let no_room = |e| End::Down(format!("cannot map new memory: {e}"));
        let spare = Spare::new(spec.row_len).map_err(no_room)?;
        let row = Arc::new(row);
        if memory.origins[table] == origin {
            // The message was repeated, and the memory is in use already. If a copy replaced it, the memory comes back.
            memory.epochs[table] = epoch;
            if memory.spares[table].is_none() {
                sealed::put_back(row, &memory.rows[table]).map_err(no_room)?;
                memory.spares[table] = Some(spare);
            }
            return Ok(());
        }
        // The message may also repeat memory that waits in `newer`. That may have been severed since, so it is mapped
        // anew.
        memory.newer.retain(|newer| newer.table != table || newer.origin != origin);
        let is_later = |newer: &Newer| newer.table == table && newer.epoch >= epoch;
        if epoch <= memory.epochs[table] || memory.newer.iter().any(is_later) {
            return Err(breach(&format!("it sent memory of epoch {epoch} after that of the same or a later epoch")));
        }
        memory.newer.push(Newer { table, epoch, row, origin, spare: Some(spare) });
        let count = memory.newer.iter().filter(|newer| newer.table == table).count();
        if count > NEWER_MOST
            && let Some(oldest) = memory.newer.iter().position(|newer| newer.table == table)
        {
            memory.newer.remove(oldest);
        }
        Ok(())
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::has_ended;

    #[test]
    fn a_process_has_ended_before_anybody_waits_for_it() {
        assert!(!has_ended(std::process::id() as i32) && !has_ended(0));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!has_ended(child.id() as i32));
        child.kill().unwrap();
        while !has_ended(child.id() as i32) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
