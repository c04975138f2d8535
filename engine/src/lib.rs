//! Galerna: an RDMA-first replication engine.
//!
//! Every member of a group delivers the same messages in the same order. A lock-free *shared state table* ([`sst`])
//! carries monotone counters between members by one-sided writes ([`fabric`]). Each member derives from these counters
//! which messages are stable. So nothing on the data path waits for a leader or a round trip ([`multicast`]).
//!
//! An application holds a [`Group`]:
//!
//! ```no_run
//! use galerna::{Config, Delivery, Group, Mode, SubgroupId};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), galerna::Error> {
//! let config = Config::from_file("member-1.toml")?;
//! let group = Group::join(config, |message: Delivery<'_>| {
//!     println!("{} from {}: {} bytes", message.sequence, message.sender, message.payload.len());
//! })?;
//! group.send(SubgroupId(0), Mode::Safe, b"hello", Duration::from_secs(1))?;
//! group.leave(Duration::from_secs(5))?;
//! # Ok(())
//! # }
//! ```

pub mod config;
pub mod error;
pub mod fabric;
mod group;
mod interrupt;
pub mod log;
pub mod membership;
pub mod multicast;
pub mod node;
mod planted;
#[doc(hidden)]
pub mod process;
mod shortage;
pub mod sst;
mod sync;
mod thread;

pub use config::{Config, FabricKind, LogConfig, Member, MemberId, SubgroupId};
pub use error::Error;
pub use group::{Driver, Flush, Frontiers, Group, Handler, RecoverError, Recovered, Reservation, View, recover};
pub use multicast::{Delivery, Mode, Stats};

#[cfg(test)]
#[path = "../tests/simulation/mod.rs"]
mod simulation;
