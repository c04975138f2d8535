//! A small file system of one's own, for tests that fill it up.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

/// What came of this program's test `child`, run with `variable` naming a file system of `mib` MiB at `folder` that only it
/// sees. None, and that is said, where the machine lets nobody mount one.
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

/// The child is to have passed, and to have said so.
pub(crate) fn assert_said(output: &Output, what: &str) {
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains(what), "{said}{errors}");
}
