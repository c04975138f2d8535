//! Faults that only shared memory can have; the conformance suite covers the rest.

use super::super::turns::ASK_EVERY;
use super::exchange::MAGIC;
use super::wake::HEADER_LEN;
use super::*;
use crate::error::Error;
use crate::fabric::{PeerFault, SetupError};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::eventfd::EfdFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const SPEC: TableSpec = TableSpec { id: TableId(5), columns_len: 64, row_len: 8192 };

/// A deadline that only a bug lets a test reach.
fn patient() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

fn memfd(len: u64, seal: SealFlag) -> OwnedFd {
    let fd = memfd_create("test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    nix::unistd::ftruncate(&fd, i64::try_from(len).unwrap()).unwrap();
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seal)).unwrap();
    fd
}

/// The slots of the process under test and of its peer.
const ME: Slot = 5;
const PEER: Slot = 1;

/// The process in slot [`PEER`], which sends the words and descriptors that a test gives it; by default correct ones.
struct Fake {
    stream: UnixStream,
    words: Vec<u64>,
    fds: Vec<OwnedFd>,
}

impl Fake {
    fn new() -> (Fake, UnixStream) {
        let (stream, theirs) = UnixStream::pair().unwrap();
        let words = vec![
            MAGIC,
            PEER as u64,
            ME as u64,
            64,
            1,
            u64::from(SPEC.id.0),
            SPEC.columns_len as u64,
            SPEC.row_len as u64,
        ];
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

/// A fabric with its own row and its peer's row.
struct End {
    fabric: ShmFabric,
    own: Arc<Row>,
    row: Arc<Row>,
}

fn exchange(me: Slot, peer: Slot, stream: UnixStream) -> Result<End, SetupError> {
    let (mut fabric, own, offer) = ShmFabric::new(me, &[SPEC]).unwrap();
    let (of, prepared) = offer.exchange(vec![(peer, stream)], patient())?.remove(0);
    let rows = fabric.attach(of, Connection::Shm(prepared)).unwrap();
    Ok(End { fabric, own: own[0].clone(), row: rows[0].clone() })
}

fn meet(theirs: UnixStream) -> Result<End, SetupError> {
    exchange(ME, PEER, theirs)
}

/// The fault that a process reports about a fake peer.
fn fault(spoil: impl FnOnce(&mut Fake)) -> String {
    let (mut fake, theirs) = Fake::new();
    spoil(&mut fake);
    fake.say(0..8 * fake.words.len());
    match meet(theirs) {
        Err(SetupError::Peer(PeerFault { peer: PEER, what })) => what,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the fake was taken"),
    }
}

/// The two ends, in slots [`ME`] and [`PEER`].
fn pair() -> [End; 2] {
    let (a, b) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| exchange(PEER, ME, b).unwrap());
        [meet(a).unwrap(), other.join().unwrap()]
    })
}

#[test]
fn a_right_fake_is_taken_even_in_single_bytes() {
    let (fake, theirs) = Fake::new();
    let joined = std::thread::spawn(move || meet(theirs).map(|_| ()));
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
    assert!(what.contains("not a memfd"), "{what}");
}

#[test]
fn wrong_descriptors_are_refused_and_none_leaks() {
    assert_eq!(fault(|fake| fake.fds.truncate(2)), "it passed 2 descriptors, not 3");
    assert_eq!(fault(|fake| fake.fds.clear()), "it passed 0 descriptors, not 3");
    let what = fault(|fake| fake.fds[1] = fake.stream.try_clone().unwrap().into());
    assert!(what.contains("not an eventfd"), "{what}");
    let what = fault(|fake| fake.fds[1] = EventFd::new().unwrap().into());
    assert!(what.contains("blocks"), "{what}");
    // Reading a pipe returns its end when the last copy of the write end is closed.
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
        (1, 0, "its slot is 0, not 1"),
        (2, 63, "it addresses slot 63, but this process has slot 5"),
        (3, 128, "128 slots, not 64"),
        (4, 7, "7 tables, not 1"),
        (5, 6, "number of its table at position 0 is 6, not 5"),
        (6, 128, "length of the columns of its table at position 0 is 128, not 64"),
        (7, 1 << 50, "length of a row of its table"),
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
    let error = meet(theirs).err().unwrap().to_string();
    assert!(error.contains("the process in slot 1: "), "{error}");

    let (fake, theirs) = Fake::new();
    fake.say(0..20);
    let (_silent, other) = UnixStream::pair().unwrap();
    let deadline = Instant::now() + Duration::from_millis(20);
    let (_fabric, _own, offer) = ShmFabric::new(ME, &[SPEC]).unwrap();
    let links = vec![(PEER, theirs), (63, other)];
    let Err(error) = offer.exchange(links, deadline) else { panic!("nobody was there") };
    let SetupError::Missing(faults) = error else { panic!("{error}") };
    assert_eq!(faults[0], PeerFault { peer: PEER, what: "it sent only 20 of 64 bytes".into() });
    assert_eq!(faults[1], PeerFault { peer: 63, what: "it is connected, but sent nothing".into() });
}

