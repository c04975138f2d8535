//! Sends the application's state or the log to a process that asks for it.

use super::acceptor::LocalIdentity;
use super::log_transfer;
use super::patience::{LOOK_TIME, Patient};
use super::transfer::{self, Halt};
use crate::log::Log;
use crate::meet::questions::{self, Asker, Reply};
use crate::peers::linking::STEP_TIME;
use crate::shared::Shared;
use crate::shared::requests::PeerRequest;
use crate::shared::snapshot::{NoState, Snapshot};
use crate::types::{MemberId, Version};
use socket2::Socket;
use std::io::{self, Read};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Instant;

/// Sends a state or a log to a process that asks for it.
pub(super) struct Giver<'a> {
    socket: &'a Socket,
    sign: &'a LocalIdentity,
    shared: &'a Shared,
    asker: Asker,
    deadline: Instant,
}

impl<'a> Giver<'a> {
    pub(super) fn new(socket: &'a Socket, sign: &'a LocalIdentity, shared: &'a Shared, asker: Asker) -> Giver<'a> {
        Giver { socket, sign, shared, asker, deadline: asker.deadline() }
    }

    /// Whether the asker is in the view.
    fn is_present(&self) -> bool {
        self.shared.is_present(self.asker.incarnation)
    }

    /// Sends the application's state to a process of the view.
    ///
    /// The transfer ends early if that process leaves the view or its deadline passes.
    pub(super) fn give_state(&self, view: u64) -> io::Result<()> {
        let &Giver { socket, shared, deadline, .. } = self;
        let (reply, answer) = std::sync::mpsc::sync_channel(1);
        shared.request(PeerRequest::State { view, reply });
        // The asker's membership is not checked here: its first view may not have begun at this member yet. The
        // driver's answer covers that case.
        let gone = || shared.lock().ended.is_some() || Instant::now() >= deadline;
        let given = loop {
            match answer.recv_timeout(LOOK_TIME) {
                Err(RecvTimeoutError::Timeout) if !gone() => {}
                Err(_) => return Err(io::Error::other("the state was not ready before the other end gave up")),
                Ok(given) => break given,
            }
        };
        let goes_on = || self.is_present();
        let mut stream = Patient::new(socket, deadline, &goes_on)?;
        match given {
            Ok(Snapshot { covered, state }) => {
                questions::say(&mut stream, &Reply::State { view: covered.view, below: covered.below })?;
                self.give(&mut stream, &mut covered.head().chain(state))
            }
            Err(NoState::Later(reason)) => questions::say(&mut stream, &Reply::Refused { reason }),
            Err(NoState::Failed(reason)) => questions::say(&mut stream, &Reply::Failed { reason }),
        }
    }

    /// Sends log records to a process of the view, or to one that restarts together with this one.
    pub(super) fn give_log(&self, log: &Log, from: Version, below: Version, ended: bool) -> io::Result<()> {
        let goes_on = || self.shared.lock().ended.is_none() && (!ended || self.is_present());
        let mut stream = Patient::new(self.socket, self.deadline, &goes_on)?;
        match log_transfer::refusal(log, from, below, ended) {
            Some(reply) => questions::say(&mut stream, &reply),
            None => {
                // The reply goes out first, because reading and verifying a checkpoint may take a while.
                questions::say(&mut stream, &Reply::Log {})?;
                self.give(&mut stream, &mut log_transfer::Given::new(log, from, below))
            }
        }
    }

    /// Sends the bytes, and receives the result of the transfer.
    fn give(&self, stream: &mut Patient<'_>, state: &mut dyn Read) -> io::Result<()> {
        let &Giver { socket, sign, shared, asker, deadline } = self;
        let fault = |member, what| shared.request(PeerRequest::Fault { member, what });
        let sent = transfer::send(stream, state);
        if let Err(Halt::State(error)) = &sent {
            fault(sign.me.id, format!("reading the state for member {} failed: {error}", asker.id));
        }
        // If the connection is broken, a result that was sent before has already arrived.
        let deadline = if sent.is_ok() { deadline } else { Instant::now() + STEP_TIME };
        if let Some(what) = transfer::last_words(socket, deadline, &|| self.is_present()) {
            fault(MemberId(asker.id), format!("it could not receive the group's state: {what}"));
        }
        match sent {
            Err(Halt::State(error) | Halt::Link(error)) => Err(error),
            Ok(()) => Ok(()),
        }
    }
}
