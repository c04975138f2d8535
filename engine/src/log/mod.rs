//! The persistent log: an append-only stream of records on disk, searchable by version and by time.
//!
//! [`Log`] is a log in a directory, usable from any number of threads. [`Journal`] is the interface for a replication
//! protocol, which must never wait. `Store` is the same log with one owner and without a thread, on any `Disk`.

mod blobs;
mod codec;
mod cut;
mod deferred;
pub(crate) mod disk;
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
pub(crate) mod store;
mod table;
#[cfg(test)]
mod tests;
mod window;
mod writer;

pub use handle::{Log, LogOptions};
pub use inspect::{ReadOnlyLog, SegmentCount, SegmentInfo};
pub use queue::LogStats;
pub use reader::{Entry, Iter, Reader};
pub use record::{Kind, Record};
pub use segment::Identity;
pub use snapshot::{Snapshot, SnapshotWriter};
pub use store::SEGMENT_BYTES_DEFAULT;

pub(crate) use codec::hash;
pub(crate) use deferred::{Release, deferred};
pub(crate) use handle::wall_ns;
#[doc(hidden)]
pub use journal::{Journal, Ticket};
pub(crate) use os::OsDisk;
pub(crate) use record::OwnedRecord;
