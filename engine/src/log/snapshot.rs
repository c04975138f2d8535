//! Checkpoints of the application. They are written beside the log as one stream, and exist completely or not at all.
//!
//! A file has a header of 96 bytes, then the body.

use super::codec::{RawStamp, Stamp};
use super::disk::{Disk, File};
use super::failure::not_made;
use super::recover::Listing;
use super::segment::{FORMAT, Identity, Named, RawIdentity, TEMPORARY, check_format};
use crate::error::Error;
use crate::process::Life;
use crate::types::Version;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 4] = *b"GSNP";
const HEAD_BYTES: usize = size_of::<Head>();

/// The header of a file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 4],
    /// CRC-32C of the rest of the header.
    checksum: U32,
    format: U32,
    body_checksum: U32,
    identity: RawIdentity,
    _zeros: [u8; 4],
    stamp: RawStamp,
    /// Of the body, in bytes.
    length: U64,
    _more_zeros: [u8; 16],
}

impl Head {
    fn checksum(&self) -> u32 {
        crc32c::crc32c(&self.as_bytes()[8..])
    }
}

/// The number of checkpoints that this process has begun. It makes temporary names unique.
///
/// An abandoned checkpoint may still be in progress when the next one of the same version begins.
static WRITERS: AtomicU64 = AtomicU64::new(0);

pub(super) fn file_name(version: Version) -> String {
    format!("{:016x}-{:016x}.snapshot", version.view, version.sequence)
}

/// A checkpoint that is being written. If it is dropped before it is installed, no file remains.
pub struct SnapshotWriter {
    disk: Arc<dyn Disk>,
    file: Box<dyn File>,
    temporary: String,
    identity: Identity,
    version: Version,
    time_ns: u64,
    len: u64,
    checksum: u32,
    /// The error that ended this checkpoint.
    failure: Option<Error>,
    sealed: bool,
    installed: bool,
    life: Life,
}

impl SnapshotWriter {
    pub(super) fn begin(
        disk: Arc<dyn Disk>,
        identity: Identity,
        version: Version,
        time_ns: u64,
    ) -> Result<SnapshotWriter, Error> {
        let number = WRITERS.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{}~{number}{TEMPORARY}", file_name(version));
        let created = disk.create(&temporary, HEAD_BYTES as u64);
        let file = created.map_err(|error| not_made("making", error, &temporary, HEAD_BYTES as u64))?;
        Ok(SnapshotWriter {
            disk,
            file,
            temporary,
            identity,
            version,
            time_ns,
            len: 0,
            checksum: 0,
            failure: None,
            sealed: false,
            installed: false,
            life: Life::present(),
        })
    }

    /// Ends this checkpoint: no later call succeeds, so that it cannot be installed with a part missing.
    fn fail(&mut self, error: Error) -> Error {
        self.failure.get_or_insert_with(|| error.clone());
        error
    }

    fn go_on(&self) -> Result<(), Error> {
        self.life.check()?;
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// Appends bytes to the checkpoint.
    ///
    /// An error, such as [`Error::LogFull`], ends this checkpoint, but not the log: every later call for the checkpoint
    /// returns the error again.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.go_on()?;
        if let Err(error) = self.file.write_at(HEAD_BYTES as u64 + self.len, bytes) {
            let error = not_made("writing", error, &self.temporary, bytes.len() as u64);
            return Err(self.fail(error));
        }
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Appends everything that `from` returns. `reading` describes the source in error texts.
    pub fn fill(&mut self, from: &mut dyn io::Read, reading: &str) -> Result<(), Error> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => self.write(&buffer[..n])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.fail(Error::io(reading, error))),
            }
        }
    }

    /// Makes the bytes durable, under the temporary name.
    pub(super) fn seal(&mut self) -> Result<(), Error> {
        self.go_on()?;
        if self.sealed {
            return Ok(());
        }
        let mut head = Head {
            magic: MAGIC,
            format: FORMAT.into(),
            body_checksum: self.checksum.into(),
            identity: self.identity.into(),
            stamp: Stamp { version: self.version, time_ns: self.time_ns }.into(),
            length: self.len.into(),
            ..Head::new_zeroed()
        };
        head.checksum = head.checksum().into();
        if let Err(error) = self.file.write_at(0, head.as_bytes()).and_then(|()| self.file.sync()) {
            let error = not_made("syncing", error, &self.temporary, self.len);
            return Err(self.fail(error));
        }
        self.sealed = true;
        Ok(())
    }

    /// Renames the sealed checkpoint to its final name, durably.
    pub(super) fn install(&mut self) -> io::Result<()> {
        self.disk.rename(&self.temporary, &file_name(self.version))?;
        self.installed = true;
        self.disk.sync_names()
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Removes the older checkpoints.
    pub(super) fn remove_older(&self) -> io::Result<()> {
        // Older checkpoints do no harm. If some remain, the next checkpoint or the next opening of the log removes
        // them.
        match self.disk.names() {
            Ok(names) => names.iter().filter(|name| self.replaces(name)).try_for_each(|name| self.disk.remove(name)),
            Err(error) => {
                tracing::warn!("cannot remove older checkpoints, because the log directory cannot be listed: {error}");
                Ok(())
            }
        }
    }

    fn replaces(&self, name: &str) -> bool {
        matches!(Named::of(name), Some(Named::Snapshot(version)) if version < self.version)
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.installed && !self.life.is_over() {
            // A file that cannot be removed now is removed when the log is opened next.
            let _ = self.disk.remove(&self.temporary);
        }
    }
}

