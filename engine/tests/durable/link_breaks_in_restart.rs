//! A link breaks between two processes that are being restarted, while both wait for a third one.

use super::common;
use super::folder::Folder;
use super::rounds::{MEMBERS, Member, configure, start};
use galerna::FabricKind;
use nix::sys::socket::{Shutdown, SockaddrStorage, getpeername, shutdown};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The environment variable that names a file: once the file exists, the member's process breaks its links.
const BREAKS: &str = "GALERNA_DURABLE_BREAKS";
const LOOK_TIME: Duration = Duration::from_millis(300);

/// The connections of this process, with their inodes, since a descriptor's number may be used again.
fn connections() -> HashSet<(RawFd, PathBuf)> {
    let numbers =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let connected = numbers.filter(|&fd| getpeername::<SockaddrStorage>(fd).is_ok());
    connected.filter_map(|fd| Some((fd, std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?))).collect()
}

/// Breaks the links once the file exists, and writes their number to another file. A connection counts as a link if it
/// is open for longer than any request takes.
pub(crate) fn break_when_told() {
    let Some(told) = std::env::var_os(BREAKS).map(PathBuf::from) else { return };
    std::thread::spawn(move || {
        while !told.exists() {
            std::thread::sleep(LOOK_TIME);
        }
        let links = loop {
            let before = connections();
            std::thread::sleep(3 * LOOK_TIME);
            let links: Vec<_> = connections().intersection(&before).cloned().collect();
            // On a busy machine the first link may take a while.
            if !links.is_empty() {
                break links;
            }
        };
        let broken = links.iter().filter(|(fd, _)| shutdown(*fd, Shutdown::Both).is_ok()).count();
        std::fs::write(told.with_extension("done"), broken.to_string()).unwrap();
    });
}

fn wait_for(file: &Path) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !file.exists() {
        assert!(Instant::now() < deadline, "no {}", file.display());
        std::thread::sleep(LOOK_TIME);
    }
    std::thread::sleep(LOOK_TIME);
    std::fs::read_to_string(file).unwrap()
}

#[test]
fn a_link_that_breaks_during_a_restart_is_made_again() {
    let folder = Folder::new("broken");
    let logs = folder.0.join("logs");
    configure(&folder.0, &logs, &common::addresses(FabricKind::Tcp, MEMBERS));
    let mut members: Vec<Member> = (1..=MEMBERS).map(|id| start(&folder.0, id, 0, &[])).collect();
    members.iter_mut().for_each(|member| member.hear("joined"));
    members.iter_mut().for_each(Member::kill);
    for id in 1..=MEMBERS {
        // The time in which the two members wait for the third.
        let path = folder.0.join(format!("{id}.toml"));
        let text = std::fs::read_to_string(&path).unwrap().replace("restart_wait_ms = 20000", "restart_wait_ms = 8000");
        std::fs::write(&path, text).unwrap();
    }
    let told = folder.0.join("break");
    let breaks: &[(&str, &OsStr)] = &[(BREAKS, told.as_os_str())];
    let mut members = [start(&folder.0, 1, 1, breaks), start(&folder.0, 2, 1, &[])];
    std::thread::sleep(Duration::from_secs(2));
    std::fs::write(&told, "").unwrap();
    assert_ne!(wait_for(&told.with_extension("done")), "0", "the link with the other member");
    members.iter_mut().for_each(|member| member.hear("joined"));
}
