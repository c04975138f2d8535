//! What only shared memory can get wrong; the rest is in the conformance suite.

use super::exchange::MAGIC;
use super::wake::HEADER_LEN;
use super::*;
use crate::error::Error;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::eventfd::EfdFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

const SPEC: TableSpec = TableSpec { id: TableId(5), columns_len: 64, row_len: 8192 };

/// Only a bug lets a test wait so long.
fn patient() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

fn memfd(len: u64, seal: SealFlag) -> OwnedFd {
    let fd = memfd_create("test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    nix::unistd::ftruncate(&fd, i64::try_from(len).unwrap()).unwrap();
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seal)).unwrap();
    fd
}

/// A member of rank 1 of two that says and passes what a test wants; by default, what is right.
struct Fake {
    stream: UnixStream,
    words: Vec<u64>,
    fds: Vec<OwnedFd>,
}

impl Fake {
    fn new() -> (Fake, UnixStream) {
        let (stream, theirs) = UnixStream::pair().unwrap();
        let words = vec![MAGIC, 1, 2, 1, u64::from(SPEC.id.0), SPEC.columns_len as u64, SPEC.row_len as u64];
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap();
        let header = sealed::create(HEADER_LEN, HEADER_LEN).unwrap().0;
        let row = sealed::create(SPEC.row_len, SPEC.columns_len).unwrap().0;
        (Fake { stream, words, fds: vec![header, wake.into(), row] }, theirs)
    }

    fn say(&self, bytes: Range<usize>) {
        let all: Vec<u8> = self.words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let fds: Vec<_> = self.fds.iter().map(AsFd::as_fd).filter(|_| bytes.start == 0).collect();
        assert_eq!(scm::send(self.stream.as_fd(), &all[bytes.clone()], &fds), Ok(bytes.len()));
    }
}

fn meet(theirs: UnixStream, deadline: Instant) -> Result<(ShmFabric, Vec<TableRows>), SetupError> {
    ShmFabric::new(0, vec![None, Some(theirs)], &[SPEC], deadline)
}

/// What member 0 has against a fake.
fn fault(spoil: impl FnOnce(&mut Fake)) -> String {
    let (mut fake, theirs) = Fake::new();
    spoil(&mut fake);
    fake.say(0..8 * fake.words.len());
    match meet(theirs, patient()) {
        Err(SetupError::Peer(PeerFault { peer: 1, what })) => what,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the fake was taken"),
    }
}

fn pair() -> [(ShmFabric, TableRows); 2] {
    let (a, b) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| ShmFabric::new(1, vec![Some(b), None], &[SPEC], patient()).unwrap());
        let (fabric, mut tables) = meet(a, patient()).unwrap();
        let (other, mut others) = other.join().unwrap();
        [(fabric, tables.remove(0)), (other, others.remove(0))]
    })
}

#[test]
fn a_right_fake_is_taken_even_in_single_bytes() {
    let (fake, theirs) = Fake::new();
    let joined = std::thread::spawn(move || meet(theirs, patient()).map(|_| ()));
    for byte in 0..8 * fake.words.len() {
        fake.say(byte..byte + 1);
        std::thread::yield_now();
    }
    joined.join().unwrap().unwrap();
}

#[test]
fn memory_that_is_not_as_it_must_be_is_refused() {
    let len = SPEC.row_len as u64;
    let all = SealFlag::from_bits_retain(15 | libc::F_SEAL_FUTURE_WRITE) - SealFlag::F_SEAL_WRITE;
    for missing in [SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_FUTURE_WRITE, SealFlag::F_SEAL_SEAL, all] {
        let what = fault(|fake| fake.fds[2] = memfd(len, all - missing));
        assert!(what.contains("lacks the seals"), "{what}");
    }
    for wrong in [0, 4096, len - 1, len + 1, 1 << 40] {
        let what = fault(|fake| fake.fds[2] = memfd(wrong, all));
        assert!(what.contains(&format!("memory of {wrong} bytes instead of 8192")), "{what}");
    }
    let what = fault(|fake| fake.fds[2] = memfd(len, all));
    assert!(what.contains("of which only 0 exist"), "{what}");
    let what = fault(|fake| fake.fds[0] = memfd(8, all));
    assert!(what.contains("memory of 8 bytes instead of 4096"), "{what}");
    let what = fault(|fake| fake.fds[2] = fake.stream.try_clone().unwrap().into());
    assert!(what.contains("no memfd"), "{what}");
}

