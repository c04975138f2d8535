//! A directory of the operating system.

use super::disk::{self, Disk};
use super::failure;
use super::map::Map;
use crate::error::Error;
use crate::interrupt::{Locked, allocate, repeat, within_size_limit};
use crate::process::Own;
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The file whose lock is the directory's.
const LOCK: &str = "lock";
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
/// A file that is made and removed again, to see whether that can be done. What a crash leaves of it counts as a file that was not
/// finished, and is removed when the log is opened.
const TRIAL: &str = "trial.blob.tmp";
/// Descriptors that a writer holds back for itself: the change of a segment needs one for the new segment, which the old one
/// gives back once it is synced, and for a moment one for the marks and one for the old one's index. A batch may change the
/// segment more than once; one that needs more waits, as on a full disk.
const RESERVE: usize = 6;

/// A directory of the operating system, locked for one writer, or open for reading.
pub struct OsDisk {
    path: PathBuf,
    directory: File,
    writes: bool,
    /// Held until the writer is done, or the last user of the directory is gone; the kernel drops it with the process. A forked
    /// child has the same lock, and must not open it.
    lock: Mutex<Option<Own<Locked>>>,
    /// Held back for the writer, at most [`RESERVE`]: a process that has none left can still write its log.
    reserve: Mutex<Vec<File>>,
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
        let held = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK))
            .map_err(|e| failed("opening the lock file in", e))?;
        let held = Locked::new(held).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Error::LogLocked { directory: path.display().to_string() },
            _ => failed("locking the log directory", error),
        })?;
        let directory = File::open(path).map_err(|e| failed("opening the log directory", e))?;
        let (lock, reserve) = (Mutex::new(Some(Own::new(held))), Mutex::default());
        let disk = OsDisk { path: path.to_owned(), directory, writes: true, lock, reserve };
        disk.refill();
        Ok(disk)
    }

    /// Whether a log can be kept in this directory, which is made if there is none: the error is one that no time mends. A writer
    /// that has it now, and a want of space or descriptors, may go away.
    pub(crate) fn try_out(path: &Path) -> Result<(), Error> {
        let tried = OsDisk::open_locked(path).and_then(|disk| {
            let made = disk.create(TRIAL, 1).and_then(|_| disk.remove(TRIAL));
            made.map_err(|error| Error::io(format!("making a file in {}", path.display()), error))
        });
        match tried {
            Err(Error::LogLocked { .. }) => Ok(()),
            Err(error) if failure::is_shortage(&error) => Ok(()),
            tried => tried,
        }
    }

    /// For reading, whoever writes meanwhile.
    pub(super) fn open_read_only(path: &Path) -> Result<OsDisk, Error> {
        let directory = File::open(path)
            .map_err(|error| Error::io(format!("opening the log directory {}", path.display()), error))?;
        let (lock, reserve) = (Mutex::new(None), Mutex::default());
        Ok(OsDisk { path: path.to_owned(), directory, writes: false, lock, reserve })
    }

    /// Takes back what was spent, if the process has it again.
    fn refill(&self) {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        while self.writes && reserve.len() < RESERVE {
            match self.directory.try_clone() {
                Ok(descriptor) => reserve.push(descriptor),
                Err(_) => return,
            }
        }
    }

    /// Makes a call that needs a descriptor, with one of the reserve where the process has no other.
    fn spend<T>(&self, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        self.refill();
        loop {
            match repeat(&mut call) {
                Err(error) if failure::lacks_descriptors(&error) => {
                    let spent = self.reserve.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    if spent.is_none() {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }
}

impl Disk for OsDisk {
    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn unlock(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.spend(|| fs::read_dir(&self.path))? {
            // A name that is not UTF-8 is not the log's.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn disk::File>> {
        let path = self.path.join(name);
        let file = repeat(|| OpenOptions::new().read(true).write(self.writes).open(&path))?;
        Ok(Box::new(OsFile { file, writes: self.writes }))
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn disk::File>> {
        let path = self.path.join(name);
        // A new file, never an old one truncated: somebody may have that one mapped.
        match repeat(|| fs::remove_file(&path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.spend(|| OpenOptions::new().read(true).write(true).create_new(true).open(&path))?;
        if let Err(error) = reserve(&file, len) {
            // The space that it got may be what somebody else waits for.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Box::new(OsFile { file, writes: true }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path.join(from), self.path.join(to));
        repeat(|| fs::rename(&from, &to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path.join(name);
        repeat(|| fs::remove_file(&path))
    }

    fn sync_names(&self) -> io::Result<()> {
        repeat(|| self.directory.sync_all())
    }
}

fn reserve(file: &File, len: u64) -> io::Result<()> {
    match allocate(file, FallocateFlags::empty(), 0, len) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => write_zeros(file, 0, len),
        other => Ok(other?),
    }
}

fn write_zeros(file: &File, mut from: u64, to: u64) -> io::Result<()> {
    while from < to {
        let len = (to - from).min(ZEROS.len() as u64) as usize;
        within_size_limit(|| file.write_all_at(&ZEROS[..len], from))?;
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
        Ok(repeat(|| self.file.metadata())?.len())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        within_size_limit(|| self.file.write_all_at(bytes, offset))
    }

    fn sync(&self) -> io::Result<()> {
        repeat(|| self.file.sync_data())
    }

    fn clear_from(&self, offset: u64) -> io::Result<()> {
        let len = disk::File::len(self)?;
        if offset >= len {
            return Ok(());
        }
        // Not by truncation: a page that is mapped must not go away.
        match allocate(&self.file, FallocateFlags::FALLOC_FL_ZERO_RANGE, offset, len) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => write_zeros(&self.file, offset, len),
            other => Ok(other?),
        }
    }

    fn map(&self) -> io::Result<Option<Map>> {
        // Without the lock another process may write: such bytes are copied, and checked as copies.
        if self.writes { Map::new(&self.file).map(Some) } else { Ok(None) }
    }
}
