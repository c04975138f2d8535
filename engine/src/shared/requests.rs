//! Requests to the driver: of other processes, which helper threads pass on, and of handles.

use super::snapshot::{NoState, Snapshot};
use crate::error::Error;
use crate::fabric::Connection;
use crate::meet::questions::{Place, Reply};
use crate::membership::Peer;
use crate::types::MemberId;
use std::sync::mpsc::SyncSender;

/// A request to the driver, from the thread of a visitor or from another helper thread.
pub(crate) enum PeerRequest {
    /// Admit a joiner to the group.
    Join { id: MemberId, incarnation: u64, address: String, reply: SyncSender<Reply> },
    /// Report whether this member is the leader, which admits joiners.
    Leads { reply: SyncSender<bool> },
    /// Attach a new link.
    Link { place: Place, since: u64, connection: Connection },
    /// Report whether the link with `peer`, which has wedged `view`, may be made again.
    MayRelink { peer: Peer, view: u64, reply: SyncSender<Reply> },
    /// Attach a link that was made again. `dialled`: this process opened the connection, not the peer.
    Relink { peer: Peer, view: u64, dialled: bool, connection: Connection },
    /// Note that the group has gone on without this process. It had wedged `view` when it asked `peer`. `left`: it
    /// asked to leave.
    GoneOn { peer: Peer, view: u64, left: bool },
    /// Provide the application's state, taken in view `view` or a later one.
    State { view: u64, reply: SyncSender<Result<Snapshot, NoState>> },
    /// Record a fault of a member.
    Fault { member: MemberId, what: String },
}

/// A request of a handle for the application's state, to be written to disk as a checkpoint.
pub(crate) struct CheckpointRequest {
    pub(crate) reply: SyncSender<Result<Snapshot, Error>>,
}
