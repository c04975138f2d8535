//! Set-up: each pair of members exchanges memory and wake-up descriptors.
//!
//! Each end sends one message, of a length that both ends know: [`MAGIC`], the sender's slot, the receiver's slot, the
//! number of slots, the number of tables, and per table its number, columns length and row length. Each of these is one
//! native-endian word. The first byte carries the descriptors: the header page, the eventfd through which the receiver
//! wakes the sender, and one memfd per table. One loop serves all peers without blocking, so they may come in any order
//! and at any speed.

use super::super::{SLOTS, Slot, TableSpec};
use super::scm;
use super::setup::local;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::fabric::setup::{PeerFault, SetupError};
use crate::process::Private;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// "galerna" and the version of this message.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"galerna\x03");
/// Words before those of the tables.
const HEAD_WORDS: usize = 5;
const WORDS_PER_TABLE: usize = 3;
/// Descriptors before those of the tables.
pub(super) const FDS_BEFORE_TABLES: usize = 2;

pub(super) const NO_DESCRIPTOR: &str = "this process has no file descriptor left for another member's memory: raise the limit of open files (`ulimit -n`, LimitNOFILE), or close some";

/// Everything that a peer sent. Only the number of descriptors has been checked.
pub(super) struct Met {
    pub(super) peer: Slot,
    pub(super) stream: Private<UnixStream>,
    /// The eventfd on which we sleep; the peer writes it.
    pub(super) wakes_me: EventFd,
    /// The header page, the eventfd that wakes the peer, and one memfd per table.
    pub(super) fds: Vec<OwnedFd>,
}

/// One exchange under way.
struct Party {
    met: Met,
    /// The message to the peer; the peer's message has the same length.
    hello: Vec<u8>,
    sent: usize,
    expected: Hello,
    heard: Vec<u8>,
}

/// The message of one process to another.
struct Hello {
    words: Vec<u64>,
}

impl Hello {
    fn new(from: Slot, to: Slot, specs: &[TableSpec]) -> Hello {
        let mut words = vec![MAGIC, from as u64, to as u64, SLOTS as u64, specs.len() as u64];
        for spec in specs {
            words.extend([u64::from(spec.id.0), spec.columns_len as u64, spec.row_len as u64]);
        }
        Hello { words }
    }

    fn bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    /// Compares `heard`, possibly only the beginning of a message, with this one. The error describes the first
    /// difference.
    fn check(&self, heard: &[u8]) -> Result<(), String> {
        for (i, chunk) in heard.chunks_exact(8).enumerate() {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(chunk);
            let (found, wanted) = (u64::from_ne_bytes(bytes), self.words[i]);
            if found == wanted {
                continue;
            }
            return Err(match i {
                0 => format!("its first bytes are {bytes:x?}, which is not Galerna's shared-memory set-up"),
                1 => format!("its slot is {found}, not {wanted}"),
                2 => format!("it addresses slot {found}, but this process has slot {wanted}"),
                3 => format!("it has {found} slots, not {wanted}"),
                4 => format!("it has {found} tables, not {wanted}"),
                _ => {
                    let (table, word) = ((i - HEAD_WORDS) / WORDS_PER_TABLE, (i - HEAD_WORDS) % WORDS_PER_TABLE);
                    let key = ["number", "length of the columns", "length of a row"][word];
                    format!("the {key} of its table at position {table} is {found}, not {wanted}")
                }
            });
        }
        Ok(())
    }
}

