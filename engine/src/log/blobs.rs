//! Small files that are replaced as a whole: after a crash such a file contains the old bytes or the new ones.
//!
//! A file has a header of 64 bytes, then the bytes.

use super::disk::{Disk, File};
use super::failure::{Step, full_or_final};
use super::segment::{FORMAT, Identity, RawIdentity, TEMPORARY, check_format};
use super::window::zeroed;
use crate::error::Error;
use std::io;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 4] = *b"GBLB";
const HEAD_BYTES: usize = size_of::<Head>();

/// The header of a file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 4],
    /// CRC-32C of the file's name, the rest of the header and the bytes.
    checksum: U32,
    format: U32,
    _zeros: [u8; 4],
    /// Of the bytes behind the header.
    length: U64,
    identity: RawIdentity,
    _more_zeros: [u8; 12],
}

impl Head {
    fn checksum(&self, file: &str, bytes: &[u8]) -> u32 {
        let head = crc32c::crc32c_append(crc32c::crc32c(file.as_bytes()), &self.as_bytes()[8..]);
        crc32c::crc32c_append(head, bytes)
    }
}

/// Whether `name` may name a blob. It becomes part of a file name, so it is limited to safe characters.
pub(super) fn valid_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(plain)
}

/// The file name of the blob `name`.
pub(super) fn blob_file(name: &str) -> Result<String, Error> {
    if !valid_name(name) {
        return Err(Error::Misuse("the name of a blob must have 1 to 64 characters of a-z, 0-9, - and _"));
    }
    Ok(format!("{name}.blob"))
}

/// The size of a blob file that holds `len` bytes, in bytes.
pub(super) fn size(len: usize) -> u64 {
    (HEAD_BYTES + len) as u64
}

/// The complete content of blob file `file` that holds `bytes`.
pub(super) fn encode(identity: Identity, file: &str, bytes: &[u8]) -> Vec<u8> {
    let (identity, length) = (identity.into(), (bytes.len() as u64).into());
    let mut head = Head { magic: MAGIC, format: FORMAT.into(), length, identity, ..Head::new_zeroed() };
    head.checksum = head.checksum(file, bytes).into();
    [head.as_bytes(), bytes].concat()
}

/// Replaces `file`. Every failure is final, except a shortage of space, memory or descriptors.
pub(super) fn save(disk: &dyn Disk, identity: Identity, file: &str, bytes: &[u8]) -> Result<(), Step> {
    let (temporary, size) = (format!("{file}{TEMPORARY}"), size(bytes.len()));
    let created = disk.create(&temporary, size);
    let created = created.map_err(|error| full_or_final("making", error, &temporary, size))?;
    // The file counts only once it has its final name, so a shortage here is not final.
    let written = created.write_at(0, &encode(identity, file, bytes));
    written.map_err(|error| full_or_final("writing", error, &temporary, size))?;
    place(disk, &*created, &temporary, file)
}

/// Syncs the completely written `made`, and renames it from its temporary name to `file`, durably.
pub(super) fn place(disk: &dyn Disk, made: &dyn File, temporary: &str, file: &str) -> Result<(), Step> {
    made.sync().map_err(|error| Step::new(format!("syncing {temporary}"), error))?;
    disk.rename(temporary, file).map_err(|error| Step::new(format!("renaming {temporary}"), error))?;
    disk.sync_names().map_err(|error| Step::new(format!("syncing the name of {file}"), error))
}

/// The bytes of `file`, or `None` if there is no such file. A damaged file is an error.
pub(super) fn load(disk: &dyn Disk, identity: Identity, file: &str) -> Result<Option<Vec<u8>>, Error> {
    let Some((theirs, bytes)) = load_any(disk, file)? else { return Ok(None) };
    identity.check(file, theirs)?;
    Ok(Some(bytes))
}

/// Like [`load`], but accepts any identity. Returns the identity too.
pub(super) fn load_any(disk: &dyn Disk, file: &str) -> Result<Option<(Identity, Vec<u8>)>, Error> {
    let opened = match disk.open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| Error::io(format!("opening {file}"), error))?,
    };
    let reading = |error| Error::io(format!("reading {file}"), error);
    let len = opened.len().map_err(reading)?;
    let damaged = |offset: u64, what: &str| Error::LogDamaged { file: file.to_owned(), offset, what: what.to_owned() };
    let short = || damaged(len, "the file ends too early");
    let size = usize::try_from(len).map_err(|_| damaged(0, "the file is too large"))?;
    let mut whole = zeroed(size).map_err(reading)?;
    opened.read_at(0, &mut whole).map_err(reading)?;
    let Ok((head, bytes)) = Head::ref_from_prefix(&whole) else { return Err(short()) };
    if head.magic != MAGIC {
        return Err(damaged(0, "the file does not begin with a blob header"));
    }
    check_format(file, head.format.get())?;
    let expected = head.length.get().saturating_add(HEAD_BYTES as u64);
    if len < expected {
        return Err(short());
    }
    if len != expected || head.checksum.get() != head.checksum(file, bytes) {
        return Err(damaged(0, "the checksum is wrong"));
    }
    let identity = head.identity.into();
    whole.drain(..HEAD_BYTES);
    Ok(Some((identity, whole)))
}
