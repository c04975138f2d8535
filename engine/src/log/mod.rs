//! The persistent log: an append-only stream of records on disk, found again by version and by time.

mod disk;
mod held;
mod journal;
mod record;

pub use disk::{Disk, File};
pub use held::{Held, Release, held};
pub use journal::{Journal, Ticket};
pub use record::{Kind, Record, Version};