/// Exchanges `own` (the header page, then one memfd per table) with every peer.
pub(super) fn exchange(
    me: Slot,
    links: Vec<(Slot, impl Into<Private<UnixStream>>)>,
    specs: &[TableSpec],
    own: &[BorrowedFd<'_>],
    deadline: &Deadline,
) -> Result<Vec<Met>, SetupError> {
    let mut parties = Vec::new();
    for (peer, stream) in links {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wakes_me = EventFd::from_flags(flags).map_err(|e| local("cannot create an eventfd", e))?;
        let hello = Hello::new(me, peer, specs).bytes();
        let expected = Hello::new(peer, me, specs);
        let met = Met { peer, stream: stream.into(), wakes_me, fds: Vec::new() };
        parties.push(Party { met, hello, sent: 0, expected, heard: Vec::new() });
    }
    let fds_wanted = FDS_BEFORE_TABLES + specs.len();
    loop {
        for party in &mut parties {
            let result = party.send(own).and_then(|()| party.receive(fds_wanted));
            result?;
        }
        if parties.iter().all(Party::done) {
            return Ok(parties.into_iter().map(|p| p.met).collect());
        }
        wait(&parties, deadline)?;
    }
}

/// Sleeps until an exchange can continue.
fn wait(parties: &[Party], deadline: &Deadline) -> Result<(), SetupError> {
    let unfinished = || parties.iter().filter(|p| !p.done());
    let slice = deadline.slice();
    if slice.is_zero() {
        let faults = unfinished().map(|p| PeerFault { peer: p.met.peer, what: p.obstacle() });
        return Err(SetupError::Missing(faults.collect()));
    }
    let interest = |p: &Party| {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLOUT, p.sent < p.hello.len());
        flags.set(PollFlags::POLLIN, p.heard.len() < p.hello.len());
        flags
    };
    let mut fds: Vec<_> = unfinished().map(|p| PollFd::new(p.met.stream.as_fd(), interest(p))).collect();
    // Rounded up, so that the last wait does not end before the deadline.
    let timeout = u16::try_from((slice + Duration::from_millis(1)).as_millis()).unwrap_or(u16::MAX);
    match poll(&mut fds, PollTimeout::from(timeout)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(e) => Err(SetupError::Local(Error::io("cannot wait for the other members", e))),
    }
}

impl Party {
    fn done(&self) -> bool {
        let whole = self.hello.len();
        self.sent == whole && self.heard.len() == whole
    }

    fn obstacle(&self) -> String {
        let whole = self.hello.len();
        match self.heard.len() {
            0 => "it is connected, but sent nothing".to_owned(),
            heard if heard < whole => format!("it sent only {heard} of {whole} bytes"),
            _ => format!("it received only {} of {whole} bytes", self.sent),
        }
    }

    fn fault(&self, what: String) -> SetupError {
        SetupError::Peer(PeerFault { peer: self.met.peer, what })
    }

    fn send(&mut self, own: &[BorrowedFd<'_>]) -> Result<(), SetupError> {
        while self.sent < self.hello.len() {
            let mut fds = Vec::new();
            if self.sent == 0 {
                fds.extend_from_slice(own);
                fds.insert(1, self.met.wakes_me.as_fd());
            }
            match scm::send(self.met.stream.as_fd(), &self.hello[self.sent..], &fds) {
                Ok(n) => self.sent += n,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(self.fault(format!("the link broke during set-up: {e}"))),
            }
        }
        Ok(())
    }

    fn receive(&mut self, fds_wanted: usize) -> Result<(), SetupError> {
        let whole = self.hello.len();
        let mut buffer = vec![0; whole];
        while self.heard.len() < whole {
            // Never read more than this message: the bytes behind it are not part of the set-up.
            let room = whole - self.heard.len();
            match scm::receive(self.met.stream.as_fd(), &mut buffer[..room], &mut self.met.fds) {
                Ok(0) => return Err(self.fault("it closed the link during set-up".to_owned())),
                Ok(n) => self.heard.extend_from_slice(&buffer[..n]),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => continue,
                // This process is at fault, not the peer.
                Err(e @ (Errno::EMFILE | Errno::ENFILE)) => return Err(local(NO_DESCRIPTOR, e)),
                Err(e) => return Err(self.fault(format!("the link broke during set-up: {e}"))),
            }
            self.expected.check(&self.heard).map_err(|what| self.fault(what))?;
            if self.met.fds.len() > fds_wanted {
                return Err(self.fault(format!("it passed {} descriptors, not {fds_wanted}", self.met.fds.len())));
            }
        }
        if self.met.fds.len() < fds_wanted {
            return Err(self.fault(format!("it passed {} descriptors, not {fds_wanted}", self.met.fds.len())));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::TableId;
    use crate::fuzz::{Parser, as_it_is, run};

    #[test]
    fn fuzz_shm_exchange() {
        let specs = [(1, 64, 128), (7, 4096, 1 << 20)].map(|(id, columns_len, row_len)| TableSpec {
            id: TableId(id),
            columns_len,
            row_len,
        });
        let hello = Hello::new(3, 5, &specs);
        let whole = hello.bytes();
        // The description of a difference is all that is allocated.
        let parser =
            Parser { name: "shm exchange", seeds: vec![whole.clone()], repair: &as_it_is, heap_max: (0, 1024) };
        run(&parser, |bytes| {
            // No more is read than the message has.
            let heard = &bytes[..bytes.len().min(whole.len())];
            let words = heard.len() / 8 * 8;
            assert_eq!(hello.check(heard).is_ok(), whole.starts_with(&heard[..words]), "{:?}", hello.check(heard));
            hello.check(heard).is_ok()
        });
    }
}