#[test]
fn wrong_descriptors_are_refused_and_none_leaks() {
    assert_eq!(fault(|fake| fake.fds.truncate(2)), "it passed 2 descriptors, not 3");
    assert_eq!(fault(|fake| fake.fds.clear()), "it passed 0 descriptors, not 3");
    let what = fault(|fake| fake.fds[1] = fake.stream.try_clone().unwrap().into());
    assert!(what.contains("no eventfd"), "{what}");
    let what = fault(|fake| fake.fds[1] = EventFd::new().unwrap().into());
    assert!(what.contains("blocks"), "{what}");
    // The end of a pipe says when the last copy of its other end is closed.
    let (mut read, write) = std::io::pipe().unwrap();
    let mut held = Vec::new();
    let what = fault(|fake| {
        fake.fds.extend((0..20).map(|_| OwnedFd::from(write.try_clone().unwrap())));
        held.push(write);
    });
    assert_eq!(what, "it passed 23 descriptors, not 3");
    held.clear();
    assert_eq!(read.read(&mut [0]).unwrap(), 0, "a refused descriptor is still open");
}

#[test]
fn a_peer_that_says_something_else_is_refused() {
    for (word, value, expected) in [
        (0, 0x0a0d_5448_5454_5047, "not Galerna's"),
        (1, 0, "its rank is 0"),
        (2, 3, "3 members, not 2"),
        (3, 7, "7 tables, not 1"),
        (4, 6, "number of its table at position 0 is 6, not 5"),
        (5, 128, "length of the columns of its table at position 0 is 128, not 64"),
        (6, 1 << 50, "length of a row of its table"),
    ] {
        let what = fault(|fake| fake.words[word] = value);
        assert!(what.contains(expected), "{what}");
    }
}

#[test]
fn a_peer_that_goes_away_or_keeps_silent_is_named() {
    let (fake, theirs) = Fake::new();
    fake.say(0..20);
    drop(fake);
    let error = meet(theirs, patient()).err().unwrap().to_string();
    assert!(error.contains("the member of rank 1: "), "{error}");

    let (fake, theirs) = Fake::new();
    fake.say(0..20);
    let (_silent, other) = UnixStream::pair().unwrap();
    let deadline = Instant::now() + Duration::from_millis(20);
    let links = vec![None, Some(theirs), Some(other)];
    // The fake counts two members; it falls silent in the middle of that word.
    let Err(error) = ShmFabric::new(0, links, &[SPEC], deadline) else { panic!("nobody was there") };
    let SetupError::Missing(faults) = error else { panic!("{error}") };
    assert_eq!(faults[0], PeerFault { peer: 1, what: "it sent only 20 of 56 bytes".into() });
    assert_eq!(faults[1], PeerFault { peer: 2, what: "it is connected, but sent nothing".into() });
}

#[test]
fn arguments_are_checked() {
    let (a, _b) = UnixStream::pair().unwrap();
    let misuse = |links, specs: &[TableSpec]| {
        let result = ShmFabric::new(0, links, specs, patient());
        assert!(matches!(result, Err(SetupError::Local(Error::Misuse(_)))));
    };
    misuse(vec![None, None], &[SPEC]);
    misuse(vec![Some(a)], &[SPEC]);
    misuse(vec![], &[SPEC]);
    misuse(vec![None], &[TableSpec { row_len: 0, columns_len: 0, ..SPEC }]);
    misuse(vec![None], &[TableSpec { columns_len: 8, ..SPEC }]);
    misuse(vec![None], &[TableSpec { columns_len: 16_384, ..SPEC }]);
    misuse(vec![None], &vec![SPEC; 300]);
    let (fabric, tables) = ShmFabric::new(0, vec![None], &[SPEC], patient()).unwrap();
    assert!(fabric.closed() && tables[0].rows.len() == 1);
}

