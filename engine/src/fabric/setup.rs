//! What can go wrong when two processes set up a link, on fabrics that exchange more than bytes.

use super::Slot;
use crate::error::Error;

/// Why a link, or some of several, could not be set up.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SetupError {
    /// A peer did something that it must not do, or its link broke.
    #[error("{0}")]
    Peer(PeerFault),
    /// The deadline passed; these peers had not finished.
    #[error("at the deadline: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Missing(Vec<PeerFault>),
    /// This process could not get what it needs.
    #[error(transparent)]
    Local(Error),
}

/// What was observed of one peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the process in slot {peer}: {what}")]
pub struct PeerFault {
    /// The peer.
    pub peer: Slot,
    /// What it did, or failed to do.
    pub what: String,
}
