//! A folder for the files of one test.

use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A new folder. It is removed with the value, unless the test fails.
pub(crate) struct Folder(pub(crate) PathBuf, TempDir);

impl Folder {
    /// Makes a folder that no other test and no other run of this one uses. Its name contains `name`.
    pub(crate) fn new(name: &str) -> Folder {
        Folder::within(&std::env::temp_dir(), name)
    }

    /// Makes such a folder in `parent`.
    pub(crate) fn within(parent: &Path, name: &str) -> Folder {
        let prefix = format!("galerna-{}-{name}-", env!("CARGO_CRATE_NAME"));
        let made = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).unwrap();
        Folder(made.path().to_owned(), made)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.1.disable_cleanup(std::thread::panicking());
    }
}
