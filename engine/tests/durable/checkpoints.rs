//! Two threads ask for a checkpoint at the same time.

use super::group::{List, MAIN, PATIENCE, config, send, wait};
use super::rounds::Folder;
use galerna::{Delivery, FabricKind, Group, Handler, MemberId};
use std::io::Read;
use std::time::Duration;

/// A state that takes a while to read, as a large one does.
struct Slow(List);

struct SlowState(std::io::Cursor<Vec<u8>>);

impl Read for SlowState {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        std::thread::sleep(Duration::from_millis(200));
        let len = into.len().min(8);
        self.0.read(&mut into[..len])
    }
}

impl Handler for Slow {
    fn deliver(&mut self, message: Delivery<'_>) {
        self.0.deliver(message);
    }

    fn snapshot(&mut self) -> std::io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(SlowState(std::io::Cursor::new(self.0.all().join("\n").into_bytes()))))
    }

    fn restore(&mut self, state: &mut dyn Read) -> std::io::Result<()> {
        self.0.restore(state)
    }
}

#[test]
fn two_checkpoints_at_the_same_time() {
    let folder = Folder::new("checkpoints");
    let config = config(&folder, FabricKind::Tcp, 1);
    let list = List::default();
    let group = Group::join(config.clone().with_member(MemberId(1)), Slow(list.clone())).unwrap();
    for i in 0..4 {
        send(&group, &format!("{i}"));
    }
    group.persist(MAIN, PATIENCE).unwrap();
    wait("delivery", || list.all().len() == 4);
    let taken: Vec<_> = std::thread::scope(|scope| {
        let ask = |after_ms| {
            let group = &group;
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(after_ms));
                group.checkpoint(MAIN, PATIENCE)
            })
        };
        [ask(0), ask(250)].into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    println!("{taken:?}; stopped: {:?}", group.stopped());
    std::thread::sleep(Duration::from_millis(500));
    let stopped = group.stopped();
    drop(group);
    let back = Group::join(config.clone().with_member(MemberId(1)), List::default());
    println!("stopped: {stopped:?}; back: {:?}", back.as_ref().map(|_| ()));
    assert!(stopped.is_none(), "a member stops because two threads asked for a checkpoint: {stopped:?}");
    assert!(taken.iter().all(Result::is_ok), "{taken:?}");
}

/// One that was given up and one that is asked for next: the first is still on its way to the disk.
#[test]
fn a_process_that_ends_in_the_middle_of_two_checkpoints() {
    let folder = Folder::new("checkpoints-crash");
    let config = config(&folder, FabricKind::Tcp, 1);
    let list = List::default();
    let group = Group::join(config.clone().with_member(MemberId(1)), Slow(list.clone())).unwrap();
    for i in 0..4 {
        send(&group, &format!("{i}"));
    }
    group.persist(MAIN, PATIENCE).unwrap();
    wait("delivery", || list.all().len() == 4);
    let first = group.clone();
    let first = std::thread::spawn(move || first.checkpoint(MAIN, PATIENCE));
    std::thread::sleep(Duration::from_millis(250));
    let second = group.clone();
    let second = std::thread::spawn(move || second.checkpoint(MAIN, PATIENCE));
    println!("the first: {:?}", first.join().unwrap());
    // The power goes here: what is on the disk now is copied.
    let copy = folder.0.join("copy");
    std::fs::create_dir_all(copy.join("list-1")).unwrap();
    for entry in std::fs::read_dir(folder.0.join("logs/list-1")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join("list-1").join(entry.file_name())).unwrap();
    }
    println!("the second: {:?}", second.join().unwrap());
    drop(group);
    let mut after = config.clone();
    after.log.as_mut().unwrap().directory = copy;
    let back = join_one(&after);
    assert!(back.is_ok(), "a checkpoint that was acknowledged is damaged: {back:?}");
}

fn join_one(config: &galerna::Config) -> Result<Vec<String>, String> {
    let list = List::default();
    let group =
        Group::join(config.clone().with_member(MemberId(1)), list.clone()).map_err(|error| error.to_string())?;
    drop(group);
    Ok(list.all())
}
