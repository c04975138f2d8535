//! The directory in which both sides write, so that they use the same file system.

use crate::Result;
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use std::fs;
use std::path::{Path, PathBuf};

/// A directory that is removed at the end.
pub(crate) struct Place(PathBuf);

impl Place {
    /// Creates the directory in `dir`. Without `dir`: in `target` here, or else in the directory for temporary files.
    pub(crate) fn make(dir: Option<&Path>) -> Result<Place> {
        let here = Path::new("target");
        let parent = match dir {
            Some(dir) => dir.to_owned(),
            None if here.is_dir() => here.to_owned(),
            None => std::env::temp_dir(),
        };
        let path = parent.join(format!("galerna-bench-log-{}", std::process::id()));
        fs::create_dir(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        Ok(Place(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Whether the files are in memory, where a sync costs nothing.
    pub(crate) fn in_memory(&self) -> bool {
        const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);
        statfs(&self.0).is_ok_and(|is| [TMPFS_MAGIC, RAMFS_MAGIC].contains(&is.filesystem_type()))
    }

    /// An empty directory. Also completes the file system's pending work for the removal of the previous one.
    pub(crate) fn fresh(&self) -> Result<PathBuf> {
        let path = self.0.join("pair");
        if path.is_dir() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path)?;
        fs::File::open(&self.0)?.sync_all()?;
        Ok(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
