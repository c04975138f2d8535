//! Calls of a [`Store`] by the tests and the simulator, without the threads of a [`super::super::Log`].

use crate::error::Error;
use crate::log::store::Store;
use crate::log::{Record, Snapshot, SnapshotWriter, blobs, codec};
use crate::types::Version;

impl Store {
    /// The size of a segment of this log, in bytes.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.shared.segment_bytes
    }

    /// Appends records as one batch. Returns [`Error::LogRecordTooLarge`] before anything is written.
    pub(crate) fn append(&mut self, records: &[Record<'_>]) -> Result<(), Error> {
        let limit = self.payload_max();
        if let Some(record) = records.iter().find(|record| record.payload.len() > limit) {
            return Err(Error::LogRecordTooLarge { len: record.payload.len(), limit });
        }
        let mut batch = Vec::new();
        records.iter().for_each(|record| codec::encode(&mut batch, record, crc32c::crc32c(record.payload)));
        self.append_encoded(&mut batch)
    }

    /// The bytes of the blob `name`; `None` if it was never saved.
    ///
    /// Returns [`Error::LogDamaged`] if they differ from the saved ones.
    pub(crate) fn load(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        blobs::load(&*self.disk, self.identity, &blobs::blob_file(name)?)
    }

    /// Begins a checkpoint that covers everything up to `version`. [`Store::install`] ends it.
    ///
    /// Only one checkpoint of each version may be in progress.
    pub(crate) fn snapshot(&self, version: Version, time_ns: u64) -> Result<SnapshotWriter, Error> {
        SnapshotWriter::begin(self.disk.clone(), self.identity, version, time_ns)
    }

    /// The newest checkpoint, verified; `None` if there is none. Returns [`Error::LogDamaged`] if its bytes are
    /// damaged.
    pub(crate) fn load_snapshot(&self) -> Result<Option<Snapshot>, Error> {
        Snapshot::load(&*self.disk, self.identity)
    }
}
