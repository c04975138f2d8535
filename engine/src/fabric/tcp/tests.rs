//! Tests that the shared conformance suite cannot make: the exact bytes on the wire, and peers that send wrong ones.

mod fetches;
mod fuzz;
mod queues;

use super::*;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{setsockopt, sockopt};
use proptest::prelude::*;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::Ordering;

const SPECS: [TableSpec; 2] = [
    TableSpec { id: TableId(1), columns_len: 128, row_len: 64 << 10 },
    TableSpec { id: TableId(7), columns_len: 64, row_len: 64 },
];
const TABLE: TableId = TableId(1);

fn connected(address: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(address).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// The slot of the fabric under test.
const ME: Slot = 5;
/// The slot that the test itself plays.
const PEER: Slot = 1;
/// The slot of a severed process, of which the rows still exist.
const THIRD: Slot = 2;

struct Subject {
    fabric: TcpFabric,
    /// The rows of each table: the own ones, those of [`PEER`] and those of [`THIRD`].
    rows: [Vec<Arc<Row>>; 3],
    peer: TcpStream,
    events: Vec<Event>,
}

impl Subject {
    fn new() -> Subject {
        Subject::over(connected("127.0.0.1:0"), &SPECS)
    }

    fn over((near, peer): (TcpStream, TcpStream), specs: &[TableSpec]) -> Subject {
        let (mut fabric, own) = TcpFabric::new(ME, specs).unwrap();
        let of_peer = fabric.attach(PEER, Connection::Tcp(near.into())).unwrap();
        let of_third = fabric.attach(THIRD, Connection::Tcp(connected("127.0.0.1:0").0.into())).unwrap();
        fabric.sever(THIRD);
        Subject { fabric, rows: [own, of_peer, of_third], peer, events: vec![] }
    }

    /// Sleeps on the descriptor whenever a poll finds nothing, so that a lost wake-up makes the test hang.
    fn poll_until(&mut self, done: impl Fn(&Subject) -> bool) {
        while !done(self) {
            if !self.fabric.poll(&mut self.events) && !done(self) {
                sleep(&self.fabric);
            }
        }
    }

    fn deliver(&mut self, bytes: &[u8]) {
        let want = self.fabric.stats().bytes_received + bytes.len() as u64;
        self.peer.write_all(bytes).unwrap();
        self.poll_until(|s| s.fabric.stats().bytes_received == want || !s.events.is_empty());
    }

    /// The contents of a row; `owner` is an index of `rows`.
    fn row(&self, table: usize, owner: usize) -> Vec<u8> {
        contents(&self.rows[owner][table])
    }

    fn cause(&self) -> &str {
        match &self.events[..] {
            [Event::LinkDown { peer: 1, cause }] => cause,
            other => panic!("{other:?}"),
        }
    }
}

fn sleep(fabric: &TcpFabric) {
    let mut fds = [PollFd::new(fabric.fd().unwrap(), PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, PollTimeout::NONE).unwrap();
}

fn readable(fabric: &TcpFabric) -> bool {
    let mut fds = [PollFd::new(fabric.fd().unwrap(), PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
}

fn contents(row: &Row) -> Vec<u8> {
    let mut bytes = vec![0; row.len()];
    row.load_words(0, &mut bytes);
    bytes
}

fn fill(row: &Row, seed: u64) {
    for offset in (0..row.len()).step_by(8) {
        row.word(offset).store((offset as u64 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15), Ordering::Relaxed);
    }
}

fn header(kind: u8, reserved: u8, table: u16, len: u32, offset: u64) -> Vec<u8> {
    let mut bytes = vec![kind, reserved];
    bytes.extend(table.to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

fn frame(table: u16, offset: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(1, 0, table, payload.len() as u32, offset);
    bytes.extend(payload);
    bytes
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect()
}

/// Writes of columns and data to both tables, short and long ones.
fn valid_stream() -> Vec<u8> {
    let mut stream = frame(1, 16, &pattern(24, 1));
    stream.extend(frame(1, 128, &pattern(72, 2)));
    stream.extend(frame(7, 0, &pattern(64, 3)));
    stream.extend(frame(1, 1024, &pattern(8, 4)));
    stream.extend(frame(1, 16, &pattern(8, 5)));
    stream
}

/// A second, independent decoder: the peer's rows after a stream, and whether the stream violates the protocol.
fn model(mut stream: &[u8], specs: &[TableSpec]) -> (Vec<Vec<u8>>, bool) {
    let mut rows: Vec<Vec<u8>> = specs.iter().map(|spec| vec![0; spec.row_len]).collect();
    while stream.len() >= 16 {
        let (header, rest) = stream.split_at(16);
        let id = u16::from_le_bytes(header[2..4].try_into().unwrap());
        let len = u128::from(u32::from_le_bytes(header[4..8].try_into().unwrap()));
        let offset = u128::from(u64::from_le_bytes(header[8..].try_into().unwrap()));
        let Some(table) = specs.iter().position(|s| s.id.0 == id) else {
            return (rows, true);
        };
        let (columns, row) = (specs[table].columns_len as u128, specs[table].row_len as u128);
        let words = len > 0 && len.is_multiple_of(8) && offset.is_multiple_of(8);
        if header[0] == 2 {
            // A request has no payload, and changes nothing here.
            let known = [ME, PEER, THIRD].contains(&usize::from(header[1]));
            if !known || !words || offset < columns || offset + len > row {
                return (rows, true);
            }
            stream = rest;
            continue;
        }
        let crosses = offset < columns && offset + len > columns;
        if header[..2] != [1, 0] || !words || crosses || offset + len > row {
            return (rows, true);
        }
        let mut taken = rest.len().min(len as usize);
        let applied = if offset < columns { taken / 8 * 8 } else { taken };
        rows[table][offset as usize..][..applied].copy_from_slice(&rest[..applied]);
        if applied < taken {
            taken = rest.len();
        }
        stream = &rest[taken..];
    }
    (rows, false)
}

fn assert_rows(subject: &Subject, want: &[Vec<u8>]) {
    for (table, want) in want.iter().enumerate() {
        assert!(subject.row(table, 1) == *want, "the peer's row of table {table}");
        for owner in [0, 2] {
            assert!(subject.row(table, owner).iter().all(|&byte| byte == 0), "row {owner} of table {table}");
        }
    }
}

#[test]
fn breaches_are_severed_and_told() {
    let cases = [
        (header(4, 0, 1, 8, 0), "unknown kind 4"),
        (header(0, 0, 1, 8, 0), "unknown kind 0"),
        (header(1, 9, 1, 8, 0), "reserved byte 9"),
        (header(1, 0, 2, 8, 0), "unknown table 2"),
        (header(1, 0, 1, 0, 0), "0 bytes at 0"),
        (header(1, 0, 1, 12, 0), "12 bytes at 0"),
        (header(1, 0, 1, 8, 4), "8 bytes at 4"),
        (header(1, 0, 1, 8, 64 << 10), "8 bytes at 65536 of table 1, which has rows of 65536 bytes"),
        (header(1, 0, 1, 16, (64 << 10) - 8), "16 bytes at 65528"),
        (header(1, 0, 1, u32::MAX - 7, 128), "4294967288 bytes at 128"),
        (header(1, 0, 1, 8, u64::MAX - 7), "8 bytes at 18446744073709551608"),
        (header(1, 0, 1, 16, 120), "across the end of its columns at 128"),
    ];
    for (bad, text) in cases {
        let mut subject = Subject::new();
        let mut stream = frame(1, 0, &[7; 8]);
        stream.extend(bad);
        stream.extend(frame(1, 8, &[8; 8]));
        subject.deliver(&stream);
        match &subject.events[..] {
            [Event::Violation { peer: 1, what }] => assert!(what.contains(text), "{what}, not {text}"),
            other => panic!("{other:?}, not {text}"),
        }
        let mut want = vec![vec![0; 64 << 10], vec![0; 64]];
        want[0][..8].fill(7);
        assert_rows(&subject, &want);
        assert!(subject.fabric.closed());
        assert!(!subject.fabric.poll(&mut subject.events) && subject.events.len() == 1);
        assert!(!readable(&subject.fabric));
        let mut rest = vec![];
        match subject.peer.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.is_empty()),
            Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset),
        }
    }
}

#[test]
fn a_stream_may_be_cut_anywhere() {
    let stream = valid_stream();
    let (want, _) = model(&stream, &SPECS);
    for cut in 0..stream.len() {
        let mut subject = Subject::new();
        subject.deliver(&stream[..cut]);
        assert_rows(&subject, &model(&stream[..cut], &SPECS).0);
        subject.deliver(&stream[cut..]);
        assert_rows(&subject, &want);
        assert!(subject.events.is_empty());
    }
    let mut subject = Subject::new();
    for (i, &byte) in stream.iter().enumerate() {
        subject.deliver(&[byte]);
        assert_rows(&subject, &model(&stream[..=i], &SPECS).0);
    }
}

#[test]
fn all_that_arrived_before_the_end_has_landed() {
    let stream = valid_stream();
    let mut ends = vec![0];
    for len in [24, 72, 64, 8, 8] {
        ends.push(ends[ends.len() - 1] + 16 + len);
    }
    for cut in 0..=stream.len() {
        let mut subject = Subject::new();
        subject.peer.write_all(&stream[..cut]).unwrap();
        subject.peer.shutdown(Shutdown::Write).unwrap();
        subject.poll_until(|s| !s.events.is_empty());
        assert_rows(&subject, &model(&stream[..cut], &SPECS).0);
        let inside = if ends.contains(&cut) { "" } else { " in the middle of a write" };
        assert_eq!(subject.cause(), format!("the peer closed the connection{inside}"));
        assert!(!subject.fabric.poll(&mut subject.events) && !readable(&subject.fabric) && subject.fabric.closed());
    }
}

/// Ends the connection with a reset, as the kernel does for a process that dies with unread bytes.
fn reset(subject: &mut Subject) {
    let peer = std::mem::replace(&mut subject.peer, connected("127.0.0.1:0").0);
    setsockopt(&peer, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
}

#[test]
fn a_reset_comes_after_what_arrived() {
    let mut subject = Subject::new();
    let payload = pattern(8_000, 1);
    // In one piece, since a reset drops the bytes that the sender's kernel still holds back.
    subject.peer.write_all(&[frame(1, 128, &payload), frame(1, 0, &[1; 8])].concat()).unwrap();
    reset(&mut subject);
    subject.poll_until(|s| !s.events.is_empty());
    assert!(
        subject.cause().starts_with("the peer closed the connection (Connection reset by peer"),
        "{}",
        subject.cause()
    );
    assert_eq!(subject.row(0, 1)[128..8_128], payload);
    assert_eq!(subject.row(0, 1)[..8], [1; 8]);
}

#[test]
fn a_send_that_fails_leaves_what_arrived_to_be_read() {
    let mut subject = Subject::new();
    subject.peer.write_all(&frame(1, 0, &[1; 8])).unwrap();
    reset(&mut subject);
    // The socket has received the reset, but the fabric has not noticed it yet.
    sleep(&subject.fabric);
    while subject.fabric.links.get_mut(PEER).unwrap().takes_writes() {
        subject.fabric.write(1, TABLE, 128..64 << 10, Source::Stable);
        subject.fabric.submit();
    }
    assert!(!subject.fabric.has_unsent());
    let last = subject.fabric.completed();
    assert_eq!(subject.fabric.write(1, TABLE, 0..8, Source::Snapshot), last);
    subject.poll_until(|s| !s.events.is_empty());
    assert!(subject.cause().contains("os error"), "{}", subject.cause());
    assert_eq!(subject.row(0, 1)[..8], [1; 8]);
}

#[test]
fn ipv6() {
    let mut subject = Subject::over(connected("[::1]:0"), &SPECS);
    subject.deliver(&valid_stream());
    assert_rows(&subject, &model(&valid_stream(), &SPECS).0);
    fill(&subject.rows[0][0], 1);
    subject.fabric.write(1, TABLE, 128..1024, Source::Stable);
    subject.fabric.submit();
    let mut got = vec![0; 16 + 896];
    subject.peer.read_exact(&mut got).unwrap();
    assert_eq!(got, frame(1, 128, &subject.row(0, 0)[128..1024]));
}

#[test]
fn columns_and_data_larger_than_any_buffer() {
    let specs = [TableSpec { id: TABLE, columns_len: 1 << 20, row_len: 4 << 20 }];
    let mut subject = Subject::over(connected("127.0.0.1:0"), &specs);
    let mut stream = frame(1, 0, &pattern(1 << 20, 1));
    stream.extend(frame(1, 1 << 20, &pattern(3 << 20, 2)));
    stream.extend(frame(1, 8, &pattern(8, 3)));
    let mut writer = subject.peer.try_clone().unwrap();
    let sent = stream.clone();
    let thread = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let want = stream.len() as u64;
    subject.poll_until(|s| s.fabric.stats().bytes_received == want);
    thread.join().unwrap();
    assert_rows(&subject, &model(&stream, &specs).0);
}

#[test]
fn impossible_arguments_are_refused() {
    let refused = |me, spec: &[TableSpec]| matches!(TcpFabric::new(me, spec), Err(Error::Misuse(_)));
    let spec = |columns_len, row_len| TableSpec { id: TABLE, columns_len, row_len };
    assert!(refused(SLOTS, &SPECS));
    assert!(refused(usize::MAX, &SPECS));
    for bad in [spec(0, 0), spec(128, 64), spec(8, 64), spec(64, 100), spec(64, 1 << 32)] {
        assert!(refused(0, &[bad]), "{bad:?}");
    }
    assert!(refused(0, &[spec(64, 64), spec(64, 128)]));
    let (alone, rows) = TcpFabric::new(SLOTS - 1, &SPECS).unwrap();
    assert!(alone.closed());
    assert_eq!(rows.iter().map(|row| row.len()).collect::<Vec<_>>(), [64 << 10, 64]);
}

#[test]
#[should_panic(expected = "crosses 128")]
fn the_caller_must_not_cross_the_columns() {
    Subject::new().fabric.write(1, TABLE, 120..136, Source::Stable);
}

/// Correct, almost correct and wrong headers, and arbitrary bytes.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let words = prop_oneof![Just(0u64), Just(1), 0..40u64, Just(8191), Just(8192), Just(u64::MAX / 8)];
    let valid = (prop_oneof![Just(1u16), Just(7)], 0..16u64, 1..9u64, any::<u8>())
        .prop_map(|(table, at, len, seed)| frame(table, at * 8, &pattern(len as usize * 8, seed)));
    let near = (0..4u8, 0..6u8, 0..9u16, words, 0..40u32, -1..2i8, any::<u8>()).prop_map(
        |(kind, reserved, table, at, len, skew, seed)| {
            let offset = (at * 8).wrapping_add_signed(i64::from(skew));
            let mut bytes = header(kind, reserved, table, len * 8, offset);
            bytes.extend(pattern(len as usize * 8, seed));
            bytes
        },
    );
    prop_oneof![8 => valid, 2 => near, 1 => prop::collection::vec(any::<u8>(), 0..40)]
}

proptest! {
    #[test]
    fn any_stream_is_harmless(pieces in prop::collection::vec(pieces(), 0..20), cut in any::<prop::sample::Index>()) {
        let stream = pieces.concat();
        let (want, breach) = model(&stream, &SPECS);
        let mut subject = Subject::new();
        let (early, late) = stream.split_at(cut.index(stream.len() + 1));
        subject.peer.write_all(early).unwrap();
        subject.fabric.poll(&mut subject.events);
        // Fails if the fabric has severed us already.
        let _ = subject.peer.write_all(late);
        let _ = subject.peer.shutdown(Shutdown::Write);
        subject.poll_until(|s| !s.events.is_empty());
        prop_assert_eq!(matches!(subject.events[..], [Event::Violation { .. }]), breach);
        prop_assert_eq!(subject.events.len(), 1);
        assert_rows(&subject, &want);
    }
}
