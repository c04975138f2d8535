//! The threads of a member that talk with other processes, outside of the fabric: they listen, dial, and transfer the
//! state and the log.

pub(crate) mod acceptor;
pub(crate) mod contacts;
pub(crate) mod gate;
mod giver;
pub(crate) mod linking;
pub(crate) mod log_store;
pub(crate) mod log_transfer;
mod patience;
pub(crate) mod relink;
mod replay;
pub(crate) mod transfer;
