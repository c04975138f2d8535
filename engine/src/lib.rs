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

mod api;
mod app;
mod bootstrap;
pub mod config;
mod driver;
pub mod error;
pub mod fabric;
mod interrupt;
pub mod log;
#[doc(hidden)]
pub mod meet;
pub mod membership;
pub mod multicast;
pub mod node;
mod peers;
mod planted;
#[doc(hidden)]
pub mod process;
mod shared;
mod shortage;
pub mod sst;
mod sync;
mod thread;

pub use api::{Group, Reservation};
pub use app::{Frontiers, Handler, View};
pub use bootstrap::{RecoverError, Recovered, recover};
pub use config::{Config, FabricKind, LogConfig, Member, MemberId, SubgroupId};
pub use driver::Driver;
pub use error::Error;
pub use multicast::{Delivery, Mode, Stats};
pub use shared::flush::Flush;

#[cfg(test)]
#[path = "../tests/simulation/mod.rs"]
mod simulation;
