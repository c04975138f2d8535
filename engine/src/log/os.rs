//! A directory of the operating system.

use super::disk::{self, Disk};
use super::map::Map;
use crate::error::Error;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The file whose lock is the directory's.
const LOCK: &str = "lock";
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// A directory of the operating system, locked for one writer, or open for reading.
pub struct OsDisk {
    path: PathBuf,
    directory: File,
    writes: bool,
    /// Held until the writer is done, or the last user of the directory is gone; the kernel drops it with the process.
    lock: Mutex<Option<Flock<File>>>,
}

impl OsDisk {
    /// Makes the directory if there is none, and locks it for as long as this lives. [`Error::LogLocked`] if somebody has
    /// locked it.
    pub fn open_locked(path: &Path) -> Result<OsDisk, Error> {
        let failed = |what: &str, error: io::Error| Error::io(format!("{what} {}", path.display()), error);
        if !path.is_dir() {
            fs::create_dir_all(path).map_err(|e| failed("making the log directory", e))?;
            // The directory's own name is to outlive a crash as well.
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(|e| failed("syncing the directory above", e))?;
        }
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK))
            .map_err(|e| failed("opening the lock file in", e))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => Error::LogLocked { directory: path.display().to_string() },
            errno => failed("locking the log directory", errno.into()),
        })?;
        let directory = File::open(path).map_err(|e| failed("opening the log directory", e))?;
        Ok(OsDisk { path: path.to_owned(), directory, writes: true, lock: Mutex::new(Some(lock)) })
    }

    /// For reading, whoever writes meanwhile.
    pub(super) fn open_read_only(path: &Path) -> Result<OsDisk, Error> {
        let directory = File::open(path)
            .map_err(|error| Error::io(format!("opening the log directory {}", path.display()), error))?;
        Ok(OsDisk { path: path.to_owned(), directory, writes: false, lock: Mutex::new(None) })
    }
}

impl Disk for OsDisk {
    fn unlock(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is not the log's.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn disk::File>> {
        let file = OpenOptions::new().read(true).write(self.writes).open(self.path.join(name))?;
        Ok(Box::new(OsFile { file, writes: self.writes }))
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn disk::File>> {
        let path = self.path.join(name);
        // A new file, never an old one truncated: somebody may have that one mapped.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        if let Err(error) = reserve(&file, len) {
            // The space that it got may be what somebody else waits for.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Box::new(OsFile { file, writes: true }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

fn reserve(file: &File, len: u64) -> io::Result<()> {
    let signed = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    if len == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, signed) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => write_zeros(file, 0, len),
        other => Ok(other?),
    }
}

fn write_zeros(file: &File, mut from: u64, to: u64) -> io::Result<()> {
    while from < to {
        let len = (to - from).min(ZEROS.len() as u64) as usize;
        file.write_all_at(&ZEROS[..len], from)?;
        from += len as u64;
    }
    Ok(())
}

struct OsFile {
    file: File,
    writes: bool,
}

impl disk::File for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn clear_from(&self, offset: u64) -> io::Result<()> {
        let len = disk::File::len(self)?;
        if offset >= len {
            return Ok(());
        }
        let signed = |bytes: u64| i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput);
        // Not by truncation: a page that is mapped must not go away.
        match fallocate(&self.file, FallocateFlags::FALLOC_FL_ZERO_RANGE, signed(offset)?, signed(len - offset)?) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => write_zeros(&self.file, offset, len),
            other => Ok(other?),
        }
    }

    fn map(&self) -> io::Result<Option<Map>> {
        // Without the lock another process may write: such bytes are copied, and checked as copies.
        if self.writes { Map::new(&self.file).map(Some) } else { Ok(None) }
    }
}
