//! Correct and wrong requests and answers, as bytes.

use super::fetch::OPEN_MAX;
use super::*;

fn request(owner: Slot, table: u16, len: usize, offset: usize) -> Vec<u8> {
    header(2, owner as u8, table, len as u32, offset as u64)
}

fn answer(owner: Slot, table: u16, offset: usize, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(3, owner as u8, table, payload.len() as u32, offset as u64);
    bytes.extend(payload);
    bytes
}

fn fetched(owner: Slot, range: Range<usize>) -> Event {
    Event::Fetched { peer: PEER, table: TABLE, owner, range }
}

/// The violation that the subject reports for a stream.
fn breach(subject: &mut Subject, stream: &[u8]) -> String {
    subject.peer.write_all(stream).unwrap();
    let told = |s: &Subject| s.events.iter().any(|event| !matches!(event, Event::Fetched { .. }));
    subject.poll_until(told);
    match subject.events.pop() {
        Some(Event::Violation { peer: PEER, what }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_are_answered_from_any_row_in_order() {
    let mut subject = Subject::new();
    (0..3).for_each(|whose| fill(&subject.rows[whose][0], whose as u64));
    let mut stream = vec![];
    let mut want = vec![];
    for (owner, whose, range) in [(ME, 0, 128..65_536), (THIRD, 2, 4096..4104), (PEER, 1, 65_528..65_536)] {
        stream.extend(request(owner, 1, range.len(), range.start));
        want.extend(answer(owner, 1, range.start, &subject.row(0, whose)[range]));
    }
    let before = subject.fabric.completed();
    subject.deliver(&stream);
    let mut got = vec![0; want.len()];
    subject.fabric.submit();
    subject.peer.read_exact(&mut got).unwrap();
    assert!(got == want);
    assert_eq!(subject.fabric.completed(), before);
    assert_eq!(subject.events, []);
}

#[test]
fn bad_requests_are_breaches() {
    let cases = [
        (request(3, 1, 8, 128), "the row of slot 3"),
        (request(63, 1, 8, 128), "the row of slot 63"),
        (request(64, 1, 8, 128), "the row of slot 64"),
        (request(255, 1, 8, 128), "the row of slot 255"),
        (request(ME, 2, 8, 128), "unknown table 2"),
        (request(ME, 1, 0, 128), "a request of 0 bytes at 128"),
        (request(ME, 1, 12, 128), "12 bytes at 128"),
        (request(ME, 1, 8, 132), "8 bytes at 132"),
        (request(ME, 1, 8, 64 << 10), "which has rows of 65536 bytes"),
        (request(ME, 1, 16, (64 << 10) - 8), "which has rows of 65536 bytes"),
        (header(2, ME as u8, 1, u32::MAX - 7, 128), "4294967288 bytes at 128"),
        (header(2, ME as u8, 1, 8, u64::MAX - 7), "8 bytes at 18446744073709551608"),
        (request(ME, 1, 8, 120), "which has its data from 128 on"),
        (request(ME, 1, 16, 120), "which has its data from 128 on"),
        (request(ME, 7, 8, 0), "which has its data from 64 on"),
    ];
    for (bad, text) in cases {
        let what = breach(&mut Subject::new(), &bad);
        assert!(what.contains(text), "{what}, not {text}");
    }
}

#[test]
fn a_peer_has_so_many_requests_open_and_no_more() {
    let specs = [TableSpec { id: TABLE, columns_len: 128, row_len: 16 << 20 }];
    let all = request(THIRD, 1, (16 << 20) - 128, 128);
    let mut subject = Subject::over(connected("127.0.0.1:0"), &specs);
    subject.deliver(&all.repeat(OPEN_MAX));
    assert_eq!(subject.events, []);
    // No answer was read, so every request is still open.
    assert!(breach(&mut subject, &all).contains("more than 64 requests"));

    // Requests with answers that were read do not count.
    let mut subject = Subject::new();
    for _ in 0..10 * OPEN_MAX {
        subject.deliver(&request(THIRD, 1, 8, 128));
        subject.peer.read_exact(&mut [0; 24]).unwrap();
    }
    assert_eq!(subject.events, []);
}

#[test]
fn answers_land_in_the_row_that_was_asked_for() {
    let (large, small) = (pattern(60_000, 1), pattern(8, 2));
    let stream = [answer(THIRD, 1, 128, &large), frame(1, 0, &[7; 8]), answer(PEER, 1, 65_528, &small)].concat();
    let asked = [request(THIRD, 1, 60_000, 128), request(PEER, 1, 8, 65_528)].concat();
    for cut in [0, 1, 15, 16, 17, 60_000, 60_015, 60_016, 60_024, 60_040, 60_041, 60_063, stream.len()] {
        let mut subject = Subject::new();
        subject.fabric.fetch(PEER, TABLE, THIRD, 128..60_128);
        subject.fabric.fetch(PEER, TABLE, PEER, 65_528..65_536);
        subject.fabric.submit();
        let mut got = vec![0; asked.len()];
        subject.peer.read_exact(&mut got).unwrap();
        assert_eq!(got, asked);
        // `deliver` ends with the first event.
        subject.peer.write_all(&stream[..cut]).unwrap();
        subject.poll_until(|s| s.fabric.stats().bytes_received >= cut as u64);
        assert_eq!(subject.events.len(), usize::from(cut >= 60_016) + usize::from(cut == stream.len()));
        subject.peer.write_all(&stream[cut..]).unwrap();
        subject.poll_until(|s| s.fabric.stats().bytes_received == stream.len() as u64);
        assert_eq!(subject.events, [fetched(THIRD, 128..60_128), fetched(PEER, 65_528..65_536)]);
        assert!(subject.row(0, 2)[128..60_128] == large && subject.row(0, 2)[60_128..].iter().all(|b| *b == 0));
        assert!(subject.row(0, 1)[65_528..] == small && subject.row(0, 1)[..8] == [7; 8]);
    }
}

#[test]
fn an_answer_that_was_not_asked_for_is_a_breach() {
    let text = "which was not requested";
    assert!(breach(&mut Subject::new(), &answer(THIRD, 1, 128, &[1; 8])).contains(text));
    let right = answer(THIRD, 1, 128, &[1; 8]);
    let wrong = [
        answer(PEER, 1, 128, &[1; 8]),
        answer(THIRD, 1, 136, &[1; 8]),
        answer(THIRD, 1, 128, &[1; 16]),
        // The second answer before the first.
        answer(THIRD, 1, 256, &[1; 8]),
        [&right[..], &right[..]].concat(),
    ];
    for stream in wrong {
        let mut subject = Subject::new();
        subject.fabric.fetch(PEER, TABLE, THIRD, 128..136);
        subject.fabric.fetch(PEER, TABLE, THIRD, 256..264);
        subject.fabric.submit();
        assert!(breach(&mut subject, &stream).contains(text));
        let landed = stream.len() == 2 * right.len();
        assert_eq!(subject.events.len(), usize::from(landed));
        assert!(subject.row(0, 2)[256..].iter().all(|byte| *byte == 0));
    }
    let bad = header(3, THIRD as u8, 1, 8, 0);
    assert!(
        breach(&mut Subject::new(), &bad)
            .contains("an answer of 8 bytes at 0 of table 1, which has its data from 128 on")
    );
}

#[test]
fn no_more_is_asked_than_may_be_open() {
    let mut subject = Subject::new();
    for i in 0..OPEN_MAX + 2 {
        subject.fabric.fetch(PEER, TABLE, THIRD, 128 + 8 * i..136 + 8 * i);
    }
    let mut got = vec![];
    let mut read = |subject: &mut Subject| {
        subject.fabric.submit();
        subject.peer.set_nonblocking(true).unwrap();
        assert_eq!(subject.peer.read_to_end(&mut got).unwrap_err().kind(), ErrorKind::WouldBlock);
        subject.peer.set_nonblocking(false).unwrap();
        got.len() / 16
    };
    assert_eq!(read(&mut subject), OPEN_MAX);
    for i in 0..OPEN_MAX + 2 {
        let bytes = answer(THIRD, 1, 128 + 8 * i, &[1; 8]);
        let want = subject.events.len() + 1;
        subject.peer.write_all(&bytes).unwrap();
        subject.poll_until(|s| s.events.len() == want);
        assert_eq!(read(&mut subject), OPEN_MAX + (i + 1).min(2));
    }
    let last = 128 + 8 * (OPEN_MAX + 1);
    assert_eq!(subject.events.last(), Some(&fetched(THIRD, last..last + 8)));
}

#[test]
fn an_open_fetch_keeps_to_the_rows_of_its_call() {
    let mut subject = Subject::new();
    fill(&subject.rows[2][0], 5);
    let former = subject.row(0, 2)[4096..8192].to_vec();
    subject.fabric.fetch(PEER, TABLE, THIRD, 128..136);
    subject.deliver(&request(THIRD, 1, 4096, 4096));
    let (near, _far) = connected("127.0.0.1:0");
    let new = subject.fabric.attach(THIRD, Connection::Tcp(near.into())).unwrap();
    subject.deliver(&answer(THIRD, 1, 128, &[1; 8]));
    assert_eq!(subject.events, [fetched(THIRD, 128..136)]);
    assert_eq!(subject.row(0, 2)[128..136], [1; 8]);
    assert!(contents(&new[0]).iter().all(|byte| *byte == 0));
    let mut got = vec![0; 16 + 16 + 4096];
    subject.peer.read_exact(&mut got).unwrap();
    assert_eq!(got[..16], request(THIRD, 1, 8, 128));
    assert!(got[16..] == answer(THIRD, 1, 4096, &former));
}
