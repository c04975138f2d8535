//! The persistent log: an append-only stream of records on disk, searchable by version and by time.
//!
//! [`Log`] is a log in a directory, usable from any number of threads. [`Journal`] is the interface for a replication
//! protocol, which must never wait. [`Store`] is the same log with one owner and without a thread, on any [`Disk`].

mod blobs;
mod codec;
mod cut;
mod deferred;
mod disk;
mod failure;
mod handle;
mod index;
mod inspect;
mod journal;
mod map;
mod marks;
mod os;
mod queue;
mod reader;
mod record;
mod recover;
mod segment;
mod snapshot;
mod source;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod writer;

pub use deferred::{DeferredJournal, Release, deferred};
pub use disk::{Disk, File};
pub(crate) use handle::wall_ns;
pub use handle::{Log, LogJournal, LogOptions};
pub use inspect::{ReadOnlyLog, SegmentCount, SegmentInfo};
pub use journal::{Journal, Ticket};
pub use map::Map;
pub use os::OsDisk;
pub use queue::LogStats;
pub use reader::{Entry, Iter, Reader};
pub use record::{Kind, Record, Version};
pub use segment::Identity;
pub use snapshot::{Snapshot, SnapshotWriter};
pub use store::{SEGMENT_BYTES_DEFAULT, Store};
