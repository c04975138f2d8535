//! Strangers that connect or answer during a meeting, and members that die.

use super::super::check::our_hello;
use super::super::wire::{BODY_MAX, Decoder, Hello, MAGIC, Message, VERSION};
use super::*;
use std::net::Shutdown;

/// Connects to a member as soon as it listens.
pub(super) fn connect(config: &Config, rank: usize) -> TcpStream {
    loop {
        match TcpStream::connect(&config.members[rank].address) {
            Ok(stream) => return stream,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

pub(super) fn hello_of(config: &Config, id: u32, incarnation: u64) -> Hello {
    our_hello(config, MemberId(id), incarnation)
}

/// The next message, or `None` if the stream ends or holds anything else.
pub(super) fn read_message(stream: &mut TcpStream) -> Option<Message> {
    let mut decoder = Decoder::default();
    loop {
        let mut bytes = vec![0; decoder.wanted()];
        let n = stream.read(&mut bytes).ok().filter(|n| *n > 0)?;
        if let Some(message) = decoder.push(&bytes[..n]).ok()? {
            return Some(message);
        }
    }
}

fn preamble(version: u32, kind: u8, len: usize) -> Vec<u8> {
    [&MAGIC[..], &version.to_le_bytes(), &[kind], &(len as u32).to_le_bytes()].concat()
}

/// Starts member 0 of 3, lets `disturb` interfere, and then starts the other members.
fn join_in_spite_of<T>(disturb: impl FnOnce(&Config) -> T) {
    let config = tcp(3);
    let zero = start(&config, 0);
    let kept = disturb(&config);
    check(vec![zero, start(&config, 1), start(&config, 2)].into_iter().map(|r| r.result().unwrap()).collect());
    drop(kept);
}

/// Strangers that send these bytes. Every second one closes; the others stay connected and silent.
fn send_all(config: &Config, all: &[Vec<u8>]) -> Vec<TcpStream> {
    let mut kept = Vec::new();
    for bytes in all {
        connect(config, 0).write_all(bytes).unwrap();
        let mut stream = connect(config, 0);
        stream.write_all(bytes).unwrap();
        kept.push(stream);
        let half = connect(config, 0);
        let _ = (&half).write_all(bytes);
        let _ = half.shutdown(Shutdown::Write);
        kept.push(half);
    }
    kept
}

#[test]
fn garbage_instead_of_a_hello() {
    join_in_spite_of(|config| {
        let good = Message::Hello(hello_of(config, 11, 5)).encode().unwrap();
        let mut odd_text = good.clone();
        odd_text[21] = 0xff;
        let mut long_field = good.clone();
        long_field[17..21].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut all = vec![
            Vec::new(),
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            vec![0; 5000],
            MAGIC[..3].to_vec(),
            MAGIC.to_vec(),
            [&MAGIC[..], &[0xff; 300]].concat(),
            preamble(VERSION, 200, 0),
            preamble(VERSION, 1, BODY_MAX + 1),
            preamble(VERSION, 1, u32::MAX as usize),
            preamble(VERSION, 1, 0),
            preamble(VERSION, 1, BODY_MAX),
            [preamble(VERSION, 1, 500), vec![0xff; 500]].concat(),
            Message::Accept.encode().unwrap(),
            odd_text,
            long_field,
            [&good[..], b"garbage instead of the accept"].concat(),
            [&good[..], &good[..]].concat(),
        ];
        all.extend((1..good.len()).step_by(23).map(|n| good[..n].to_vec()));
        send_all(config, &all)
    });
}

#[test]
fn another_version_connects() {
    join_in_spite_of(|config| {
        let mut stream = connect(config, 0);
        let mut hello = Message::Hello(hello_of(config, 11, 5)).encode().unwrap();
        hello[8] = 9;
        stream.write_all(&hello).unwrap();
        let Some(Message::Refuse(refuse)) = read_message(&mut stream) else { panic!("not refused") };
        assert_eq!(refuse.reason, "it speaks protocol version 3, this process 9");
    });
}

#[test]
fn more_strangers_than_places() {
    join_in_spite_of(|config| (0..400).map(|_| connect(config, 0)).collect::<Vec<_>>());
}

#[test]
fn a_member_that_says_hello_and_goes() {
    join_in_spite_of(|config| {
        let hello = Message::Hello(hello_of(config, 11, 5)).encode().unwrap();
        connect(config, 0).write_all(&hello).unwrap();
        let mut stream = connect(config, 0);
        stream.write_all(&hello).unwrap();
        read_message(&mut stream);
        stream
    });
}

#[test]
fn garbage_where_a_member_should_listen() {
    let config = tcp(2);
    let listener = TcpListener::bind(&config.members[0].address).unwrap();
    let one = start(&config, 1);
    let half = preamble(VERSION, 1, 100);
    for bytes in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[], &half, &preamble(VERSION, 2, 0)] {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(bytes).unwrap();
    }
    drop(listener);
    all_meet(vec![start(&config, 0), one]);
}

#[test]
fn bytes_right_behind_the_handshake_stay() {
    let config = tcp(3);
    let zero = start(&config, 0);
    let mut stream = connect(&config, 0);
    let mut bytes = Message::Hello(hello_of(&config, 11, incarnation(1))).encode().unwrap();
    bytes.extend(Message::Accept.encode().unwrap());
    bytes.extend(Message::Ready.encode().unwrap());
    bytes.extend(b"the fabric's first bytes");
    stream.write_all(&bytes).unwrap();
    read_message(&mut stream).unwrap();
    let mut two = connect(&config, 0);
    two.write_all(&Message::Hello(hello_of(&config, 12, 1)).encode().unwrap()).unwrap();
    read_message(&mut two).unwrap();
    // The first member continues while the meeting waits for the second.
    stream.write_all(b", and more").unwrap();
    two.write_all(&Message::Accept.encode().unwrap()).unwrap();
    // This member has links to all, and is the last that sends `Ready`.
    assert_eq!(read_message(&mut two), Some(Message::Ready));
    two.write_all(&Message::Ready.encode().unwrap()).unwrap();
    let mut met = zero.result().unwrap();
    assert_eq!(read_message(&mut stream), Some(Message::Ready));
    drop(stream);
    let mut text = String::new();
    met.streams[1].take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "the fabric's first bytes, and more");
}

#[test]
fn a_member_dies_and_is_restarted() {
    let config = tcp(3);
    // The member meets one of the others, and gives up at its own deadline; once for each direction of connecting.
    for dying in [0, 1] {
        let other = start(&config, 1 - dying);
        let short = Running::<TcpStream>::start(&config, dying, 99, Duration::from_millis(300));
        let error = short.result().unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
        let (again, two) = (start(&config, dying), start(&config, 2));
        let mut met = vec![(1 - dying, other), (dying, again), (2, two)];
        met.sort_by_key(|(rank, _)| *rank);
        all_meet(met.into_iter().map(|(_, running)| running).collect());
    }
}

#[test]
fn the_same_process_connects_again() {
    let config = tcp(3);
    let zero = start(&config, 0);
    let hello = Message::Hello(hello_of(&config, 11, 5)).encode().unwrap();
    let mut lost = connect(&config, 0);
    lost.write_all(&hello).unwrap();
    read_message(&mut lost).unwrap();
    for _ in 0..2 {
        let mut again = connect(&config, 0);
        again.write_all(&hello).unwrap();
        assert!(matches!(read_message(&mut again), Some(Message::Hello(_))));
        again.write_all(&Message::Accept.encode().unwrap()).unwrap();
        lost = again;
    }
    let mut two = connect(&config, 0);
    two.write_all(&Message::Hello(hello_of(&config, 12, 6)).encode().unwrap()).unwrap();
    read_message(&mut two).unwrap();
    lost.write_all(&[&Message::Ready.encode().unwrap()[..], b"x"].concat()).unwrap();
    for message in [Message::Accept, Message::Ready] {
        two.write_all(&message.encode().unwrap()).unwrap();
    }
    let mut met = zero.result().unwrap();
    let mut byte = [0];
    met.streams[1].take().unwrap().read_exact(&mut byte).unwrap();
    assert_eq!((met.incarnations, byte), (vec![incarnation(0), 5, 6], [b'x']));
}

#[test]
fn a_black_hole_blocks_nobody() {
    let config = tcp(3);
    // A listener with a full backlog answers nobody.
    let hole = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    hole.set_reuse_address(true).unwrap();
    let address: std::net::SocketAddr = config.members[0].address.parse().unwrap();
    hole.bind(&address.into()).unwrap();
    hole.listen(0).unwrap();
    let attempts: Vec<_> = (0..4).map(|_| dial::connect(&address.into()).unwrap()).collect();
    let one = start(&config, 1);
    let two = Running::<TcpStream>::start(&config, 2, 99, Duration::from_secs(2));
    let error = two.result().unwrap_err();
    assert!(
        matches!(&error, Error::Missing { missing, .. }
        if missing.starts_with("member 10") && !missing.contains("member 11")),
        "{error}"
    );
    drop((hole, attempts));
    all_meet(vec![start(&config, 0), one, start(&config, 2)]);
}

/// One pair has no link for a while. The third member, which has met both, waits, and all meet in the end.
#[test]
fn a_founder_that_has_met_all_waits_for_those_that_still_meet() {
    let config = tcp(3);
    let zero = start(&config, 0);
    let two = start(&config, 2);
    // Members 0 and 2 have met. Member 1 is first a process that says hello to 0 and dies; only its successor meets
    // all.
    let mut first = connect(&config, 0);
    for message in [Message::Hello(hello_of(&config, 11, 5)), Message::Accept] {
        first.write_all(&message.encode().unwrap()).unwrap();
    }
    assert!(matches!(read_message(&mut first), Some(Message::Hello(_))));
    assert_eq!(read_message(&mut first), Some(Message::Ready), "member 0 has met all");
    std::thread::sleep(Duration::from_millis(300));
    assert!(matches!(zero.0.try_recv(), Err(mpsc::TryRecvError::Empty)), "it begins without member 1's links");
    drop(first);
    all_meet(vec![zero, start(&config, 1), two]);
}

/// If one founder knows of a former group, the others must ask that group before they found a new one.
#[test]
fn a_former_group_is_asked_for_before_a_new_one_is_founded() {
    let config = tcp(2);
    let outside = std::sync::Arc::new(outside::Outside::default());
    let (there, own) = (outside.clone(), config.clone());
    let zero = std::thread::spawn(move || {
        let around = Surroundings { outside: there, ..Surroundings::default() };
        meet::<TcpStream>(&own, 0, incarnation(0), (Instant::now() + FAR).into(), listen(&own, 0)?, around)
    });
    let mut one = connect(&config, 0);
    let former = vec!["127.0.0.1:1".to_owned()];
    let hello = Hello { former, ..hello_of(&config, 11, 5) };
    for message in [Message::Hello(hello), Message::Accept, Message::Ready] {
        one.write_all(&message.encode().unwrap()).unwrap();
    }
    assert!(matches!(read_message(&mut one), Some(Message::Hello(_))));
    while outside.former().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(!zero.is_finished(), "nobody has asked");
    let former = outside.former();
    assert_eq!(former, [("127.0.0.1:1".to_owned(), 11)]);
    outside.set_obstacle(Some("it does not answer".to_owned()));
    outside.asked(&former);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!zero.is_finished(), "it does not answer");
    outside.set_obstacle(None);
    assert_eq!(zero.join().unwrap().unwrap().incarnations, [incarnation(0), 5]);
}
