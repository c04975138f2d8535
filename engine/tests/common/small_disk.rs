//! A small file system of its own, for tests that fill it up.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

/// Runs this program's test `child` with `variable` set to `folder`, and returns its output. `folder` is a file system
/// of `mib` MiB that only the child sees. Prints a message and returns `None` where this process may not mount one.
pub(crate) fn run_on_one(folder: &Path, mib: u32, variable: &str, child: &str) -> Option<Output> {
    let mount = format!("mount -t tmpfs -o size={mib}m tmpfs {}", folder.display());
    let program = std::env::current_exe().unwrap();
    let script =
        format!("{mount} && {variable}={} exec {} {child} --exact --nocapture", folder.display(), program.display());
    let unshared = |script: &str| Command::new("unshare").args(["-Urm", "sh", "-c", script]).output();
    if !unshared(&mount).is_ok_and(|output| output.status.success()) {
        let _ = writeln!(std::io::stderr(), "SKIPPED: a full disk: this machine lets nobody mount a small file system");
        return None;
    }
    Some(unshared(&script).unwrap())
}

/// Asserts that the child has passed and has printed `what`.
pub(crate) fn assert_said(output: &Output, what: &str) {
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains(what), "{said}{errors}");
}