/// The newest checkpoint, with verified content.
pub struct Snapshot {
    /// The last version that the checkpoint covers.
    pub version: Version,
    /// The time that the writer gave it, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Its length in bytes.
    pub len: u64,
    file: Box<dyn File>,
    at: u64,
}

impl Snapshot {
    pub(super) fn exists(disk: &dyn Disk) -> Result<bool, Error> {
        Ok(!Listing::read(disk)?.snapshots.is_empty())
    }

    /// Opens and verifies the newest checkpoint; `None` if there is none.
    pub(super) fn load(disk: &dyn Disk, identity: Identity) -> Result<Option<Snapshot>, Error> {
        let listing = Listing::read(disk)?;
        let Some(&version) = listing.snapshots.last() else { return Ok(None) };
        let name = file_name(version);
        let reading = |error| Error::io(format!("reading {name}"), error);
        let damaged = |offset: u64, what: &str| Error::LogDamaged { file: name.clone(), offset, what: what.to_owned() };
        let file = disk.open(&name).map_err(reading)?;
        let len = file.len().map_err(reading)?;
        if len < HEAD_BYTES as u64 {
            return Err(damaged(len, "the file ends too early"));
        }
        let mut head = Head::new_zeroed();
        file.read_at(0, head.as_mut_bytes()).map_err(reading)?;
        if head.magic != MAGIC {
            return Err(damaged(0, "the file does not begin with a checkpoint header"));
        }
        check_format(&name, head.format.get())?;
        if head.checksum.get() != head.checksum() {
            return Err(damaged(0, "the checksum of the checkpoint's header is wrong"));
        }
        identity.check(&name, head.identity.into())?;
        let stamp = Stamp::from(head.stamp);
        if stamp.version != version {
            return Err(damaged(0, "the checkpoint's version differs from that in the file's name"));
        }
        let mut snapshot = Snapshot { version, time_ns: stamp.time_ns, len: head.length.get(), file, at: 0 };
        if len - (HEAD_BYTES as u64) < snapshot.len {
            return Err(damaged(len, "the file ends too early"));
        }
        let (mut buffer, mut checksum) = (vec![0; 1 << 16], 0);
        loop {
            match io::Read::read(&mut snapshot, &mut buffer).map_err(reading)? {
                0 => break,
                n => checksum = crc32c::crc32c_append(checksum, &buffer[..n]),
            }
        }
        if checksum != head.body_checksum.get() {
            return Err(damaged(HEAD_BYTES as u64, "the checksum of the checkpoint is wrong"));
        }
        snapshot.at = 0;
        Ok(Some(snapshot))
    }
}

impl io::Read for Snapshot {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = (self.len - self.at).min(bytes.len() as u64) as usize;
        self.file.read_at(HEAD_BYTES as u64 + self.at, &mut bytes[..n])?;
        self.at += n as u64;
        Ok(n)
    }
}
