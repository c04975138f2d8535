//! Galerna: an RDMA-first replication engine.
//!
//! Every member of a group delivers the same messages in the same order. A lock-free *shared state table* carries
//! monotone counters between members by one-sided writes. Each member derives from these counters which messages are
//! stable. So nothing on the data path waits for a leader or a round trip.
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
mod config;
mod deadline;
mod driver;
mod error;
mod interrupt;
pub mod log;
mod membership;
mod node;
mod peers;
mod planted;
mod shared;
mod shortage;
mod sync;
mod thread;
mod types;
mod words;

// Not for applications, and free to change: the benchmarks, the C ABI and the tests of hostile peers use these.
#[doc(hidden)]
pub mod fabric;
#[doc(hidden)]
pub mod meet;
#[doc(hidden)]
pub mod multicast;
#[doc(hidden)]
pub mod process;
#[doc(hidden)]
pub mod sst;

pub use api::{Canceller, Group, Joining, Reservation, Starting};
#[doc(hidden)]
pub use app::Kept;
pub use app::{Frontiers, Handler, View};
pub use bootstrap::{RecoverError, Recovered, recover};
#[doc(hidden)]
pub use config::plain_type;
pub use config::{Config, FabricKind, Found, LogConfig, MEMBERS_MAX, Member, Verbs};
pub use driver::Driver;
pub use error::Error;
pub use multicast::{Delivery, RingSpace, Stats};
pub use shared::wait::Wait;
pub use types::{Copies, MemberId, Mode, SubgroupId, Ticket, Until, Version};

#[cfg(test)]
#[path = "../tests/common/folder.rs"]
mod folder;
#[cfg(test)]
#[path = "../tests/fuzz/mod.rs"]
mod fuzz;
#[cfg(test)]
#[path = "../tests/simulation/mod.rs"]
mod simulation;
