//! A process votes as soon as its `join` has returned: the group survives if another member dies at that moment.

use super::common;
use super::folder::Folder;
use super::rounds::{MEMBERS, Member, configure, start};
use galerna::FabricKind;
use std::path::Path;
use std::time::{Duration, Instant};

const TRIES: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);

fn lines(history: &Path) -> usize {
    let text = std::fs::read_to_string(history).unwrap_or_default();
    assert!(!text.contains("# stopped"), "{}: {}", history.display(), text.lines().last().unwrap_or_default());
    text.lines().count()
}

/// Waits until all of them are delivered more.
fn go_on(members: &[&Member]) {
    let deadline = Instant::now() + PATIENCE;
    for member in members {
        let before = lines(&member.history);
        while lines(&member.history) < before + 20 {
            assert!(Instant::now() < deadline, "{} does not grow: the group is dead", member.history.display());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn the_group_lives_if_a_member_dies_as_another_has_just_come_back() {
    let folder = Folder::new("votes");
    configure(&folder.0, &folder.0.join("logs"), &common::addresses(FabricKind::Tcp, MEMBERS));
    let mut life = 0;
    let mut begin = |id: u32| {
        life += 1;
        start(&folder.0, id, life, &[])
    };
    let [mut first, mut second, mut third] = [1, 2, 3].map(&mut begin);
    for member in [&mut first, &mut second, &mut third] {
        member.hear("joined");
    }
    for _ in 0..TRIES {
        third.kill();
        third = begin(3);
        third.hear("joined");
        second.kill();
        go_on(&[&first, &third]);
        second = begin(2);
        second.hear("joined");
    }
    go_on(&[&first, &second, &third]);
}
