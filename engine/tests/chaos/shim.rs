//! The library that is loaded before the C library of the members: see `shim.c`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("shim.c");

/// Compiles the library into `folder`. Without a compiler it prints a message and returns `None`.
pub(crate) fn compile(folder: &Path) -> Option<PathBuf> {
    let (library, source) = (folder.join("shim.so"), folder.join("shim.c"));
    std::fs::write(&source, SOURCE).unwrap();
    let arguments = ["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o"];
    match Command::new("cc").args(arguments).arg(&library).arg(&source).arg("-ldl").output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(library)
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "the C compiler `cc` cannot be run: {error}");
            crate::world::say_once(&format!(
                "SKIPPED: clocks that jump and disks that fail: there is no `cc`: {error}"
            ));
            None
        }
    }
}

/// Controls the clock and the disk that one member's processes see, over all of their lives.
pub(crate) struct Control {
    file: File,
    path: PathBuf,
    disk: PathBuf,
}

impl Control {
    pub(crate) fn new(path: PathBuf, disk: PathBuf) -> io::Result<Control> {
        let file = File::create(&path)?;
        file.set_len(16)?;
        Ok(Control { file, path, disk })
    }

    pub(crate) fn apply(&self, command: &mut Command, library: Option<&Path>) {
        let Some(library) = library else { return };
        command.env("LD_PRELOAD", library).env("GALERNA_CHAOS_SHIM", &self.path).env("GALERNA_CHAOS_DISK", &self.disk);
    }

    /// Sets the offset of the wall clock; a negative one sets it back.
    pub(crate) fn set_clock(&self, offset_ms: i64) -> io::Result<()> {
        self.file.write_all_at(&(offset_ms * 1_000_000).to_ne_bytes(), 0)
    }

    pub(crate) fn fail_disk(&self, syncs: bool, writes: bool) -> io::Result<()> {
        self.file.write_all_at(&i32::from(syncs).to_ne_bytes(), 8)?;
        self.file.write_all_at(&i32::from(writes).to_ne_bytes(), 12)
    }
}
