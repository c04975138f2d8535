//! Bad input of every kind, through the public API: a clear error each, no crash, nothing half-done.
//!
//! Peers that break the protocol are played by a [`Rogue`]: it joins as a correct member does, and then writes what it
//! likes on its connections (`{kind u8, reserved u8, table u16, len u32, offset u64}`, little endian, and the bytes).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use galerna::fabric::meet::meet_tcp;
use galerna::{Config, Delivery, Error, FabricKind, Group, Member, MemberId, Mode, SubgroupId};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const MAIN: SubgroupId = SubgroupId(0);
const LONG: Duration = Duration::from_secs(30);
const RING_BYTES: usize = 64 << 10;

/// Members 10, 20 and so on, on free ports of this host.
fn config(n: u32) -> Config {
    let listeners: Vec<_> = (0..n).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let member = |(rank, listener): (u32, &TcpListener)| Member {
        id: MemberId(10 * (rank + 1)),
        address: listener.local_addr().unwrap().to_string(),
    };
    let mut config = Config::new("bad-input", FabricKind::Tcp, (0..n).zip(&listeners).map(member).collect());
    config.ring_bytes = RING_BYTES;
    config.join_timeout_ms = 20_000;
    config
}

fn join(config: &Config, id: u32) -> Result<Group, Error> {
    Group::join(config.clone().with_member(MemberId(id)), |_: Delivery<'_>| {})
}

fn joining(config: &Config, id: u32) -> JoinHandle<Result<Group, Error>> {
    let config = config.clone();
    std::thread::spawn(move || join(&config, id))
}

fn refused<T>(result: Result<T, Error>) -> Error {
    result.map(|_| ()).expect_err("it was to be refused")
}

/// Asserts that the error's text has all these parts.
fn says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

/// Why the group stopped, once it has.
fn stopped(group: &Group) -> Error {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(reason) = group.stopped() {
            return reason;
        }
        assert!(Instant::now() < deadline, "the group goes on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn configurations_that_cannot_be() {
    let good = "group = 'g'\nmember = 1\nmembers = [{ id = 1, address = '127.0.0.1:7001' }, { id = 2, address = '127.0.0.1:7002' }]\n";
    Config::from_toml(good).unwrap();
    for (from, to, parts) in [
        ("group =", "color = 3\ngroup =", &["unknown field", "`color`"][..]),
        ("id = 2", "id = 2, port = 7", &["unknown field", "`port`"]),
        ("id = 2", "id = 1", &["two members have the id 1"]),
        ("7002", "7001", &["two members have the address 127.0.0.1:7001"]),
        ("7002", "70020", &["127.0.0.1:70020", "member 2", "1 to 65535"]),
        ("127.0.0.1:7002", "unix:x", &["unix:x", "member 2", "`tcp`"]),
        ("group =", "listen = 'here'\ngroup =", &["`listen` is `here`", "HOST:PORT"]),
        ("group = 'g'", "", &["missing field", "`group`"]),
        ("group = 'g'", "group = ''", &["`group`", "1 to 255 bytes"]),
        ("group =", "fabric = 'pigeon'\ngroup =", &["pigeon", "tcp", "shm"]),
        ("group =", "ring_bytes = 5000\ngroup =", &["`ring_bytes`", "5000", "power of two"]),
        ("group =", "max_message_bytes = 4194304\ngroup =", &["`max_message_bytes`", "4194304", "2097144"]),
        ("group =", "ring_bytes = -1\ngroup =", &["ring_bytes", "-1"]),
        ("group =", "group", &["TOML"]),
    ] {
        let error = refused(Config::from_toml(&good.replacen(from, to, 1)));
        assert!(matches!(error, Error::Config(_)), "{error}");
        says(&error, parts);
    }
    let error = refused(Config::from_file("no-such.toml"));
    assert!(matches!(error, Error::Io { .. }));
    says(&error, &["no-such.toml"]);
}

#[test]
fn a_wrong_number_of_members() {
    for n in [0, 65] {
        let mut wrong = config(1);
        wrong.members =
            (0..n).map(|id| Member { id: MemberId(id), address: format!("127.0.0.1:{}", 7000 + id) }).collect();
        let error = refused(join(&wrong, 0));
        assert!(matches!(error, Error::Config(_)), "{error}");
        says(&error, &["`members`", "1 to 64", &n.to_string()]);
    }
    let error = refused(join(&config(2), 30));
    assert!(matches!(error, Error::Config(_)), "{error}");
    says(&error, &["`member` is 30", "2 listed"]);

    let two = config(2);
    let mut three = two.clone();
    three.members.extend(config(1).members.into_iter().map(|m| Member { id: MemberId(30), ..m }));
    let (first, second) = (joining(&two, 10), joining(&three, 20));
    for (member, other, result) in [(10, 20, first.join().unwrap()), (20, 10, second.join().unwrap())] {
        let error = refused(result);
        let named = matches!(&error, Error::Disagreement { member, .. } if member.0 == other);
        assert!(named, "member {member}: {error}");
        says(&error, &["`number of members`", "2", "3"]);
    }
    // The addresses are free again.
    let (first, second) = (joining(&two, 10), joining(&two, 20));
    let _members = (first.join().unwrap().unwrap(), second.join().unwrap().unwrap());
}

#[test]
fn two_processes_with_one_id_and_a_port_in_use() {
    let config = config(2);
    let taken = TcpListener::bind(&config.members[1].address).unwrap();
    let error = refused(join(&config, 20));
    assert!(matches!(error, Error::Listen { .. }), "{error}");
    says(&error, &[&config.members[1].address, "uses this port"]);
    drop(taken);

    // While member 10 waits, another process with its id cannot start, and does not disturb it.
    let first = joining(&config, 10);
    while TcpStream::connect(&config.members[0].address).is_err() {}
    let error = refused(join(&config, 10));
    assert!(matches!(error, Error::Listen { .. }), "{error}");
    says(&error, &[&config.members[0].address, "running already"]);
    let second = joining(&config, 20);
    let members = (first.join().unwrap().unwrap(), second.join().unwrap().unwrap());
    members.0.send(MAIN, Mode::Safe, b"undisturbed", LONG).unwrap();
    members.0.flush(MAIN, 0, LONG).unwrap();
}

#[test]
fn a_message_over_the_limit() {
    let group = join(&config(1), 10).unwrap();
    let limit = group.max_message(MAIN).unwrap();
    assert_eq!(limit, RING_BYTES / 2 - 8);
    let large = vec![7; limit + 1];
    let calls = [
        refused(group.send(MAIN, Mode::Safe, &large, LONG)),
        refused(group.try_send(MAIN, Mode::Safe, &large)),
        refused(group.reserve(MAIN, limit + 1, LONG)),
        refused(group.try_reserve(MAIN, usize::MAX)),
    ];
    for error in &calls {
        assert!(matches!(error, Error::MessageTooLarge { limit: l, .. } if *l == limit), "{error}");
        says(error, &["32760 bytes", "`max_message_bytes`"]);
    }
    says(&calls[0], &["32761 bytes"]);
    let error = refused(group.try_send(SubgroupId(7), Mode::Safe, b"x"));
    assert!(matches!(error, Error::UnknownSubgroup(SubgroupId(7))));
    // Nothing of it was sent, and what is at the limit still is.
    group.send(MAIN, Mode::Safe, &large[1..], LONG).unwrap();
    group.leave(LONG).unwrap();
    assert_eq!(group.stats(MAIN).unwrap().messages_sent, 1);
}

/// Bytes that are no handshake, or only a part of one.
fn not_a_handshake() -> [Vec<u8>; 5] {
    [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 5000], noise(777, 4000), vec![0; 64], Vec::new()]
}

/// Bytes that are the same at every run.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn strangers_do_not_hold_up_the_meeting() {
    let config = config(2);
    let first = joining(&config, 10);
    let mut strangers = Vec::new();
    for bytes in not_a_handshake() {
        let mut stranger = loop {
            if let Ok(stream) = TcpStream::connect(&config.members[0].address) {
                break stream;
            }
        };
        // Some of it may be refused already.
        let _ = stranger.write_all(&bytes);
        strangers.push(stranger);
    }
    let second = joining(&config, 20);
    let members = (first.join().unwrap().unwrap(), second.join().unwrap().unwrap());
    members.1.send(MAIN, Mode::Safe, b"met", LONG).unwrap();
    members.1.flush(MAIN, 0, LONG).unwrap();
}

