//! Questions and replies between processes, and the addresses of the last view's members on disk.

use super::{Parser, TOML_HEAP_MAX, as_it_is, run};
use crate::config::FabricKind;
use crate::fabric::SLOTS;
use crate::meet::questions::{self, Asker, First, Place, Reply, Request};
use crate::meet::wire::BODY_MAX;
use crate::peers::log_store::Places;

fn place(number: u32) -> Place {
    let address = format!("10.0.0.{number}:7001");
    Place { slot: number as usize % SLOTS, id: number, incarnation: 1 << 40 | u64::from(number), address }
}

fn requests() -> Vec<Request> {
    let (group, asker) = ("demo".to_owned(), Asker { id: 3, incarnation: 77, left_ms: 30_000 });
    let agreed = vec![("fabric".to_owned(), "tcp".to_owned()), ("log".to_owned(), "false".to_owned())];
    let (group_id, since) = (1 << 50, 4);
    vec![
        Request::Ask { group: group.clone(), founds: Some(3) },
        Request::Join { group, agreed, id: 7, incarnation: 9, address: "unix:/run/a \"b\"".to_owned() },
        Request::Dial { incarnation: 5 },
        Request::Relay { group_id, from: place(1), since, to: place(2) },
        Request::DialBack { group_id, from: place(1), since, to: place(2) },
        Request::Link { group_id, from: place(1), since, to: place(2) },
        Request::Relink { group_id, view: 5, from: place(1), to: place(2) },
        Request::State { group_id, view: 5, asker },
        Request::Log { group_id, from: (1, 2), below: (3, 0), ended: true, asker },
    ]
}

fn replies() -> Vec<Reply> {
    let (places, group_id) = (vec![place(1), place(2)], 1 << 50);
    let (text, agreed) = (|| "no: \u{e9}\n".to_owned(), vec![("group".to_owned(), "demo".to_owned())]);
    vec![
        Reply::Runs { group_id, member: 3, places: places.clone() },
        Reply::Waits { been: true, places: Vec::new() },
        Reply::Restarting { group_id, place: place(3), agreed, only_founded: true, view: 5 },
        Reply::Admitted { group_id, fabric: FabricKind::Tcp, me: place(4), since: 5, others: places },
        Reply::Elsewhere { address: "[::1]:7001".to_owned() },
        Reply::Later { reason: text() },
        Reply::Refused { reason: text() },
        Reply::Disagreement { member: 1, key: "log".to_owned(), value: "true".to_owned() },
        Reply::Dialled {},
        Reply::Linked {},
        Reply::State { view: 5, below: 70 },
        Reply::Log {},
        Reply::Failed { reason: text() },
        Reply::Taken {},
        Reply::GoneOn { view: 5, left: false },
    ]
}

/// Corrects the length in the preamble.
fn repair(bytes: &mut [u8]) {
    if let Some(body) = bytes.len().checked_sub(17) {
        bytes[13..17].copy_from_slice(&(body as u32).to_le_bytes());
    }
}

#[test]
fn fuzz_requests() {
    let seeds = requests().iter().map(|request| questions::question(request).unwrap()).collect();
    run(
        &Parser { name: "requests", seeds, repair: &repair, heap_max: TOML_HEAP_MAX },
        |bytes| match questions::first_of(bytes) {
            Ok(Some(First::Request(request))) => {
                let again = questions::question(&request).unwrap();
                assert!(matches!(questions::first_of(&again), Ok(Some(First::Request(again))) if again == request));
                true
            }
            Ok(first) => first.is_some(),
            Err(_) => false,
        },
    );
}

fn sent(reply: &Reply) -> Vec<u8> {
    let mut bytes = Vec::new();
    questions::send_reply(&mut bytes, reply).unwrap();
    bytes
}

#[test]
fn fuzz_replies() {
    let seeds = replies().iter().map(sent).collect();
    run(&Parser { name: "replies", seeds, repair: &repair, heap_max: TOML_HEAP_MAX }, |bytes| {
        let heard = questions::hear(&mut &bytes[..]);
        match questions::answer_of(bytes) {
            Ok(Ok(decoded)) => {
                assert_eq!(heard.ok().as_ref(), Some(&decoded), "the decoders differ");
                assert_eq!(questions::answer_of(&sent(&decoded)).unwrap(), Ok(decoded));
                true
            }
            Ok(Err(missing)) => {
                assert!(missing > 0 && heard.is_err(), "the decoders differ");
                false
            }
            Err(_) => {
                assert!(heard.is_err(), "the decoders differ");
                false
            }
        }
    });
}

#[test]
fn fuzz_places() {
    let places = |count| Places { fabric: FabricKind::Verbs, places: (0..count).map(place).collect() };
    let seeds = [0, 1, 5].map(|count| toml::to_string(&places(count)).unwrap().into_bytes()).to_vec();
    run(&Parser { name: "places", seeds, repair: &as_it_is, heap_max: TOML_HEAP_MAX }, |bytes| {
        let Ok(places) = toml::from_str::<Places>(&String::from_utf8_lossy(bytes)) else { return false };
        assert_eq!(toml::from_str::<Places>(&toml::to_string(&places).unwrap()).unwrap(), places);
        true
    });
}

/// A stranger may send a body of any content, up to its limit. Three decoders read it, one after the other.
#[test]
fn a_long_body_takes_a_bounded_time_and_memory() {
    let parts = [
        "[", "[[a]]\n", "a.", "{", "a={", "a=[", "\"", "'", "=", "\0", "\u{e9}", "a=1\n", "[a.b]\n", "\"\\u", "#",
        "1e", ",",
    ];
    for part in parts {
        let body = [b"[Runs]\nplaces = [", part.repeat(BODY_MAX / part.len() - 20).as_bytes()].concat();
        let bytes = crate::meet::wire::with_preamble(17, &body).unwrap();
        let begin = std::time::Instant::now();
        let (refused, held) = super::heap::highest(|| questions::answer_of(&bytes).is_err());
        println!("{part:?}: {held} bytes of memory, {:?}", begin.elapsed());
        assert!(refused && held < TOML_HEAP_MAX.0 * bytes.len(), "{part:?}: {held} bytes of memory");
    }
}
