//! The fate of queued writes: partial sends, coalescing, severing, orderly ends.

use super::*;

/// A subject with a small kernel buffer, and a queue that is blocked by one large write.
fn stuck() -> (Subject, Ticket) {
    let specs = [TableSpec { id: TABLE, columns_len: 128, row_len: 2 << 20 }];
    let (near, peer) = connected("127.0.0.1:0");
    setsockopt(&near, sockopt::SndBuf, &16384).unwrap();
    let mut subject = Subject::over((near, peer), &specs);
    fill(&subject.rows[0][0], 3);
    let large = subject.fabric.write(1, TABLE, 128..2 << 20, Source::Stable);
    subject.fabric.submit();
    (subject, large)
}

/// Reads everything that the subject has to send.
fn read_all(subject: &mut Subject, len: usize) -> Vec<u8> {
    let mut reader = subject.peer.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        let mut got = vec![0; len];
        reader.read_exact(&mut got).unwrap();
        got
    });
    subject.poll_until(|s| !s.fabric.has_unsent());
    thread.join().unwrap()
}

#[test]
fn partial_sends_go_on_where_they_stopped() {
    let (mut subject, large) = stuck();
    assert!(subject.fabric.has_unsent());
    assert!(subject.fabric.completed() < large);
    let mut want = frame(1, 128, &subject.row(0, 0)[128..]);
    for i in 0..500 {
        let range = 1024 * (i + 1)..1024 * (i + 1) + [8, 256, 264, 1000][i % 4];
        want.extend(frame(1, range.start as u64, &subject.row(0, 0)[range.clone()]));
        subject.fabric.write(1, TABLE, range, Source::Stable);
    }
    assert!(read_all(&mut subject, want.len()) == want);
    assert_eq!(subject.fabric.completed(), Ticket(501));
    assert_eq!(subject.fabric.stats().bytes_sent, want.len() as u64);
}

#[test]
fn snapshots_of_one_range_take_one_place_in_the_queue() {
    let (mut subject, _) = stuck();
    let mut want = frame(1, 128, &subject.row(0, 0)[128..]);
    let row = subject.rows[0][0].clone();
    for round in 0..3 {
        for value in 0..1000 {
            row.word(8).store(1000 * round + value, Ordering::Release);
            subject.fabric.write(1, TABLE, 0..64, Source::Snapshot);
            subject.fabric.submit();
        }
        want.extend(frame(1, 0, &contents(&row)[..64]));
        // Newer bytes must not overtake a write in between.
        subject.fabric.write(1, TABLE, 512..520, Source::Stable);
        want.extend(frame(1, 512, &contents(&row)[512..520]));
    }
    row.word(8).store(0, Ordering::Release);
    assert!(read_all(&mut subject, want.len()) == want);
    // The queue is empty, so the next write is sent.
    subject.fabric.write(1, TABLE, 0..64, Source::Snapshot);
    subject.fabric.submit();
    let mut got = [0; 80];
    subject.peer.read_exact(&mut got).unwrap();
    assert_eq!(got[16..], contents(&row)[..64]);
}

#[test]
fn sever_completes_what_was_queued() {
    let (mut subject, large) = stuck();
    subject.peer.write_all(&frame(1, 0, &[9; 8])).unwrap();
    subject.fabric.sever(1);
    for nobody in [0, 1, 2, 3, usize::MAX] {
        subject.fabric.sever(nobody);
        assert_eq!(subject.fabric.write(nobody, TABLE, 0..8, Source::Snapshot), large);
    }
    assert!(!subject.fabric.has_unsent() && subject.fabric.closed());
    assert_eq!(subject.fabric.completed(), large);
    assert!(!subject.fabric.poll(&mut subject.events) && subject.events.is_empty());
    assert_eq!(subject.row(0, 1)[..8], [0; 8]);
}

/// The fabrics of slots 0 and 1 and the two rows of each. 8 MiB are under way in each direction, followed by the last
/// words.
fn both_ways() -> ([TcpFabric; 2], [[Arc<Row>; 2]; 2]) {
    let specs = [TableSpec { id: TABLE, columns_len: 128, row_len: 8 << 20 }];
    let (a, b) = connected("127.0.0.1:0");
    let make = |me: Slot, stream: TcpStream| {
        let (mut fabric, own) = TcpFabric::new(me, &specs).unwrap();
        let others = fabric.attach(1 - me, Connection::Tcp(stream.into())).unwrap();
        let mut rows = [own[0].clone(), others[0].clone()];
        rows.rotate_right(me);
        (fabric, rows)
    };
    let ((mut a, rows_a), (mut b, rows_b)) = (make(0, a), make(1, b));
    let rows = [rows_a, rows_b];
    for (me, fabric) in [&mut a, &mut b].into_iter().enumerate() {
        fill(&rows[me][me], me as u64);
        fabric.write(1 - me, TABLE, 128..8 << 20, Source::Stable);
        fabric.write(1 - me, TABLE, 0..128, Source::Snapshot);
        fabric.submit();
    }
    ([a, b], rows)
}