#[test]
fn an_impostor_at_a_members_address() {
    for bytes in not_a_handshake() {
        let mut config = config(2);
        config.join_timeout_ms = 700;
        let impostor = TcpListener::bind(&config.members[0].address).unwrap();
        let answer = bytes.clone();
        let accepting = impostor.try_clone().unwrap();
        // It ends with the listener's shutdown at the end of the test's process.
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = accepting.accept() {
                let _ = stream.read(&mut [0; 64]);
                let _ = stream.write_all(&answer);
            }
        });
        let error = refused(join(&config, 20));
        assert!(matches!(error, Error::Missing { .. } | Error::Refused { .. }), "{error}");
        says(&error, &["member 10", &config.members[0].address]);
    }
}

/// Member 20 of three, played by the test.
struct Rogue {
    /// To the members 10 and 30.
    to: [TcpStream; 2],
}

/// A write as it travels.
fn write(table: u16, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut wire = header(1, 0, table, u32::try_from(bytes.len()).unwrap(), offset);
    wire.extend_from_slice(bytes);
    wire
}

fn header(kind: u8, reserved: u8, table: u16, len: u32, offset: u64) -> Vec<u8> {
    let mut wire = vec![kind, reserved];
    wire.extend(table.to_le_bytes());
    wire.extend(len.to_le_bytes());
    wire.extend(offset.to_le_bytes());
    wire
}

