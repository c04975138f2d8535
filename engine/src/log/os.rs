//! A directory of the operating system as a [`Disk`].

use super::disk::{self, Disk};
use super::failure;
use super::map::Map;
use crate::error::Error;
use crate::interrupt::{Locked, allocate, repeat, within_size_limit};
use crate::process::Own;
use crate::sync::lock;
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The name of the lock file. Its lock protects the directory.
const LOCK: &str = "lock";
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
/// A file that is created and removed again, to test whether that is possible.
///
/// If a crash leaves it behind, it counts as an unfinished file, which is removed when the log is opened.
const TRIAL: &str = "trial.blob.tmp";
/// The number of file descriptors that a writer keeps in reserve.
///
/// A change of segment needs one for the new segment; the old segment's is free again after its sync. It briefly needs
/// one more for the marks and one for the index of the old segment. A batch may change segments more than once. A batch
/// that needs more descriptors waits, as it does on a full disk.
const RESERVE: usize = 6;

/// A directory of the operating system, locked for one writer or open for reading.
pub(crate) struct OsDisk {
    path: PathBuf,
    directory: File,
    writes: bool,
    /// The lock, held until the writer closes the log or the last user of the directory is gone.
    ///
    /// The kernel releases it at the end of the process. A forked child shares the lock and must not release it.
    lock: Mutex<Option<Own<Locked>>>,
    /// The reserved descriptors, at most [`RESERVE`]. With them, a process that has none left can still write its log.
    reserve: Mutex<Vec<File>>,
}

/// The error of a directory in which no log can be written.
fn unusable(what: &str, path: &Path, error: io::Error) -> Error {
    let advice = match failure::is_lack(&error) {
        true => "",
        false => " (give a directory in which this process may create and write files)",
    };
    Error::io(format!("{what} {}{advice}", path.display()), error)
}

impl OsDisk {
    /// Creates the directory if it is missing, and locks it for the lifetime of the value.
    ///
    /// Returns [`Error::LogLocked`] if it is already locked.
    pub(crate) fn open_locked(path: &Path) -> Result<OsDisk, Error> {
        let failed = |what: &str, error| unusable(what, path, error);
        if !path.is_dir() {
            fs::create_dir_all(path).map_err(|e| failed("cannot create the log directory", e))?;
            // The name of the new directory must survive a crash too.
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(|e| failed("cannot sync the parent directory of", e))?;
        }
        let held = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK))
            .map_err(|e| failed("cannot open the lock file in", e))?;
        let held = Locked::new(held).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Error::LogLocked { directory: path.display().to_string() },
            _ => failed("cannot lock the log directory", error),
        })?;
        let directory = File::open(path).map_err(|e| failed("cannot open the log directory", e))?;
        let (lock, reserve) = (Mutex::new(Some(Own::new(held))), Mutex::default());
        let disk = OsDisk { path: path.to_owned(), directory, writes: true, lock, reserve };
        disk.refill();
        Ok(disk)
    }

    /// Tests whether a log can be kept in this directory, and creates it if it is missing.
    ///
    /// Returns only errors that do not go away by themselves. A present writer, or a shortage of space or descriptors,
    /// is not an error here.
    pub(crate) fn try_out(path: &Path) -> Result<(), Error> {
        let tried = OsDisk::open_locked(path).and_then(|disk| {
            let made = disk.create(TRIAL, 1).and_then(|_| disk.remove(TRIAL));
            made.map_err(|error| unusable("cannot create a file in", path, error))
        });
        match tried {
            Err(Error::LogLocked { .. }) => Ok(()),
            Err(error) if failure::is_shortage(&error) => Ok(()),
            tried => tried,
        }
    }

    /// Opens the directory for reading, even while another process writes in it.
    pub(super) fn open_read_only(path: &Path) -> Result<OsDisk, Error> {
        let directory = File::open(path)
            .map_err(|error| Error::io(format!("opening the log directory {}", path.display()), error))?;
        let (lock, reserve) = (Mutex::new(None), Mutex::default());
        Ok(OsDisk { path: path.to_owned(), directory, writes: false, lock, reserve })
    }

    /// Refills the reserve as far as the process has free descriptors.
    fn refill(&self) {
        let mut reserve = lock(&self.reserve);
        while self.writes && reserve.len() < RESERVE {
            match self.directory.try_clone() {
                Ok(descriptor) => reserve.push(descriptor),
                Err(_) => return,
            }
        }
    }

    /// Makes a call that needs a descriptor. Frees a reserved one for it if the process has no other.
    fn spend<T>(&self, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        self.refill();
        loop {
            match repeat(&mut call) {
                Err(error) if failure::lacks_descriptors(&error) => {
                    let spent = lock(&self.reserve).pop();
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
        drop(lock(&self.lock).take());
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.spend(|| fs::read_dir(&self.path))? {
            // A name that is not UTF-8 does not belong to the log.
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
        // Always create a new file instead of truncating the old one, which another process may have mapped.
        match repeat(|| fs::remove_file(&path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.spend(|| OpenOptions::new().read(true).write(true).create_new(true).open(&path))?;
        if let Err(error) = reserve(&file, len) {
            // Free the partial allocation, since others may be waiting for the space.
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
        // Zero the range instead of truncating: a mapped page must not disappear.
        match allocate(&self.file, FallocateFlags::FALLOC_FL_ZERO_RANGE, offset, len) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => write_zeros(&self.file, offset, len),
            other => Ok(other?),
        }
    }

    fn map(&self) -> io::Result<Option<Map>> {
        // Without the lock, another process may be writing. So the bytes are copied, and the copies are checked.
        if self.writes { Map::new(&self.file).map(Some) } else { Ok(None) }
    }
}