#[test]
fn an_orderly_close_loses_nothing() {
    let ([mut a, mut b], rows) = both_ways();
    let mut events = vec![];
    a.close();
    b.close();
    assert_eq!(a.write(1, TABLE, 0..8, Source::Snapshot), Ticket(2));
    while !(a.closed() && b.closed()) {
        a.poll(&mut events);
        b.poll(&mut events);
    }
    assert_eq!(events, []);
    for (at_a, at_b) in rows[0].iter().zip(&rows[1]) {
        assert!(contents(at_a) == contents(at_b));
    }
    assert!(!readable(&a) && !readable(&b));
}

#[test]
fn whoever_stays_sees_all_that_the_other_sent() {
    let ([mut a, mut b], rows) = both_ways();
    let (mut events_a, mut events_b) = (vec![], vec![]);
    a.close();
    while !(a.closed() && b.closed()) {
        a.poll(&mut events_a);
        b.poll(&mut events_b);
    }
    assert_eq!(events_a, []);
    assert_eq!(events_b, [Event::LinkDown { peer: 0, cause: "the peer closed the connection".into() }]);
    assert!(contents(&rows[0][0]) == contents(&rows[1][0]));
    assert_eq!(b.completed(), Ticket(2));
}

#[test]
fn a_released_link_sends_what_was_queued_and_lands_nothing() {
    let (mut subject, large) = stuck();
    let row = subject.rows[0][0].clone();
    let mut want = frame(1, 128, &contents(&row)[128..]);
    subject.fabric.write(PEER, TABLE, 0..8, Source::Snapshot);
    want.extend(frame(1, 0, &contents(&row)[..8]));
    let last = subject.fabric.write(PEER, TABLE, 4096..8192, Source::Stable);
    want.extend(frame(1, 4096, &contents(&row)[4096..8192]));
    subject.peer.write_all(&frame(1, 0, &[9; 8])).unwrap();
    assert!(subject.fabric.completed() < large);
    subject.fabric.release(PEER);
    assert!(!subject.fabric.has_unsent());
    assert_eq!(subject.fabric.completed(), last);
    fill(&row, 4);
    assert_eq!(subject.fabric.write(PEER, TABLE, 0..8, Source::Snapshot), last);
    // More bytes than the socket holds, and a protocol violation as well.
    subject.peer.set_nonblocking(true).unwrap();
    let mut more = subject.peer.try_clone().unwrap();
    let mut got: Vec<u8> = vec![];
    let mut ended = false;
    while !ended {
        let _ = more.write(&[0xff; 1 << 16]);
        let mut bytes = [0; 1 << 16];
        match subject.peer.read(&mut bytes) {
            Ok(0) => ended = true,
            Ok(taken) => got.extend(&bytes[..taken]),
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
        subject.fabric.poll(&mut subject.events);
    }
    assert!(got == want, "{} bytes of {}", got.len(), want.len());
    subject.peer.shutdown(Shutdown::Both).unwrap();
    while !subject.fabric.parting.is_empty() {
        subject.fabric.poll(&mut subject.events);
    }
    assert!(!subject.fabric.poll(&mut subject.events) && !readable(&subject.fabric));
    assert_eq!(subject.events, []);
    assert_eq!(subject.row(0, 1)[..8], [0; 8]);
}

#[test]
fn a_released_peer_that_takes_nothing_is_no_reason_to_stay() {
    let (mut subject, _) = stuck();
    subject.fabric.release(PEER);
    while subject.fabric.poll(&mut subject.events) {}
    assert!(!readable(&subject.fabric));
    assert!(subject.fabric.closed());
    let (near, mut far) = connected("127.0.0.1:0");
    subject.fabric.attach(PEER, Connection::Tcp(near.into())).unwrap();
    assert!(!subject.fabric.closed());
    // The new link of the slot works at the same time.
    far.write_all(&frame(1, 0, &[1; 8])).unwrap();
    subject.poll_until(|s| s.fabric.stats().bytes_received == 24);
    subject.fabric.write(PEER, TABLE, 0..8, Source::Snapshot);
    subject.fabric.submit();
    let mut got = [0; 24];
    far.read_exact(&mut got).unwrap();
    assert_eq!(got.to_vec(), frame(1, 0, &subject.row(0, 0)[..8]));
    assert_eq!(subject.row(0, 1)[..8], [0; 8], "it landed in the former process's row");
}

#[test]
fn released_links_do_not_pile_up() {
    let (mut subject, _) = stuck();
    subject.fabric.release(PEER);
    let mut fars = vec![];
    for _ in 0..2 * PARTING_MAX {
        let (near, far) = connected("127.0.0.1:0");
        subject.fabric.attach(PEER, Connection::Tcp(near.into())).unwrap();
        subject.fabric.release(PEER);
        fars.push(far);
    }
    assert_eq!(subject.fabric.parting.len(), PARTING_MAX);
    drop(fars);
    subject.poll_until(|s| s.fabric.parting.is_empty());
    assert_eq!(subject.events, []);
}