#[test]
fn a_peer_cannot_write_or_shrink_our_row() {
    let (fake, theirs) = Fake::new();
    fake.say(0..56);
    let (_fabric, _tables) = meet(theirs, patient()).unwrap();
    let mut fds = Vec::new();
    assert_eq!(scm::receive(fake.stream.as_fd(), &mut [0; 56], &mut fds), Ok(56));
    let len = NonZeroUsize::new(SPEC.row_len).unwrap();
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a map at an address of the kernel's choice; it is refused anyhow.
    assert!(unsafe { mmap(None, len, prot, MapFlags::MAP_SHARED, &fds[2], 0) }.is_err());
    assert!(nix::unistd::ftruncate(&fds[2], 0).is_err());
    assert!(nix::unistd::write(&fds[2], b"x").is_err());
}

#[test]
fn a_byte_after_set_up_is_a_breach() {
    let [(mut a, rows), (b, others)] = pair();
    others.rows[1].word(0).store(1, Ordering::Release);
    (&b.peers[0].link.as_ref().unwrap().stream).write_all(b"!").unwrap();
    let mut events = Vec::new();
    // Neither armed nor idle: noticed all the same.
    for _ in 0..LOOK_EVERY {
        a.write(1, SPEC.id, 0..8, Source::Snapshot);
        a.poll(&mut events);
    }
    assert!(matches!(&events[..], [Event::Breach { peer: 1, what }] if what.contains("byte 33")), "{events:?}");
    others.rows[1].word(0).store(2, Ordering::Release);
    assert_eq!(rows.rows[1].word(0).load(Ordering::Acquire), 1, "a severed peer's store is seen");
    assert!(a.closed());
}

#[test]
fn a_dead_peer_is_noticed_in_a_bounded_number_of_polls() {
    let [(mut a, _rows), (b, _others)] = pair();
    drop(b);
    let mut events = Vec::new();
    for _ in 0..LOOK_EVERY {
        a.poll(&mut events);
    }
    assert!(matches!(&events[..], [Event::LinkDown { peer: 1, .. }]), "{events:?}");
}

#[test]
fn a_sleeper_is_woken_once_per_sleep() {
    let [(mut a, _rows), (mut b, _others)] = pair();
    let mut events = Vec::new();
    let mut post = |times: usize| {
        for _ in 0..times {
            a.write(1, SPEC.id, 0..8, Source::Snapshot);
            a.submit();
        }
        a.stats().system_calls
    };
    assert_eq!(post(10), 0, "nobody sleeps");
    assert!(b.poll(&mut events));
    assert!(!b.poll(&mut events));
    b.arm();
    assert!(!b.poll(&mut events));
    assert_eq!(post(10), 1);
    assert!(b.poll(&mut events));
    assert!(!b.poll(&mut events));
    assert_eq!(post(10), 2, "the poll of a sleeper asks to be woken again");
    b.disarm();
    assert!(b.poll(&mut events));
    assert_eq!(post(10), 2);
    assert_eq!(events, []);
}

#[test]
fn a_row_that_was_severed_outlives_the_fabric_and_keeps_its_bytes() {
    let [(mut a, rows), (b, others)] = pair();
    let (row, own) = (&rows.rows[1], &others.rows[1]);
    for offset in (0..SPEC.row_len).step_by(8) {
        own.word(offset).store(offset as u64 + 1, Ordering::Release);
    }
    let lent = row.word(4096);
    a.sever(1);
    drop((a, b));
    for offset in (0..SPEC.row_len).step_by(8) {
        own.word(offset).store(0, Ordering::Release);
        assert_eq!(row.word(offset).load(Ordering::Acquire), offset as u64 + 1);
    }
    assert_eq!(lent.load(Ordering::Acquire), 4097);
}

#[test]
fn a_row_severed_while_its_owner_writes_has_the_data_of_its_counter() {
    use std::sync::atomic::AtomicBool;
    for _ in 0..20 {
        let [(mut a, rows), (_b, others)] = pair();
        let (row, own, over) = (&rows.rows[1], &others.rows[1], AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1.. {
                    (8..SPEC.row_len).step_by(8).for_each(|at| own.word(at).store(round, Ordering::Relaxed));
                    own.word(0).store(round, Ordering::Release);
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            while row.word(0).load(Ordering::Relaxed) < 3 {
                std::thread::yield_now();
            }
            a.sever(1);
            over.store(true, Ordering::Relaxed);
        });
        let counter = row.word(0).load(Ordering::Acquire);
        assert!((8..SPEC.row_len).step_by(8).all(|at| row.word(at).load(Ordering::Relaxed) >= counter));
    }
}
