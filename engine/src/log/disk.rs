//! The files under a log: the operating system's, or the simulator's.

use super::map::Map;
use std::io;
use std::path::Path;

/// A directory. What was done to names (create, rename, remove) may be lost by a crash before [`Disk::sync_names`].
pub trait Disk: Send + Sync {
    /// The names of all files.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Opens a file that exists, for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;
    /// Makes a file of `len` zero bytes, whose space is taken from the file system now (`StorageFull` if there is none). A
    /// file that had the name before is gone.
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn File>>;
    /// Renames a file, over one that may have the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Where it is, for error texts; none if it has no path.
    fn path(&self) -> Option<&Path> {
        None
    }
    /// Whoever had the directory for writing is done with it: somebody else may have it.
    fn unlock(&self) {}
    /// Makes everything that was done to names durable.
    fn sync_names(&self) -> io::Result<()>;
}

/// An open file. What was written may be lost by a crash, in part and in any order, before [`File::sync`] has returned; a
/// sync that failed says nothing about anything written since the one before it.
#[expect(clippy::len_without_is_empty, reason = "a file of a log never is")]
pub trait File: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Fills `bytes` from `offset`; `UnexpectedEof` if the file is shorter.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`; a file that is shorter grows.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything that was written durable.
    fn sync(&self) -> io::Result<()>;
    /// Replaces everything from `offset` to the file's end by zero bytes, keeping its length and its space.
    fn clear_from(&self, offset: u64) -> io::Result<()>;
    /// The file in memory, to read it in place; `None` where it can only be read by [`File::read_at`].
    fn map(&self) -> io::Result<Option<Map>> {
        Ok(None)
    }
}