/// A write of the columns `published` (frames, messages), `delivered`, `wanted` and `received` of the first sender.
fn columns(frames: u32, messages: u32, received: u64, delivered: u64) -> Vec<u8> {
    let published = u64::from(frames) | u64::from(messages) << 32;
    write(1, 0, &[published, delivered, 0, received, 0, 0].map(u64::to_le_bytes).concat())
}

/// What the rogue writes first: that it runs the view, as a correct member does.
fn installed() -> Vec<u8> {
    write(0, 0, &[1u64, 0, 0, 0, 0, 0, 0, 0].map(u64::to_le_bytes).concat())
}

/// Starts the members 10 and 30, and meets them; their joins go on.
fn meet_rogue(config: &Config) -> (Rogue, [JoinHandle<Result<Group, Error>>; 2]) {
    let joins = [joining(config, 10), joining(config, 30)];
    let me = config.clone().with_member(MemberId(20));
    let met = meet_tcp(&me, 1, 4711, Instant::now() + LONG).unwrap();
    let mut to = met.streams.into_iter().flatten();
    let to = [to.next().unwrap(), to.next().unwrap()];
    (Rogue { to }, joins)
}

fn join_rogue() -> (Rogue, [Group; 2]) {
    let (mut rogue, joins) = meet_rogue(&config(3));
    for stream in &mut rogue.to {
        stream.write_all(&installed()).unwrap();
    }
    (rogue, joins.map(|join| join.join().unwrap().unwrap()))
}

/// Sends `bytes` to the first `victims` of the members 10 and 30, then perhaps the end of the stream to 10. Returns why
/// they stopped.
fn misbehave(bytes: &[u8], victims: usize, and_close: bool) -> [Error; 2] {
    let (mut rogue, groups) = join_rogue();
    for stream in &mut rogue.to[..victims] {
        // It may be severed before the last byte is out.
        let _ = stream.write_all(bytes);
    }
    if and_close {
        rogue.to[0].shutdown(Shutdown::Write).unwrap();
    }
    let reasons = [stopped(&groups[0]), stopped(&groups[1])];
    for (group, reason) in groups.iter().zip(&reasons) {
        let error = refused(group.send(MAIN, Mode::Safe, b"too late", LONG));
        assert_eq!(error.to_string(), reason.to_string());
        assert_eq!(refused(group.flush(MAIN, 0, LONG)).to_string(), reason.to_string());
        refused(group.leave(LONG));
    }
    reasons
}

/// What breaks the protocol, and what is said of it.
fn breaches() -> Vec<(Vec<u8>, &'static str)> {
    let row_len = 64 + RING_BYTES as u64;
    vec![
        (header(7, 0, 1, 8, 0), "unknown kind 7"),
        (header(1, 9, 1, 8, 0), "reserved byte is 9"),
        (header(1, 0, 5, 8, 0), "unknown table 5"),
        (header(1, 0, 1, 0, 64), "0 bytes at 64"),
        (header(1, 0, 1, 12, 64), "no whole number of aligned words"),
        (header(1, 0, 1, 8, 68), "no whole number of aligned words"),
        (header(1, 0, 1, 8, row_len), "whose rows have 65600 bytes"),
        (header(1, 0, 1, u32::MAX - 7, 64), "whose rows have 65600 bytes"),
        (header(1, 0, 1, 16, u64::MAX - 7), "whose rows have 65600 bytes"),
        (header(1, 0, 1, 128, 0), "across the end of its columns at 64"),
        (header(1, 0, 0, 72, 0), "whose rows have 64 bytes"),
        (noise(1, 100_000), "unknown kind"),
        (vec![0xff; 100_000], "unknown kind 255"),
        (columns(u32::MAX, 0, 0, 0), "`published` went back"),
        (columns(0, u32::MAX, 0, 0), "`published` went back"),
        (columns(8193, 8193, 0, 0), "claims 8193 frames, more than its ring holds"),
        (columns(0, 0, 1000, 0), "its `received` of stream 0 is 1000"),
        (columns(0, 0, 0, u64::MAX), "its `delivered` is 18446744073709551615"),
    ]
}

