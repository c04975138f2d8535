//! Members that break the protocol, through the public API: the others name and remove them, and go on.
//!
//! The test plays a [`Rogue`]. It joins as a correct member does, and then writes arbitrary bytes on its connections.
//! The format is `{kind u8, owner u8, table u16, len u32, offset u64}`, little endian, then the bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "common/noise.rs"]
mod noise;
#[path = "common/ports.rs"]
mod ports;

use galerna::meet::meet_tcp;
use galerna::{Config, Delivery, Error, FabricKind, Group, Member, MemberId, Mode, SubgroupId};
use noise::noise;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const MAIN: SubgroupId = SubgroupId(0);
const LONG: Duration = Duration::from_secs(30);
const ROGUE: MemberId = MemberId(20);

/// Offsets in table 0, that of the membership, as in `membership/row.rs`.
mod row {
    pub(crate) const CHANGES: u64 = 24;
    pub(crate) const EPOCH: u64 = 32;
    pub(crate) const INSTALLED: u64 = 40;
    pub(crate) const WEDGED: u64 = 48;
    pub(crate) const DECIDED: u64 = 56;
    pub(crate) const LEAVING: u64 = 64;
    pub(crate) const PROMISE: u64 = 80;
    pub(crate) const ACCEPTED: u64 = 88;
    pub(crate) const PROPOSED: u64 = 96;
    pub(crate) const FLUSHED: u64 = 104;
    pub(crate) const EDGES: u64 = 112;
    const LINKED: u64 = EDGES + 8 * 4 * 64;
    pub(crate) const TIMEOUTS: u64 = LINKED + 8 * 64;
    pub(crate) const WEDGE: u64 = TIMEOUTS + 8 * 2;
    const ENDS: u64 = 8 * 3 * 256;
    const VALUE: u64 = 8 * (5 + 2 * 2 * 64 + 6 * 64 + 3 * 256);
    /// Of records with two places, these are the second ones, which the counter 1 guards.
    pub(crate) const FLUSH: u64 = WEDGE + 2 * ENDS;
    pub(crate) const ACCEPT: u64 = WEDGE + 3 * ENDS + 8 + VALUE;
    pub(crate) const PROPOSE: u64 = ACCEPT + 2 * (8 + VALUE);
    pub(crate) const DECISION: u64 = PROPOSE + 8 + VALUE;
    const CAUSES: u64 = DECISION + 2 * VALUE;
    pub(crate) const LEN: u64 = (CAUSES + 64 * 16 * 8).next_multiple_of(64);
}

/// Table 1, that of the subgroup: the end of its columns, its ring, and the length of a row.
const COLUMNS_LEN: u64 = 576;
const RING_BYTES: u64 = 64 << 10;
const ROW_LEN: u64 = COLUMNS_LEN + RING_BYTES;

/// Members 10, 20 and 30, on free ports of this host.
fn config() -> Config {
    let addresses = ports::free_addresses(["127.0.0.1"; 3].into_iter()).unwrap();
    let members = [10, 20, 30].into_iter().zip(addresses).map(|(id, address)| Member { id: MemberId(id), address });
    let mut config = Config::new("rogues", FabricKind::Tcp, members.collect());
    config.ring_bytes = RING_BYTES as usize;
    config.join_timeout_ms = 20_000;
    config
}

/// The sender and the bytes of each delivery.
type Delivered = Vec<(MemberId, Vec<u8>)>;

/// A correct member, and its deliveries.
struct Correct {
    group: Group,
    delivered: Arc<Mutex<Delivered>>,
}

fn joining(config: &Config, id: u32) -> JoinHandle<Result<Correct, Error>> {
    let config = config.clone().with_member(MemberId(id));
    std::thread::spawn(move || {
        let delivered = Arc::new(Mutex::new(Vec::new()));
        let log = delivered.clone();
        let deliver = move |m: Delivery<'_>| log.lock().unwrap().push((m.sender, m.payload.to_vec()));
        Ok(Correct { group: Group::join(config, deliver)?, delivered })
    })
}

