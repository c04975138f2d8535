//! The records that a member sends.

use super::*;
use crate::fuzz::{Parser, as_it_is, run};
use crate::words::put_words;

/// A record, and what it is sent as.
fn encode(record: &Record<'_>) -> Vec<u8> {
    let Record { version: Version { view, sequence }, time_ns, sender, mode, kind, payload } = *record;
    let mut bytes = Vec::new();
    put_words(
        &mut bytes,
        [2, view, sequence, time_ns, u64::from(sender.0), mode as u64, kind as u64, payload.len() as u64],
    );
    bytes.extend(payload);
    bytes
}

fn checkpoint(version: Version, time_ns: u64, state: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_words(&mut bytes, [1, version.view, version.sequence, time_ns, state.len() as u64]);
    bytes.extend(state);
    bytes
}

/// Reads a whole transfer, and encodes everything in it.
fn encoded_again(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let (mut rest, again) = (bytes, std::cell::RefCell::new(Vec::new()));
    let mut keep = |version, time_ns, from: &mut dyn Read| {
        let mut state = Vec::new();
        from.read_to_end(&mut state)?;
        again.borrow_mut().extend(checkpoint(version, time_ns, &state));
        Ok(())
    };
    while let Some(record) = receive(&mut rest, &mut keep)? {
        again.borrow_mut().extend(encode(&record.record()));
    }
    put_words(&mut again.borrow_mut(), [0]);
    assert!(bytes.starts_with(&again.borrow()), "what was read is not what was sent");
    Ok(again.into_inner())
}

fn transfers() -> Vec<Vec<u8>> {
    let record = |sequence, payload: &[u8]| {
        let (version, sender) = (Version { view: 3, sequence }, MemberId(7));
        let (mode, kind) =
            if sequence % 2 == 0 { (Mode::Safe, Kind::Message) } else { (Mode::Durable, Kind::Decision) };
        encode(&Record { version, time_ns: 1000 + sequence, sender, mode, kind, payload })
    };
    let end = 0_u64.to_le_bytes().to_vec();
    let saved = checkpoint(Version { view: 2, sequence: 9 }, 900, b"what the application knows");
    vec![
        [record(10, b"one"), record(11, &[]), record(12, &[7; 300]), end.clone()].concat(),
        [saved, record(10, b"one"), end.clone()].concat(),
        end,
    ]
}

#[test]
fn fuzz_log_transfer() {
    // An announced length allocates nothing: the memory grows with the bytes that arrive.
    let parser = Parser { name: "log transfer", seeds: transfers(), repair: &as_it_is, heap_max: (8, 16 << 10) };
    run(&parser, |bytes| encoded_again(bytes).is_ok());
}

#[test]
fn a_record_that_ends_too_early_is_refused() {
    let (version, sender) = (Version { view: 3, sequence: 9 }, MemberId(7));
    let payload = [5; 9000];
    let record = Record { version, time_ns: 1, sender, mode: Mode::Safe, kind: Kind::Message, payload: &payload };
    let bytes = encode(&record);
    let mut none = |_, _, _: &mut dyn Read| Err(io::Error::other("no checkpoint was sent"));
    let whole = receive(&mut bytes.as_slice(), &mut none).unwrap().unwrap();
    assert_eq!(whole.record(), record);
    let cut = receive(&mut &bytes[..bytes.len() - 1], &mut none).err().unwrap();
    assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
}