/// The same, in what a counter has made known before: whoever has seen that waits for more of it.
fn breaches_in_frames() -> Vec<(Vec<u8>, &'static str)> {
    let frame = |word: u64| [write(1, 64, &word.to_le_bytes()), columns(1, 1, 0, 0)].concat();
    vec![
        (frame(3 << 28), "no frame header"),
        (frame(1 << 31), "no frame header"),
        (frame((RING_BYTES as u64) + 8), "passes the ring's end"),
        (frame(8 | 5 << 32), "frame 5 lies beyond the 1 messages published"),
    ]
}

fn is_contract(error: &Error, expected: &str) {
    let named = matches!(error, Error::Contract { member: MemberId(20), .. });
    assert!(named, "{expected}: {error}");
    says(error, &["member 20", expected]);
}

fn is_told(error: &Error, expected: &str) {
    let named = matches!(error, Error::MemberFailed { member: MemberId(20), .. });
    assert!(named, "{expected}: {error}");
    says(error, &["member 20", "member 10 reports it"]);
}

#[test]
fn a_member_that_breaks_the_protocol_is_severed_and_named_everywhere() {
    for (bytes, expected) in breaches() {
        println!("{expected}");
        let [direct, told] = misbehave(&bytes, 1, false);
        is_contract(&direct, expected);
        is_told(&told, expected);
    }
}

#[test]
fn frames_that_are_none_sever_their_sender() {
    for (bytes, expected) in breaches_in_frames() {
        println!("{expected}");
        let reasons = misbehave(&bytes, 2, false);
        for reason in &reasons {
            match reason {
                // The other was faster.
                Error::MemberFailed { .. } => says(reason, &["member 20", "reports it"]),
                _ => is_contract(reason, expected),
            }
        }
        assert!(reasons.iter().any(|r| matches!(r, Error::Contract { .. })));
    }
}

#[test]
fn frames_that_are_none_name_their_sender_everywhere() {
    for (bytes, expected) in breaches_in_frames() {
        println!("{expected}");
        let [direct, told] = misbehave(&bytes, 1, false);
        is_contract(&direct, expected);
        is_told(&told, expected);
    }
}

#[test]
fn a_member_that_breaks_off_is_named_everywhere() {
    let half_header = header(1, 0, 1, 8, 0)[..9].to_vec();
    let half_write = write(1, 64, &[7; 4096])[..2000].to_vec();
    for (bytes, expected) in [
        (half_header, "in the middle of a write"),
        (half_write, "in the middle of a write"),
        (Vec::new(), "closed the connection"),
    ] {
        let reasons = misbehave(&bytes, 1, true);
        for reason in &reasons {
            assert!(matches!(reason, Error::MemberFailed { member: MemberId(20), .. }), "{expected}: {reason}");
        }
        says(&reasons[0], &["member 20", expected]);
        says(&reasons[1], &["member 20", "member 10 reports it"]);
    }
}

/// Writes garbage to member 10 instead of what installs the view. Returns why the joins of 10 and 30 failed.
fn garbage_in_the_join() -> [Error; 2] {
    let mut config = config(3);
    config.join_timeout_ms = 4_000;
    let (mut rogue, joins) = meet_rogue(&config);
    rogue.to[0].write_all(&noise(2, 1000)).unwrap();
    joins.map(|join| refused(join.join().unwrap()))
}

#[test]
fn garbage_before_the_view_is_installed_ends_the_join() {
    let [first, third] = garbage_in_the_join();
    is_contract(&first, "unknown kind");
    says(&third, &["member 20"]);
}

#[test]
fn garbage_before_the_view_is_installed_is_told_to_others() {
    is_told(&garbage_in_the_join()[1], "garbage in the join");
}

/// A correct member publishes only nulls that are due. One that claims two thousand million of them must not keep the
/// others from noticing anything else.
#[test]
fn a_flood_of_nulls_is_a_breach() {
    let [direct, told] = misbehave(&columns(0, u32::MAX / 2, 0, 0), 1, false);
    is_contract(&direct, "messages, ");
    is_told(&told, "messages, ");
}