#[test]
fn arguments_are_checked() {
    let misuse = |me, specs: &[TableSpec]| assert!(matches!(ShmFabric::new(me, specs), Err(Error::Misuse(_))));
    misuse(SLOTS, &[SPEC]);
    misuse(0, &[TableSpec { row_len: 0, columns_len: 0, ..SPEC }]);
    misuse(0, &[TableSpec { columns_len: 8, ..SPEC }]);
    misuse(0, &[TableSpec { columns_len: 16_384, ..SPEC }]);
    misuse(0, &vec![SPEC; 300]);
    let (fabric, rows, offer) = ShmFabric::new(SLOTS - 1, &[SPEC]).unwrap();
    assert!(fabric.closed() && rows.len() == 1 && rows[0].len() == SPEC.row_len);
    assert!(offer.exchange(Vec::<(Slot, UnixStream)>::new(), patient()).unwrap().is_empty());
    for slots in [vec![SLOTS - 1], vec![SLOTS], vec![3, 4, 3]] {
        let links = slots.into_iter().map(|slot| (slot, UnixStream::pair().unwrap().0)).collect();
        assert!(matches!(offer.exchange(links, patient()), Err(SetupError::Local(Error::Misuse(_)))));
    }
}

#[test]
fn memory_is_attached_where_it_was_exchanged_for() {
    let [End { fabric: mut other, .. }, _peer] = pair();
    let (mut fabric, _own, offer) = ShmFabric::new(ME, &[SPEC]).unwrap();
    let refused = |fabric: &mut ShmFabric, slot| {
        let (fake, theirs) = Fake::new();
        fake.say(0..64);
        let (_, prepared) = offer.exchange(vec![(PEER, theirs)], patient()).unwrap().remove(0);
        assert!(matches!(fabric.attach(slot, Connection::Shm(prepared)), Err(Error::Misuse(_))));
    };
    refused(&mut fabric, 2);
    refused(&mut fabric, SLOTS);
    refused(&mut other, PEER);
    assert!(fabric.closed() && !other.closed());
}

#[test]
fn all_exchange_with_all_at_once() {
    const SLOTS_USED: [Slot; 4] = [63, 0, 17, 5];
    let ends = SLOTS_USED.map(|slot| ShmFabric::new(slot, &[SPEC]).unwrap());
    let mut links: [Vec<(Slot, UnixStream)>; 4] = Default::default();
    for a in 0..4 {
        for b in 0..a {
            let (of_a, of_b) = UnixStream::pair().unwrap();
            links[a].push((SLOTS_USED[b], of_a));
            links[b].push((SLOTS_USED[a], of_b));
        }
    }
    std::thread::scope(|scope| {
        for ((_, _, offer), links) in ends.iter().zip(links) {
            scope.spawn(|| {
                let asked: Vec<_> = links.iter().map(|(slot, _)| *slot).collect();
                let prepared = offer.clone().exchange(links, patient()).unwrap();
                assert_eq!(prepared.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), asked);
            });
        }
    });
}

#[test]
fn a_peer_cannot_write_or_shrink_our_row() {
    let (fake, theirs) = Fake::new();
    fake.say(0..64);
    let _end = meet(theirs).unwrap();
    let mut fds = Vec::new();
    assert_eq!(scm::receive(fake.stream.as_fd(), &mut [0; 64], &mut fds), Ok(64));
    let len = NonZeroUsize::new(SPEC.row_len).unwrap();
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a map at an address of the kernel's choice; the kernel refuses it anyway.
    assert!(unsafe { mmap(None, len, prot, MapFlags::MAP_SHARED, &fds[2], 0) }.is_err());
    assert!(nix::unistd::ftruncate(&fds[2], 0).is_err());
    assert!(nix::unistd::write(&fds[2], b"x").is_err());
}

#[test]
fn a_byte_after_set_up_is_a_breach() {
    let [End { fabric: mut a, row, .. }, End { fabric: mut b, own, .. }] = pair();
    own.word(0).store(1, Ordering::Release);
    (&*b.links.get_mut(ME).unwrap().stream).write_all(b"!").unwrap();
    let mut events = Vec::new();
    // The fabric is neither armed nor idle, and must notice nevertheless.
    for _ in 0..ASK_EVERY {
        a.write(PEER, SPEC.id, 0..8, Source::Snapshot);
        a.poll(&mut events);
    }
    let is_told = |what: &str| what.contains("it passed 0 descriptors after the set-up");
    assert!(matches!(&events[..], [Event::Violation { peer: PEER, what }] if is_told(what)), "{events:?}");
    own.word(0).store(2, Ordering::Release);
    assert_eq!(row.word(0).load(Ordering::Acquire), 1, "a severed peer's store is seen");
    assert!(a.closed());
}

