//! All processes of a group are stopped for a while with work queued for the disk: the disk must not be blamed for the
//! pause.

use super::common;
use super::disk_errors::{failing_disk, settled, stopped};
use super::folder::Folder;
use super::group::wait;
use super::rounds::{MEMBERS, Member, configure, start};
use galerna::FabricKind;
use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use std::ffi::OsStr;
use std::time::Duration;

/// Longer than a disk of this group may make no progress.
const PAUSE: Duration = Duration::from_secs(7);

#[test]
fn a_pause_of_all_processes_is_not_taken_for_dead_disks() {
    let folder = Folder::new("pauses");
    let logs = folder.0.join("logs");
    std::fs::create_dir(&logs).unwrap();
    let logs = logs.canonicalize().unwrap();
    configure(&folder.0, &logs, &common::addresses(FabricKind::Tcp, MEMBERS));
    let library = failing_disk(&folder.0);
    let trigger = folder.0.join("since");
    let slow: [(&str, &OsStr); 4] = [
        ("LD_PRELOAD", library.as_os_str()),
        ("FAILING_DIRECTORY", logs.as_os_str()),
        ("FAILING_CALLS", OsStr::new("slow")),
        ("FAILING_SINCE", trigger.as_os_str()),
    ];
    let mut members: Vec<Member> = (1..=MEMBERS).map(|id| start(&folder.0, id, 0, &slow)).collect();
    members.iter_mut().for_each(|member| member.hear("joined"));
    std::fs::write(&trigger, "").unwrap();
    for round in 0..2 {
        let before: Vec<usize> = members.iter().map(|member| settled(&member.history).len()).collect();
        let goes_on = |member: &Member, before: usize| {
            assert_eq!(stopped(&member.history), None, "round {round}");
            settled(&member.history).len() > before
        };
        wait("durable delivery", || members.iter().zip(&before).all(|(member, before)| goes_on(member, *before)));
        members.iter().for_each(|member| member.signal(SIGSTOP));
        let before: Vec<usize> = members.iter().map(|member| settled(&member.history).len()).collect();
        std::thread::sleep(PAUSE);
        members.iter().for_each(|member| member.signal(SIGCONT));
        wait("durable delivery after the pause", || {
            members.iter().zip(&before).all(|(member, before)| goes_on(member, *before))
        });
    }
    members.iter_mut().for_each(Member::kill);
}
