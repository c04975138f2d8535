//! Headers, and streams of writes, requests and answers, which a peer sends.

use super::fetch::Dealings;
use super::receive::{Inbox, Received};
use super::send::Outbox;
use super::wire::{self, Header};
use super::*;
use crate::fuzz::{Parser, as_it_is, run};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

fn headers() -> Vec<Vec<u8>> {
    [(1, 0, 1, 8, 0), (1, 0, 7, 64, 0), (1, 0, 1, 65_408, 128), (2, 63, 1, 4096, 8192), (3, 1, 1, 8, 65_528)]
        .map(|(kind, owner, table, len, offset)| header(kind, owner, table, len, offset))
        .to_vec()
}

#[test]
fn fuzz_tcp_headers() {
    // The description of a violation is all that is allocated.
    let parser = Parser { name: "tcp headers", seeds: headers(), repair: &as_it_is, heap_max: (0, 1 << 10) };
    run(&parser, |bytes| {
        let Some(bytes) = bytes.first_chunk() else { return false };
        let Ok(header) = wire::decode(bytes, &SPECS) else { return false };
        let again = match &header {
            Header::Write(target) => wire::write(SPECS[target.table].id, &target.range),
            Header::Request(place) => wire::request(place),
            Header::Answer(place) => wire::answer(place),
        };
        assert_eq!(again, *bytes);
        true
    });
}

fn streams() -> Vec<Vec<u8>> {
    let write = |table, len: u32, offset| [header(1, 0, table, len, offset), vec![7; len as usize]].concat();
    let request = |owner| header(2, owner, 1, 64, 128);
    let answer = [header(3, PEER as u8, 1, 64, 256), vec![9; 64]].concat();
    vec![
        [write(1, 16, 8), write(1, 200, 128), write(7, 64, 0)].concat(),
        [request(ME as u8), write(1, 9000, 2048), request(PEER as u8)].concat(),
        [answer, write(1, 8, 0)].concat(),
    ]
}

#[test]
fn fuzz_tcp_streams() {
    let row = |spec: &TableSpec| Arc::new(Row::anonymous(spec.row_len, spec.columns_len).unwrap());
    let rows = || SPECS.iter().map(row).collect::<Vec<_>>();
    let (own, of_peer) = (rows(), rows());
    let mut by_slot = vec![Vec::new(); SLOTS];
    (by_slot[ME], by_slot[PEER]) = (own.clone(), of_peer.clone());
    let tables = Tables { specs: SPECS.to_vec(), own, rows: by_slot };
    // The staging buffer, the queue of answers, and the description of a violation. No length in the stream counts.
    let parser = Parser { name: "tcp streams", seeds: streams(), repair: &as_it_is, heap_max: (1, 64 << 10) };
    run(&parser, |bytes| {
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.write_all(bytes).unwrap();
        let (mut outbox, mut events, mut stats) = (Outbox::new(), Vec::new(), FabricStats::default());
        let mut inbox = Inbox::new(of_peer.clone());
        let asked = wire::Place { table: 0, id: TABLE, owner: PEER, range: 256..320 };
        inbox.ask(asked, of_peer[0].clone(), &mut outbox);
        let events = &mut events;
        let mut dealings = Dealings { peer: PEER, tables: &tables, outbox: &mut outbox, mute: false, events };
        let received = inbox.receive(near.as_fd(), false, &mut dealings, &mut stats);
        assert!(dealings.events.len() <= 1, "one answer was asked for");
        assert_eq!(tables.rows[ME][1].word(0).load(Ordering::Relaxed), 0, "a peer writes its own row only");
        match received {
            Received::Drained => true,
            Received::Violation(_) => false,
            Received::More | Received::End | Received::Failed(_) => panic!("a short stream that is not over"),
        }
    });
}
