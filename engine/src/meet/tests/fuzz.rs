//! The first bytes on a connection, which any stranger can send.

use super::super::wire::*;
use crate::fuzz::{Parser, run};
use crate::types::MemberId;

fn messages() -> Vec<Message> {
    let pair = |n: u32| (format!("members[{n}]"), format!("{n} at 10.0.0.{n}:7001"));
    let hello = |count: u32| Hello {
        group: "demo".to_owned(),
        view: u64::from(count),
        member: MemberId(7),
        incarnation: u64::MAX - 5,
        agreed: (0..count).map(pair).collect(),
        former: (0..count).map(|n| format!("[::1]:{n}")).collect(),
    };
    let refuse = |code, reason: &str| {
        let (key, value, reason) = ("fabric".to_owned(), "tcp".to_owned(), reason.to_owned());
        Message::Refuse(Refuse { code, member: MemberId(2), key, value, reason })
    };
    vec![
        Message::Hello(hello(0)),
        Message::Hello(hello(5)),
        Message::Accept,
        Message::Ready,
        refuse(Code::Version, "it speaks protocol version 2"),
        refuse(Code::Disagreement, &"\u{e9}".repeat(600)),
        Message::Question(b"[Ask]\ngroup = \"demo\"".to_vec()),
    ]
}

/// Corrects the magic, the version and the length.
fn repair(bytes: &mut [u8]) {
    if let Some(body) = bytes.len().checked_sub(PREAMBLE_LEN) {
        bytes[..12].copy_from_slice(&[&MAGIC[..], &VERSION.to_le_bytes()].concat());
        bytes[13..PREAMBLE_LEN].copy_from_slice(&(body as u32).to_le_bytes());
    }
}

/// Decodes a stream in pieces, as a socket returns them. Returns the first message.
fn decode(bytes: &[u8]) -> Result<Option<Message>, Garbage> {
    let (mut decoder, mut rest) = (Decoder::default(), bytes);
    while !rest.is_empty() {
        assert!((1..=PREAMBLE_LEN + BODY_MAX).contains(&decoder.wanted()));
        let (piece, others) = rest.split_at(decoder.wanted().min(1 + bytes.len() % 40).min(rest.len()));
        rest = others;
        if let Some(message) = decoder.push(piece)? {
            return Ok(Some(message));
        }
    }
    Ok(None)
}

#[test]
fn fuzz_preamble_and_hello() {
    let seeds = messages().iter().map(|message| message.encode().unwrap()).collect();
    // A list of empty texts of 4 bytes each takes 24 bytes each, and its memory doubles as it grows.
    let parser = Parser { name: "preamble and hello", seeds, repair: &repair, heap_max: (32, 8 << 10) };
    run(&parser, |bytes| {
        let Ok(Some(message)) = decode(bytes) else { return false };
        let encoded = message.encode().unwrap();
        let again = decode(&encoded).unwrap().unwrap();
        assert_eq!(again.encode(), Some(encoded));
        // The texts of a refusal are cut to their limit when they are sent.
        assert!(again == message || matches!(message, Message::Refuse(_)));
        true
    });
}
