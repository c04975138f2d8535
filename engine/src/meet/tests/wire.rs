use super::super::wire::*;
use crate::types::MemberId;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,40}"
}

/// A number that TOML can express.
fn number() -> impl Strategy<Value = u64> {
    0..=i64::MAX as u64
}

fn message() -> impl Strategy<Value = Message> {
    let pairs = proptest::collection::vec((text(), text()), 0..8);
    prop_oneof![
        (text(), (number(), any::<u32>(), number()), pairs, proptest::collection::vec(text(), 0..3)).prop_map(
            |(group, (view, id, incarnation), agreed, former)| {
                Message::Hello(Hello { group, view, member: MemberId(id), incarnation, agreed, former })
            }
        ),
        Just(Message::Accept),
        Just(Message::Ready),
        any::<Vec<u8>>().prop_map(Message::Question),
        (text(), text(), text(), any::<u32>()).prop_map(|(key, value, reason, id)| {
            Message::Refuse(Refuse { code: Code::Duplicate, member: MemberId(id), key, value, reason })
        }),
    ]
}

/// Feeds a stream in pieces of at most `piece` bytes, as a socket would. Returns the messages, the bytes taken and the
/// error.
fn feed(stream: &[u8], piece: usize) -> (Vec<Message>, usize, Option<Garbage>) {
    let (mut decoder, mut messages, mut at) = (Decoder::default(), Vec::new(), 0);
    while at < stream.len() {
        assert!((1..=PREAMBLE_LEN + BODY_MAX).contains(&decoder.wanted()));
        let n = decoder.wanted().min(piece).min(stream.len() - at);
        let pushed = decoder.push(&stream[at..at + n]);
        at += n;
        match pushed {
            Ok(message) => messages.extend(message),
            Err(garbage) => return (messages, at, Some(garbage)),
        }
        if messages.len() == 2 {
            break;
        }
    }
    (messages, at, None)
}

proptest! {
    #[test]
    fn messages_come_back(first in message(), second in message(), tail: Vec<u8>, piece in 1usize..100) {
        let mut stream = first.encode().unwrap();
        stream.extend(second.encode().unwrap());
        let len = stream.len();
        stream.extend(&tail);
        let (messages, taken, garbage) = feed(&stream, piece);
        prop_assert_eq!(messages, vec![first, second]);
        prop_assert_eq!(taken, len, "not a byte of what follows");
        prop_assert_eq!(garbage, None);
    }

    #[test]
    fn any_bytes_after_the_magic(bytes: Vec<u8>, piece in 1usize..100) {
        feed(&bytes, piece);
        feed(&[&MAGIC[..], &bytes].concat(), piece);
    }

    #[test]
    fn any_body(kind in 1u8..5, body: Vec<u8>, claimed in proptest::option::of(any::<u32>()), piece in 1usize..100) {
        let len = claimed.unwrap_or(body.len() as u32);
        let stream = [&MAGIC[..], &VERSION.to_le_bytes(), &[kind], &len.to_le_bytes(), &body].concat();
        let (_, _, garbage) = feed(&stream, piece);
        if len as usize > BODY_MAX {
            prop_assert_eq!(garbage, Some(Garbage::Length(len)));
        }
    }

    #[test]
    fn one_changed_byte(message in message(), at: prop::sample::Index, to: u8, piece in 1usize..100) {
        let mut stream = message.encode().unwrap();
        let at = at.index(stream.len());
        stream[at] = to;
        let (_, taken, _) = feed(&stream, piece);
        prop_assert!(taken <= stream.len());
    }
}

#[test]
fn limits() {
    let long = "x".repeat(BODY_MAX);
    let (agreed, former) = (Vec::new(), Vec::new());
    let hello = Hello { group: long.clone(), view: 0, member: MemberId(1), incarnation: 0, agreed, former };
    assert_eq!(Message::Hello(hello).encode(), None);
    let refuse = Refuse {
        code: Code::Version,
        member: MemberId(1),
        key: String::new(),
        value: String::new(),
        reason: "é".repeat(5000) + "x",
    };
    let bytes = Message::Refuse(refuse).encode().unwrap();
    assert!(bytes.len() < 2000);
    let (messages, ..) = feed(&bytes, 4096);
    assert!(matches!(&messages[..], [Message::Refuse(r)] if r.reason.chars().all(|c| c == 'é')));
}

#[test]
fn versions() {
    let mut hello = Message::Accept.encode().unwrap();
    hello[8] = 9;
    assert_eq!(feed(&hello, 100).2, Some(Garbage::Version(9)));
    let refuse =
        Refuse { code: Code::Unknown(77), member: MemberId(1), key: "".into(), value: "".into(), reason: "r".into() };
    let mut bytes = Message::Refuse(refuse.clone()).encode().unwrap();
    bytes[8] = 9;
    assert_eq!(feed(&bytes, 100).0, vec![Message::Refuse(refuse)], "a refusal is understood across versions");
}
