//! The file interface below the log, implemented by the operating system's files and by the simulator.

use super::map::Map;
use std::io;
use std::path::Path;

/// A directory. A crash may undo changes of names (create, rename, remove) made since the last [`Disk::sync_names`].
pub trait Disk: Send + Sync {
    /// The names of all files.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;
    /// Creates a file of `len` zero bytes. It replaces any file of that name.
    ///
    /// The space is allocated from the file system at once (`StorageFull` if there is none).
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn File>>;
    /// Renames a file. An existing file with the new name is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The path of the directory, for error texts; `None` if it has none.
    fn path(&self) -> Option<&Path> {
        None
    }
    /// Releases the writer's lock on the directory, so that another writer can open it.
    fn unlock(&self) {}
    /// Makes all changes of names durable.
    fn sync_names(&self) -> io::Result<()>;
}

/// An open file. Written bytes may be lost in a crash, in part and in any order, until [`File::sync`] has returned.
///
/// After a failed sync, nothing is known about any write since the sync before it.
pub trait File: Send + Sync {
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Fills `bytes` from `offset`. Fails with `UnexpectedEof` if the file is shorter.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`. A shorter file grows.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes all writes durable.
    fn sync(&self) -> io::Result<()>;
    /// Overwrites everything from `offset` to the end of the file with zeros. The file keeps its length and its space.
    fn clear_from(&self, offset: u64) -> io::Result<()>;
    /// Maps the file into memory to read it in place. `None` where only [`File::read_at`] is available.
    fn map(&self) -> io::Result<Option<Map>> {
        Ok(None)
    }
}
