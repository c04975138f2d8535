//! A folder for the files of one test.

use std::path::PathBuf;

/// A new folder. It is removed with the value, unless the test fails.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// Makes a folder with a name that no other test program and no other run of this one uses.
    pub(crate) fn new(name: &str) -> Folder {
        let program = env!("CARGO_CRATE_NAME");
        let path = std::env::temp_dir().join(format!("galerna-{program}-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