/// Waits until `reached` returns a value.
fn eventually<T>(what: &str, mut reached: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(value) = reached() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Member 20 of three.
struct Rogue {
    /// The connections to the members 10 and 30.
    to: [TcpStream; 2],
    /// The incarnations of the members' processes (random numbers), by rank.
    incarnations: Vec<u64>,
}

/// Encodes a write for the connection.
fn write(table: u16, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut wire = header(1, 0, table, u32::try_from(bytes.len()).unwrap(), offset);
    wire.extend_from_slice(bytes);
    wire
}

fn header(kind: u8, owner: u8, table: u16, len: u32, offset: u64) -> Vec<u8> {
    let mut wire = vec![kind, owner];
    wire.extend(table.to_le_bytes());
    wire.extend(len.to_le_bytes());
    wire.extend(offset.to_le_bytes());
    wire
}

/// Encodes a write of words to the membership's row.
fn words(offset: u64, words: &[u64]) -> Vec<u8> {
    write(0, offset, &words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())
}

/// Encodes a record, its guard, and the `CHANGES` word that makes the others read it.
fn record(place: u64, record: &[u64], guard: u64, value: u64) -> Vec<u8> {
    [words(place, record), words(guard, &[value]), words(row::CHANGES, &[2])].concat()
}

/// Encodes one word, and the `CHANGES` word that makes the others read it.
fn word(offset: u64, value: u64) -> Vec<u8> {
    [words(offset, &[value]), words(row::CHANGES, &[2])].concat()
}

/// A write of the columns `published` (frames, messages), `delivered`, `wanted`, `persisted` and `received` of the
/// first sender.
fn columns(frames: u32, messages: u32, received: u64, delivered: u64) -> Vec<u8> {
    let published = u64::from(frames) | u64::from(messages) << 32;
    // `delivered` is at least 1, the first number, with which every member begins.
    write(1, 0, &[published, delivered.max(1), 0, 0, received, 0, 0].map(u64::to_le_bytes).concat())
}

/// Starts the members 10 and 30, and meets them; their joins go on.
fn meet_rogue(config: &Config) -> (Rogue, [JoinHandle<Result<Correct, Error>>; 2]) {
    let joins = [joining(config, 10), joining(config, 30)];
    let me = config.clone().with_member(ROGUE);
    let met = meet_tcp(&me, 1, 4711, Instant::now() + LONG).unwrap();
    let mut to = met.streams.into_iter().flatten();
    let to = [to.next().unwrap(), to.next().unwrap()];
    (Rogue { to, incarnations: met.incarnations }, joins)
}

/// Makes a group of three, in which members 10 and 30 have sent a message that the rogue has not acknowledged.
fn join_rogue() -> (Rogue, [Correct; 2]) {
    let (mut rogue, joins) = meet_rogue(&config());
    for stream in &mut rogue.to {
        stream.write_all(&columns(0, 0, 0, 1)).unwrap();
        for (offset, value) in [(row::INSTALLED, 1), (row::EPOCH, 1), (row::CHANGES, 1)] {
            stream.write_all(&words(offset, &[value])).unwrap();
        }
    }
    let members = joins.map(|join| join.join().unwrap().map_err(|e| e.to_string()).unwrap());
    for member in &members {
        member.group.send(MAIN, Mode::Safe, b"before", LONG).unwrap();
    }
    (rogue, members)
}

impl Rogue {
    /// Sends `bytes` to the first `victims` of the members 10 and 30.
    fn write(&mut self, bytes: &[u8], victims: usize) {
        for stream in &mut self.to[..victims] {
            // The peer may sever the link before the last byte is out, or may not read any more.
            stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            let _ = stream.write_all(bytes);
        }
    }

    /// Encodes the words of a value: the next view with one shard, and the ends of the streams of the present one.
    fn value(&self, number: u64, members: &[usize], ends: &[[u64; 3]], left: u64) -> Vec<u64> {
        let name = |rank: usize| [(10 * (rank as u64 + 1)) | ((rank as u64) << 32), self.incarnations[rank]];
        let (count, old, set) = (members.len() as u64, 3, |count: usize| (1u64 << count) - 1);
        let lengths = count | old << 8 | 1 << 16 | 1 << 24 | (ends.len() as u64) << 32;
        let mut words = vec![lengths, number, u64::MAX, left, 0];
        members.iter().copied().chain(0..old as usize).for_each(|rank| words.extend(name(rank)));
        words.extend([0, set(members.len()), 100, 1000]);
        words.extend([0, set(ends.len())]);
        words.extend(ends.iter().flatten());
        words
    }
}

/// Asserts that both go on without the rogue: in view 1, with equal histories, and with messages from both. Returns the
/// fault of the rogue that each of them reports.
fn go_on(members: &[Correct; 2]) -> [String; 2] {
    for (member, id) in members.iter().zip([10, 30]) {
        eventually(&format!("member {id} does not go on"), || {
            assert!(member.group.stopped().is_none(), "member {id} stopped: {}", member.group.stopped().unwrap());
            (member.group.view().number > 0).then_some(())
        });
        let view = member.group.view();
        assert_eq!((view.number, &view.members[..]), (1, &[MemberId(10), MemberId(30)][..]), "member {id}");
        assert_eq!((&view.failed[..], &view.left[..]), (&[ROGUE][..], &[][..]), "member {id}");
    }
    for member in members {
        member.group.send(MAIN, Mode::Safe, b"after", LONG).unwrap();
        member.group.flush(MAIN, galerna::Copies::All, LONG).unwrap();
    }
    let own = |log: &[(MemberId, Vec<u8>)]| log.iter().filter(|(sender, _)| *sender != ROGUE).count();
    let logs = members.each_ref().map(|member| {
        eventually("messages are missing", || {
            let log = member.delivered.lock().unwrap().clone();
            (own(&log) >= 4).then_some(log)
        })
    });
    assert_eq!(logs[0], logs[1]);
    assert_eq!(own(&logs[0]), 4);
    members.each_ref().map(|member| member.group.fault(ROGUE).expect("its fault is known"))
}

/// Sends `bytes` to the first `victims` of the members 10 and 30, then optionally the end of the stream to 10. Both
/// must go on. Returns the fault that each of them reports.
fn misbehave(bytes: &[u8], victims: usize, and_close: bool) -> [String; 2] {
    let (mut rogue, members) = join_rogue();
    rogue.write(bytes, victims);
    if and_close {
        rogue.to[0].shutdown(Shutdown::Write).unwrap();
    }
    go_on(&members)
}

#[track_caller]
fn says(fault: &str, expected: &str) {
    assert!(fault.contains(expected), "`{expected}` is missing in: {fault}");
}

#[track_caller]
fn is_severed(fault: &str, expected: &str) {
    says(fault, "it broke the protocol and was severed: ");
    says(fault, expected);
}

/// Sends every case to member 10 alone, which severs the rogue; member 30 learns of the accusation.
fn severed_by_one(cases: Vec<(Vec<u8>, &'static str)>) {
    for (bytes, expected) in cases {
        println!("{expected}");
        let [direct, told] = misbehave(&bytes, 1, false);
        is_severed(&direct, expected);
        says(&told, "member 10 suspects it");
    }
}

/// Sends every case to both members.
fn severed_by_both(cases: Vec<(Vec<u8>, &'static str)>) {
    for (bytes, expected) in cases {
        println!("{expected}");
        let faults = misbehave(&bytes, 2, false);
        println!("{faults:?}");
        assert!(severed_for(&faults, expected), "`{expected}`: {faults:?}");
    }
}

/// Whether at least one of the two severed the rogue for this reason. The other one may have learned of the accusation
/// first, ignored the rogue from then on, and so missed its heartbeats.
fn severed_for(faults: &[String; 2], expected: &str) -> bool {
    let severed =
        |fault: &String| fault.contains("it broke the protocol and was severed: ") && fault.contains(expected);
    let other = |fault: &String| fault.contains("suspects it") || fault.contains("stood still");
    faults.iter().any(severed) && faults.iter().all(|fault| severed(fault) || other(fault))
}

/// Bytes that are no write, request or answer.
fn breaches_of_the_fabric() -> Vec<(Vec<u8>, &'static str)> {
    let request = |owner, len, offset| header(2, owner, 1, len, offset);
    vec![
        (header(7, 0, 1, 8, 0), "unknown kind 7"),
        (header(1, 9, 1, 8, 0), "reserved byte 9"),
        (header(1, 0, 5, 8, 0), "unknown table 5"),
        (header(1, 0, 1, 0, COLUMNS_LEN), "0 bytes at 576"),
        (header(1, 0, 1, 12, COLUMNS_LEN), "not a whole number of aligned words"),
        (header(1, 0, 1, 8, COLUMNS_LEN + 4), "not a whole number of aligned words"),
        (header(1, 0, 1, 8, ROW_LEN), "which has rows of 66112 bytes"),
        (header(1, 0, 1, u32::MAX - 7, COLUMNS_LEN), "which has rows of 66112 bytes"),
        (header(1, 0, 1, 16, u64::MAX - 7), "which has rows of 66112 bytes"),
        (header(1, 0, 1, 640, 0), "across the end of its columns at 576"),
        (header(1, 0, 0, 8, row::LEN), "which has rows of 97216 bytes"),
        (noise(1, 100_000), "unknown kind"),
        (vec![0xff; 100_000], "unknown kind 255"),
        (request(0, 8, ROW_LEN), "which has rows of 66112 bytes"),
        (request(0, 8, 0), "a request of 8 bytes at 0 of table 1, which has its data from 576 on"),
        (header(2, 0, 0, 8, 0), "a request of 8 bytes at 0 of table 0"),
        (request(2, 0, COLUMNS_LEN), "0 bytes at 576"),
        (request(40, 8, COLUMNS_LEN), "a request for the row of slot 40, which this process does not have"),
        (request(255, 8, COLUMNS_LEN), "a request for the row of slot 255, which this process does not have"),
        (request(2, RING_BYTES as u32, COLUMNS_LEN).repeat(2000), "more than 64 requests at once"),
        (header(3, 2, 1, 8, COLUMNS_LEN), "which was not requested"),
    ]
}

#[test]
fn what_no_fabric_sends_severs_its_sender() {
    severed_by_one(breaches_of_the_fabric());
}

/// Counter values that no correct member can have.
fn breaches_in_counters() -> Vec<(Vec<u8>, &'static str)> {
    vec![
        (columns(u32::MAX, 0, 0, 0), "`published` went back"),
        (columns(0, u32::MAX, 0, 0), "`published` went back"),
        (columns(8193, 8193, 0, 0), "claims 8193 frames, more than its ring holds"),
        (columns(0, 0, 1000, 0), "its `received` of stream 0 is 1000"),
        (columns(0, 0, 0, u64::MAX), "its `delivered` is 18446744073709551615"),
        // A correct member publishes only nulls that are due. A member that claims two thousand million of them must
        // not keep the others from noticing other faults.
        (columns(0, u32::MAX / 2, 0, 0), "messages, "),
    ]
}

#[test]
fn counters_that_cannot_be_sever_their_sender() {
    severed_by_one(breaches_in_counters());
    severed_by_both(breaches_in_counters());
}

/// Invalid frames, which a counter has announced before: a member that has seen the counter waits for more of them.
fn breaches_in_frames() -> Vec<(Vec<u8>, &'static str)> {
    let frame = |word: u64| [write(1, COLUMNS_LEN, &word.to_le_bytes()), columns(1, 1, 0, 0)].concat();
    vec![
        (frame(5 << 28), "no frame header"),
        (frame(1 << 31), "no frame header"),
        (frame(RING_BYTES + 8), "passes the ring's end"),
        (frame(8 | 5 << 32), "frame 5 lies beyond the 1 messages published"),
    ]
}

#[test]
fn frames_that_are_none_sever_their_sender_at_one() {
    severed_by_one(breaches_in_frames());
}

#[test]
fn frames_that_are_none_sever_their_sender_at_both() {
    severed_by_both(breaches_in_frames());
}

#[test]
fn a_member_that_breaks_off_is_named_everywhere() {
    let half_header = header(1, 0, 1, 8, 0)[..9].to_vec();
    let half_write = write(1, COLUMNS_LEN, &[7; 4096])[..2000].to_vec();
    for (bytes, expected) in [
        (half_header, "in the middle of a write"),
        (half_write, "in the middle of a write"),
        (Vec::new(), "closed the connection"),
    ] {
        let [direct, told] = misbehave(&bytes, 1, true);
        says(&direct, expected);
        says(&told, "member 10 suspects it");
    }
}

/// Writes garbage to member 10 in place of the words that install the view: the joins of 10 and 30 fail.
#[test]
fn garbage_before_the_view_is_installed_ends_the_join() {
    let mut config = config();
    config.join_timeout_ms = 15_000;
    let (mut rogue, joins) = meet_rogue(&config);
    let began = Instant::now();
    rogue.to[0].write_all(&noise(2, 1000)).unwrap();
    let [first, third] = joins.map(|join| join.join().unwrap().map(|_| ()).expect_err("it was to be refused"));
    assert!(matches!(first, Error::Contract { member: ROGUE, .. }), "{first}");
    says(&first.to_string(), "unknown kind");
    says(&third.to_string(), "member 20");
    assert!(began.elapsed() < Duration::from_millis(config.join_timeout_ms), "the others are not told");
}

/// Words that no correct member writes at the end of a view. The rogue is severed at once. A case is its name, its
/// bytes, and the expected fault.
type Case = (&'static str, Box<dyn Fn(&Rogue) -> Vec<u8>>, &'static str);

fn case(name: &'static str, make: impl Fn(&Rogue) -> Vec<u8> + 'static, expected: &'static str) -> Case {
    (name, Box::new(make), expected)
}

/// Runs each case against one and against both of the others. They must go on, and report the expected fault unless it
/// is empty.
fn survived(cases: Vec<Case>) {
    for (name, make, expected) in cases {
        for victims in [1, 2] {
            println!("{name}, to {victims}");
            let (mut rogue, members) = join_rogue();
            let bytes = make(&rogue);
            rogue.write(&bytes, victims);
            let faults = go_on(&members);
            println!("{faults:?}");
            assert!(expected.is_empty() || severed_for(&faults, expected), "{name}: `{expected}`: {faults:?}");
        }
    }
}

const NO_VALUE: &str = "a record of a ballot that holds no value";
const NO_DECISION: &str = "a decision that is no value";
const NOT_NEXT: &str = "that does not follow from the view";
const NO_BALLOT: &str = "a ballot that nobody made";
/// A ballot that the rogue, which has rank 1, may make.
const BALLOT: u64 = 5 << 8 | 1;

#[test]
fn ballots_without_a_value() {
    let too_many = [BALLOT, 65 | 3 << 32, 1, 0, 0, 0, 0, 0];
    // One or two members and one shard.
    let bad_slot = [BALLOT, 1 | 1 << 16, 1, 0, 0, 0, 10 | 64 << 32, 0, 0, 1, 0, 1];
    let twice = [BALLOT, 2 | 1 << 16, 1, 0, 0, 0, 10, 0, 10, 0, 0, 3, 0, 1];
    let stranger = [BALLOT, 1 | 1 << 16, 1, 0, 0, 0, 10, 0, 0, 2, 0, 1];
    survived(vec![
        case("accepted, zeros", |_| word(row::ACCEPTED, 1), NO_VALUE),
        case("accepted, too many members", move |_| record(row::ACCEPT, &too_many, row::ACCEPTED, 1), NO_VALUE),
        case("accepted, a slot that is none", move |_| record(row::ACCEPT, &bad_slot, row::ACCEPTED, 1), NO_VALUE),
        case("proposed, a slot twice", move |_| record(row::PROPOSE, &twice, row::PROPOSED, 1), NO_VALUE),
        case(
            "proposed, a member of a shard that is none",
            move |_| record(row::PROPOSE, &stranger, row::PROPOSED, 1),
            NO_VALUE,
        ),
        case("proposed, all ones", |_| record(row::PROPOSE, &[u64::MAX; 457], row::PROPOSED, 1), NO_VALUE),
    ]);
}

#[test]
fn values_that_do_not_follow() {
    let ends = [[0; 3]; 3];
    let proposed = |value: Vec<u64>| record(row::PROPOSE, &[vec![BALLOT], value].concat(), row::PROPOSED, 1);
    let with_wedge = move |value| [record(row::WEDGE, &[0; 9], row::WEDGED, 1), proposed(value)].concat();
    survived(vec![
        case("proposes nobody", move |rogue| with_wedge(rogue.value(1, &[], &ends, 0)), NOT_NEXT),
        case("proposes itself", move |rogue| with_wedge(rogue.value(1, &[1], &ends, 0)), NOT_NEXT),
        case("proposes another number", move |rogue| with_wedge(rogue.value(7, &[0, 1, 2], &ends, 0)), NOT_NEXT),
        case("proposes no ends", move |rogue| with_wedge(rogue.value(1, &[0, 1, 2], &[], 0)), NOT_NEXT),
    ]);
}

#[test]
fn decisions_that_are_none() {
    let ends = [[0; 3]; 3];
    let decided = |value: Vec<u64>| record(row::DECISION, &value, row::DECIDED, 1);
    // The set of members is the second word of the shard, which comes before the words of the ended shard.
    let left_out = |mut value: Vec<u64>| {
        let set = value.len() - 9 - 2 - 3;
        value[set] = 0b011;
        value
    };
    survived(vec![
        case("zeros", |_| word(row::DECIDED, 1), NO_DECISION),
        case("all ones", |_| record(row::DECISION, &[u64::MAX; 456], row::DECIDED, 1), NO_DECISION),
        case("of the next view", |_| word(row::DECIDED, 2), "has not installed"),
        case("of a view far away", |_| word(row::DECIDED, u64::MAX), "has not installed"),
        case("another number", move |rogue| decided(rogue.value(7, &[0, 2], &ends, 0)), NO_DECISION),
        case(
            "leaves a member out of the shard",
            move |rogue| decided(left_out(rogue.value(1, &[0, 1, 2], &ends, 0))),
            NO_DECISION,
        ),
        case("names nobody", move |rogue| decided(rogue.value(1, &[], &ends, 0)), NOT_NEXT),
        case("names one", move |rogue| decided(rogue.value(1, &[1], &ends, 0)), NOT_NEXT),
        case("names no ends", move |rogue| decided(rogue.value(1, &[0, 1, 2], &[], 0)), NOT_NEXT),
    ]);
}

#[test]
fn ends_that_cannot_be() {
    let wedged = |ends: [u64; 9]| record(row::WEDGE, &ends, row::WEDGED, 1);
    let flushed = move |ends: [u64; 9]| [wedged([0; 9]), record(row::FLUSH, &ends, row::FLUSHED, 1)].concat();
    let own = [0, 0, 0, 9000, 9000, 9000, 0, 0, 0];
    let of_first = [1000, 1000, 1000, 0, 0, 0, 0, 0, 0];
    // Member 10 cannot know that these are wrong, and asks the rogue for the rest. The rogue is removed for its
    // silence.
    let a_bit_of_third = [0, 0, 0, 0, 0, 0, 2, 2, 4];
    survived(vec![
        case("more than its ring", move |_| wedged(own), "ends"),
        case("more than member 10 published", move |_| wedged(of_first), "ends"),
        case("a bit more than member 30 published", move |_| wedged(a_bit_of_third), ""),
        case("all ones", move |_| wedged([u64::MAX; 9]), "ends"),
        case("flushed more than its ring", move |_| flushed(own), "ends"),
        case("flushed more than member 10 published", move |_| flushed(of_first), "ends"),
        case("flushed a bit more than member 30 published", move |_| flushed(a_bit_of_third), ""),
    ]);
}

/// The ends lie within the rogue's ring, but no frames were written there: zeros read as frames of no bytes.
#[test]
fn ends_of_frames_that_were_never_written() {
    let frames = |word: u64, messages: u64, frames: u64, at: u64| {
        let ends = [0, 0, 0, messages, frames, at, 0, 0, 0];
        [write(1, COLUMNS_LEN, &word.to_le_bytes()), record(row::WEDGE, &ends, row::WEDGED, 1)].concat()
    };
    survived(vec![
        case("no header", move |_| frames(5 << 28, 1, 1, 1), "header"),
        case("another place", move |_| frames(8, 1, 1, 9), "end"),
    ]);
}

#[test]
fn words_that_cannot_be() {
    let wedge = || record(row::WEDGE, &[0; 9], row::WEDGED, 1);
    let and_wedge = move |bytes: Vec<u8>| [bytes, wedge()].concat();
    survived(vec![
        case("accuses members that there are not", |_| word(row::EDGES + 8, u64::MAX << 3), ""),
        case("promises another's ballot", move |_| and_wedge(word(row::PROMISE, 9 << 8)), NO_BALLOT),
        case("promises a ballot of nobody", move |_| and_wedge(word(row::PROMISE, 9 << 8 | 77)), NO_BALLOT),
        case("promises the last ballot", move |_| and_wedge(word(row::PROMISE, u64::MAX)), NO_BALLOT),
        case("promises its own last ballot", move |_| and_wedge(word(row::PROMISE, u64::MAX << 8 | 1)), NO_BALLOT),
        case("is far ahead", move |_| and_wedge(word(row::INSTALLED, 1000)), ""),
        case("is in no view", move |_| and_wedge(word(row::INSTALLED, 0)), ""),
        case("is in another epoch", move |_| and_wedge(word(row::EPOCH, 1000)), "has not installed"),
        case("has wedged another view", |_| word(row::WEDGED, u64::MAX), "has not installed"),
        case("has a timeout of ages", |_| word(row::TIMEOUTS, u64::MAX), "timeouts that no configuration has"),
        case(
            "has another timeout of ages",
            |_| word(row::TIMEOUTS + 8, u64::MAX),
            "timeouts that no configuration has",
        ),
        case("leaves and stays", |_| word(row::LEAVING, 77), ""),
    ]);
}

#[test]
fn an_accusation_that_member_10_never_made() {
    severed_by_one(vec![(word(row::EDGES, 1 << 8), "an accusation that this process never made")]);
}

#[test]
fn a_row_of_noise() {
    for seed in 10..20 {
        println!("seed {seed}");
        let (mut rogue, members) = join_rogue();
        let mut bytes = noise(seed, row::LEN as usize);
        if seed % 2 == 0 {
            // With the words that mark the bytes as of this view.
            for (word, value) in [(row::EPOCH, 1u64), (row::INSTALLED, 1), (row::WEDGED, 1)] {
                bytes[word as usize..word as usize + 8].copy_from_slice(&value.to_le_bytes());
            }
        }
        rogue.write(&[write(0, 0, &bytes), words(row::CHANGES, &[3])].concat(), 2);
        println!("{:?}", go_on(&members));
    }
}