#[test]
fn a_dead_peer_is_noticed_in_a_bounded_number_of_polls() {
    let [End { fabric: mut a, .. }, b] = pair();
    drop(b);
    let mut events = Vec::new();
    for _ in 0..ASK_EVERY {
        a.poll(&mut events);
    }
    assert!(matches!(&events[..], [Event::LinkDown { peer: PEER, .. }]), "{events:?}");
}

#[test]
fn a_sleeper_is_woken_once_per_sleep() {
    let [End { fabric: mut a, .. }, End { fabric: mut b, .. }] = pair();
    let mut events = Vec::new();
    let mut post = |times: usize| {
        for _ in 0..times {
            a.write(PEER, SPEC.id, 0..8, Source::Snapshot);
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
    let [End { fabric: mut a, row, .. }, End { fabric: b, own, .. }] = pair();
    for offset in (0..SPEC.row_len).step_by(8) {
        own.word(offset).store(offset as u64 + 1, Ordering::Release);
    }
    let lent = row.word(4096);
    a.sever(PEER);
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
        let [End { fabric: mut a, row, .. }, End { fabric: _b, own, .. }] = pair();
        let over = AtomicBool::new(false);
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
            a.sever(PEER);
            over.store(true, Ordering::Relaxed);
        });
        let counter = row.word(0).load(Ordering::Acquire);
        assert!((8..SPEC.row_len).step_by(8).all(|at| row.word(at).load(Ordering::Relaxed) >= counter));
    }
}

/// Memory that a process sends after set-up is trusted no more than that of the set-up.
#[test]
fn new_memory_that_cannot_be_is_refused() {
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let right = || sealed::create(SPEC.row_len, SPEC.columns_len).unwrap().0;
    let table = u64::from(SPEC.id.0);
    let cases: [(Vec<u8>, Vec<OwnedFd>, bool, &str); 7] = [
        (words(&[table + 1, 3]), vec![right()], true, "memory of table 6"),
        (words(&[u64::MAX, 3]), vec![right()], true, "memory of table"),
        (words(&[table]), vec![right()], true, "it sent 8 bytes"),
        (words(&[table, 3]), vec![right(), right()], true, "it passed 2 descriptors"),
        (words(&[table, 0]), vec![right()], true, "epoch 0 after"),
        (words(&[table, 3]), vec![memfd(SPEC.row_len as u64, SealFlag::F_SEAL_SHRINK)], false, "lacks the seals"),
        (words(&[table, 3]), vec![sealed::create(4096, 64).unwrap().0], false, "4096 bytes instead of 8192"),
    ];
    for (bytes, fds, breaks, text) in cases {
        let [End { fabric: mut a, row, .. }, End { fabric: mut b, own, .. }] = pair();
        let stream = &b.links.get_mut(ME).unwrap().stream;
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        assert_eq!(scm::send(stream.as_fd(), &bytes, &fds), Ok(bytes.len()));
        let mut events = Vec::new();
        for _ in 0..ASK_EVERY {
            a.poll(&mut events);
        }
        let found = match &events[..] {
            [Event::Violation { what, .. }] if breaks => what,
            [Event::LinkDown { cause, .. }] if !breaks => cause,
            other => panic!("{text}: {other:?}"),
        };
        assert!(found.contains(text), "{found}");
        own.word(0).store(2, Ordering::Release);
        assert_eq!(row.word(0).load(Ordering::Acquire) == 2, !breaks, "only a breach severs");
    }
}

/// A peer that sends without end gets one turn at a time.
#[test]
fn a_flood_of_new_memory_ends() {
    let [End { fabric: mut a, .. }, End { fabric: mut b, .. }] = pair();
    let mut events = Vec::new();
    for epoch in 1..1000 {
        b.renew(SPEC.id, epoch, &[ME + 1]).unwrap().unwrap();
        b.poll(&mut events);
        if epoch % 100 == 0 {
            a.poll(&mut events);
        }
    }
    assert_eq!(events, []);
    // The last message arrives, no matter how many the stream refused before.
    let newest = (0..2000).find_map(|_| {
        b.poll(&mut events);
        match a.renewed(PEER, SPEC.id, 1000) {
            Renewed::New(row) => Some(row),
            _ => None,
        }
    });
    assert!(newest.is_some() && events.is_empty(), "{events:?}");
    assert!(matches!(a.renewed(PEER, SPEC.id, 1000), Renewed::Same));
}
